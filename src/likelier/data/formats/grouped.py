"""Answers that stand in a row each with a score: those of one prompt are a ranking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from likelier.data.formats.messages import Row, as_json, as_number
from likelier.data.records import Source

_SHARED = ("prompt", "system", "tools")


@dataclass
class _Group:
    """The answers of one prompt, each with all scores that it got."""

    source: Source
    shared: dict[str, Any]
    answers: dict[str, tuple[Any, list[float]]] = field(default_factory=dict)


def rankings_of_answers(rows: Iterable[tuple[Source, Row]]) -> Iterator[tuple[Source, Row]]:
    """Rows of prompt, completion and score as one ranking a prompt, at the place of its first row. An answer that was
    scored several times has the mean of its scores; one without a score is left aside.
    """
    groups: dict[str, _Group] = {}
    for source, row in rows:
        shared = {name: row[name] for name in _SHARED if name in row}
        group = groups.setdefault(as_json(shared), _Group(source, shared))
        _, scores = group.answers.setdefault(as_json([row["completion"]]), (row["completion"], []))
        if row["score"] not in (None, ""):
            scores.append(as_number(row["score"]))
    for group in groups.values():
        answers = [answer for answer, _ in group.answers.values()]
        means = [sum(scores) / len(scores) if scores else None for _, scores in group.answers.values()]
        yield group.source, {**group.shared, "answers": answers, "scores": means}
