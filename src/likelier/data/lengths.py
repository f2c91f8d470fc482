"""Rows as their lengths in tokens: all that memory and time depend on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from likelier.data.groups import Group


@dataclass(frozen=True)
class Row:
    """The tokens of a prompt and of its answers."""

    prompt: int
    answers: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """What the shared-prefix scorer holds of it: the prompt once, no answer's last token."""
        return self.prompt + sum(answer - 1 for answer in self.answers)

    @property
    def scored(self) -> int:
        """Answer tokens that meet the vocabulary."""
        return sum(self.answers)

    def scaled(self, share: float) -> Row:
        """A row of the same proportions."""
        return Row(max(1, round(self.prompt * share)), tuple(max(1, round(answer * share)) for answer in self.answers))


def tokens_of(rows: Iterable[Row]) -> int:
    """Tokens of a micro-batch of distinct rows."""
    return sum(row.tokens for row in rows)


def row_of(group: Group) -> Row:
    """A group's token lengths."""
    return Row(len(group.prompt), tuple(len(answer) for answer in group.answers))
