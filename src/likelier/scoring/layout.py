"""The shared-prefix layout: a batch as one row of tokens in which every prompt stands once.

The row is trunk, branch, branch, …, next trunk, …: a trunk is a prompt with whatever its answers begin with in common,
a branch is the rest of one answer. A branch's positions go on from its trunk's end, and it sees its trunk and itself.
The last token of an answer is never fed: it predicts nothing that is scored. Take "what is a pet ?" with the answers
"the cat sat END" and "the dog ran END", and "is it ?" with "yes END":

    row        what is a pet ?   the | cat sat | dog ran | is it ?   yes
    positions  0    1  2 3   4   5   | 6   7   | 6   7   | 0  1  2   3
    predicts                 the cat | sat END | ran END |       yes END
                                 dog

An answer alone under its prompt is all trunk: its branch would be empty, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from likelier.scoring.batch import Batch


@dataclass(frozen=True)
class Segment:
    """A stretch of the row, `length` tokens from `start`; a branch has its trunk's `trunk_start` and `trunk_length`."""

    start: int
    length: int
    trunk_start: int = 0
    trunk_length: int = 0

    @property
    def keys(self) -> int:
        """How many tokens the segment's last token sees, itself included."""
        return self.trunk_length + self.length


@dataclass(frozen=True)
class VarlenIndex:
    """The segments as a varlen kernel wants them: cumulative lengths, and where in the row each key comes from."""

    cu_queries: Tensor
    cu_keys: Tensor
    longest_query: int
    longest_keys: int
    keys: Tensor


@dataclass(frozen=True)
class Segments:
    """The row's segments, in order and without gaps; what the attention function needs to know of a layout."""

    segments: tuple[Segment, ...]
    device: torch.device
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    def mask(self, segment: Segment, window: int | None) -> Tensor:
        """(queries, keys) bool, true where a query sees a key: causal by position, within `window` tokens."""
        key = (segment.length, segment.trunk_length, window)  # segments of one shape share a mask, and layers do
        if key not in self._masks:
            queries = torch.arange(segment.trunk_length, segment.keys, device=self.device)[:, None]
            keys = torch.arange(segment.keys, device=self.device)
            seen = keys <= queries
            self._masks[key] = seen if window is None else seen & (keys > queries - window)
        return self._masks[key]

    @cached_property
    def varlen(self) -> VarlenIndex:
        """Made once a batch and used by every layer."""

        def cumulative(lengths: list[int]) -> Tensor:
            return torch.tensor([0, *lengths], device=self.device).cumsum(0).to(torch.int32)

        def span(start: int, length: int) -> Tensor:
            return torch.arange(start, start + length)

        # A branch's keys lie in two places of the row, with other branches between: they are gathered into one.
        queries = [segment.length for segment in self.segments]
        keys = [segment.keys for segment in self.segments]
        spans = [(span(s.trunk_start, s.trunk_length), span(s.start, s.length)) for s in self.segments]
        index = torch.cat([part for pair in spans for part in pair]).to(self.device)
        return VarlenIndex(cumulative(queries), cumulative(keys), max(queries), max(keys), index)


@dataclass(frozen=True)
class Layout:
    """A batch in one row.

    `tokens` and `positions` (1, length) are fed to the model. `sources` (scored,) are the places in the row whose
    hidden states predict the `targets` (scored,), each distinct prediction once; `token_of` (scored answer tokens,)
    says which of them each token is, answers one after the other.
    """

    tokens: Tensor
    positions: Tensor
    segments: Segments
    sources: Tensor
    targets: Tensor
    token_of: Tensor


@dataclass
class _Row:
    """Collects the row from left to right."""

    tokens: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    sources: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    length: int = 0
    scored: int = 0

    def feed(self, tokens: Tensor, trunk: Segment | None) -> Segment:
        """Append a trunk, or a branch of `trunk`."""
        seen = 0 if trunk is None else trunk.length
        segment = Segment(self.length, len(tokens), 0 if trunk is None else trunk.start, seen)
        if len(tokens):
            self.tokens.append(tokens)
            self.positions.append(torch.arange(seen, seen + len(tokens)))
            self.segments.append(segment)
            self.length += len(tokens)
        return segment

    def score(self, sources: Tensor, targets: Tensor, wanted: Tensor | None) -> Tensor:
        """Note that `sources` predict `targets`, those that are `wanted` (None: all); returns the numbers of these
        predictions, which mean something where they are wanted.
        """
        if wanted is None:
            wanted = torch.ones(len(targets), dtype=torch.bool)
        numbers = self.scored + wanted.cumsum(0) - 1  # one that is not wanted gets its neighbour's, which nobody reads
        self.sources.append(sources[wanted])
        self.targets.append(targets[wanted])
        self.scored += int(wanted.sum())
        return numbers


def shared_prefix_layout(batch: Batch) -> Layout:
    """Lay a batch out. Built on the CPU and moved to the batch's device in a few copies."""
    device, answers = batch.device, batch.answers
    answers_of: list[list[int]] = [[] for _ in batch.prompts]
    for number, prompt in enumerate(batch.prompt_of):
        answers_of[prompt].append(number)
    row = _Row()
    token_of: dict[int, Tensor] = {}
    for prompt, numbers in zip(batch.prompts, answers_of, strict=True):
        own = [answers[number] for number in numbers]
        masks = [batch.masks[number] if batch.masks else None for number in numbers]
        token_of |= zip(numbers, _lay_prompt(row, prompt, own, masks), strict=True)
    return Layout(
        tokens=torch.cat(row.tokens)[None].to(device),
        positions=torch.cat(row.positions)[None].to(device),
        segments=Segments(tuple(row.segments), device),
        sources=torch.cat(row.sources).to(device),
        targets=torch.cat(row.targets).to(device),
        token_of=torch.cat([token_of[number] for number in range(len(answers))]).to(device),
    )


def _lay_prompt(
    row: _Row, prompt: Tensor, answers: Sequence[Tensor], masks: Sequence[Tensor | None]
) -> Iterator[Tensor]:
    """Append a prompt and its answers to the row; yields, answer by answer, the numbers of the predictions of its
    tokens that are scored.
    """
    common = common_beginning(answers)
    trunk = row.feed(torch.cat([prompt, answers[0][:common]]), None)
    end = trunk.start + trunk.length - 1
    # A token is predicted at the place before its own. The common tokens are the trunk's last, so the places
    # `end - common` up to `end - 1` predict them, once for all answers. `end` predicts every answer's first own token.
    shared = row.score(torch.arange(end - common, end), answers[0][:common], _any(masks, common))
    for answer, mask in zip(answers, masks, strict=True):
        branch = row.feed(answer[common:-1], trunk)
        inside = torch.arange(branch.start, branch.start + branch.length)
        rest = None if mask is None else mask[common:]
        own = row.score(torch.cat([torch.tensor([end]), inside]), answer[common:], rest)
        numbers = torch.cat([shared, own])
        yield numbers if mask is None else numbers[mask]


def _any(masks: Sequence[Tensor | None], common: int) -> Tensor | None:
    """Which of the first `common` tokens at least one of the masks wants; None for all."""
    starts = [mask[:common] for mask in masks if mask is not None]
    return torch.stack(starts).any(0) if len(starts) == len(masks) else None


def common_beginning(answers: Sequence[Tensor]) -> int:
    """How many tokens all answers begin with alike, leaving at least one token to each."""
    length = min(len(answer) for answer in answers) - 1
    first = answers[0][:length]
    for answer in answers[1:]:
        differs = (first != answer[: len(first)]).nonzero()
        first = first[: int(differs[0])] if len(differs) else first
    return len(first)
