"""What a batch hands on of its rows, which attention a model gets back, and how long the scorers' trial may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from likelier.scoring import attach_scorer, collate
from likelier.scoring.attention import install_attention, restore_attention
from likelier.utils.errors import ModelError
from tests.helpers.architectures import group, random_tokens, tiny


def test_what_rows_bring_comes_through_to_the_last_digit() -> None:
    pairs = [
        replace(group([5, 6], [7], [8]), weight=0.1 + number, margin=number / 3, flip_chance=0.7 / (1 + number))
        for number in range(3)
    ]
    batch = collate([replace(one, ref_logps=(-1 / 3, -2 / 3)) for one in pairs[:1]])
    assert batch.items.ref_logps is not None and batch.items.ref_logps.tolist() == [-1 / 3, -2 / 3]
    batch = collate(pairs)
    assert batch.masks is None and batch.items.ref_logps is None
    for held, name in (
        (batch.items.weights, "weight"),
        (batch.items.margins, "margin"),
        (batch.items.flip_chances, "flip_chance"),
    ):
        assert held is not None and held.tolist() == [getattr(one, name) for one in pairs]
    rows = [group([5, 6], [7], [8], desirable=bool(number)) for number in range(2)]
    for answers, weighs in (("all", True), ("own", True), ("partners", False)):
        batch = collate(rows, answers=answers)  # type: ignore[arg-type]
        assert (batch.items.weights is not None) == weighs and batch.items.margins is batch.items.flip_chances is None


@pytest.mark.parametrize("names", [("sdpa", "eager"), ("eager", "sdpa")])
def test_two_models_of_one_kind_get_each_its_own_attention_back(names: tuple[str, str]) -> None:
    models = [tiny("llama, tied", attn_implementation=name) for name in names]
    for model in models:
        install_attention(model)
    found = [model.config._attn_implementation for model in models]
    assert len(set(found)) == 2
    for model in models:
        install_attention(model)  # once more changes nothing
    assert [model.config._attn_implementation for model in models] == found
    for model, name in zip(models, names, strict=True):
        restore_attention(model)
        assert model.config._attn_implementation == name


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_the_trial_is_no_longer_than_the_model_can_read(name: str) -> None:
    """40 positions, each with a row of its own; without any row to be scored the trial makes one up."""
    length: dict[str, Any] = {"n_positions": 40} if name == "gpt2" else {"max_position_embeddings": 40}
    assert attach_scorer(tiny(name, **length)).name == "shared-prefix"
    short = group(random_tokens(1, 20), random_tokens(2, 12), random_tokens(3, 9))
    assert attach_scorer(tiny(name, **length), groups=[short]).name == "shared-prefix"


def test_the_longest_row_is_tried_and_a_made_up_one_no_longer_than_that_needs() -> None:
    """Answers count as well as prompts; windows of 64 are passed only where a row passes them."""
    rows = [group(random_tokens(1, 20), random_tokens(2, 10), random_tokens(3, 4))]
    rows += [group(random_tokens(4, 18), random_tokens(5, 4), random_tokens(6, 30))]
    far = group(random_tokens(7, 100), random_tokens(8, 10), random_tokens(9, 20))
    for tried, longest, made_up in ((rows, 48, 48), (rows[:1], 30, 32), ([*rows, far], 120, 96)):
        model, read = tiny("mistral", sliding_window=64), set[int]()
        embedding = model.get_input_embeddings()
        hook = embedding.register_forward_pre_hook(lambda module, args, read=read: read.add(args[0].shape[1]))
        attach_scorer(model, groups=tried)
        hook.remove()
        assert {longest - 1, made_up - 1} <= read


def test_what_lies_in_two_precisions_is_scored_where_autocast_brings_it_together() -> None:
    """A head that is trained in 32 bits beside a base in 16."""
    base, wanted = tiny("llama, untied", torch.bfloat16), {"r": 2, "target_modules": ["q_proj"]}
    model: Any = get_peft_model(base, LoraConfig(**wanted, modules_to_save=["lm_head"], task_type="CAUSAL_LM"))
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    with pytest.raises(ModelError, match="fails on a few tokens of text"):
        attach_scorer(model, scorer="plain")
    attach_scorer(model, scorer="plain", autocast=True)
    assert model(batch=collate([group([5, 6], [7, 8], [9])])).logps.isfinite().all()


def test_a_plain_score_is_its_dtypes_own() -> None:
    model = tiny("llama, tied").to(torch.bfloat16)
    attach_scorer(model, scorer="plain")
    with torch.no_grad():
        scores = model(batch=collate([group([5, 6], [7, 8], [9])]))
    assert scores.lengths.tolist() == [2, 1] and scores.answer_of.tolist() == [0, 0, 1]
    assert torch.equal(scores.logps, torch.stack([scores.token_logps[:2].sum(), scores.token_logps[2]]))


def test_a_scorer_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"scorer='packed' is unknown; known: auto, shared-prefix, plain"):
        attach_scorer(tiny("mistral"), scorer="packed")  # type: ignore[arg-type]
