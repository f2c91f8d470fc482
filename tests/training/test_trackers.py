"""`report_to`: what is missing is told before anything is loaded; what is there is written to, without network."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from likelier import DPO, PreferenceTrainer
from likelier.training import trackers
from likelier.training.config import parse
from likelier.training.run import train
from likelier.training.trackers import check_trackers
from likelier.utils.errors import ConfigError
from tests.helpers.support import chat_pairs, tiny_policy


def _trainer(folder: Path, **options: Any) -> PreferenceTrainer:
    settings: dict[str, Any] = {"batch_size": 8, "max_steps": 2, "learning_rate": 1e-3, **options}
    return PreferenceTrainer(tiny_policy(), DPO(), chat_pairs(24), output_dir=folder, **settings)


@pytest.mark.parametrize(
    ("tracker", "package"),
    [
        *((name, name) for name in ("tensorboard", "wandb", "trackio", "mlflow")),
        ("comet_ml", "comet-ml"),
        ("dagshub", "dagshub mlflow"),
    ],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tracker: str, package: str) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"needs the package {package}, .* pip install {package}, or"):
        check_trackers(f"none,{tracker}")


def test_a_tracker_that_is_misspelt_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"report_to='tensorbord' is no tracker .* did you mean tensorboard\?"):
        check_trackers("tensorbord")


def test_it_is_told_before_data_and_model_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    nowhere = {"model": str(tmp_path / "no-model"), "data": str(tmp_path / "none.jsonl")}
    config = parse({**nowhere, "method": "dpo", "output": str(tmp_path / "run"), "report_to": "mlflow"})
    with pytest.raises(ConfigError, match="mlflow"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_the_page_of_trackers_has_a_line_for_each(tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "trackers.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if f"`--report-to {tracker}`" in line]
    assert len(lines) == 1 and f"`pip install {tracker}`" in lines[0]
    monkeypatch.setattr(trackers, "find_spec", lambda _: object())
    check_trackers(tracker)


@pytest.mark.slow
def test_tensorboard_holds_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra dev)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    _trainer(tmp_path / "run", report_to="tensorboard").train()
    events = EventAccumulator(str(next((tmp_path / "board").rglob("events*")).parent))
    events.Reload()
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    written = [event.value for event in events.Scalars("train/rewards/margins")]
    assert written == pytest.approx([row["rewards/margins"] for row in logged])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed (its pillow is older than ours)")
@pytest.mark.filterwarnings("ignore")  # a foreign server's
def test_trackio_holds_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    _trainer(tmp_path / "run", report_to="trackio").train()
    assert list((tmp_path / "trackio").glob("*.db"))


@pytest.mark.slow
def test_a_callback_ends_the_run_whole(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = True

    trainer = _trainer(tmp_path / "run", callbacks=[Stop()], warmup=0)
    trainer.train()
    assert trainer.state.global_step == 1 and (tmp_path / "run" / "model.safetensors").is_file()
