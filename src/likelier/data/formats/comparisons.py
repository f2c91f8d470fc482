"""Winners, votes and rankings as pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

from likelier.data.columns import Columns
from likelier.data.formats.beside import settled
from likelier.data.formats.codings import Reading, label_coding, truth_coding
from likelier.data.formats.messages import Row, Unfit, answer_to, as_list, as_number
from likelier.data.formats.plain import any_pair
from likelier.data.records import Content, Labelled, Pair, Record, Source, Unusable
from likelier.data.votes import flipped

# --- two answers and who won ---------------------------------------------------------------------------------------


def winner_pair(row: Row, source: Source, reading: Reading) -> Iterable[Record]:
    """first, second, winner: the winner of each annotator, or of all of them together."""
    assert reading.coding is not None
    raw = as_list(row["winner"])
    shares = [share for value in raw if (share := reading.coding.read(value, source, "winner")) is not None]
    if not shares:
        raise Unfit("no-judgement", "the winner is missing")
    pair = any_pair({**row, "chosen": row["first"], "rejected": row["second"]}, source, reading)
    found = _judged(_with_scores(row, pair), shares, several=len(raw) > 1)
    _refuse_unacceptable(row, found, source, reading, turned=found.chosen is pair.rejected)
    return (found,)


def _refuse_unacceptable(row: Row, pair: Pair, source: Source, reading: Reading, *, turned: bool) -> None:
    """Raises `Unfit` where the preferred answer is one that the row calls unacceptable."""
    if row.get("acceptable") is None:
        return
    values = as_list(row["acceptable"])
    if len(values) != 2:
        raise Unfit("acceptable-not-one-an-answer", f"{len(values)} for 2 answers")
    given = reading.columns.label_coding
    coding = truth_coding() if given is None else label_coding(given)
    good = [coding.read(value, source, "acceptable") for value in values]
    if pair.is_decided and good[1 if turned else 0] == 0.0:
        raise Unfit("preferred-not-acceptable", f"{values[1 if turned else 0]!r}")


def voted_pair(row: Row, source: Source, reading: Reading) -> Iterable[Record]:
    """first, second, votes: how many are for the first, for the second, and (if told) for neither."""
    raw = as_list(row["votes"])
    counts = [0.0 if count in (None, "") else as_number(count) for count in raw]
    if len(counts) not in (2, 3) or not all(count >= 0 and count.is_integer() for count in counts) or not any(counts):
        raise Unfit("votes-not-counts", f"{list(raw)!r} for first, second and ties"[:120])
    votes = (int(counts[0]), int(counts[1]), int(counts[2]) if len(counts) == 3 else 0)
    pair = _with_scores(row, any_pair({**row, "chosen": row["first"], "rejected": row["second"]}, source, reading))
    pair = replace(pair, votes=votes)
    return (pair if votes[0] >= votes[1] else flipped(pair),)


def _with_scores(row: Row, pair: Pair) -> Pair:
    scores = row.get("score_first"), row.get("score_second")
    if all(score in (None, "") for score in scores):
        return pair
    return replace(pair, scores=(as_number(scores[0]), as_number(scores[1])))


def _judged(pair: Pair, shares: Sequence[float], *, several: bool) -> Pair:
    """The pair with the better answer first. A single clear winner needs no account of votes."""
    mean = sum(shares) / len(shares)
    if any(share not in (0.0, 0.5, 1.0) for share in shares):
        pair = replace(pair, flip_chance=1 - mean)
    elif several or mean == 0.5:
        counts = (shares.count(1.0), shares.count(0.0), shares.count(0.5))
        pair = replace(pair, votes=counts)
    return pair if mean >= 0.5 else flipped(pair)


# --- several answers -----------------------------------------------------------------------------------------------


class _Answers:
    """The prompt and the answers of a row, read once; an answer that cannot be used spoils its own pairs only."""

    def __init__(self, row: Row, source: Source, columns: Columns) -> None:
        values = row["answers"]
        if not isinstance(values, (list, tuple)):
            raise Unfit("not-a-list", f"answers is {type(values).__name__}")
        if len(values) < 2:
            raise Unfit("fewer-than-two-answers", f"{len(values)}")
        self.source = source
        self.prompt, values = settled(row, values, source, columns)
        self.contents = [self._read(value, number) for number, value in enumerate(values, 1)]

    def _read(self, value: Any, number: int) -> Content | Unfit:
        try:
            return answer_to(self.prompt, value, f"answer {number}")
        except Unfit as unfit:
            return unfit

    def pair(self, better: int, worse: int, scores: Sequence[float] | None = None) -> Pair | Unusable:
        """A pair of two answers by their places, from 0."""
        left, right = self.contents[better], self.contents[worse]
        for content in (left, right):
            if isinstance(content, Unfit):
                return Unusable(self.source, content.reason, content.detail)
        both = None if scores is None else (scores[better], scores[worse])
        return Pair(self.prompt, left, right, self.source, scores=both)  # type: ignore[arg-type]


def ranked_pairs(row: Row, source: Source, reading: Reading) -> Iterator[Record | Unusable]:
    """answers with ranks or scores, as pairs by `pairs_from`; a pair keeps its scores, with the sign turned where the
    smallest is the best.
    """
    answers, columns = _Answers(row, source, reading.columns), reading.columns
    by_rank = "ranks" in row
    values = _numbers(row, "ranks" if by_rank else "scores", len(answers.contents))
    best = (columns.ranks_best or "smallest") if by_rank else (columns.scores_best or "largest")
    if best == "order":
        values = _ranks_of_order(values)
    if best != "largest":
        values = [None if value is None else -value for value in values]
    heights = {place: value for place, value in enumerate(values) if value is not None}
    if len(heights) < 2:
        raise Unfit("fewer-than-two-ranked", f"{len(heights)} of {len(values)}")
    for better, worse in _places(heights, columns.pairs_from or "all"):
        yield answers.pair(better, worse, None if by_rank else values)  # type: ignore[arg-type]


def _ranks_of_order(order: Sequence[float | None]) -> list[float | None]:
    """The rank of each answer where `order` names the answers, counted from 0 or from 1, the best first."""
    count = len(order)
    if set(order) not in (set(range(count)), set(range(1, count + 1))):
        raise Unfit("not-an-order", f"{list(order)!r} does not name each of the {count} answers once"[:120])
    start = 0 if 0 in order else 1
    ranks: list[float | None] = [None] * count
    for rank, place in enumerate(order):
        ranks[int(place or 0) - start] = rank
    return ranks


def _numbers(row: Row, name: str, count: int) -> list[float | None]:
    values = as_list(row[name])
    if row[name] in (None, "") or not values:
        raise Unfit("fewer-than-two-ranked", f"no {name}")
    if len(values) != count:
        raise Unfit("ranks-not-one-an-answer", f"{len(values)} {name} for {count} answers")
    found: list[float | None] = []
    for value in values:
        number = None if value in (None, "") else as_number(value)
        if number is not None and number != number:
            raise Unfit("rank-not-a-number", f"{value!r} in {name}")
        found.append(number)
    return found


def _places(heights: dict[int, float], pairs_from: str) -> Iterator[tuple[int, int]]:
    """(better, worse) places; answers of equal height are never a pair."""
    ordered = sorted(heights, key=lambda place: -heights[place])
    candidates: Iterable[tuple[int, int]] = combinations(ordered, 2)
    if pairs_from == "best":
        candidates = ((ordered[0], other) for other in ordered[1:])
    elif pairs_from == "adjacent":
        candidates = pairwise(ordered)
    yield from ((better, worse) for better, worse in candidates if heights[better] > heights[worse])


def labelled_answers(row: Row, source: Source, reading: Reading) -> Iterator[Record | Unusable]:
    """answers with a label for each of them."""
    assert reading.coding is not None
    answers, labels = _Answers(row, source, reading.columns), as_list(row["label"])
    if len(labels) != len(answers.contents):
        raise Unfit("labels-not-one-an-answer", f"{len(labels)} for {len(answers.contents)} answers")
    for number, (content, label) in enumerate(zip(answers.contents, labels, strict=True), 1):
        good = reading.coding.read(label, source, "label")
        if isinstance(content, Unfit):
            yield Unusable(source, content.reason, content.detail)
        elif good is None or good == 0.5:
            yield Unusable(source, "no-label", f"answer {number}")
        else:
            yield Labelled(answers.prompt, content, good == 1.0, source)


def judged_pairs(row: Row, source: Source, reading: Reading) -> Iterator[Record | Unusable]:
    """answers with a judgement for each two of them, in the order 1v2, 1v3, ..., 2v3, ...; ties are undecided pairs."""
    assert reading.coding is not None
    answers, values = _Answers(row, source, reading.columns), as_list(row["judgements"])
    places = list(combinations(range(len(answers.contents)), 2))
    if len(values) != len(places):
        count = len(answers.contents)
        raise Unfit("judgements-not-of-all-pairs", f"{len(values)} for the {len(places)} pairs of {count} answers")
    for (first, second), value in zip(places, values, strict=True):
        share = reading.coding.read(value, source, "judgements")
        pair = answers.pair(first, second)
        if share is None:
            yield Unusable(source, "no-judgement", f"answers {first + 1} and {second + 1}")
        else:
            yield pair if isinstance(pair, Unusable) else _judged(pair, [share], several=False)
