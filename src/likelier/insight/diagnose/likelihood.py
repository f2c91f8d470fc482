"""Both answers fall: displacement where there is a reference, drift where there is none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from statistics import fmean
from typing import Any

from likelier.insight.diagnose.advice import keeps_signals, may_become, takes
from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import MOVED, Facts, change_of
from likelier.insight.diagnose.statistics import Level
from likelier.insight.diagnose.words import interval, nats, number, percent, rate
from likelier.insight.verdicts import Verdict
from likelier.utils.console import printable

LOST = 1.0  # nats an answer, and
LOST_PER_TOKEN = 0.02  # nats a token (2 %): a smaller loss is what a little training does to any answer
LARGE_PART = 1 / 3  # of the margin, as loss of the chosen answers: a quarter of what the rejected ones lose
ALIKE = 0.75  # share of two answers' tokens that stand in both, in order: their gradients nearly cancel
TOKENS = 5
DRIFTED = 0.1  # nats a token by which the chosen answers fell: each token 10 % less likely
FAR = 0.3  # nats a token of KL to the start: each token as if another model wrote it


def displacement(facts: Facts) -> Iterator[Verdict]:
    """The margin grows while the chosen answers' log-probability falls below the reference's."""
    margin, chosen = facts.separated, facts.lost.get("chosen")
    if not facts.scale or margin is None or chosen is None or not margin.surely_above(MOVED):
        return
    if chosen.value > -max(LOST, LOST_PER_TOKEN * facts.length) or not chosen.surely_below(0.0):
        return
    heavy = -chosen.value >= LARGE_PART * margin.value and not facts.method.lowers_both
    alike = _alike(facts)
    evidence = [
        ("log-ratio of the chosen answers", facts.told(chosen)),
        ("log-ratio of the rejected answers", facts.told(facts.lost["rejected"])),
        ("margin between the two", facts.told(margin)),
        ("for each nat that a rejected answer lost, the chosen one lost", number(_part(facts))),
        _both_fell(facts),
        _tokens(facts),
        ("what the answers of a pair share", f"{percent(alike)} of their tokens, in order") if alike else None,
    ]
    advice = _hold_up(facts, alike)
    yield verdict("likelihood-displacement", "warning" if heavy else "info", evidence, advice)


def _part(facts: Facts) -> float:
    """What the chosen answers lost, as a share of what both lost."""
    chosen, rejected = -facts.lost["chosen"].value, -facts.lost["rejected"].value
    return chosen / rejected if rejected > 0 else 1.0


def _both_fell(facts: Facts) -> tuple[str, str] | None:
    items = facts.items
    if items is None or not items.is_paired:
        return None
    fell = items.both_fell
    return "held-out pairs of which both answers fell", interval(fell.value, fell.low, fell.high, fell.cases)


def _tokens(facts: Facts) -> tuple[str, str] | None:
    """The tokens of chosen answers that lost most, over the pairs that were looked at closely."""
    lost: dict[str, list[float]] = defaultdict(list)
    for pair in facts.pairs_in_tokens:
        for token in pair.chosen["tokens"]:
            lost[str(token["text"]) or f"token {token['id']}"].append(float(token["logratio"]))
    worst = sorted((item for item in lost.items() if sum(item[1]) < 0), key=lambda item: sum(item[1]))[:TOKENS]
    if not worst:
        return None
    shown = (f"'{_visible(text)}' {nats(fmean(values))} ({len(values)} times)" for text, values in worst)
    return f"tokens that lose most, in {len(facts.pairs_in_tokens)} pairs", ", ".join(shown)


def _visible(text: str) -> str:
    return printable(text.replace("\n", "\\n").replace("\t", "\\t"))


def _alike(facts: Facts) -> float | None:
    """How much of their tokens the two answers of a pair share, where pairs were looked at closely."""
    known = [pair for pair in facts.pairs_in_tokens if _ids(pair.chosen) and _ids(pair.rejected)]
    if not known:
        return None
    return fmean(
        SequenceMatcher(None, _ids(pair.chosen), _ids(pair.rejected), autojunk=False).ratio() for pair in known
    )


def _ids(answer: Mapping[str, Any]) -> list[int]:
    return [int(token["id"]) for token in answer["tokens"]]


def _hold_up(facts: Facts, alike: float | None) -> list[str | None]:
    nearly = "the answers of a pair are nearly the same: " if alike is not None and alike >= ALIKE else ""
    return [
        f"{nearly}--method dpop takes back what the chosen answer loses" if may_become(facts, "dpop") else None,
        _likely(facts, 1.0),
        f"--learning-rate {rate(facts.peak_rate / 3)}, or fewer steps" if facts.peak_rate else None,
        f"{facts.method.strength_flag} {2 * (facts.scale or 0.1):.3g} holds the policy closer to the reference",
        "a first stage of --method sft on the chosen answers, if the model would not write such answers itself"
        if keeps_signals(facts, "sft")
        else None,
    ]


def _likely(facts: Facts, weight: float) -> str | None:
    """A likelihood term, or a heavier one than the run has."""
    own = facts.card.hyperparameters.get("nll_weight", 0.0)
    words = f"--nll-weight {max(weight, 2 * own):g} keeps the chosen answers likely"
    return words if takes(facts, "nll_weight") else None


def drift(facts: Facts) -> Iterator[Verdict]:
    """A method without a reference whose chosen answers became unlikely, or whose answers went far from the start's."""
    if facts.method.needs_reference or facts.method.reads_values or not facts.compares:
        return
    fell = _per_token(facts)
    has_fallen = fell is not None and fell.surely_below(-DRIFTED)
    if not has_fallen and (facts.kl is None or facts.kl[1] < FAR):
        return
    evidence = [
        ("log-probability a token of the chosen answers since the start", facts.told(fell)) if fell else None,
        facts.distance,
        change_of(facts, "repetition", "repeated runs of four tokens in its answers"),
        ("learning rate", rate(facts.peak_rate)) if facts.peak_rate else None,
        ("beta", f"{facts.card.hyperparameters['beta']:g} a token") if "beta" in facts.card.hyperparameters else None,
    ]
    advice = [
        f"--learning-rate {rate(facts.peak_rate / 5)}: this is what holds a method without a reference"
        if facts.peak_rate
        else None,
        "fewer steps, or one epoch only",
        _likely(facts, 0.5),
        "--method sigmoid_norm, the same idea with a reference (stored here, so it takes no memory)"
        if may_become(facts, "sigmoid_norm")
        else None,
    ]
    yield verdict("simpo-drift", "warning", evidence, advice)


def _per_token(facts: Facts) -> Level | None:
    """How far the chosen answers' log-probability per token moved from the start."""
    chosen = facts.lost.get("chosen")
    return None if chosen is None else chosen.scaled(1 / facts.length)
