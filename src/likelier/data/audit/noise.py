"""How far the judgements agree with each other, and what follows: a flip rate, and a ceiling for every model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from likelier.data.audit.facts import PAIR
from likelier.data.audit.findings import Finding, places, severity_of
from likelier.data.audit.material import Material
from likelier.data.records import Pair
from likelier.data.views import by_numbers
from likelier.utils.statistics import flip_rate

NOISY = 0.1  # the flip rate from which robust DPO is worth its variance


@dataclass
class Votes:
    """All votes on one distinct (prompt, unordered answers): for the one, for the other, ties; and whose they are."""

    one: int = 0
    other: int = 0
    ties: int = 0
    records: tuple[int, ...] = ()
    first: Pair | None = None

    @property
    def disagreement(self) -> float | None:
        """The chance that two votes, drawn without putting back, differ (ties aside); None below two votes."""
        total = self.one + self.other
        return 2 * self.one * self.other / (total * (total - 1)) if total > 1 else None


def count_votes(material: Material) -> dict[tuple[int, ...], Votes]:
    """The votes on each distinct pair, those on set-aside rows included."""
    found: dict[tuple[int, ...], Votes] = defaultdict(Votes)
    told = np.flatnonzero(material.facts.votes).tolist()
    pairs = (pair for pair in by_numbers(material.records, told) if isinstance(pair, Pair))
    rows = ((pair, material.keys[number], (number,)) for number, pair in zip(told, pairs, strict=True))
    set_aside = ((pair, material.keys_of(pair), ()) for pair in material.set_aside)
    for pair, (prompt, chosen, rejected), records in chain(rows, set_aside):
        if pair.votes is not None:
            case = found[prompt, min(chosen, rejected), max(chosen, rejected)]
            forth, back, ties = pair.votes
            case.one += forth if chosen < rejected else back
            case.other += back if chosen < rejected else forth
            case.ties += ties
            case.first = case.first or pair
            case.records += records
    return found


def noise(material: Material) -> tuple[list[Finding], dict[str, Any]]:
    """Annotators' disagreement, the flip rate, and the ceiling."""
    votes = count_votes(material)
    figures = _figures(material, votes, np.concatenate([material.pair_cases.counts, material.label_cases.counts]))
    if not figures:
        return [], {}
    return [*_disagreement(material, votes, figures), *_ceiling(material, figures)], {"noise": figures}


def _figures(material: Material, votes: dict[tuple[int, ...], Votes], by_rows: np.ndarray) -> dict[str, Any]:
    """What is known of the noise. From votes where there are any, else from rows that repeat a judgement: `by_rows`
    (cases, 2) are how many say the one and how many the other.

    The flip rate takes all cases for equally hard. If instead the judges only disagree on a share c of the cases, where
    each tosses a coin, then d = c / 2, and half of these labels are wrong: the ceiling is 1 - d.
    """
    given = [(case.one, case.other) for case in votes.values() if case.one + case.other]
    by_votes = np.array(given, dtype=np.int64).reshape(-1, 2)
    if not len(by_votes) and not by_rows.all(axis=1).any():
        return {}
    judged = by_votes if len(by_votes) else by_rows
    twice = judged[judged.sum(axis=1) > 1].tolist()
    shares = [part for one, other in twice if (part := Votes(one, other).disagreement) is not None]
    disagreement = sum(shares) / len(shares) if shares else 0.0
    rate = flip_rate(disagreement)
    limits = {"of_rows": _best_share(by_rows)}
    figures: dict[str, Any] = {
        "from": "votes" if len(by_votes) else "repeated rows",
        "judgements": int(judged.sum()),
        "cases": len(judged),
        "judged_twice": len(shares),
        "both_ways": int(judged.all(axis=1).sum()),
        "disagreement": disagreement,
        "flip_rate": rate,
    }
    if len(by_votes):
        limits["of_single_votes"] = _best_share(by_votes)
        limits["of_majority"] = _majority_right(material, rate)
        limits["of_one_annotator"] = 1 - rate
        limits["if_few_are_coin_tosses"] = 1 - disagreement
        figures["ties"] = sum(case.ties for case in votes.values())
    ceiling = min(limits["of_rows"], limits.get("of_majority", 1.0))
    return {**figures, "ceilings": limits, "ceiling": ceiling}


def _best_share(judged: np.ndarray) -> float:
    """The share of the judgements that agree with their case's majority: what the best model of these rows reaches."""
    total = int(judged.sum())
    return int(judged.max(axis=1).sum()) / total if total else 1.0


def _majority_right(material: Material, rate: float) -> float:
    """The expected share of chosen answers that are the better ones, if each vote is wrong with the chance `rate`.

    With m votes more for the chosen answer and no opinion beforehand: (1 - e)^m / ((1 - e)^m + e^m).
    """
    odds = rate / (1 - rate)
    pairs = (pair for pair in by_numbers(material.records, material.decided) if isinstance(pair, Pair))
    margins = (pair.votes[0] - pair.votes[1] if pair.votes else 1 for pair in pairs)
    return sum(1 / (1 + odds**margin) for margin in margins) / len(material.decided) if material.decided else 1.0


def _disagreement(material: Material, votes: dict[tuple[int, ...], Votes], figures: dict[str, Any]) -> list[Finding]:
    both = [case for case in votes.values() if case.one and case.other]
    if not both:
        return []
    rate = figures["flip_rate"]
    fewer = sum(min(case.one, case.other) for case in both) / sum(case.one + case.other for case in both)
    finding = Finding(
        "annotator-disagreement",
        len(both),
        "warning" if rate > NOISY else severity_of("annotator-disagreement", 0),
        f"distinct pairs with votes for both answers: {len(both):,} of {len(votes):,} ({fewer:.1%} of their votes are "
        f"on the smaller side); two votes on any pair disagree with chance {figures['disagreement']:.1%}, so one is "
        f"wrong with chance {rate:.1%}",
        places(case.first.source for case in both if case.first),
        details={
            "flip_rate": rate,
            "disagreement": figures["disagreement"],
            "share": len(both) / len(votes),
            "minority_share": fewer,
            "mend": f"Train with --method robust --flip-probability {rate:.3g}, with --use-votes soft, or keep "
            "only the pairs that all agree on: --drop annotator-disagreement --write CLEAN.jsonl.",
        },
        quotes=material.quotes([case.records[0] for case in both if case.records]),
        records=tuple(number for case in both for number in case.records),
    )
    return [finding]


def _ceiling(material: Material, figures: dict[str, Any]) -> list[Finding]:
    judged = len(material.decided) + len(material.labels)
    wrong = round((1 - figures["ceiling"]) * judged)
    if not wrong:
        return []
    summary = (
        f"labels expected to be wrong: about {wrong:,} of {judged:,}; no model can agree with more than "
        f"{figures['ceiling']:.1%} of them"
    )
    return [Finding("noise-ceiling", wrong, "info", summary, details={"ceiling": figures["ceiling"]})]


def undecided_pairs(material: Material) -> list[Finding]:
    """Pairs that no majority decided."""
    facts = material.facts
    rows = np.flatnonzero((facts.kinds == PAIR) & ~facts.decided).tolist()
    words = "pairs with as many judgements for one answer as for the other"
    return material.finding("undecided-pairs", rows, words, of=len(material.pairs))
