"""Which scorer a model gets, and that everything else about the model stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from likelier.models.options import LoraOptions
from likelier.models.policy import add_lora
from likelier.scoring import attach, attach_scorer, collate, score_plain, score_shared_prefix, scorer_of
from likelier.scoring.attention import (
    UnknownAttentionError,
    install_attention,
    restore_attention,
    shared_prefix_attention,
)
from likelier.scoring.engine import micro_batches
from likelier.scoring.layout import Segment, Segments
from likelier.utils.errors import ModelError
from tests.helpers.architectures import NOT_SHARING, SHARING, hard_pairs, random_tokens, tiny
from tests.helpers.support import tiny_model

ASKED_TWICE = ["llama, untied", "gemma2", "gpt2"]


# --- models that cannot share a prompt ---


@pytest.mark.parametrize("name", NOT_SHARING)
def test_a_model_that_cannot_share_prompts_is_scored_plainly(name: str) -> None:
    model, untouched = tiny(name), tiny(name)
    own = model.config._attn_implementation
    chosen = attach_scorer(model, groups=hard_pairs())
    assert chosen.name == "plain" and chosen == scorer_of(model)
    assert chosen.reason.startswith(f"{type(model).__name__} cannot share a prompt between answers: ")
    assert model.config._attn_implementation == own
    with torch.no_grad():
        batch = collate(hard_pairs())
        torch.testing.assert_close(
            model(batch=batch).token_logps, score_plain(untouched, batch).token_logps, atol=0, rtol=0
        )


@pytest.mark.parametrize("name", NOT_SHARING)
def test_asking_such_a_model_for_it_is_an_error_that_names_the_model(name: str) -> None:
    model = tiny(name)
    own = model.config._attn_implementation
    with pytest.raises(ModelError, match=rf"{type(model).__name__} cannot share .*; let scorer be auto"):
        attach_scorer(model, scorer="shared-prefix", groups=hard_pairs())
    assert model.config._attn_implementation == own


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mamba", "convolutions along the row"),
        ("qwen3-next", "convolutions along the row"),
        ("bloom", "'eager' is not one of transformers' interface"),
        ("falcon", "log-probabilities differ by 0.0"),
        ("llama4", "log-probabilities differ by 0."),
    ],
)
def test_the_reason_says_why(name: str, words: str) -> None:
    assert words in attach_scorer(tiny(name), groups=hard_pairs()).reason


# --- the choice ---


@pytest.mark.parametrize("name", SHARING)
def test_the_supported_get_the_shared_prefix_and_it_is_what_runs(name: str) -> None:
    model = tiny(name)
    chosen = attach_scorer(model, scorer="shared-prefix", groups=hard_pairs())
    assert chosen.name == "shared-prefix" and chosen.reason.startswith("equal to the plain scorer within ")
    assert model.config._attn_implementation.startswith("likelier_")
    with torch.no_grad():
        batch = collate(hard_pairs())
        torch.testing.assert_close(model(batch=batch).logps, score_shared_prefix(model, batch).logps, atol=0, rtol=0)


def test_plain_is_honoured_also_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("mistral")
    assert attach_scorer(model).name == "shared-prefix"
    chosen = attach_scorer(model, scorer="plain")
    assert (chosen.name, chosen.reason, chosen.version) == ("plain", "asked for", "plain-2")
    assert model.config._attn_implementation == "sdpa"
    monkeypatch.setitem(_scorers(), "shared-prefix", _never)
    with torch.no_grad():
        model(batch=collate(hard_pairs()))


def _scorers() -> dict[str, Callable[..., Any]]:
    from likelier.scoring import attach

    return attach._SCORERS


def _never(*arguments: object) -> None:
    raise AssertionError("this scorer was not asked for")


@pytest.mark.parametrize("name", ASKED_TWICE)
def test_attaching_twice_changes_nothing(name: str) -> None:
    model = tiny(name)
    assert attach_scorer(model, groups=hard_pairs()) == attach_scorer(model, groups=hard_pairs())
    with torch.no_grad():
        once = tiny(name)
        attach_scorer(once)
        batch = collate(hard_pairs())
        torch.testing.assert_close(model(batch=batch).logps, once(batch=batch).logps, atol=0, rtol=0)


def test_the_scorers_have_versions_of_their_own() -> None:
    model = tiny("llama, tied")
    versions = {attach_scorer(model, scorer=scorer).version for scorer in ("auto", "plain")}  # type: ignore[arg-type]
    assert len(versions) == 2


def test_without_a_scorer_the_question_which_is_an_error() -> None:
    with pytest.raises(AssertionError, match="comes first"):
        scorer_of(tiny("gpt2"))


@pytest.mark.parametrize("training", [True, False])
def test_the_trial_leaves_the_models_mode_alone(training: bool) -> None:
    model = tiny("qwen2").train(training)
    attach_scorer(model)
    assert model.training is training


def test_the_trial_leaves_no_gradient_behind() -> None:
    model = tiny("qwen2")
    attach_scorer(model, groups=hard_pairs())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bfloat16_arithmetic_passes_the_trial_and_stays_close() -> None:
    model, exact = tiny("llama, untied"), tiny("llama, untied")
    assert attach_scorer(model, autocast=True, groups=hard_pairs()).name == "shared-prefix"
    with torch.no_grad():
        batch = collate(hard_pairs())
        rounded, expected = model(batch=batch), score_plain(exact, batch)
    assert rounded.logps.dtype == torch.float32
    assert 1e-5 < float((rounded.token_logps - expected.token_logps).abs().mean()) < 0.05


def test_the_micro_batches_are_those_of_the_scorer() -> None:
    model = tiny("llama, tied")
    attach_scorer(model)
    packed = micro_batches(model, hard_pairs(), 150)
    attach_scorer(model, scorer="plain")
    assert len(packed) < len(micro_batches(model, hard_pairs(), 150))


def test_an_adapter_put_on_an_attached_model_has_a_scorer_of_its_own() -> None:
    base = tiny_model()
    attach_scorer(base, scorer="plain")
    adapted = add_lora(base, LoraOptions(lora_r=4), 0)
    assert attach_scorer(adapted).name == scorer_of(adapted).name == "shared-prefix"
    rows: list[int] = []
    base.get_input_embeddings().register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    with torch.no_grad():
        adapted(batch=collate(hard_pairs()))
    assert rows == [1]  # not one an answer


def test_out_of_memory_in_the_trial_is_no_reason_against_the_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setitem(attach._SCORERS, "shared-prefix", full)
    with pytest.raises(torch.OutOfMemoryError):
        attach_scorer(tiny("llama, tied"))


# --- options of attention that are not built ---


def _attention(**options: object) -> Tensor:
    query = torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    segments = Segments((Segment(0, 2), Segment(2, 4, 0, 2)), torch.device("cpu"))
    return shared_prefix_attention(query, query, query, segments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"position_bias": torch.zeros(1)}, {"head_mask": 1}])
def test_unknown_options_of_attention_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(UnknownAttentionError, match=next(iter(options))):
        _attention(**options)


def test_options_without_effect_are_let_through() -> None:
    torch.testing.assert_close(
        _attention(), _attention(is_causal=True, dropout=0.0, position_bias=None, use_cache=False)
    )


def test_dropout_of_the_attention_is_refused_while_training() -> None:
    model = tiny("gpt2", attn_pdrop=0.5)
    install_attention(model)
    with torch.no_grad():
        score_shared_prefix(model, collate(hard_pairs()))  # off in evaluation
    model.train()
    with pytest.raises(UnknownAttentionError, match="dropout"):
        score_shared_prefix(model, collate(hard_pairs()))


def test_a_model_outside_the_interface_is_refused() -> None:
    with pytest.raises(UnknownAttentionError, match="'eager' is not one of transformers' interface"):
        install_attention(tiny("bloom"))


# --- everything else that the model does ---


def padded() -> dict[str, Tensor]:
    """Two prompts, the second padded on the left."""
    ids = torch.tensor([random_tokens(1, 20), random_tokens(2, 20)])
    mask = torch.ones_like(ids)
    ids[1, :6], mask[1, :6] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", SHARING)
def test_other_calls_give_what_they_gave(name: str) -> None:
    model, untouched = tiny(name), tiny(name)
    attach_scorer(model)
    with torch.no_grad():
        found, expected = model(**padded()).logits, untouched(**padded()).logits
    real = padded()["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], atol=0, rtol=0)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("scorer", ["auto", "plain"])
@pytest.mark.parametrize("name", ["llama, tied", "mistral", "gemma2", "gpt2", "opt", "gpt-oss"])
def test_greedy_generation_is_what_it_was(name: str, scorer: Any, cache: str | None) -> None:
    model, untouched = tiny(name), tiny(name)
    attach_scorer(model, scorer=scorer)
    options = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "cache_implementation": cache}
    assert model.generate(**padded(), **options).tolist() == untouched.generate(**padded(), **options).tolist()


@pytest.mark.parametrize("name", ["llama, tied", "gemma2", "gpt-oss"])
def test_the_saved_model_knows_nothing_of_it(tmp_path: Path, name: str) -> None:
    model, untouched = tiny(name), tiny(name)
    attach_scorer(model)
    model.save_pretrained(tmp_path / "ours")
    untouched.save_pretrained(tmp_path / "theirs")
    for file in ("config.json", "generation_config.json"):
        texts = [(tmp_path / whose / file).read_text() for whose in ("ours", "theirs")]
        assert "likelier" not in texts[0] and texts[0] == texts[1]
    assert json.loads(texts[0])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert loaded.config._attn_implementation == tiny(name).config._attn_implementation


def test_the_own_attention_can_be_given_back() -> None:
    model = tiny("gemma2")
    install_attention(model)
    install_attention(model)  # a second time changes nothing
    assert model.config._attn_implementation.startswith("likelier_eager_")
    restore_attention(model)
    restore_attention(model)
    assert model.config._attn_implementation == "eager"


def test_two_eager_models_keep_their_own_attention() -> None:
    """Both call theirs `eager`, and theirs differ: soft-capping here, sinks there."""
    models = {name: tiny(name) for name in ("gemma2", "gpt-oss")}
    for model in models.values():
        attach_scorer(model)
    for name, model in models.items():
        with torch.no_grad():
            torch.testing.assert_close(model(**padded()).logits[0], tiny(name)(**padded()).logits[0], atol=0, rtol=0)


def test_a_copy_is_scored_as_the_model_itself() -> None:
    from copy import deepcopy

    model = tiny_model()
    attach_scorer(model)
    copy = deepcopy(model)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.mul_(1.01)
        batch = collate(hard_pairs())
        assert not torch.equal(copy(batch=batch).logps, model(batch=batch).logps)
        torch.testing.assert_close(copy(batch=batch).logps, score_plain(copy, batch).logps, atol=1e-10, rtol=0)
