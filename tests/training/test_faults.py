"""What a run does when something goes wrong around it: torn checkpoints, full disks, lost folders, signals, and numbers
that are not finite. (What `kill -9` leaves behind: test_kill.py.)
"""

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from likelier import DPO, KTO, PreferenceTrainer
from likelier.cli import main as cli
from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.insight.diagnose import diagnose
from likelier.objectives import Scored
from likelier.runs.folder import RunFolder
from likelier.runs.ownership import nothing_left
from likelier.runs.reader import read_run
from likelier.training.nonfinite import _rows
from likelier.training.step import StepPart, StepResult
from likelier.training.stop_signals import Interrupted
from likelier.utils.errors import LikelierWarning, RunFolderError, TrainingError
from likelier.utils.files import append_line, flaw_of, seal
from tests.helpers.small_runs import pair_rows, save_tiny, write_rows
from tests.helpers.support import chat_pairs, labelled_rows, logged, tiny_policy

pytestmark = pytest.mark.slow


class At(TrainerCallback):
    """Does something at an event of a step, once."""

    def __init__(self, event: str, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action
        setattr(self, event, self._act)

    def _act(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.step = -1
            self.action()


def make(folder: Path, objective: Any = None, **options: Any) -> PreferenceTrainer:
    objective = objective or DPO()
    data = labelled_rows(24) if objective.data == "labels" else chat_pairs(24)
    settings: dict[str, Any] = {"batch_size": 4, "max_steps": 6, "learning_rate": 1e-3, "save_steps": 2, **options}
    return PreferenceTrainer(tiny_policy(), objective, settings.pop("data", data), output_dir=folder, **settings)


def weights(trainer: PreferenceTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.policy.model.state_dict().items()}


def trained(folder: Path, objective: Any = None, **options: Any) -> PreferenceTrainer:
    trainer = make(folder, objective, **options)
    trainer.train()
    return trainer


def assert_same_run(one: PreferenceTrainer, other: PreferenceTrainer) -> None:
    left, right = weights(one), weights(other)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert logged(one) == logged(other)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> PreferenceTrainer:
    """A run that nothing happens to."""
    root = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKELIER_CACHE", str(root / "cache"))
        return trained(root / "run")


class Stopped(Exception):
    """As if the process were gone."""


def stop() -> None:
    raise Stopped


def cut(folder: Path, step: int, objective: Any = None, **options: Any) -> None:
    """A run that ends in the middle of a step."""
    with pytest.raises(Stopped):
        make(folder, objective, callbacks=[At("on_step_begin", step, stop)], **options).train()


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_manifest_lists_every_file_and_nothing_is_there_that_is_not_read(tmp_path: Path) -> None:
    trained(tmp_path / "run", max_steps=2)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-2"
    sizes = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert sizes == {path.name: path.stat().st_size for path in checkpoint.iterdir() if path.name != "manifest.json"}
    assert "training_args.bin" not in sizes and {"model.safetensors", "optimizer.pt", "rng_state.pth"} <= sizes.keys()


def sealed(folder: Path) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "weights").write_bytes(bytes(100))
    (folder / "state.json").write_text("{}")
    seal(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", "{", "it cannot be read"),
        ("manifest.json", '{"files": 3}', "it cannot be read"),
        ("manifest.json", "[]", "manifest.json must hold names and values"),
        ("inner/weights", None, "weights is missing"),
        ("inner/weights", "short", "inner/weights has 5 bytes instead of 100"),
        ("state.json", "{ ", "it cannot be read"),
    ],
)
def test_what_is_torn_is_known(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    folder = sealed(tmp_path / "step-1")
    assert flaw_of(folder) is None
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    assert words in (flaw_of(folder) or "")


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, straight: PreferenceTrainer) -> None:
    cut(tmp_path / "run", 4)
    os.truncate(tmp_path / "run" / "checkpoints" / "step-4" / "optimizer.pt", 100)
    with pytest.warns(LikelierWarning, match=r"step-4 is not whole \(optimizer.pt has 100 bytes.*passed over") as told:
        resumed = trained(tmp_path / "run", resume=True)
    assert len(told) == 1
    assert_same_run(straight, resumed)
    assert RunFolder(tmp_path / "run").latest_checkpoint() == tmp_path / "run" / "checkpoints" / "step-6"


def test_only_torn_checkpoints_are_an_error(tmp_path: Path) -> None:
    cut(tmp_path / "run", 4)
    for step in (2, 4):
        (tmp_path / "run" / "checkpoints" / f"step-{step}" / "manifest.json").unlink()
    before = RunFolder(tmp_path / "run").read_card()
    with pytest.raises(RunFolderError, match=r"no checkpoint of .*run is whole \(checkpoints/step-4: .*step-2: "):
        make(tmp_path / "run", resume=True)
    assert RunFolder(tmp_path / "run").read_card() == before


def test_rotation_counts_whole_checkpoints_only(tmp_path: Path) -> None:
    """Steps 4 and 6 are torn, and newer than what is written next: the only whole one must not go for them."""
    cut(tmp_path / "run", 7, max_steps=8)
    folder = tmp_path / "run" / "checkpoints"
    for step in (4, 6):
        (folder / f"step-{step}" / "rng_state.pth").unlink()
    with pytest.warns(LikelierWarning, match="step-[46] is not whole"):
        resumed = make(tmp_path / "run", resume=True, save_total_limit=1, max_steps=8)
        resumed.add_callback(At("on_step_begin", 4, stop))
        with pytest.raises(Stopped):
            resumed.train()
    assert [path.name for path in folder.iterdir()] == ["step-4"]
    assert flaw_of(folder / "step-4") is None


@pytest.mark.parametrize(("objective", "step"), [(DPO(), 4), (KTO(), 5)], ids=["dpo", "kto"])
def test_a_logging_window_goes_on_after_a_resume(tmp_path: Path, objective: Any, step: int) -> None:
    options = {"logging_steps": 3, "max_steps": 7, "batch_size": 8}
    straight = trained(tmp_path / "straight", objective, **options)
    cut(tmp_path / "run", step, objective, **options)
    assert_same_run(straight, trained(tmp_path / "run", objective, resume=True, **options))
    assert [row["step"] for row in straight.folder.read_metrics()] == [1, 3, 6, 7]


def test_a_run_that_was_cut_after_its_last_step_makes_no_other(tmp_path: Path) -> None:
    held_out = {"eval_data": chat_pairs(6, seed=1), "eval_prompts": 0, "eval_steps": 2, "max_steps": 4}
    straight = trained(tmp_path / "straight", **held_out)
    trainer = make(tmp_path / "run", **held_out)
    trainer.add_callback(At("on_save", 4, stop))
    with pytest.raises(Stopped):
        trainer.train()
    resumed = trained(tmp_path / "run", resume=True, **held_out)
    assert_same_run(straight, resumed)
    card = RunFolder(tmp_path / "run").read_card()
    assert card["status"] == "done" and card["steps"] == 4 and card["evaluation_end"]["eval_loss"]


# --- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [0, 6])
def test_a_run_that_was_killed_just_before_its_end_logs_its_last_window_once(tmp_path: Path, held_out: int) -> None:
    """The window of step 5 is not full, and its line is written after, or with an evaluation before, the checkpoint."""
    evaluated: dict[str, Any] = {"eval_steps": 2, "eval_prompts": 0} if held_out else {}
    options = {"max_steps": 5, "logging_steps": 2, "eval_data": chat_pairs(held_out, seed=9), **evaluated}
    whole = trained(tmp_path / "whole", **options)
    trained(tmp_path / "cut", **options)
    RunFolder(tmp_path / "cut").update_card({"status": "training"})
    again = trained(tmp_path / "cut", **options, resume=True)
    assert [row["step"] for row in logged(again) if "loss" in row] == [1, 2, 4, 5]
    assert_same_run(whole, again)


def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"save_steps": None, "eval_data": chat_pairs(6, seed=1), "eval_prompts": 0}
    straight = trained(tmp_path / "straight", **options)
    cut(tmp_path / "run", 3, **options)
    resumed = trained(tmp_path / "run", resume=True, **options)
    assert "has no checkpoint: the run begins again" in capsys.readouterr().err
    assert_same_run(straight, resumed)
    assert RunFolder(tmp_path / "run").read_card()["status"] == "done"


def test_a_run_that_begins_again_is_the_same_one(tmp_path: Path) -> None:
    cut(tmp_path / "run", 3, save_steps=None)
    before = RunFolder(tmp_path / "run").read_card()
    with pytest.raises(RunFolderError, match=r"batch_size: was 4, is 8"):
        trained(tmp_path / "run", resume=True, save_steps=None, batch_size=8)
    with pytest.raises(RunFolderError, match=r"the training data changed since the run began.*data_hash"):
        trained(tmp_path / "run", resume=True, save_steps=None, data=chat_pairs(24, seed=3))
    assert RunFolder(tmp_path / "run").read_card() == before
    assert RunFolder(tmp_path / "run").read_metrics()


def test_a_run_that_was_cut_before_its_reference_was_known_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PreferenceTrainer, "_prepare_reference", lambda self: stop())
        with pytest.raises(Stopped):
            trained(tmp_path / "run")
        with pytest.raises(RunFolderError, match="hyperparameters"):
            trained(tmp_path / "run", DPO(beta=0.7), resume=True)
    trained(tmp_path / "run", resume=True)
    with monkeypatch.context() as patch:  # not even a card
        patch.setattr(PreferenceTrainer, "_write_card", lambda self: stop())
        with pytest.raises(Stopped):
            trained(tmp_path / "other")
    trained(tmp_path / "other", resume=True)


@pytest.mark.parametrize("begun", [False, True], ids=["nothing there", "done"])
def test_nothing_to_resume_is_an_error(tmp_path: Path, begun: bool) -> None:
    if begun:
        trained(tmp_path / "run", save_steps=None)
    with pytest.raises(RunFolderError, match=r"has no checkpoint to resume from.*drop --resume"):
        make(tmp_path / "run", resume=True)


def test_a_last_line_that_a_power_cut_left_is_dropped(tmp_path: Path, straight: PreferenceTrainer) -> None:
    cut(tmp_path / "run", 5)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 5, "lo')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl:6 is damaged"):
        RunFolder(tmp_path / "run").read_metrics()
    with pytest.warns(LikelierWarning, match=r"metrics\.jsonl:6 is damaged.*dropped"):
        resumed = trained(tmp_path / "run", resume=True)
    assert_same_run(straight, resumed)


def test_another_damaged_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    cut(tmp_path / "run", 5)
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_bytes(b"\0\0\0\n" + file.read_bytes())
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl:1 is damaged"):
        trained(tmp_path / "run", resume=True)


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    """Leave `left` bytes of a disk."""
    state = os.statvfs(disk)
    with open(disk / "ballast", "ab") as stream:
        stream.write(bytes(max(0, state.f_bavail * state.f_frsize - left)))


def assert_whole(run: Path, newest: str) -> None:
    """What a run that ended by a full disk leaves: whole lines, the last good checkpoint, nothing half written."""
    folder = RunFolder(run)
    assert folder.latest_checkpoint() == run / "checkpoints" / newest
    assert folder.read_metrics()
    assert not folder.checkpoints.staging.exists() and not (run / ".new-files").exists()
    assert not (run / "model.safetensors").exists()
    folder.read_card()


@pytest.mark.parametrize("left", [0, 300_000, 700_000])
def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(
    small_disk: Path, left: int, straight: PreferenceTrainer
) -> None:
    run = small_disk / "run"
    with pytest.raises(RunFolderError) as caught:
        trained(run, callbacks=[At("on_step_end", 4, lambda: fill(small_disk, left))])
    assert str(caught.value).startswith(str(run)) and "cannot be written: " in str(caught.value)
    assert "checkpoints/step-2 is whole: make room, then the same command with --resume goes on" in str(caught.value)
    assert_whole(run, "step-2")
    (small_disk / "ballast").unlink()
    assert_same_run(straight, trained(run, resume=True, save_total_limit=1))


def test_a_disk_that_is_full_when_the_model_is_saved(small_disk: Path) -> None:
    run = small_disk / "run"
    with pytest.raises(RunFolderError, match=r"the model cannot be written: .*step-6 is whole"):
        trained(run, save_total_limit=1, callbacks=[At("on_save", 6, lambda: fill(small_disk, 100_000))])
    assert_whole(run, "step-6")
    (small_disk / "ballast").unlink()
    trained(run, resume=True, save_total_limit=1)
    assert RunFolder(run).is_finished() and (run / "model.safetensors").exists()


def test_a_full_disk_before_the_first_checkpoint(small_disk: Path) -> None:
    fill(small_disk, 40_000)
    with pytest.raises(RunFolderError, match=r"cannot be written: .*no checkpoint was written before"):
        trained(small_disk / "run")


def test_a_line_is_written_whole_or_not_at_all(small_disk: Path) -> None:
    file = small_disk / "lines.jsonl"
    file.write_text("1\n")
    fill(small_disk, 0)
    with pytest.raises(OSError, match="No space left"):
        append_line(file, "x" * 10_000)
    assert set(file.read_text().splitlines()) == {"1"}


def test_a_disk_that_is_read_only(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunFolderError, match="cannot be written: Read-only file system; name another output"):
        make(small_disk / "run")


@pytest.mark.parametrize("step", [3, 4])
def test_a_folder_that_is_lost_is_not_made_anew(tmp_path: Path, step: int) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunFolderError, match=r"run is lost: it was deleted, moved or unmounted"):
        trained(run, callbacks=[At("on_step_end", step, lambda: shutil.rmtree(run))])
    assert not run.exists()
    moved = tmp_path / "moved"
    with pytest.raises(RunFolderError, match="is lost"):
        trained(run, callbacks=[At("on_step_end", step, lambda: run.rename(moved))])
    assert not run.exists() and RunFolder(moved).latest_checkpoint() == moved / "checkpoints" / "step-2"


def test_another_folder_in_its_place_is_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def replace() -> None:
        shutil.rmtree(run)
        run.mkdir()

    with pytest.raises(RunFolderError, match="is lost"):
        trained(run, callbacks=[At("on_step_end", 3, replace)])
    assert list(run.iterdir()) == []


def test_a_refused_run_takes_nothing_away_from_the_one_that_has_the_folder(tmp_path: Path) -> None:
    """Neither a run that took the folder meanwhile, nor what somebody put there, goes with a run that is refused."""
    folder, own = tmp_path / "run", RunFolder(tmp_path / "run")
    with pytest.raises(RunFolderError, match="is in use by another run"), nothing_left(folder, lambda: False):
        own.open(resume=False)
        own.update_card({"status": "training"})
        RunFolder(folder).open(resume=False)
    assert own.read_card()["status"] == "training"
    own.close()
    (tmp_path / "shared").mkdir()
    with pytest.raises(RunFolderError), nothing_left(tmp_path / "shared", lambda: False):
        (tmp_path / "shared" / "run.json").write_text("{}")
        (tmp_path / "shared" / "notes.txt").write_text("of somebody")
        (tmp_path / "shared" / "other").mkdir()
        raise RunFolderError("refused")
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["notes.txt", "other"]


def test_an_output_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written: Not a directory"):
        make(tmp_path / "file" / "run")


# --- signals ---------------------------------------------------------------------------------------------------------


def send(number: int = signal.SIGTERM, times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), number)


def checkpoints(run: Path) -> list[str]:
    folder = run / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def interrupted(run: Path, event: str, step: int, number: int = signal.SIGTERM, **options: Any) -> Interrupted:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as caught:
        trained(run, callbacks=[At(event, step, lambda: send(number))], **options)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    card = RunFolder(run).read_card()
    assert card["status"] == "interrupted" and "evaluation_end" not in card
    assert not (run / "model.safetensors").exists()
    return caught.value


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(
    tmp_path: Path, number: int, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"save_steps": None, "logging_steps": 4}
    error = interrupted(tmp_path / "run", "on_step_begin", 2, number, **options)
    assert error.exit_code == code and str(error) == "ended after step 3, with a checkpoint"
    said = capfd.readouterr().err
    assert f"{signal.Signals(number).name}: the step ends, a checkpoint is written, then the run ends; a second" in said
    assert "the same command with --resume goes on from there" in said
    assert checkpoints(tmp_path / "run") == ["step-3"]
    assert_same_run(trained(tmp_path / "whole", **options), trained(tmp_path / "run", resume=True, **options))


@pytest.mark.parametrize("event", ["on_step_begin", "on_save"])
def test_a_checkpoint_that_is_due_is_not_written_twice(
    tmp_path: Path, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    publish = RunFolder.publish_checkpoint

    def counted(self: RunFolder, staged: Path, step: int, *more: Any) -> Path:
        written.append(step)
        return publish(self, staged, step, *more)

    monkeypatch.setattr(RunFolder, "publish_checkpoint", counted)
    interrupted(tmp_path / "run", event, 3 if event == "on_step_begin" else 4)
    assert written == [2, 4]


def test_an_evaluation_is_finished_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = {"eval_data": chat_pairs(6, seed=1), "eval_prompts": 0, "eval_steps": 3, "save_steps": None}
    evaluate = PreferenceTrainer.evaluate

    def with_signal(self: PreferenceTrainer, *args: Any, **kwargs: Any) -> Any:
        send()
        return evaluate(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceTrainer, "evaluate", with_signal)
        interrupted(tmp_path / "run", "on_step_begin", -1, **held_out)
    assert checkpoints(tmp_path / "run") == ["step-3"]
    assert [row["step"] for row in RunFolder(tmp_path / "run").read_metrics() if "eval_loss" in row] == [0, 3]
    assert_same_run(trained(tmp_path / "whole", **held_out), trained(tmp_path / "run", resume=True, **held_out))


def test_a_signal_in_the_last_step_still_ends_the_run(tmp_path: Path, straight: PreferenceTrainer) -> None:
    interrupted(tmp_path / "run", "on_step_begin", 5)
    assert_same_run(straight, trained(tmp_path / "run", resume=True))


def test_a_signal_after_the_last_look_for_one_is_not_lost(tmp_path: Path, straight: PreferenceTrainer) -> None:
    error = interrupted(tmp_path / "run", "on_train_end", 6, save_steps=None)
    assert str(error) == "ended after step 6, with a checkpoint" and checkpoints(tmp_path / "run") == ["step-6"]
    assert_same_run(straight, trained(tmp_path / "run", resume=True, save_steps=None))


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="ended at once"):
        trained(tmp_path / "run", callbacks=[At("on_step_begin", 3, lambda: send(times=2))])
    assert checkpoints(tmp_path / "run") == ["step-2"]
    assert RunFolder(tmp_path / "run").read_card()["status"] == "interrupted"


@pytest.mark.parametrize("when", ["_prepare_reference", "_evaluate_at_end"])
def test_before_the_first_step_and_after_the_last_a_signal_ends_the_run_at_once(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PreferenceTrainer, when, lambda self: send())
        with pytest.raises(Interrupted, match="ended at once"):
            trained(tmp_path / "run", eval_data=chat_pairs(4, seed=1), eval_prompts=0, save_steps=None)
    assert RunFolder(tmp_path / "run").read_card()["status"] == "interrupted" and not checkpoints(tmp_path / "run")


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []
    look = At("on_step_begin", 1, lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=lambda: trained(tmp_path / "run", max_steps=2, callbacks=[look]))
    thread.start()
    thread.join()
    assert seen == [before] and RunFolder(tmp_path / "run").is_finished()


def test_a_signal_that_reached_another_process_ends_this_one_too(tmp_path: Path) -> None:
    trainer = make(tmp_path / "run", save_steps=None)
    told = iter([0, 0, signal.SIGTERM])
    trainer._interruption.agree = lambda own: max(own, next(told))
    with pytest.raises(Interrupted, match="ended after step 3"):
        trainer.train()
    assert checkpoints(tmp_path / "run") == ["step-3"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny model and pairs, as flags."""
    root = tmp_path_factory.mktemp("given")
    data = write_rows(root / "pairs.jsonl", pair_rows())
    shared = ["--batch-size", "4", "--max-steps", "2", "--learning-rate", "1e-3"]
    return ["--model", str(save_tiny(root / "model")), "--data", str(data), *shared]


def signal_in_step(patch: pytest.MonkeyPatch, number: int) -> None:
    """A signal in the step of this number, over all runs."""
    made: list[int] = []
    step = PreferenceTrainer.training_step

    def with_signal(self: PreferenceTrainer, *args: Any) -> torch.Tensor:
        made.append(1)
        if len(made) == number:
            send()
        return step(self, *args)

    patch.setattr(PreferenceTrainer, "training_step", with_signal)


def test_a_command_ends_with_143(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *given, "--output", str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        signal_in_step(patch, 1)
        assert cli.main(words) == 143
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert cli.main([*words, "--resume"]) == 0


def test_stages_stop_and_go_on(given: list[str], tmp_path: Path) -> None:
    file = tmp_path / "stages.yaml"
    file.write_text("stages:\n- method: sft\n- method: dpo\n")
    words = ["train", str(file), *given, "--output", str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        signal_in_step(patch, 2)
        assert cli.main(words) == 143
    card = RunFolder(tmp_path / "run").read_card()
    assert card["status"] == "interrupted"
    assert [stage["status"] for stage in card["stages"]] == ["interrupted", "not begun"]
    assert cli.main([*words, "--resume"]) == 0
    assert [stage["status"] for stage in RunFolder(tmp_path / "run").read_card()["stages"]] == ["done", "done"]


def test_a_sweep_stops_and_goes_on(given: list[str], tmp_path: Path) -> None:
    more = ["--vary", "dpo.beta=0.1,0.2", "--eval-fraction", "0.25", "--eval-prompts", "0"]
    words = ["sweep", *given, *more, "--output", str(tmp_path / "sweep")]

    def statuses() -> list[str]:
        content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
        return [content["status"], *(run["status"] for run in content["runs"])]

    with pytest.MonkeyPatch.context() as patch:
        signal_in_step(patch, 1)
        assert cli.main(words) == 143
    assert statuses() == ["interrupted", "interrupted", "not begun"]
    assert cli.main([*words, "--resume"]) == 0
    assert statuses() == ["done", "done", "done"]


# --- numbers that are not finite -------------------------------------------------------------------------------------


def poisoned(folder: Path, *steps: int, objective: Any = None, gradient: bool = False, **options: Any) -> Any:
    """A trainer whose scores, or whose gradient, are not finite in these steps."""
    trainer = make(folder, objective, **options)

    def poison(value: torch.Tensor) -> torch.Tensor:
        is_due = trainer.is_in_train and trainer.policy.model.training and trainer.state.global_step + 1 in steps
        return value * float("nan") if is_due else value

    norm = trainer.policy.model.model.norm
    if gradient:
        norm.weight.register_hook(poison)
    else:
        norm.register_forward_hook(lambda module, given, found: poison(found))
    return trainer


class Snapshots(TrainerCallback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.taken: list[torch.Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.taken.append(torch.cat([weight.detach().flatten().clone() for weight in model.parameters()]))


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize("objective", [DPO(), KTO()], ids=["dpo", "kto"])
def test_a_step_that_is_not_finite_is_skipped_once(tmp_path: Path, objective: Any, gradient: bool) -> None:
    seen = Snapshots()
    trainer = poisoned(tmp_path / "run", 3, objective=objective, gradient=gradient, batch_size=8, callbacks=[seen])
    cause = "the gradient norm is nan" if gradient else r"the loss is not finite for 8 rows: tiny\.jsonl:\d+; "
    with pytest.warns(LikelierWarning, match=rf"step 3 is skipped: {cause}.*skipped/step-3\.json; a second"):
        trainer.train()
    same = [torch.equal(one, other) for one, other in zip(seen.taken, seen.taken[1:], strict=False)]
    assert same == [False, True, False, False, False]  # nor does weight decay or momentum move them
    rows = trainer.folder.read_metrics()
    assert [("loss" in row, row.get("skipped")) for row in rows] == [(True, None)] * 2 + [(False, 8)] + [
        (True, None)
    ] * 3
    assert "grad_norm" not in rows[2] and rows[2]["items"] == 24 and rows[2]["learning_rate"] > 0
    text = (tmp_path / "run" / "skipped" / "step-3.json").read_text()
    kept = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert kept["step"] == 3 and len(kept["rows"]) == 8
    row, own = kept["rows"][0], trainer.train_groups
    group = next(group for group in own if str(group.source) == row["source"])
    assert row["prompt"] == trainer.policy.tokenizer.decode(group.prompt)
    assert row["answers"] == [trainer.policy.tokenizer.decode(answer) for answer in group.answers]
    assert row["lengths"] == [len(answer) for answer in group.answers]
    assert row["ref_logps"] == pytest.approx(group.ref_logps)
    assert (row["loss"] == "nan") is (row["logps"] == ["nan", "nan"]) is not gradient


def test_readers_know_a_run_with_a_skipped_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    with pytest.warns(LikelierWarning, match="step 2 is skipped"):
        poisoned(run, 2, max_steps=5).train()
    assert [row["step"] for row in read_run(run).steps] == [1, 3, 4, 5]
    found = next(verdict for verdict in diagnose(read_run(run)) if verdict.name == "skipped-step")
    assert found.severity == "warning" and found.evidence[1][1].count("tiny.jsonl:") == 4
    trained(tmp_path / "other", max_steps=5)
    for words in (["diagnose"], ["report"], ["watch", "--once"], ["compare", str(tmp_path / "other")]):
        capsys.readouterr()
        assert cli.main([words[0], str(run), *words[1:]]) == 0, words
        assert words[0] not in ("diagnose", "watch") or "A step was skipped" in capsys.readouterr().out


def test_no_mean_of_a_window_holds_a_skipped_step(tmp_path: Path) -> None:
    with pytest.warns(LikelierWarning, match="step 3 is skipped"):
        fine = poisoned(tmp_path / "fine", 3, max_steps=4)
        fine.train()
    with pytest.warns(LikelierWarning, match="step 3 is skipped"):
        coarse = poisoned(tmp_path / "coarse", 3, max_steps=4, logging_steps=3)
        coarse.train()
    steps = {row["step"]: row for row in fine.folder.read_metrics()}
    first, window, last = coarse.folder.read_metrics()
    assert first["loss"] == steps[1]["loss"] and last["loss"] == steps[4]["loss"]
    assert window["loss"] == steps[2]["loss"] and window["skipped"] == 4 and "grad_norm" not in window


def test_a_second_one_ends_the_run(tmp_path: Path) -> None:
    with (
        pytest.warns(LikelierWarning, match="step 2 is skipped"),
        pytest.raises(TrainingError, match=r"step 5: the gradient norm is nan; .*not the run's first"),
    ):
        poisoned(tmp_path / "run", 2, 5, gradient=True).train()
    assert RunFolder(tmp_path / "run").skipped_steps() == {2, 5}
    names = [verdict.name for verdict in diagnose(read_run(tmp_path / "run"))]
    assert "skipped-step" in names and "unstable" in names


def test_skipped_steps_are_counted_over_a_resume(tmp_path: Path) -> None:
    with pytest.warns(LikelierWarning, match="step 2 is skipped"), pytest.raises(Stopped):
        poisoned(tmp_path / "run", 2, callbacks=[At("on_step_begin", 3, stop)]).train()
    with pytest.raises(TrainingError, match="step 5: the loss is not finite"):
        poisoned(tmp_path / "run", 5, resume=True).train()
    assert RunFolder(tmp_path / "run").skipped_steps() == {2, 5}
    trained(tmp_path / "run", resume=True)  # from step 4 on, after which there is none any more
    assert RunFolder(tmp_path / "run").skipped_steps() == {2}


def test_a_step_that_is_not_finite_in_another_process_is_skipped_here_too(tmp_path: Path) -> None:
    trainer = make(tmp_path / "run", max_steps=3)
    judged: list[bool] = []
    trainer._step_judge.agree = lambda own: judged.append(own) or len(judged) != 3
    with pytest.warns(LikelierWarning, match="step 2 is skipped: the loss is not finite for rows of another process"):
        trainer.train()
    assert judged == [True] * 5  # of the second step the gradient is not looked at
    assert [row.get("skipped") for row in trainer.folder.read_metrics()] == [None, 4, None]


def test_the_rows_that_are_kept_are_the_culprits() -> None:
    """One row makes KTO's baseline, and with it every loss of the step, not finite."""
    ids = np.array([5, 6], dtype=np.int32)
    groups = [Group(ids, (ids, ids), Source("f", number), desirable=True) for number in (1, 2, 3)]
    scored = Scored.of(
        logps=torch.tensor([-1.0, -2.0, float("-inf"), -3.0, -4.0, -5.0]),
        lengths=torch.ones(6),
        ref_logps=torch.ones(6),
        rows=torch.tensor([0, 2, 4]),
        desirable=torch.tensor([True, True, False]),
        partners=torch.tensor([1, 3, 5]),
    )
    losses = torch.full((3,), float("nan"))
    rows = _rows(StepResult(groups, losses, [StepPart(scored, losses, True)], None), str)
    assert [row["is_culprit"] for row in rows] == [False, True, False]
    assert rows[1]["logps"] == ["-inf", -3.0] and rows[0]["loss"] == "nan"
