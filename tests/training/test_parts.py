"""The trainer's parts know no trainer: another one, which learns from plain text, takes them as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainingArguments

from likelier import DPO, SFT, PreferenceTrainer
from likelier.data.groups import Group
from likelier.objectives import Objective
from likelier.runs.folder import RunFolder
from likelier.scoring import attach_scorer
from likelier.training.checkpointing import Checkpointer, read_progress
from likelier.training.guards import RunGuard, StepGuard
from likelier.training.hooks import CheckpointingTrainer
from likelier.training.log_window import MetricWindow
from likelier.training.movement import Movement
from likelier.training.nonfinite import StepJudge
from likelier.training.prepared import prepare_run
from likelier.training.step import StepWalker
from likelier.training.stop_signals import Interruption
from likelier.utils.distributed import ALONE
from tests.helpers.support import chat_pairs, tiny_policy


class OtherTrainer(CheckpointingTrainer):
    """Learns from groups that it is handed step by step, as a trainer that samples its answers would."""

    def __init__(self, folder: RunFolder, steps: list[list[Group]], objective: Objective) -> None:
        self.own_policy, self.folder, self.objective = tiny_policy(), folder, objective
        self.checkpointer = Checkpointer(self.own_policy, folder, ALONE, keep=1)
        arguments = TrainingArguments(
            str(folder.path), max_steps=len(steps), save_steps=1, learning_rate=0.1, report_to="none", use_cpu=True
        )
        super().__init__(
            self.own_policy.model,
            arguments,
            train_dataset=steps,  # type: ignore[arg-type]
            data_collator=lambda items: items[0],  # type: ignore[arg-type,return-value]
        )
        self.args.per_device_train_batch_size = 1
        attach_scorer(self.own_policy.model, scorer="plain")
        window = MetricWindow(objective.statistics_metrics)
        judge = StepJudge(folder, self.own_policy.tokenizer.decode)
        movement = Movement(self.own_policy.model, ALONE)
        self.add_callback(movement)
        self.guard = StepGuard(judge, window, movement)
        self.walker = StepWalker(self.own_policy.model, objective, 512, torch.device("cpu"))

    def get_train_dataloader(self) -> Any:
        return [[step] for step in self.train_dataset]  # type: ignore[union-attr]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        done = self.walker.walk(model, inputs[0], self.accelerator.backward, lambda part: None)
        assert self.guard.accepts(self.state.global_step + 1, done, len(inputs[0]))
        return done.losses.mean()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        assert self.guard.accepts_gradient(self.state.global_step + 1, float(norm))
        return norm

    def progress(self) -> dict[str, Any]:
        return {"window": self.guard.window.state()}

    def fingerprint(self) -> dict[str, Any]:
        return {"made": "elsewhere"}


def steps_of(count: int, folder: Path) -> list[list[Group]]:
    run = prepare_run(tiny_policy(), SFT(), chat_pairs(2 * count), output_dir=folder)
    run.folder.close()
    groups = run.data.train.groups
    return [groups[2 * step : 2 * step + 2] for step in range(count)]


@pytest.mark.slow
def test_another_trainer_takes_guards_window_and_checkpointer(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "other")
    trainer = OtherTrainer(folder, steps_of(3, tmp_path / "prepared"), SFT())
    guard, ended = RunGuard(folder, ALONE, None), list[bool]()
    folder.open(resume=False)
    with guard.running(Interruption(), lambda: ended.append(True)):
        guard.begun = True
        trainer.train()
        assert trainer.guard.movement.anywhere() and trainer.guard.window.read()["loss"] > 0
    newest = folder.latest_checkpoint()
    assert newest is not None and newest.name == "step-3" and not ended
    assert trainer.checkpointer.saved_step == 3 and "window" in read_progress(newest)
    trainer.checkpointer.write_model()
    assert (folder.path / "model.safetensors").exists()


def test_an_error_of_any_trainer_stands_in_its_card(tmp_path: Path) -> None:
    folder, told = RunFolder(tmp_path / "other"), list[bool]()
    folder.open(resume=False)
    guard = RunGuard(folder, ALONE, None)
    with pytest.raises(ValueError, match="no more"), guard.running(Interruption(), lambda: told.append(True)):
        guard.begun = True
        raise ValueError("no more")
    card = json.loads(folder.card_file.read_text())
    assert card["status"] == "failed" and "no more" in card["error"] and told == [True]
    folder.lock()  # it was let go
    folder.close()


def test_a_trainer_that_was_only_made_has_audited_nothing_and_left_no_thread(tmp_path: Path) -> None:
    import threading

    before = threading.active_count()
    trainer = PreferenceTrainer(tiny_policy(), DPO(), chat_pairs(4), output_dir=tmp_path / "run", batch_size=2)
    assert threading.active_count() == before
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.suffix]
    trainer.run.folder.close()
