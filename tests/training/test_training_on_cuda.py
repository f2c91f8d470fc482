"""Steps, evaluation and what happens where memory runs out, on a CUDA device that is made up, against a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from likelier import DPO, IPO, load_policy
from likelier.data.groups import Group
from likelier.data.records import Demonstration
from likelier.data.tokenize import tokenize_records
from likelier.models.options import LoraOptions
from likelier.models.token_budget import total_memory
from likelier.objectives import METHODS, Objective
from likelier.scoring import attach_scorer
from likelier.training.evaluation.heldout import evaluate_as_reference, evaluate_groups
from likelier.training.step import StepWalker
from likelier.training.timer import peak_memory
from likelier.training.within_memory import moments_of
from likelier.utils.errors import LikelierWarning
from tests.helpers.methods import usual
from tests.helpers.pretend_cuda import CUDA, Gpu, on_cuda, pretended_cuda
from tests.helpers.support import chat_pairs, lora_policy, tiny_model, tiny_tokenizer
from tests.training.test_step_and_mistakes import CPU, ShortOfMemory, backward, nothing, rows_for

SCORED = {"infonca", "nca_scores"}


def groups_for(objective: Objective) -> Sequence[Group]:
    if objective.data == "answers":
        records = [Demonstration(pair.prompt, pair.chosen, pair.source) for pair in chat_pairs(4)]
        return tokenize_records(records, tiny_tokenizer(), max_length=512).groups
    groups = rows_for(objective, 4)
    if objective.needs_heads:
        groups = [replace(one, ref_head_logps=(-3.0, -4.0)) for one in groups]
    return [replace(one, scores=(1.0, 0.5)) for one in groups] if objective.method in SCORED else groups


def stepped(objective: Objective, device: torch.device) -> tuple[list[Tensor], dict[str, float]]:
    """The losses and gradients of a second step, cut up, and the metrics of an evaluation after it."""
    model = tiny_model(dtype=torch.float32, num_hidden_layers=1)
    model = on_cuda(model) if device == CUDA else model
    attach_scorer(model, scorer="plain")
    groups = groups_for(objective)
    walker = StepWalker(model, objective, 160, device)
    first = walker.walk(model, groups, backward, nothing)
    walker.objective = walker.objective.with_state(first.state)
    done = walker.walk(model, groups, backward, nothing)
    walker.objective = walker.objective.with_state(done.state)
    told = [done.losses, *(weight.grad for weight in model.parameters() if weight.grad is not None)]
    assert {one.device for one in told} == {device}
    found = evaluate_groups(model, walker.objective, groups, token_budget=1000, device=device)
    evaluate_as_reference(walker.objective, groups, device, torch.float32)
    return [one.detach().cpu() for one in told], found.metrics


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_steps_and_is_evaluated_there_as_on_a_cpu(method: str) -> None:
    objective = IPO(tau=0.2) if method == "ipo" else usual(method)
    expected, metrics = stepped(objective, CPU)
    with pretended_cuda() as device:
        found, theirs = stepped(objective, device)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)
    assert theirs == pytest.approx(metrics, rel=1e-3, abs=1e-3)


def test_an_adapters_gradients_lie_there_and_nothing_elses() -> None:
    with pretended_cuda() as device:
        model = on_cuda(lora_policy(dtype=torch.float32).model)
        attach_scorer(model, scorer="shared-prefix")
        StepWalker(model, DPO(), 160, device).walk(model, rows_for(DPO()), backward, nothing)
    assert {"lora_" in name for name, weight in model.named_parameters() if weight.grad is not None} == {True}
    assert all(weight.grad.device == CUDA for weight in model.parameters() if weight.grad is not None)


def test_where_memory_runs_out_the_gpus_memory_and_random_numbers_are_given_back() -> None:
    gpu, groups = Gpu(), rows_for(DPO())
    started = gpu.random_state.clone()
    with pretended_cuda(gpu) as device:
        model = on_cuda(tiny_model(dtype=torch.float32, num_hidden_layers=1))
        attach_scorer(model, scorer="plain")
        walker, back = StepWalker(model, DPO(), 100_000, device), ShortOfMemory(1)

        def drawing(part: Any) -> None:
            assert gpu.random_state.tolist() == started.tolist()  # in either attempt
            gpu.random_state += 1 if not back.called else 0

        with pytest.warns(LikelierWarning, match="memory ran out"):
            walker.walk(model, groups, back, drawing)
        assert gpu.called == ["empty_cache"] and walker.token_budget < 100_000
        gpu.random_state = started + 5
        walker.prove_it_fits(groups, 4, moments_of(model, "adamw_torch"))
        assert gpu.random_state.tolist() == (started + 5).tolist()
        assert all(weight.grad is None for weight in model.parameters())


def test_memory_is_that_of_the_gpu() -> None:
    with pretended_cuda(Gpu(memory=24 * 2**30)) as device:
        assert total_memory(device) == 24 * 2**30 and peak_memory(device) == 3.0


# --- what is handed to transformers ----------------------------------------------------------------------------------


class Asked(Exception):
    """Ends the loading where the weights would be read."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `from_pretrained` of a causal model is called with, on a machine with bitsandbytes."""
    import transformers

    told: dict[str, Any] = {}

    def from_pretrained(where: str, **how: Any) -> None:
        told.update(how)
        raise Asked

    def config(**how: Any) -> SimpleNamespace:
        return SimpleNamespace(**how)

    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: name == "bitsandbytes" or find(name, *more))
    monkeypatch.setattr(transformers, "BitsAndBytesConfig", config)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    return told


@pytest.mark.parametrize(
    ("dtype", "lora", "weights"),
    [
        ("auto", {"lora_r": 4, "load_in_4bit": True}, torch.bfloat16),
        ("float32", {"lora_r": 4, "load_in_4bit": True}, torch.float32),
        ("auto", {"lora_r": 4}, torch.bfloat16),
        ("auto", {}, torch.float32),
        ("pure-bfloat16", {}, torch.bfloat16),
    ],
)
def test_what_is_loaded_for_a_gpu(
    tmp_path: Any, asked: dict[str, Any], dtype: Any, lora: dict[str, Any], weights: torch.dtype
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    with pretended_cuda(), pytest.raises(Exception) as ended:
        load_policy(tmp_path, dtype=dtype, lora=LoraOptions(**lora))
    assert isinstance(ended.value, Asked) or isinstance(ended.value.__cause__, Asked)
    assert asked["dtype"] == weights and asked["use_safetensors"] and not asked["trust_remote_code"]
    four = asked.get("quantization_config")
    assert (four is not None) == ("load_in_4bit" in lora) == ("device_map" in asked)
    if four is not None:
        assert asked["device_map"] == {"": 0} and four.load_in_4bit and four.bnb_4bit_use_double_quant
        assert (four.bnb_4bit_quant_type, four.bnb_4bit_compute_dtype) == ("nf4", weights)
