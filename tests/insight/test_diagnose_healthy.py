"""Healthy runs of every kind get no false alarm."""

from pathlib import Path

import pytest

from likelier import DPO, IPO, KTO, SFT, APOZero, SigmoidNorm, SimPO
from likelier.insight.diagnose import diagnose, live_warnings
from tests.helpers.diagnosis_world import names, numbers, plain_pairs, the, train

pytestmark = pytest.mark.slow

METHODS = {
    "dpo": (DPO(), {}),
    "ipo": (IPO(), {}),
    "kto": (KTO(), {"batch_size": 16}),
    "simpo": (SimPO(), {"learning_rate": 3e-4}),
    "sigmoid_norm": (SigmoidNorm(), {}),
    "apo_zero": (APOZero(), {}),
    "sft": (SFT(), {}),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_healthy_run_gets_no_false_alarm(tmp_path: Path, method: str) -> None:
    objective, options = METHODS[method]
    run = train(tmp_path / "run", objective, plain_pairs(160), plain_pairs(40, 2), **options)
    found = diagnose(run)
    assert found[0].name == "healthy" and found[0].severity == "good", [one.name for one in found]
    assert all(one.severity == "info" for one in found[1:]) and not live_warnings(run)
    assert "held-out loss" in numbers(found[0])


def test_nor_do_runs_without_held_out_data(tmp_path: Path) -> None:
    """A baseline that stays at 0 is told as a remark, and is none to mend."""
    assert names(train(tmp_path / "dpo")) == ["healthy"]
    run = train(tmp_path / "kto", KTO(), batch_size=16)
    assert names(run) == ["healthy", "kto-baseline"]
    assert the(run, "kto-baseline").severity == "info" and "stays at 0" in the(run, "kto-baseline").title


def test_nor_do_a_coarse_log_and_many_evaluations(tmp_path: Path) -> None:
    coarse = train(tmp_path / "coarse", logging_steps=10)
    assert names(coarse) == ["healthy"]
    often = train(tmp_path / "often", held_out=plain_pairs(40, 2), eval_steps=10)
    assert names(often) == ["healthy"]
    assert "KL to the reference" in numbers(the(often, "healthy"))
