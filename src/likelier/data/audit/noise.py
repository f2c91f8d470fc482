"""How far the judgements agree with each other, and what follows: a flip rate, and a ceiling for every model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from likelier.data.audit.findings import Finding, places, severity_of
from likelier.data.audit.material import Cases, Material, numbered
from likelier.data.records import Pair
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
    rows = [(material.pair(number), material.keys[number], (number,)) for number in material.pairs]
    rows += [(pair, numbered(pair, material.known), ()) for pair in material.set_aside]
    for pair, (prompt, chosen, rejected), records in rows:
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
    cases = {**material.pair_cases, **material.label_cases}
    figures = _figures(material, votes, cases)
    if not figures:
        return [], {}
    return [*_disagreement(material, votes, figures), *_ceiling(material, figures)], {"noise": figures}


def _figures(material: Material, votes: dict[tuple[int, ...], Votes], cases: Cases) -> dict[str, Any]:
    """What is known of the noise. From votes where there are any, else from rows that repeat a judgement.

    The flip rate takes all cases for equally hard. If instead the judges only disagree on a share c of the cases, where
    each tosses a coin, then d = c / 2, and half of these labels are wrong: the ceiling is 1 - d.
    """
    by_rows = [(len(one), len(other)) for one, other in cases.values()]
    by_votes = [(case.one, case.other) for case in votes.values() if case.one + case.other]
    if not by_votes and not any(one and other for one, other in by_rows):
        return {}
    judged = by_votes or by_rows
    shares = [part for one, other in judged if (part := Votes(one, other).disagreement) is not None]
    disagreement = sum(shares) / len(shares) if shares else 0.0
    rate = flip_rate(disagreement)
    limits = {"of_rows": _best_share(by_rows)}
    figures: dict[str, Any] = {
        "from": "votes" if by_votes else "repeated rows",
        "judgements": sum(map(sum, judged)),
        "cases": len(judged),
        "judged_twice": len(shares),
        "both_ways": sum(bool(one and other) for one, other in judged),
        "disagreement": disagreement,
        "flip_rate": rate,
    }
    if by_votes:
        limits["of_single_votes"] = _best_share(by_votes)
        limits["of_majority"] = _majority_right(material, rate)
        limits["of_one_annotator"] = 1 - rate
        limits["if_few_are_coin_tosses"] = 1 - disagreement
        figures["ties"] = sum(case.ties for case in votes.values())
    ceiling = min(limits["of_rows"], limits.get("of_majority", 1.0))
    return {**figures, "ceilings": limits, "ceiling": ceiling}


def _best_share(judged: Iterable[tuple[int, int]]) -> float:
    """The share of the judgements that agree with their case's majority: what the best model of these rows reaches."""
    cases = list(judged)
    total = sum(map(sum, cases))
    return sum(map(max, cases)) / total if total else 1.0


def _majority_right(material: Material, rate: float) -> float:
    """The expected share of chosen answers that are the better ones, if each vote is wrong with the chance `rate`.

    With m votes more for the chosen answer and no opinion beforehand: (1 - e)^m / ((1 - e)^m + e^m).
    """
    odds = rate / (1 - rate)
    pairs = (material.pair(number).votes for number in material.decided)
    margins = [votes[0] - votes[1] if votes else 1 for votes in pairs]
    return sum(1 / (1 + odds**margin) for margin in margins) / len(margins) if margins else 1.0


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
    decided = set(material.decided)
    rows = [number for number in material.pairs if number not in decided]
    words = "pairs with as many judgements for one answer as for the other"
    return material.finding("undecided-pairs", rows, words, of=len(material.pairs))
