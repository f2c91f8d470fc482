"""What the trial before the first step holds beside the fullest micro-batch: as much as a step will."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch

from likelier import DPO
from likelier.data.groups import Group
from likelier.data.tokenize import tokenize_records
from likelier.scoring import attach_scorer
from likelier.scoring.engine import micro_batches
from likelier.training.step import StepWalker
from tests.helpers.support import chat_pairs, tiny_model, tiny_tokenizer

MOMENTS = 12_347  # bytes, of a number that nothing else has


def groups_of(count: int) -> list[Group]:
    groups = tokenize_records(chat_pairs(count), tiny_tokenizer(), max_length=512).groups
    return [replace(one, ref_logps=(-9.0, -9.0)) for one in groups]


def held_now() -> list[torch.Tensor]:
    return [found for found in gc.get_objects() if type(found) is torch.Tensor]


@pytest.mark.parametrize("budget", [160, 100_000])
def test_the_trial_holds_the_optimizers_state_and_the_gradients_of_earlier_micro_batches(budget: int) -> None:
    model, groups = tiny_model(), groups_of(8)
    attach_scorer(model, scorer="plain")
    model.get_input_embeddings().weight.requires_grad_(False)  # no gradient, so nothing is held for it
    seen: list[tuple[int, int]] = []

    def look(*call: Any) -> None:
        tensors = held_now()
        moments = sum(one.dtype is torch.uint8 and one.numel() == MOMENTS for one in tensors)
        weight = model.model.layers[0].mlp.up_proj.weight
        seen.append((moments, sum(one.shape == weight.shape and one.dtype is weight.dtype for one in tensors)))

    model.register_forward_pre_hook(look)
    before = sum(one.shape == (64, 32) and one.dtype is torch.float64 for one in held_now())
    StepWalker(model, DPO(), budget, torch.device("cpu")).prove_it_fits(groups, 8, MOMENTS)
    several = len(micro_batches(model, groups, budget)) > 1
    assert several == (budget == 160)
    ((moments, alike),) = seen
    assert moments == 1 and alike - before == (4 if several else 0)  # up and gate of two layers
    assert not any(one.dtype is torch.uint8 and one.numel() == MOMENTS for one in held_now())
