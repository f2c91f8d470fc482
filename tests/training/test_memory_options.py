"""What saves memory or time and changes no number: checkpointing, compiled layers, weights in 16 bits."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from likelier import DPO, PreferenceTrainer
from likelier.models.layers import compile_layers
from likelier.models.options import LoraOptions
from likelier.models.policy import Policy, add_lora, load_policy
from likelier.models.token_budget import default_token_budget
from likelier.utils.errors import ConfigError
from tests.helpers.support import chat_pairs, logged, lora_policy, tiny_model, tiny_policy, tiny_tokenizer

BASIC = {"batch_size": 8, "max_steps": 3, "learning_rate": 1e-3, "scheduler": "constant"}


def _trained(folder: Path, policy: Policy, **options: object) -> list[dict[str, float]]:
    trainer = PreferenceTrainer(policy, DPO(), chat_pairs(24), output_dir=folder, **{**BASIC, **options})
    trainer.train()
    return logged(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_policy, lora_policy])
@pytest.mark.parametrize("scorer", ["plain", "shared-prefix"])
def test_activation_checkpointing_changes_nothing(tmp_path: Path, make: type[Policy], scorer: str) -> None:
    kept, again = make(), make()
    _trained(tmp_path / "kept", kept, scorer=scorer)
    _trained(tmp_path / "again", again, scorer=scorer, activation_checkpointing=True)
    others = dict(again.model.named_parameters())
    for name, weight in kept.model.named_parameters():
        torch.testing.assert_close(weight, others[name], atol=1e-12, rtol=0, msg=name)


@pytest.mark.slow
def test_activation_checkpointing_allows_larger_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likelier.models.token_budget.total_memory", lambda _: 80 * 2**30)
    model, device = tiny_model(num_hidden_layers=30, hidden_size=1024), torch.device("cuda")
    assert default_token_budget(model, device, checkpointing=True) > 5 * default_token_budget(model, device)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch._dynamo's own
def test_compiled_layers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler's own backend needs a C++ compiler; this one takes the layers apart and together again.
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **more: original(module, backend="aot_eager", **more))
    plain = _trained(tmp_path / "plain", tiny_policy(dtype=torch.float32))
    compiled = _trained(tmp_path / "compiled", tiny_policy(dtype=torch.float32), compile=True)
    for expected, found in zip(plain, compiled, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)


def test_only_decoder_layers_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.append(type(module).__name__))
    compile_layers(tiny_model())
    assert compiled == ["LlamaDecoderLayer"] * 2


def _pure_policy() -> Policy:
    return tiny_policy(dtype=torch.bfloat16)


@pytest.mark.slow
def test_weights_in_bfloat16_follow_those_in_float32(tmp_path: Path) -> None:
    """At this rate every update is far below a weight's last bit, and nearest rounding would lose it."""
    steps = {"max_steps": 40, "batch_size": 8, "learning_rate": 2e-5}
    exact = _trained(tmp_path / "exact", tiny_policy(dtype=torch.float32), **steps)
    pure = _trained(tmp_path / "pure", _pure_policy(), **steps)
    moved = exact[-1]["rewards/margins"]
    assert moved > 0.01
    assert pure[-1]["rewards/margins"] == pytest.approx(moved, rel=0.25)


@pytest.mark.slow
def test_nearest_rounding_would_lose_those_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likelier.training.run_trainer.optimizer_for", lambda *_: None)
    steps = {"max_steps": 40, "batch_size": 8, "learning_rate": 2e-5}
    exact = _trained(tmp_path / "exact", tiny_policy(dtype=torch.float32), **steps)
    lost = _trained(tmp_path / "lost", _pure_policy(), **steps)
    assert lost[-1]["rewards/margins"] < 0.6 * exact[-1]["rewards/margins"]


def test_an_optimizer_that_rounds_to_nearest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would lose small updates"):
        _trained(tmp_path / "run", _pure_policy(), trainer={"optim": "adamw_torch"})


def test_without_the_optimizer_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optimi", None)
    with pytest.raises(ConfigError, match=r"pip install 'likelier\[bf16\]'"):
        _trained(tmp_path / "run", _pure_policy())


@pytest.mark.filterwarnings("ignore:bfloat16 arithmetic on a CPU")
def test_pure_bfloat16_is_loaded_in_16_bits(tmp_path: Path) -> None:
    _save_tiny(tmp_path / "model")
    policy = load_policy(tmp_path / "model", dtype="pure-bfloat16")
    assert policy.model.dtype == torch.bfloat16 and policy.precision == "bfloat16" and not policy.autocast


@pytest.mark.filterwarnings("ignore:bfloat16 arithmetic on a CPU")
@pytest.mark.parametrize("adapter", [False, True])
def test_pure_bfloat16_is_not_for_adapters(tmp_path: Path, adapter: bool) -> None:
    _save_tiny(tmp_path / "model")
    where, lora = tmp_path / "model", LoraOptions(lora_r=4)
    if adapter:
        where, lora = tmp_path / "adapter", LoraOptions()
        add_lora(load_policy(tmp_path / "model").model, LoraOptions(lora_r=4), 0).save_pretrained(where)
    with pytest.raises(ConfigError, match="take bfloat16"):
        load_policy(where, dtype="pure-bfloat16", lora=lora)


def _save_tiny(folder: Path) -> None:
    tiny_model(dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
