"""A scorer's trial that is remembered: taken for the same architecture, code and precision, and only if it passed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.models.options import LoraOptions
from likelier.models.policy import add_lora
from likelier.scoring import attach, attach_scorer, collate
from likelier.scoring.trial import trial_key
from likelier.utils import remembered
from tests.helpers.architectures import hard_pairs, tiny
from tests.helpers.support import tiny_model


@pytest.fixture(autouse=True)
def trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """An own cache; an entry for each trial that runs."""
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    run: list[int] = []
    own = attach._try

    def counted(*args: Any) -> tuple[float, float]:
        run.append(1)
        return own(*args)

    monkeypatch.setattr(attach, "_try", counted)
    return run


def test_the_second_model_of_an_architecture_is_not_tried(trials: list[int]) -> None:
    first = attach_scorer(tiny_model(), groups=hard_pairs(), known=True)
    model = tiny_model()
    second = attach_scorer(model, groups=hard_pairs(), known=True)
    assert len(trials) == 1 and first.name == second.name == "shared-prefix" and first.version == second.version
    assert second.reason == f"{first.reason}, as tried here before"
    batch = collate(hard_pairs())
    with torch.no_grad():
        shared, plain = model(batch=batch), model(batch=batch, how=attach.score_plain)
    torch.testing.assert_close(shared.token_logps, plain.token_logps, atol=1e-5, rtol=0)


def test_who_does_not_ask_for_it_tries(trials: list[int]) -> None:
    for _ in range(2):
        attach_scorer(tiny_model(), groups=hard_pairs())
    assert len(trials) == 2


def longer() -> list[Group]:
    tokens = np.arange(200, dtype=np.int32)
    return [Group(tokens[:150] % 50, (tokens[150:180] % 50, tokens[170:] % 50), Source("longer", 1))]


def other_config() -> nn.Module:
    model = tiny_model()
    model.config.rms_norm_eps *= 2
    return model


def half() -> nn.Module:
    return tiny_model().to(torch.bfloat16)


def with_adapter(r: int = 4) -> nn.Module:
    return add_lora(tiny_model(), LoraOptions(lora_r=r), seed=0)


@pytest.mark.parametrize(
    "other",
    [lambda: tiny("gemma2"), other_config, half, with_adapter, lambda: tiny_model().float()],
    ids=["another model", "another configuration", "bfloat16", "an adapter", "float32"],
)
def test_what_decides_the_trial_has_it_run_again(trials: list[int], other: Callable[[], nn.Module]) -> None:
    attach_scorer(tiny_model(), groups=hard_pairs(), known=True)
    attach_scorer(other(), groups=hard_pairs(), known=True)
    assert len(trials) == 2


def test_so_do_bfloat16_arithmetic_longer_rows_and_settings_of_torch(trials: list[int]) -> None:
    attach_scorer(tiny_model(), groups=hard_pairs(), known=True)
    attach_scorer(tiny_model(), groups=hard_pairs(), known=True, autocast=True)
    attach_scorer(tiny_model(), groups=longer(), known=True)
    torch.use_deterministic_algorithms(True)
    try:
        attach_scorer(tiny_model(), groups=hard_pairs(), known=True)
    finally:
        torch.use_deterministic_algorithms(False)
    attach_scorer(with_adapter(4), groups=hard_pairs(), known=True)
    attach_scorer(with_adapter(8), groups=hard_pairs(), known=True)
    assert len(trials) == 6


@pytest.mark.parametrize("package", ["torch", "transformers", "peft", "likelier"])
def test_so_does_another_version(monkeypatch: pytest.MonkeyPatch, trials: list[int], package: str) -> None:
    attach_scorer(tiny_model(), groups=hard_pairs(), known=True)
    others = {**remembered.versions(), package: "0"}
    monkeypatch.setattr(remembered, "versions", lambda: others)
    attach_scorer(tiny_model(), groups=hard_pairs(), known=True)
    assert len(trials) == 2


def test_a_trial_that_failed_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "_try", lambda *args: (1.0, 0.1))
    assert attach_scorer(tiny_model(), groups=hard_pairs(), known=True).name == "plain"
    monkeypatch.setattr(attach, "_try", lambda *args: (0.0, 0.1))
    assert attach_scorer(tiny_model(), groups=hard_pairs(), known=True).name == "shared-prefix"


class OwnNorm(nn.Module):
    """What nobody can know by a version."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def hooked(model: Any) -> None:
    model.model.norm.register_forward_hook(lambda module, args, output: output)


def patched(model: Any) -> None:
    model.model.norm.forward = model.model.norm.forward


def of_another_class(model: Any) -> None:
    model.model.norm = OwnNorm()


@pytest.mark.parametrize("change", [hooked, patched, of_another_class])
def test_a_model_with_code_of_others_is_tried_every_time(trials: list[int], change: Callable[[Any], None]) -> None:
    for _ in range(2):
        model = tiny_model()
        change(model)
        attach_scorer(model, groups=hard_pairs(), known=True)
        assert trial_key(model, 32, 32) is None
    assert len(trials) == 2
