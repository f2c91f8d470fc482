"""Floating-point operations of a training run, from token lengths alone. Pure: the standard library, nothing else.

Symbols: n body (non-embedding) parameters, L layers, d = heads * head_dim, H hidden size, V vocabulary. One forward
pass that feeds T tokens, of which A (query, key) pairs attend, and projects S positions to the vocabulary, costs

    body F = 2 n T + 4 L d A        head h = 2 V H S

A backward pass costs 2 F where the weights are trained and 1 F where they are frozen (only the gradient of the input);
the head likewise. A LoRA adapter's own products are left out (about 1 %).

T, A and S of one pass:

    TRL       T = 2 B * longest row (chosen rows, then rejected rows, padded on the right to the batch's longest)
              A = T * longest, the whole square, since padding brings a mask; half of it where no row is padded
              S = 2 B * (longest - 1): every position on a CPU; on CUDA the answers' tokens
    likelier  T = the distinct tokens of a step: each prompt once, what its answers begin with in common once, the rest
              of each answer once, and never an answer's last token, which predicts nothing
              A = t^2 / 2 for a trunk of t tokens, b t + b^2 / 2 for a branch of b tokens on it
              S = the distinct answer tokens

Passes (forward + recomputation + backward), by what is trained:

    rival             training: body, head    reference: body, head
    trl-default       full 4, 4   LoRA 3, 3   1, 1   (checkpointing computes the body twice; reference at every step)
    trl-tuned, etc.   full 3, 4   LoRA 2, 3   1, 1   (reference before training)
    likelier          full 3, 3-4 LoRA 2, 2   1, 1   (head 3 where its logits' gradient is kept: one chunk a batch)
    likelier-cached   as likelier             0, 0   (reference found in the store)

TRL's head always computes its logits again in backward: 4 passes, or 3 with a frozen head (no gradient of its weight).
likelier's frozen head makes the gradient in forward: 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Ids = Sequence[int]
Lengths = tuple[int, int, int]  # tokens of prompt, chosen, rejected


@dataclass(frozen=True)
class Shape:
    """A model's n, L, d, H, V. `intermediate` (the MLP's width) and `parameters` (all) serve the guess of memory."""

    body: int
    layers: int
    width: int
    hidden: int
    vocabulary: int
    intermediate: int
    parameters: int


@dataclass(frozen=True)
class Work:
    """One forward pass: T tokens fed, A pairs attended, S positions scored."""

    tokens: int = 0
    area: float = 0.0
    scored: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.area + other.area, self.scored + other.scored)


@dataclass(frozen=True)
class PaddedBatch:
    """A batch as TRL's collator makes it: `rows` of `width` tokens, `real` of them no padding, `answers` in answers."""

    rows: int
    width: int
    real: int
    answers: int


@dataclass(frozen=True)
class Passes:
    """How many forward passes' worth of products the body and the head do."""

    body: float
    head: float


def padded_batch(lengths: Sequence[Lengths]) -> PaddedBatch:
    """TRL's batch of these pairs: a row for each answer, padded to the longest."""
    return PaddedBatch(
        rows=2 * len(lengths),
        width=max(prompt + max(chosen, rejected) for prompt, chosen, rejected in lengths),
        real=sum(2 * prompt + chosen + rejected for prompt, chosen, rejected in lengths),
        answers=sum(chosen + rejected for _, chosen, rejected in lengths),
    )


def padding_efficiency(batches: Sequence[PaddedBatch]) -> float:
    """Real tokens over padded tokens."""
    return sum(batch.real for batch in batches) / sum(batch.rows * batch.width for batch in batches)


def padded_work(batch: PaddedBatch, *, scores_answers_only: bool) -> Work:
    """What TRL's forward pass sees of a batch."""
    tokens = batch.rows * batch.width
    share = 1.0 if batch.real < tokens else 0.5
    scored = batch.answers if scores_answers_only else batch.rows * (batch.width - 1)
    return Work(tokens, share * tokens * batch.width, scored)


def common_beginning(answers: Sequence[Ids]) -> int:
    """How many tokens all answers begin with alike, leaving at least one to each."""
    limit = min(map(len, answers)) - 1
    columns = zip(*(answer[:limit] for answer in answers), strict=True)
    return next((place for place, column in enumerate(columns) if len(set(column)) > 1), limit)


def shared_work(rows: Iterable[tuple[Ids, Ids, Ids]]) -> Work:
    """What likelier's forward pass sees of these (prompt, chosen, rejected), were they one micro-batch."""
    answers_of: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for prompt, *answers in rows:
        answers_of.setdefault(tuple(prompt), {}).update((tuple(answer), None) for answer in answers)
    return sum((_prompt_work(len(prompt), list(answers)) for prompt, answers in answers_of.items()), Work())


def _prompt_work(prompt: int, answers: Sequence[Ids]) -> Work:
    common = common_beginning(answers)
    trunk = prompt + common
    branches = [len(answer) - common - 1 for answer in answers]
    area = trunk**2 / 2 + sum(branch * trunk + branch**2 / 2 for branch in branches)
    return Work(trunk + sum(branches), area, common + sum(len(answer) - common for answer in answers))


def operations(shape: Shape, work: Work, passes: Passes) -> float:
    """Floating-point operations of so many passes."""
    body = 2 * shape.body * work.tokens + 4 * shape.layers * shape.width * work.area
    head = 2 * shape.vocabulary * shape.hidden * work.scored
    return passes.body * body + passes.head * head


def training_passes(rival: str, *, lora: bool, head_kept: float = 1.0) -> Passes:
    """Passes of a training step without the reference. `head_kept`: the share of likelier's head not computed twice."""
    if rival.startswith("likelier"):
        return Passes(2, 2) if lora else Passes(3, 4 - head_kept)
    recomputed = 1 if rival == "trl-default" else 0
    return Passes((2 if lora else 3) + recomputed, 3 if lora else 4)


def reference_passes(rival: str) -> Passes:
    """Passes of the reference over every pair."""
    return Passes(0, 0) if rival == "likelier-cached" else Passes(1, 1)


@dataclass(frozen=True)
class Operations:
    """Operations of a run: before training (the reference, where it is scored there) and of each optimizer step."""

    before: float
    steps: list[float]

    @property
    def whole(self) -> float:
        """All of them."""
        return self.before + sum(self.steps)

    def training(self, skipped: int = 0) -> float:
        """Those of the steps after the first `skipped`."""
        return sum(self.steps[skipped:])


def trl_operations(
    shape: Shape,
    rival: str,
    steps: Sequence[Sequence[PaddedBatch]],
    precomputed: Sequence[PaddedBatch],
    *,
    lora: bool,
    scores_answers_only: bool,
) -> Operations:
    """Operations of TRL on these batches: of every step, and of the reference before training (none: at every step)."""

    def cost(batches: Sequence[PaddedBatch], passes: Passes) -> float:
        works = (padded_work(batch, scores_answers_only=scores_answers_only) for batch in batches)
        return operations(shape, sum(works, Work()), passes)

    training, reference = training_passes(rival, lora=lora), reference_passes(rival)
    if not precomputed:
        training = Passes(training.body + reference.body, training.head + reference.head)
    return Operations(cost(precomputed, reference), [cost(step, training) for step in steps])


def likelier_operations(
    shape: Shape, rival: str, steps: Sequence[Work], everything: Work, *, lora: bool, head_kept: float
) -> Operations:
    """Operations of likelier: `steps` hold each step's distinct tokens, `everything` those of the whole data set."""
    passes = training_passes(rival, lora=lora, head_kept=head_kept)
    before = operations(shape, everything, reference_passes(rival))
    return Operations(before, [operations(shape, step, passes) for step in steps])
