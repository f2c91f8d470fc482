"""Does the reward follow the length of an answer rather than the judgement?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from likelier.insight.diagnose.advice import may_become, takes
from likelier.insight.diagnose.answers import REPEATS
from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.generalization import findings
from likelier.insight.diagnose.items import Items
from likelier.insight.diagnose.statistics import correlation, is_correlated
from likelier.insight.diagnose.words import interval, number
from likelier.insight.verdicts import Verdict
from likelier.utils.statistics import Share

FEWEST = 8  # pairs of a kind
CHANCE = 0.5  # accuracy on the kind that length gets wrong: there the judgement counts nothing
GAP = 0.3  # of accuracy, between pairs whose chosen answer is the longer one and the others
FOLLOWS = 0.3  # correlation of reward and length differences
GROWN = 1.25  # times the length of the same prompts' answers at the start
SHRUNK = 0.75
BIASED = 0.6  # of the pairs, surely: then length alone tells something about which answer is preferred
UNLIKE = 1.1  # times the length of the other answers: one letter more is no length


@dataclass(frozen=True)
class Tendency:
    """Something that goes with length, towards longer answers or towards shorter ones."""

    words: tuple[str, str]
    longer: bool


def length_exploitation(facts: Facts) -> Iterator[Verdict]:
    """Right where the longer answer is preferred and wrong where the shorter one is; or answers that change their
    length as the data's bias would have it. Only where the margin grows: else nothing is exploited. The correlation is
    told and decides nothing: a sum over tokens goes with their number anyhow.
    """
    if not _learns(facts):
        return
    items = facts.items if facts.items is not None and facts.items.is_paired else None
    gap, follows = (_gap(items), _correlation(items)) if items else (None, None)
    bias, growth = _bias(facts, items), _growth(facts)
    along = growth is not None and bias is not None and growth.longer == bias.longer
    if gap is None and not along:
        return
    evidence = [*(gap or ()), follows.words if follows else None, bias.words if bias else None, growth and growth.words]
    advice = [
        _divide(facts),
        "balance the lengths: as many pairs whose chosen answer is the shorter one, of like size",
        "likelier audit DATA says how far length alone tells the preferred answer (length-bias)",
    ]
    yield verdict("length-exploitation", "warning", evidence, advice)


def _divide(facts: Facts) -> str | None:
    """By the method's own means, or by another method."""
    if facts.method.per_token or facts.method.rewards_per_token:
        return None
    if takes(facts, "length_normalize"):
        return "--length-normalize divides by length"
    return "--method sigmoid_norm, which divides by length" if may_become(facts, "sigmoid_norm") else None


def _learns(facts: Facts) -> bool:
    """Whether the margin grows, on held-out data or in training."""
    margins = facts.trend("rewards/margins")
    held_out = facts.separated is not None and facts.separated.surely_above(0.0)
    return held_out or (bool(margins) and margins.rise.surely_above(0.0))


def _gap(items: Items) -> list[tuple[str, str]] | None:
    """Accuracy on the two kinds of pairs, where they are surely far apart and one is no better than chance. The data's
    own bias plays no part in it.
    """
    right = [margin > 0 for margin in items.margins]
    longer, shorter = (items.share(right, [sign * by > 0 for by in items.longer_by]) for sign in (1, -1))
    if min(longer.cases, shorter.cases) < FEWEST:
        return None
    worse, better = sorted((longer, shorter), key=lambda kind: kind.value)
    if worse.value > CHANCE or better.value - worse.value < GAP or worse.high >= better.low:
        return None
    return [
        ("right where the chosen answer is the longer one", _words(longer)),
        ("right where it is the shorter one", _words(shorter)),
    ]


def _words(kind: Share) -> str:
    return f"{interval(kind.value, kind.low, kind.high)} of {kind.cases}"


def _correlation(items: Items) -> Tendency | None:
    value = correlation(items.margins, items.longer_by)
    if abs(value) < FOLLOWS or not is_correlated(abs(value), len(items.margins)):
        return None
    words = "correlation of the difference in reward with the difference in length, held-out pairs"
    return Tendency((words, number(value, signed=True)), value > 0)


def _growth(facts: Facts) -> Tendency | None:
    """Answers of another length than at the start; not those that go round in circles."""
    ratio = facts.latest.get("answer_length_ratio")
    loops = (facts.held_out_change("repetition") or 0.0) >= REPEATS
    if ratio is None or loops or SHRUNK < ratio < GROWN:
        return None
    return Tendency(("length of its own answers", f"{number(ratio)} times that at the start"), ratio > 1)


def _bias(facts: Facts, items: Items | None) -> Tendency | None:
    """Which answer is mostly preferred, the longer or the shorter one: by the audit of the training data, else in
    tokens on held-out pairs; None where neither is.
    """
    for finding in findings(facts, "length-bias"):
        details = finding.details
        if _unlike(details.get("mean_preferred", 2), details.get("mean_other", 1)):
            return Tendency(("in the data", finding.summary), details.get("rule") != "the shorter one")
    return _bias_of(items) if items is not None else None


def _bias_of(items: Items) -> Tendency | None:
    share = items.share([by > 0 for by in items.longer_by], [by != 0 for by in items.longer_by])
    sides = [fmean(items.sides[side].lengths) for side in ("chosen", "rejected")]
    if not _unlike(*sides) or (share.low < BIASED and share.high > 1 - BIASED):
        return None
    words = f"{_words(share)} held-out pairs of unequal length"
    return Tendency(("the chosen answer is the longer one in", words), share.low >= BIASED)


def _unlike(length: float, other: float) -> bool:
    return max(length, other) >= UNLIKE * min(length, other)
