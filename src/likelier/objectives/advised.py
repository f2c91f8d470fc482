"""The advice on the methods that are recommended; thresholds and precedence are those of docs/advice.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from likelier.objectives.advice import LABELS_DOMINATE, Advice, Case, Setting, Situation, Subject

FEW_PAIRS = 500
GUESSED_FLIP_RATE = 0.1  # where robustness is asked for and nothing tells the rate

_STAGES_ARE_UNPROVEN = (
    "no paper with numbers was found for DPO and then KTO. Train each alone as well, and compare all three on the "
    "same evaluation set: the second stage may forget some of the first"
)


def _beta(source: str) -> Callable[[Any, Subject], list[Setting]]:
    """The method's own beta."""
    return lambda objective, subject: [Setting("beta", objective.beta, source)]


DPO = Advice(
    cases=(
        Case(
            40,
            "quick validation",
            lambda known: known.goal == "quick",
            lambda known: "a quick check whether these preferences can be learnt: DPO, with LoRA and few steps",
        ),
        Case(
            60,
            "both kinds",
            lambda known: known.both,
            lambda known: (
                f"{known.pairs:,} pairs and {known.labels:,} labels: DPO on the pairs, then KTO on the labels"
            ),
            then=("kto",),
            doubts=(_STAGES_ARE_UNPROVEN,),
        ),
        Case(
            90,
            "many pairs",
            lambda known: True,
            lambda known: f"{known.pairs:,} pairs: DPO, the method with the most experience behind it",
        ),
    ),
    instead_of=("robust", "ipo", "simpo"),
    gains="the most experience and the fewest surprises; no protection from wrong labels",
    doubts=(
        "DPO often lowers the chosen answers' probability as well (drops in up to nearly all pairs are reported): "
        "watch logps/chosen, and add --nll-weight 1 or take dpop where it matters",
        "the divergence from the reference is not bounded by DPO's loss: on preferences that never contradict each "
        "other it grows as long as one trains. More epochs are not safer",
    ),
    settings=_beta("DPO paper (2305.18290): 0.1, 0.5 for summaries; later recipes 0.01 to 0.1"),
)


def _why_robust(known: Situation) -> str:
    if not known.flip_rate:
        return f"robustness was asked for, and nothing tells the flip rate: {GUESSED_FLIP_RATE:.0%} is a guess"
    return (
        f"{known.flip_rate:.1%} of the pairs are estimated to be the wrong way round: robust DPO takes that into "
        "account"
    )


def _robust_settings(objective: Any, subject: Subject) -> list[Setting]:
    flip = Setting("flip_probability", GUESSED_FLIP_RATE, "a guess: nothing in the data tells it")
    if subject.flip_rate:
        estimated = round(min(subject.flip_rate, 0.49), 3)
        flip = Setting("flip_probability", estimated, "estimated from the data by the audit")
    return [*_beta("as DPO's")(objective, subject), flip]


ROBUST = Advice(
    cases=(
        Case(
            50,
            "both kinds, noisy",
            lambda known: known.both and known.noisy,
            lambda known: (
                f"{known.pairs:,} pairs and {known.labels:,} labels: pairs first, then KTO on the labels; robust DPO "
                f"for the pairs, since {known.flip_rate:.1%} of them are the wrong way round"
            ),
            then=("kto",),
            doubts=(_STAGES_ARE_UNPROVEN,),
        ),
        Case(70, "noisy or contradictory", lambda known: known.noisy or known.goal == "robust", _why_robust),
    ),
    instead_of=("dpo",),
    gains="corrects for wrong labels, if their rate is known; a larger divergence from the reference",
    doubts=(
        "robust DPO beats plain DPO under label noise in its paper and in a small pilot; it pays with a larger "
        "divergence from the reference. Its loss is unbounded below, and a rate that is too high makes it worse",
    ),
    settings=_robust_settings,
)

IPO = Advice(
    cases=(
        Case(
            80,
            "a few hundred pairs",
            lambda known: known.pairs < FEW_PAIRS,
            lambda known: f"{known.pairs:,} pairs, under {FEW_PAIRS}: IPO, whose margin stops at a target",
        ),
    ),
    instead_of=("dpo", "robust"),
    gains="a margin that stops at a target, so less drift on few or never contradicted pairs; learns more slowly",
    doubts=(
        "that IPO is steadier than DPO on small data has no primary source: in a small pilot on bandits it drifted "
        "less from the reference and was neither better nor steadier in reward. What is proven is that its margin "
        "stops at 1 / (2 tau), where DPO's goes on",
    ),
    remarks=(
        "tau: 0.1 times the median answer length, so that the target is about 5 nats an answer; the run prints it",
    ),
)


def _kto_settings(objective: Any, subject: Subject) -> list[Setting]:
    found, (desirable, undesirable) = _beta("KTO paper (2402.01306)")(objective, subject), subject.labels
    if desirable and undesirable and not 1 <= desirable / undesirable <= 1.5:
        name, weight = objective.balancing_weight(desirable, undesirable)
        source = f"KTO paper advises 1 to 1.5 between the weighted sides; here {desirable:,} to {undesirable:,}"
        found.append(Setting(name, round(weight, 3), source))
    return found


KTO = Advice(
    cases=(
        Case(
            10,
            "labels only",
            lambda known: known.pairs == 0,
            lambda known: f"{known.labels:,} single answers with a thumb and no pairs: KTO learns from labels",
        ),
        Case(
            30,
            "labels dominate",
            lambda known: known.labels_dominate,
            lambda known: (
                f"{known.labels:,} labels against {known.pairs:,} pairs, at least {LABELS_DOMINATE} times as many: KTO "
                "on the labels; the pairs would hardly be noticed"
            ),
        ),
    ),
    gains="reads labels, and each pair as two of them, so both files train in one run; two extra passes a step for "
    "its baseline, which is noisy in small steps",
    doubts=(
        "that KTO matches DPO is supported by its own paper (1B to 30B) and contradicted by SimPO's tables (13.1 "
        "against 15.1 and 33.1 against 40.3 on AlpacaEval 2)",
        "that KTO holds out against rare labels was seen in the divergence only, not in the reward; and it does not "
        "weigh losses above gains unless undesirable_weight is the larger one",
    ),
    settings=_kto_settings,
)

# SimPO's own runs (2405.14734) by architecture, and whether the model was instructed: beta, gamma / beta, rate.
_SIMPO_RUNS: dict[tuple[str, bool], tuple[float, float, float, str]] = {
    ("mistral", False): (2.0, 0.8, 3e-7, "Mistral-7B-Base"),
    ("mistral", True): (2.5, 0.1, 5e-7, "Mistral-7B-Instruct"),
    ("llama", False): (2.0, 0.5, 6e-7, "Llama-3-8B-Base"),
    ("llama", True): (2.5, 0.55, 1e-6, "Llama-3-8B-Instruct"),
    ("gemma2", True): (10.0, 0.5, 8e-7, "Gemma-2-9B-it"),
}
_NEAREST_SIMPO_RUN = ("llama", False)


def _simpo_settings(objective: Any, subject: Subject) -> list[Setting]:
    kind = subject.architecture
    known = _SIMPO_RUNS.get((kind, subject.instructed)) or _SIMPO_RUNS.get((kind, True))
    beta, ratio, rate, model = known or _SIMPO_RUNS[_NEAREST_SIMPO_RUN]
    model = model if known else f"{model}; nothing is published for {kind}"
    source = f"SimPO paper (2405.14734), {model}"
    return [
        Setting("beta", beta, source),
        Setting("gamma_beta_ratio", ratio, source),
        Setting("learning_rate", rate, f"SimPO paper, {model}"),
    ]


SIMPO = Advice(
    cases=(
        Case(
            20,
            "memory too tight for a reference",
            lambda known: not known.has_reference,
            lambda known: "no reference can be scored, not even beforehand: SimPO needs none",
        ),
    ),
    instead_of=("dpo", "ipo"),
    gains="saves one forward pass over the data for the reference, and divides by length; no tie to the start, and "
    "two hyperparameters that must fit the model",
    doubts=(
        "the folklore row (20 % faster, 10 % less memory than DPO) compares with a DPO that holds two models. Here the "
        "reference is scored beforehand and is not in memory, so that argument falls: SimPO is for runs without any",
        "without a reference nothing holds the policy to its start: learning rates above 1e-6 are known to break it "
        "(its authors), and on ties it drifts where DPO does not move",
    ),
    settings=_simpo_settings,
)
