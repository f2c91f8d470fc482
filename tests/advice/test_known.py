"""What plans remember: the same numbers as found out afresh, for the same model, rows and training alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from likelier.advice import known as known_module
from likelier.advice import trace, weights
from likelier.advice.known import known, known_time, remembered_plans
from likelier.advice.trace import Training, trace_step
from likelier.advice.weights import count_weights
from likelier.data.lengths import Row
from likelier.models.options import LoraOptions

ROWS = [Row(8, (4, 3))]
FULL = Training(LoraOptions(), torch.float32)
LORA = Training(LoraOptions(lora_r=4), torch.float32)


def config(**other: Any) -> LlamaConfig:
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaConfig(**{**small, "vocab_size": 64, **other})


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An entry for each trace and each count that is really made."""
    made: list[str] = []

    def noted(module: Any, name: str) -> None:
        own = getattr(module, name)

        def find(*args: Any) -> Any:
            made.append(name)
            return own(*args)

        monkeypatch.setattr(module, name, find)

    noted(trace, "_fullest")
    noted(weights, "_counted")
    return made


def test_what_is_remembered_is_what_was_found_out(counted: list[str]) -> None:
    afresh = trace_step(config(), ROWS, FULL, layers=2), count_weights(config(), LORA)
    with remembered_plans():
        for _ in range(3):
            assert (trace_step(config(), ROWS, FULL, layers=2), count_weights(config(), LORA)) == afresh
    assert counted == 2 * ["_fullest", "_counted"]


def test_anew_finds_it_out_again(counted: list[str]) -> None:
    for anew in (False, True, False):
        with remembered_plans(anew=anew):
            count_weights(config(), FULL)
    assert len(counted) == 2


def test_without_being_asked_for_nothing_is_remembered(counted: list[str]) -> None:
    for _ in range(2):
        count_weights(config(), FULL)
    assert len(counted) == 2


def test_what_decides_it_is_part_of_the_key(counted: list[str]) -> None:
    with remembered_plans():
        trace_step(config(), ROWS, FULL, layers=2)
        trace_step(config(), ROWS, FULL, layers=1)
        trace_step(config(), ROWS, FULL, layers=2, gradients=False)
        trace_step(config(), [Row(9, (4, 3))], FULL, layers=1)
        for other in (config(), config(vocab_size=65)):
            count_weights(other, FULL)
            count_weights(other, LORA)
    assert len(counted) == 8


class OwnConfig(LlamaConfig):
    """Whose model is of code that no version tells."""


def test_a_model_of_other_code_is_looked_at_every_time() -> None:
    found = iter(range(9))
    with remembered_plans():
        assert [known("count", OwnConfig(), {}, lambda: next(found)) for _ in range(2)] == [0, 1]
        assert [known("count", config(), {}, lambda: next(found)) for _ in range(2)] == [2, 2]


def test_a_time_is_old_after_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    now, found = [1000.0], iter(range(9))
    monkeypatch.setattr(known_module.time, "time", lambda: now[0])
    with remembered_plans():

        def asked() -> tuple[Any, float]:
            return known_time(config(), {"rows": 1}, "cpu", lambda: next(found))

        assert asked() == (0, 1000.0)
        now[0] += 6 * 24 * 3600
        assert asked() == (0, 1000.0)
        now[0] += 2 * 24 * 3600
        assert asked() == (1, now[0]) == asked()
        now[0] -= 1  # a clock that was set back
        assert asked() == (2, now[0])


def test_another_machine_is_timed_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter(range(9))
    with remembered_plans():
        assert known_time(config(), {}, "cpu", lambda: next(found))[0] == 0
        monkeypatch.setattr(known_module.platform, "node", lambda: "another")
        assert known_time(config(), {}, "cpu", lambda: next(found))[0] == 1
