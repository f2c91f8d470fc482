"""The advice on the methods that are recommended; thresholds and precedence are those of docs/advice.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from likelier.objectives.advice import FEW_PAIRS, LABELS_DOMINATE, Advice, Case, Setting, Situation, Subject

GUESSED_FLIP_RATE = 0.1  # where robustness is asked for and nothing tells the rate

_STAGES_ARE_UNPROVEN = (
    "DPO and then KTO was measured on tables alone, and no paper with numbers was found (docs/studies, S16). After 250 "
    "pairs the second stage gained more for how far it went, and in reward with 4,000 thumbs, not surely with 500; "
    f"after 1,000 it lost 0.2 to 0.3 in reward; {FEW_PAIRS} lies between. It forgets some of the pairs' order. Train "
    "each alone as well, and compare all three on the same evaluation set"
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
                f"{known.pairs:,} pairs, under {FEW_PAIRS}, and {known.labels:,} labels: DPO on the pairs, then KTO on "
                "the labels, held to the policy that DPO leaves"
            ),
            then=("kto",),
            doubts=(_STAGES_ARE_UNPROVEN,),
        ),
        Case(
            90,
            "pairs",
            lambda known: True,
            lambda known: f"{known.pairs:,} pairs: DPO, the method with the most experience behind it",
        ),
    ),
    instead_of=("robust", "simpo"),
    gains="the most experience and the fewest surprises; no protection from wrong labels",
    doubts=(
        "DPO often lowers the chosen answers' probability as well (drops in up to nearly all pairs are reported). "
        "Where both answers are alike the chosen one can all but vanish while the margin rises (docs/studies, S8: "
        "three answers): watch logps/chosen, and add --nll-weight 1 or take dpop where it matters",
        "the divergence from the reference is not bounded by DPO's loss: on tables it came to 1.8 to 15 times what "
        "beta promises, and was still growing (docs/studies, S3B). More epochs are not safer",
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
                f"{known.pairs:,} pairs, under {FEW_PAIRS}, and {known.labels:,} labels: pairs first, then KTO on the "
                f"labels; robust DPO for the pairs, since {known.flip_rate:.1%} of them are the wrong way round"
            ),
            then=("kto",),
            doubts=(_STAGES_ARE_UNPROVEN,),
        ),
        Case(70, "noisy or contradictory", lambda known: known.noisy or known.goal == "robust", _why_robust),
    ),
    instead_of=("dpo",),
    gains="corrects for wrong labels, if their rate is known; a larger divergence from the reference",
    doubts=(
        "at the same beta robust DPO earns more than DPO on wrong labels, mainly by going further (by 0.87 in reward "
        "where 20 % of 2,000 are wrong). At the same divergence ipo and dpo with --label-smoothing made more of 2,000 "
        "pairs than DPO, by 0.05 to 0.09 and 0.03 to 0.08 of what is possible, and robust DPO only where 40 % were "
        "wrong (of 250 pairs, 20 %) or pairs were without end. These are tables, where robust DPO and smoothing knew "
        "the rate (docs/studies, S9); a language model was not tried here yet: compare on held-out pairs",
        "robust DPO's loss is unbounded below, and a rate that is too high makes it worse",
    ),
    settings=_robust_settings,
)

IPO = Advice(
    instead_of=("dpo", "robust"),
    gains="a margin that stops at a target (tau, by default about 5 nats an answer), which bounds the divergence. Take "
    "it for that: of 100 pairs it made slightly less than DPO at the same divergence and was no steadier for what it "
    "gained (docs/studies, S14), of 2,000 with wrong labels it made more (S9); both on tables",
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
            doubts=(
                "with 250 pairs and 16 times as many labels, on tables, DPO and then KTO came 0.02 of what is possible "
                "ahead of KTO alone, which is not sure (docs/studies, S16)",
            ),
        ),
    ),
    gains="reads labels, and each pair as two of them, so both files train in one run; two extra passes a step for "
    "its baseline, which is noisy in small steps",
    doubts=(
        "that KTO matches DPO is supported by its own paper (1B to 30B) and contradicted by SimPO's tables (13.1 "
        "against 15.1 and 33.1 against 40.3 on AlpacaEval 2) and by ours: on the same pairs taken apart it fell 0.08 "
        "to 0.17 of what is possible behind DPO (docs/studies, S10; tables)",
        "where labels of one kind are rare, balanced weights restored how far KTO goes (of 2,000 pairs, not of 250) "
        "and not what it gains (docs/studies, S10; tables): try weights of 1 as well",
        "where people contradict each other, KTO takes the majority's side whole (docs/studies, S11; tables); and it "
        "does not weigh losses above gains unless undesirable_weight is the larger one (S11B)",
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
    instead_of=("dpo",),
    gains="saves one forward pass over the data for the reference, and divides by length; no tie to the start, and "
    "two hyperparameters that must fit the model",
    doubts=(
        "the folklore row (20 % faster, 10 % less memory than DPO) compares with a DPO that holds two models. Here the "
        "reference is scored beforehand and is not in memory, so that argument falls: SimPO is for runs without any",
        "without a reference nothing holds the policy to its start: learning rates above 1e-6 are known to break it "
        "(its authors), and on ties it drifts where DPO does not move (by 0.32 nats with three answers: docs/studies, "
        "S13)",
        "at the same divergence SimPO made less of the pairs than DPO: on tables 0.02 to 0.04 of what is possible "
        "where they are few and 0.08 to 0.1 where they are many (docs/studies, S18; S13 has 0.09 and 0.15); with a "
        "tiny language model 0.2 of 2,000, by three seeds (S18B)",
    ),
    settings=_simpo_settings,
)
