"""Watching a run: reading what is new, the view, `likelier watch`, and the display of training itself."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from likelier.cli import main as cli
from likelier.insight.live import progress, watch
from likelier.insight.live.view import Pace, pace_of, seconds_left, sparkline, view_of
from likelier.insight.live.watch import Follower
from likelier.insight.verdicts import Verdict
from likelier.runs.folder import RunFolder
from likelier.runs.lock import is_held
from likelier.runs.reader import RunReader
from likelier.utils import terminal as drawing
from likelier.utils.errors import RunFolderError
from likelier.utils.terminal import Display, counting
from tests.helpers.small_runs import SmallRuns, read_card, train, write_card

Json = dict[str, Any]
WARNING = Verdict("not-learning", "warning", "It does not [red]learn[/red]", (), "why")


def step_row(step: int, **more: Any) -> Json:
    known = {"loss": 0.7 - step / 100, "rewards/margins": step / 10, "rewards/accuracies": 0.5}
    return {"step": step, **known, "seconds": 2.0 * step, "items": 8 * step, "memory_gib": 1.5, **more}


def evaluation_row(step: int, **more: Any) -> Json:
    accuracy = {"eval_pair_accuracy": 0.75, "eval_pair_accuracy_low": 0.6, "eval_pair_accuracy_high": 0.85}
    kl = {"eval_kl": 3.25, "eval_kl_standard_error": 0.5, "eval_kl_per_token": 0.1}
    return {"step": step, "eval_loss": 0.6, "eval_rewards/margins": 0.5, "eval_seconds": 1.0, **accuracy, **kl, **more}


class Written:
    """A run folder in which a test plays the run."""

    def __init__(self, path: Path, **card: Any) -> None:
        self.path = path
        path.mkdir(parents=True)
        write_card(path, {"status": "training", "method": "dpo", "total_steps": 40, **card})

    def log(self, *rows: Json) -> None:
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)

    def update(self, **changes: Any) -> None:
        RunFolder(self.path).update_card(changes)

    def grow_old(self, seconds: float) -> None:
        for file in self.path.iterdir():
            os.utime(file, (time.time() - seconds,) * 2)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def no_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is diagnosed is another test's affair."""
    monkeypatch.setattr("likelier.insight.diagnose.live_warnings", lambda run: [])


@pytest.fixture
def watched(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs `likelier watch`; each of `events` happens while it sleeps, one after the other."""

    def call(path: Path, *words: str, events: Iterable[Callable[[], Any]] = ()) -> tuple[int, str, str]:
        coming = iter(events)
        monkeypatch.setattr(watch.time, "sleep", lambda seconds: next(coming)())
        capsys.readouterr()
        code = cli.main(["watch", str(path), *words])
        return code, *capsys.readouterr()

    return call


def text_of(view: Any, width: int = 100) -> str:
    shown = Console(file=io.StringIO(), width=width, color_system=None)
    shown.print(view)
    return shown.file.getvalue()  # type: ignore[attr-defined]


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_reader_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Written(tmp_path / "run")
    reader = RunReader(run.path)
    assert not reader.read().steps and reader.read().is_running
    run.log(step_row(1), evaluation_row(1))
    now = reader.read()
    assert [row["step"] for row in now.steps] == [1] and now.evaluations[0]["kl"] == 3.25
    with monkeypatch.context() as patch:
        patch.setattr("likelier.runs.reader._row", lambda *line: pytest.fail("read again"))
        assert len(reader.read().steps) == 1
    with open(run.path / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"step": 2, "lo')
    assert len(reader.read().steps) == 1  # a line that is being written
    with open(run.path / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write('ss": 0.5}\n')
    assert reader.read().steps[-1] == {"step": 2, "loss": 0.5}
    run.update(status="done")
    assert not reader.read().is_running


def test_a_reader_begins_anew_where_a_run_goes_on(tmp_path: Path) -> None:
    run = Written(tmp_path / "run")
    run.log(*map(step_row, range(1, 6)))
    reader = RunReader(run.path)
    assert len(reader.read().steps) == 5
    RunFolder(run.path).go_back_to(2)
    run.log(*(step_row(step, loss=9.0) for step in range(3, 9)))
    assert [row["loss"] for row in reader.read().steps][2:] == [9.0] * 6
    (run.path / "metrics.jsonl").unlink()
    assert not reader.read().steps


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = Written(tmp_path / "run")
    run.log(step_row(1))
    reader = RunReader(run.path)
    reader.read()
    with open(run.path / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write("\x00\x00\n")
    for _ in range(2):
        with pytest.raises(RunFolderError, match=r"metrics\.jsonl:2 is damaged"):
            reader.read()
    with pytest.raises(RunFolderError, match="holds no run"):
        RunReader(tmp_path).read()


# --- the view -----------------------------------------------------------------------------------------------------


def test_the_view_shows_what_one_wants_to_know(tmp_path: Path) -> None:
    run = Written(tmp_path / "run")
    run.log(*map(step_row, range(1, 21)), evaluation_row(10), evaluation_row(20, eval_kl=4.5))
    shown = text_of(view_of(RunReader(run.path).read(), [WARNING], note="a note"))
    for words in (
        "run  dpo  training",
        "step 20 of 40, 40 s, about 42 s left",  # 20 steps of 2 s, and evaluations that took a twentieth of that
        "loss      0.5",
        "margin    2",
        "50.0% in training",
        "accuracy 75.0% (60.0% to 85.0%), step 20",
        "4.5 nats an answer (standard error 0.5), step 20",
        "4 pairs/s, 1.50 GiB at most",
        "\u2588",
        "warning: It does not [red]learn[/red]",
        "a note",
    ):
        assert words in shown, words
    assert len(shown.splitlines()) < 12


@pytest.mark.parametrize("width", [20, 40, 79])
def test_the_view_fits_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    run = Written(tmp_path / "run", error="e" * 200)
    run.log(*map(step_row, range(1, 21)), evaluation_row(20))
    shown = text_of(view_of(RunReader(run.path).read(), [WARNING] * 5), width)
    assert max(map(len, shown.splitlines())) <= width
    assert "and 2 more" in shown


def test_the_view_of_a_run_that_says_little(tmp_path: Path) -> None:
    run = Written(tmp_path / "r\x1b[31m", total_steps=None, method="sft")
    shown = text_of(view_of(RunReader(run.path).read()))
    assert "has not begun" in shown and "\x1b" not in shown
    run.log({"step": 3, "loss": 2.5})
    run.log({"step": 3, "eval_loss": 2.25})
    run.update(status="failed", error="TrainingError: [bold]no[/bold]")
    shown = text_of(view_of(RunReader(run.path).read(), ascii_only=True))
    assert "failed: TrainingError: [bold]no[/bold]" in shown and "loss 2.2500, step 3" in shown
    assert "accuracy" not in shown and "left" not in shown


def test_the_first_evaluation_is_no_failure(tmp_path: Path) -> None:
    run = Written(tmp_path / "run")
    run.log(evaluation_row(0, **{"eval_rewards/margins": 0.0, "eval_pair_accuracy": 0.0}))
    assert "no reward differs yet, step 0" in text_of(view_of(RunReader(run.path).read()))


def test_pace_and_time_left(tmp_path: Path) -> None:
    rows = [step_row(step) for step in range(1, 31)]
    assert pace_of(rows) == Pace(0.5, 4.0) and pace_of(rows[:1]) is None and pace_of([{"step": 1}]) is None
    assert pace_of([step_row(1), step_row(2, seconds=2.0)]) is None
    run = Written(tmp_path / "run")
    run.log(*rows)
    assert seconds_left(RunReader(run.path).read()) == pytest.approx(20.0)


def test_a_sparkline_is_as_wide_as_it_may_be() -> None:
    assert sparkline([1.0]) == "" and sparkline([1.0, float("nan")]) == ""
    assert sparkline([1.0, 1.0, 1.0]) == "\u2581" * 3
    assert sparkline([0.0, 1.0, 2.0]) == "\u2581\u2584\u2588"
    assert len(sparkline(list(map(float, range(1000))))) == 24


# --- likelier watch -----------------------------------------------------------------------------------------------


def test_a_finished_run_is_shown_once(runs: SmallRuns, watched: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = watched(runs.adapter, "--once")
    assert code == 0 and "done in" in out and "step 2 of 2" in out and "held out" in out
    code, out, err = watched(runs.adapter)
    assert code == 0 and "step 2/2" in out and "adapter: done in" in err


def test_plain_lines_until_the_run_ends(tmp_path: Path, watched: Callable[..., tuple[int, str, str]]) -> None:
    run = Written(tmp_path / "run")
    events = [
        lambda: None,
        lambda: run.log(step_row(1), step_row(2), evaluation_row(2)),
        lambda: None,
        lambda: run.log(step_row(3)),
        lambda: run.update(status="failed", error="TrainingError: it broke"),
    ]
    with held(run.path):
        code, out, err = watched(run.path, "--interval", "0.5", events=events)
    assert code == 3 and out.splitlines() == [
        "run: dpo, training has not begun: the reference is scored, the start evaluated",
        "step 2/40  loss 0.680  margin 0.200  accuracy 0.500  4 pairs/s",
        "held out, step 2: accuracy 75.0% (60.0% to 85.0%), KL 3.25 nats an answer (standard error 0.5)",
        "step 3/40  loss 0.670  margin 0.300  accuracy 0.500  4 pairs/s",
    ]
    assert err.endswith("failed: TrainingError: it broke\n")


def test_a_warning_is_told_once(
    tmp_path: Path, watched: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likelier.insight.diagnose.live_warnings", lambda run: [WARNING] if len(run.steps) > 1 else [])
    monkeypatch.setattr(watch, "_THRIFT", 0)
    run = Written(tmp_path / "run")
    events = [*(lambda step=step: run.log(step_row(step)) for step in range(1, 5)), lambda: run.update(status="done")]
    with held(run.path):
        code, out, _ = watched(run.path, events=events)
    assert code == 0 and out.count("warning: It does not [red]learn[/red]") == 1
    assert out.index("step 2/40") < out.index("warning") < out.index("step 3/40")


def test_looking_for_warnings_takes_little_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    run = Written(tmp_path / "run")
    clock = iter(range(0, 10_000, 1))
    monkeypatch.setattr(watch.time, "monotonic", lambda: next(clock))  # a look takes a second or two
    monkeypatch.setattr("likelier.insight.diagnose.live_warnings", lambda run: looks.append(1) or [])
    follower = Follower(run.path)
    for step in range(1, 400):
        run.log(step_row(step))
        follower.read()
    assert 2 <= len(looks) <= 6


def test_a_run_that_is_not_there_is_waited_for(
    tmp_path: Path, watched: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "later"
    events = [lambda: None, lambda: Written(later, status="done")]
    code, out, err = watched(later, events=events)
    assert code == 0 and out.startswith("later: dpo, done") and "waiting for a run in" in err
    monkeypatch.setattr(watch, "PATIENCE", -1.0)
    code, _, err = watched(tmp_path / "never")
    assert code == 2 and "holds no run" in err
    code, _, err = watched(tmp_path / "never", "--once")
    assert code == 2 and "holds no run" in err
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    with held(prepared):  # a process that loads its model: there is no patience to lose
        write = lambda: write_card(prepared, {"status": "done", "method": "dpo"})  # noqa: E731
        assert watched(prepared, events=[lambda: None, lambda: None, write])[0] == 0


def test_a_run_that_was_killed_is_not_watched_for_ever(
    tmp_path: Path, watched: Callable[..., tuple[int, str, str]]
) -> None:
    run = Written(tmp_path / "run")
    run.log(step_row(1))
    code, _, err = watched(run.path, events=[lambda: run.grow_old(600)])
    assert code == 3 and "no process of this machine holds the folder" in err and "--resume" in err
    code, out, _ = watched(run.path, "--once")
    assert code == 3 and "nothing was written for 10 min" in out
    (run.path / ".lock").touch()
    assert not is_held(run.path) and not is_held(tmp_path / "nowhere")


def test_a_long_silence_is_told(tmp_path: Path, watched: Callable[..., tuple[int, str, str]]) -> None:
    run = Written(tmp_path / "run")
    run.log(step_row(1))
    events = [lambda: run.grow_old(100), lambda: None, lambda: run.log(step_row(2)), lambda: run.update(status="done")]
    with held(run.path):
        code, out, _ = watched(run.path, events=events)
    assert code == 0 and out.count("nothing was written for 1 min ") == 1 and "a long step, evaluation" in out


def test_ctrl_c_leaves_quietly(tmp_path: Path, watched: Callable[..., tuple[int, str, str]]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    run = Written(tmp_path / "run")
    with held(run.path):
        code, _, err = watched(run.path, events=[interrupt])
    assert code == 0 and err == ""


def test_all_stages_are_watched(runs: SmallRuns, tmp_path: Path, watched: Callable[..., tuple[int, str, str]]) -> None:
    root = tmp_path / "all"
    shutil.copytree(runs.whole, root / "1-dpo")
    stages = [{"name": name, "folder": name, "status": "done"} for name in ("1-dpo", "2-simpo")]
    write_card(root, {"status": "training", "stages": [stages[0], stages[1] | {"status": "training"}]})

    def second() -> None:
        shutil.copytree(runs.simpo, root / "2-simpo")
        write_card(root, {"status": "done", "stages": stages})

    with held(root):
        code, out, err = watched(root, events=[lambda: None, second])
    assert code == 0 and "all/1-dpo: dpo" in out and "all/2-simpo: simpo" in out and "done in" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--once", "--interval", "3"], "no effect with --once"), (["--interval", "0"], "--interval 0 is out of range")],
)
def test_inert_and_impossible_flags(
    tmp_path: Path, watched: Callable[..., tuple[int, str, str]], words: list[str], message: str
) -> None:
    code, _, err = watched(tmp_path, *words)
    assert code == 2 and message in err


# --- the display of training --------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal as standard output and error, and what was written on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._parent, self._child = os.openpty()
        fcntl.ioctl(self._child, 0x5414, b"\x28\x00\x64\x00\x00\x00\x00\x00")  # TIOCSWINSZ: 40 lines of 100
        self.raw = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()
        self._stream = open(self._child, "w", encoding="utf-8", buffering=1)
        monkeypatch.setenv("TERM", "xterm-256color")
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "stderr", self._stream)
        monkeypatch.setattr(sys, "stdout", self._stream)

    def _drain(self) -> None:
        try:
            while part := os.read(self._parent, 65536):
                self.raw += part
        except OSError:  # the other end is closed
            return

    def text(self) -> str:
        """Everything that was written; the terminal is closed."""
        self._stream.close()
        self._thread.join(timeout=10)
        os.close(self._parent)
        return self.raw.decode()


def test_training_in_a_terminal(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(drawing, "_PAUSE", 0.0)
    monkeypatch.setattr(drawing, "_THRIFT", 0)
    monkeypatch.setattr("likelier.insight.diagnose.live_warnings", lambda run: [WARNING] if run.steps else [])
    terminal = Terminal(monkeypatch)
    before = sys.stderr
    train(runs.model, runs.pairs, tmp_path / "run", "--eval-fraction", "0.25", "--eval-steps", "1", "--max-steps", "3")
    assert sys.stderr is before and Display.running is None
    shown = terminal.text()
    assert "Traceback" not in shown and "out of order" not in shown
    assert shown.index("step 0 of 3") < shown.index("step 1 of 3") < shown.index("step 3 of 3")
    assert "evaluating" in shown[shown.index("step 1 of 3") :]  # its bar joined the display
    assert "It does not [red]learn[/red]" in shown and "held out" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back
    assert "done: 3 steps" in shown[shown.rindex("step 3 of 3") :]


def test_a_display_that_breaks_does_not_end_the_run(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_PAUSE", 0.0)
    monkeypatch.setattr(drawing, "_THRIFT", 0)

    def broken(run: Any, *args: Any, **kwargs: Any) -> Any:
        if run.steps:
            raise ZeroDivisionError("oh")
        return view_of(run)

    monkeypatch.setattr(progress, "view_of", broken)
    terminal = Terminal(monkeypatch)
    before = sys.stderr
    train(runs.model, runs.pairs, tmp_path / "run", "--max-steps", "3")
    assert sys.stderr is before and Display.running is None
    shown = terminal.text()
    assert shown.count("the display of the run is out of order (ZeroDivisionError: oh)") == 1
    assert "done: 3 steps" in shown and read_card(tmp_path / "run")["status"] == "done"


def test_training_without_a_terminal(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PAUSE", 0.0)
    monkeypatch.setattr(watch, "_THRIFT", 0)
    monkeypatch.setattr("likelier.insight.diagnose.live_warnings", lambda run: [WARNING] if run.steps else [])
    train(runs.model, runs.pairs, tmp_path / "run", "--eval-fraction", "0.25", "--eval-steps", "2", "--max-steps", "3")
    lines = capsys.readouterr().err.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/3", "2/3", "3/3"]
    assert steps[2].startswith("step 3/3  loss ") and "margin " in steps[2] and steps[2].endswith("pairs/s")
    assert [line.split(":")[0] for line in lines if line.startswith("held out")] == [
        "held out, step 0",
        "held out, step 2",
        "held out, step 3",
    ]
    assert lines.count("warning: It does not [red]learn[/red]") == 1
    assert not any("\x1b" in line for line in lines)


def test_a_run_that_breaks_leaves_its_last_view(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(monkeypatch)
    words = ["train", "--model", runs.model, "--data", runs.pairs, "--output", tmp_path / "run", "--max-steps", "3"]
    more = ["--batch-size", "4", "--learning-rate", "1e30", "--warmup", "0"]
    assert cli.main([str(word) for word in [*words, *more]]) == 2
    shown = terminal.text()
    assert "failed: TrainingError" in shown and shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_a_run_is_watched_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: Callable[..., tuple[int, str, str]]
) -> None:
    run = Written(tmp_path / "run")
    events = [lambda: run.log(step_row(1), step_row(2)), lambda: run.update(status="done", training_seconds=4.0)]
    terminal = Terminal(monkeypatch)
    with held(run.path):
        assert watched(run.path, events=events)[0] == 0
    shown = terminal.text()
    assert "step 0 of 40" in shown and "step 2 of 40" in shown and "done in 4.0 s" in shown


def test_bars_join_the_display_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_PAUSE", 0.0)
    monkeypatch.setattr(drawing, "_THRIFT", 0)
    terminal = Terminal(monkeypatch)
    display = Display(lambda: "the main thing")
    assert display.is_possible
    display.start()
    with counting("counting [sheep]", 4) as report:
        report(3)
    display.stop()
    shown = terminal.text()
    assert "counting [sheep]" in shown and "3/4" in shown and "the main thing" in shown[shown.rindex("3/4") :]


def test_a_display_that_breaks_does_not_end_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_PAUSE", 0.0)
    monkeypatch.setattr(drawing, "_THRIFT", 0)
    terminal = Terminal(monkeypatch)
    before, broken = sys.stdout, False

    def render() -> str:
        if broken:
            raise ZeroDivisionError("oh")
        return "the main thing"

    for breaks_at in (0, 2):  # as the bar appears, as it moves
        broken = False
        display = Display(render)
        display.start()
        broken = breaks_at == 0
        with counting("sheep", 4) as report:
            for number in range(4):
                broken = number >= breaks_at
                report(1)
        assert sys.stdout is before and Display.running is None
        display.refresh()
        display.stop()
    assert terminal.text().count("the display of the run is out of order (ZeroDivisionError: oh)") == 2


def test_a_line_that_breaks_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Written(tmp_path / "run")
    shown: Any = progress.ProgressDisplay()
    arguments, state = SimpleNamespace(output_dir=run.path), SimpleNamespace(global_step=3, max_steps=9)
    monkeypatch.setattr(progress, "evaluation_line", lambda *_: 1 / 0)
    shown.on_train_begin(arguments, state, None)
    for _ in range(2):
        shown.on_evaluate(arguments, state, None, metrics={"eval_loss": 0.5})
    assert capsys.readouterr().err.count("out of order (ZeroDivisionError") == 1


def test_drawing_takes_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    terminal = Terminal(monkeypatch)
    display = Display(lambda: drawn.append(1) or "x")
    display.start()
    clock = iter(range(10_000))
    monkeypatch.setattr(drawing.time, "monotonic", lambda: next(clock))  # drawing takes a second
    for _ in range(1000):
        display.refresh()
    monkeypatch.undo()
    display.stop()
    terminal.text()
    assert len(drawn) < 25
