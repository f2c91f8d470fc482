"""Rules too simple to be what was meant, which tell chosen from rejected all the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from likelier.data.audit.facts import text_of
from likelier.data.audit.findings import Finding, Severity
from likelier.data.audit.material import Material, sampled
from likelier.data.audit.words import WordTable, held_out_scores, word_table
from likelier.data.records import answers_of
from likelier.utils.statistics import Share, chance_above, rank_correlation, share_of

SAMPLE = 10_000
FEWEST = 50  # rows below which no rule can be told from chance
# Words say something of most preferences (a refusal, an apology); lengths should say nothing.
_LENGTH = (0.6, 0.8)
_WORDS = (0.65, 0.9)


def _severity(accuracy: float, thresholds: tuple[float, float]) -> Severity:
    warning, error = thresholds
    return "error" if accuracy >= error else "warning" if accuracy >= warning else "info"


# --- length --------------------------------------------------------------------------------------------------------


def length_bias(material: Material) -> tuple[list[Finding], dict[str, Any]]:
    """How often the longer answer is the preferred one, by characters."""
    rule = length_rule(material, material.lengths[:, 1:])
    if rule is None:
        return [], {}
    statistics, share = rule
    return _length_finding(material, statistics, share, "characters"), {"length_rule": {"characters": statistics}}


def length_rule(material: Material, lengths: np.ndarray) -> tuple[dict[str, Any], Share] | None:
    """What the rule "the longer one" is worth, from lengths (records, 2). For pairs the share of those with unequal
    answers in which the longer one is chosen; for labels how often a desirable answer is longer than one that is not.
    """
    if material.decided:
        return _of_pairs(material, lengths)
    if material.desirable.any() and not material.desirable.all():
        values = lengths[material.labels, 0]
        share = chance_above(values, material.desirable)
        correlation = rank_correlation(values, material.desirable.astype(float))
        sides = (values[material.desirable].mean(), values[~material.desirable].mean())
        guessed = (values > np.median(values)) == (share.value >= 0.5)
        right = int((guessed == material.desirable).sum())
        figures = _rule_figures(share, max(share.value, 1 - share.value), correlation, *sides)
        return figures | {"rows_right": right}, share
    return None


def _of_pairs(material: Material, lengths: np.ndarray) -> tuple[dict[str, Any], Share] | None:
    chosen, rejected = lengths[material.decided].T
    unequal = chosen != rejected
    if not unequal.any():
        return None
    wins = (chosen > rejected)[unequal].astype(float)
    share = share_of(wins, material.prompts[material.decided][unequal])
    right = max(wins.sum(), len(wins) - wins.sum()) + 0.5 * (~unequal).sum()
    both = np.concatenate([chosen, rejected])
    sides = np.repeat([1.0, 0.0], len(chosen))
    correlation = rank_correlation(both, sides)
    return _rule_figures(share, right / len(chosen), correlation, chosen.mean(), rejected.mean()), share


def _rule_figures(share: Share, accuracy: float, correlation: float, up: float, down: float) -> dict[str, Any]:
    return {
        "longer_wins": share.as_json(),
        "rule": "the longer one" if share.value >= 0.5 else "the shorter one",
        "rule_accuracy": float(accuracy),
        "rank_correlation": correlation,
        "mean_preferred": round(float(up), 2),
        "mean_other": round(float(down), 2),
    }


def _length_finding(material: Material, figures: dict[str, Any], share: Share, unit: str) -> list[Finding]:
    if share.cases < FEWEST or not share.beyond_half():
        return []
    longer = share.value >= 0.5
    told = share if longer else share.other_side
    case = "pairs" if material.decided else "comparisons of a desirable with an undesirable answer"
    summary = f"the {'longer' if longer else 'shorter'} answer by {unit} is preferred in {told} of {case}"
    right = figures.get("rows_right", round(told.value * share.cases))
    details = {"unit": unit, **figures}
    return [Finding("length-bias", right, _severity(told.value, _LENGTH), summary, details=details)]


# --- words ---------------------------------------------------------------------------------------------------------


def surface_bias(material: Material) -> tuple[list[Finding], dict[str, Any]]:
    """Whether words alone tell chosen from rejected on prompts that were not seen.

    A logistic regression on the words of an answer (and on which word it begins with), fitted on two thirds of the
    prompts and asked about the rest, three times, so that every row is held out once.
    """
    if material.decided:
        return _surface(material, sampled(material.decided, SAMPLE), paired=True)
    if material.desirable.any() and not material.desirable.all():
        return _surface(material, sampled(material.labels, SAMPLE), paired=False)
    return [], {}


def _surface(material: Material, rows: list[int], *, paired: bool) -> tuple[list[Finding], dict[str, Any]]:
    if len(rows) < FEWEST or len(np.unique(material.prompts[rows])) < 3:
        return [], {}
    texts = [text_of(answer) for number in rows for answer in answers_of(material.records[number])]
    table = word_table(texts)
    signs = _signs(material, rows, paired=paired)
    prompts = material.prompts[rows]
    shares, right, telling = {}, {}, ()
    for name, part in (("words", table), ("first_word", table.first_words())):
        scores, weights = held_out_scores(part, signs, prompts, paired=paired)
        shares[name] = _share_right(scores, signs, prompts, paired=paired)
        right[name] = int((signs * scores > 0).sum())
        telling = telling or _telling(table, weights)
    statistics = {name: share.as_json() for name, share in shares.items()} | {"sample": len(rows)}
    best = max(shares, key=lambda name: shares[name].low)
    share = shares[best]
    if share.low <= 0.52:
        return [], {"surface_rule": statistics}
    what = "the words of an answer" if best == "words" else "the first word of an answer"
    case = "pairs" if paired else "comparisons of a desirable with an undesirable answer"
    summary = f"{what} tell the preferred one in {share} of held-out {case}"
    finding = Finding(
        "surface-bias",
        right[best],
        _severity(share.value, _WORDS),
        summary.replace("word of an answer tell", "word of an answer tells"),
        details={"rule": best, **statistics},
        quotes=telling if material.show else (),
    )
    return [finding], {"surface_rule": statistics}


def _signs(material: Material, rows: list[int], *, paired: bool) -> np.ndarray:
    """(rows,): +1 where a label is desirable, -1 where not; all +1 for pairs, whose first answer is the chosen one."""
    if paired:
        return np.ones(len(rows))
    return np.where(material.facts.desirable[rows], 1.0, -1.0)


def _share_right(scores: np.ndarray, signs: np.ndarray, prompts: np.ndarray, *, paired: bool) -> Share:
    """Pairs: how often the chosen answer scores higher (ties half). Labels: how often a desirable one does."""
    if paired:
        return share_of((scores > 0) + 0.5 * (scores == 0), prompts)
    return chance_above(scores, signs > 0)


def _telling(table: WordTable, weights: np.ndarray, count: int = 8) -> tuple[str, ...]:
    """The words that weigh most for either side."""
    order = np.argsort(weights)
    lines = (("preferred", order[::-1][:count]), ("not preferred", order[:count]))
    return tuple(f"{side}: {', '.join(table.words[number] for number in numbers)}" for side, numbers in lines)
