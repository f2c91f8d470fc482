"""A micro-batch: distinct prompts, their distinct answers in one flat list, indices that say what each answer is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from likelier.data.groups import Group
from likelier.data.masks import answer_bytes, each_mask, trained_count
from likelier.objectives.scored import NO_ANSWER, Items

Answers = Literal["all", "own", "partners"]


@dataclass(frozen=True)
class Batch:
    """Flat answers and the items over them.

    `prompts` and `answers` are 1-D token tensors on the CPU (a scorer lays them out and moves them to `device` at
    once), `prompt_of[a]` the prompt number of answer `a`. `items` are the pairs or labelled rows over the answers, with
    what the reference and the data say of them, on `device`. `masks` are (tokens,) bool for each answer, on the CPU:
    which of its tokens are scored; None for all. `temperature` divides the logits: answers that were drawn at one are
    scored at it. `entropies` asks for the entropy at every scored token beside its log-probability, `collisions` for
    `collision_entropies` of the answers.
    """

    prompts: list[Tensor]
    answers: list[Tensor]
    prompt_of: list[int]
    items: Items
    device: torch.device
    masks: list[Tensor | None] | None = None
    temperature: float = 1.0
    entropies: bool = False
    collisions: bool = False

    @property
    def targets(self) -> list[Tensor]:
        """The tokens of each answer that are scored."""
        if self.masks is None:
            return self.answers
        pairs = zip(self.answers, self.masks, strict=True)
        return [answer if mask is None else answer[mask] for answer, mask in pairs]

    @property
    def lengths(self) -> Tensor:
        """(answers,) how many these are; on the CPU."""
        return torch.tensor([len(tokens) for tokens in self.targets])

    def answers_of_groups(self) -> list[list[int]]:
        """For each group, in order, the numbers of its answers."""
        items = self.items
        if items.lists is not None:
            return [[number for number in row if number != NO_ANSWER] for row in items.lists.tolist()]
        if items.pairs is not None:
            return items.pairs.tolist()
        columns = [column for column in (items.rows, items.partners) if column is not None]
        return torch.stack(columns, 1).tolist()


class _Flat:
    """Collects prompts and answers, each distinct one once."""

    def __init__(self) -> None:
        self.prompts: dict[bytes, int] = {}
        self.answers: dict[tuple[int, bytes], int] = {}
        self.ids: tuple[list[Any], list[Any]] = ([], [])
        self.prompt_of: list[int] = []
        self.masks: list[Tensor | None] = []
        self.ref_logps: list[float] = []

    def add(self, prompt: Any, answer: Any, mask: Any, ref_logp: float | None) -> int:
        if not len(prompt) or not trained_count(answer, mask):
            raise ValueError("a prompt and an answer need at least one token each (a prompt at least its BOS)")
        number = self.prompts.setdefault(prompt.tobytes(), len(self.prompts))
        if number == len(self.ids[0]):
            self.ids[0].append(prompt)
        key = (number, answer_bytes(answer, mask))
        if key not in self.answers:
            self.answers[key] = len(self.answers)
            self.ids[1].append(answer)
            self.prompt_of.append(number)
            self.masks.append(None if mask is None else torch.from_numpy(mask.astype(bool)))
            if ref_logp is not None:
                self.ref_logps.append(ref_logp)
        return self.answers[key]


def collate(
    groups: Sequence[Group],
    *,
    device: torch.device | str = "cpu",
    answers: Answers = "all",
    collisions: bool = False,
) -> Batch:
    """Join groups into a batch; equal prompts, and equal answers under them, are held once.

    `answers` chooses, for labelled groups with a mismatched answer, both, the own ones or the mismatched ones only.
    Raises `ValueError` for a prompt or an answer without tokens.
    """
    flat = _Flat()
    numbers: list[list[int]] = []
    for group in groups:
        refs: Sequence[float | None] = group.ref_logps or [None] * len(group.answers)
        kept = range(len(group.answers)) if group.desirable is None or answers == "all" else _kept(answers)
        masks = each_mask(group.masks, len(group.answers))
        numbers.append([flat.add(group.prompt, group.answers[k], masks[k], refs[k]) for k in kept])

    def as_tensor(values: list[Any], dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    def values(name: str) -> Tensor | None:
        found = [getattr(group, name) for group in groups]
        return None if found[0] is None else as_tensor(found, torch.float64)

    def tokens(ids: list[Any]) -> list[Tensor]:
        return [torch.from_numpy(sequence.astype("int64")) for sequence in ids]

    is_pair, most = groups[0].is_pair, max(map(len, numbers))

    def filled(rows: Iterable[Sequence[float]], with_what: float, dtype: torch.dtype) -> Tensor:
        return as_tensor([[*row, *[with_what] * (most - len(row))] for row in rows], dtype)

    scores = [group.scores for group in groups if group.scores is not None]
    has_own = not is_pair and answers != "partners"
    has_partners = not is_pair and answers != "own" and len(groups[0].answers) > 1
    items = Items(
        pairs=as_tensor([(group[0], group[-1]) for group in numbers]) if is_pair else None,
        rows=as_tensor([group[0] for group in numbers]) if has_own else None,
        desirable=as_tensor([group.desirable for group in groups], torch.bool) if has_own else None,
        partners=as_tensor([group[-1] for group in numbers]) if has_partners else None,
        ref_logps=as_tensor(flat.ref_logps, torch.float64) if len(flat.ref_logps) == len(flat.answers) else None,
        ref_head_logps=values("ref_head_logps"),
        weights=values("weight") if is_pair or has_own else None,
        margins=values("margin"),
        flip_chances=values("flip_chance"),
        lists=filled(numbers, NO_ANSWER, torch.long) if scores else None,
        scores=filled(scores, 0.0, torch.float64) if scores else None,
    )
    return Batch(
        prompts=tokens(flat.ids[0]),
        answers=tokens(flat.ids[1]),
        prompt_of=flat.prompt_of,
        items=items,
        device=torch.device(device),
        masks=None if all(mask is None for mask in flat.masks) else flat.masks,
        collisions=collisions,
    )


def _kept(answers: Answers) -> range:
    return range(1) if answers == "own" else range(1, 2)
