"""A run's files are as the run left them, or whoever reads them says what is not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from likelier.cli import main as cli
from likelier.runs.folder import RunFolder
from likelier.runs.hub import published_files
from likelier.runs.reader import RunReader, read_run
from likelier.runs.written import what_changed, written_in
from likelier.utils.errors import LikelierWarning, RunFolderError
from tests.helpers.small_runs import SmallRuns, pair_rows, read_card, save_tiny, train, write_card, write_rows


@pytest.fixture
def run(runs: SmallRuns, tmp_path: Path) -> Path:
    """A run with an evaluation at its start and its end."""
    return shutil.copytree(runs.adapter, tmp_path / "run")


def cut(path: Path, count: int = 40) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def without_last_line(path: Path) -> None:
    path.write_text("".join(lines(path)[:-1]))


def last_line_twice(path: Path) -> None:
    path.write_text("".join([*lines(path), lines(path)[-1]]))


def one_digit(path: Path) -> None:
    text = path.read_text()
    place = next(place for place in range(len(text) - 10, 0, -1) if text[place] in "12345678")
    path.write_text(text[:place] + str(int(text[place]) + 1) + text[place + 1 :])


SPOILT = [
    ("metrics.jsonl", cut, "was cut: it has"),
    ("metrics.jsonl", without_last_line, "was cut: it has"),
    ("metrics.jsonl", last_line_twice, "has grown: it has"),
    ("metrics.jsonl", one_digit, "holds something else"),
    ("metrics.jsonl", Path.unlink, "is missing"),
    ("audit.json", one_digit, "holds something else"),
    ("audit.json", Path.unlink, "is missing"),
    ("evaluations/step-2.json", Path.unlink, "is missing"),
    ("evaluations/step-2.json", one_digit, "holds something else"),
    ("evaluations/step-0.json", lambda path: shutil.copy(path, path.with_name("step-9.json")), "was not there"),
]


@pytest.mark.parametrize(("name", "spoil", "told"), SPOILT)
def test_a_file_that_changed_after_the_end_is_named(
    run: Path, name: str, spoil: Callable[[Path], object], told: str
) -> None:
    read_run(run)
    spoil(run / name)
    with pytest.raises(
        RunFolderError, match=r"run is not as its run left it: .*" if spoil is not cut else "cut"
    ) as caught:
        read_run(run)
    assert told in str(caught.value) or spoil is cut


@pytest.mark.parametrize(
    "command",
    ["compare {run} {other}", "diagnose {run}", "report {run} --output {out}", "watch {run} --once", "watch {run}"],
)
@pytest.mark.parametrize("spoil", [cut, without_last_line], ids=["within a line", "a whole line"])
def test_every_reader_refuses_a_cut_file(
    run: Path, runs: SmallRuns, tmp_path: Path, command: str, spoil: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    spoil(run / "metrics.jsonl")
    words = command.format(run=run, other=runs.whole, out=tmp_path / "out.html").split()
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert "metrics.jsonl" in said.err and "cut" in said.err
    assert not said.out and not (tmp_path / "out.html").exists()


def test_the_finished_run_reads_as_before_and_the_card_names_every_file(run: Path) -> None:
    files = read_card(run)["files"]
    assert set(files) == {"audit.json", "metrics.jsonl", "evaluations/step-0.json", "evaluations/step-2.json"}
    assert files["metrics.jsonl"]["bytes"] == (run / "metrics.jsonl").stat().st_size
    assert len(read_run(run).evaluations) == 2
    (run / "report.html").write_text("made later")
    (run / "evaluations" / "notes.txt").write_text("of the user's")
    read_run(run)


def test_a_run_without_the_record_reads_and_a_torn_end_of_it_does_not(run: Path) -> None:
    card = read_card(run)
    del card["files"]
    write_card(run, card)
    read_run(run)
    one_digit(run / "metrics.jsonl")
    read_run(run)
    cut(run / "metrics.jsonl")
    with pytest.raises(RunFolderError, match=r"ends in the midst of a line.*was cut"):
        read_run(run)


def test_a_killed_runs_torn_line_is_told_once(run: Path) -> None:
    card = read_card(run) | {"status": "training"}
    del card["files"]
    write_card(run, card)
    cut(run / "metrics.jsonl")
    RunReader(run).read()  # another machine may be about to end the line
    os.utime(run / "metrics.jsonl", (1e9, 1e9))
    reader = RunReader(run)
    with pytest.warns(
        LikelierWarning, match=r"ends in the midst of a line, which is not read: the run was cut"
    ) as told:
        reader.read()
        reader.read()
    assert len(told) == 1
    folder = RunFolder(run)
    folder.lock()  # so may a process that trains here
    RunReader(run).read()
    folder.close()


def test_a_record_that_names_foreign_files_opens_none(run: Path, tmp_path: Path) -> None:
    card = read_card(run)
    card["files"] |= {"/dev/zero": {"bytes": 1, "hash": ""}, "../run/run.json": {"bytes": 1, "hash": ""}}
    write_card(run, card)
    with pytest.raises(RunFolderError, match=r"run.json is missing"):
        read_run(run)
    write_card(run, card | {"files": {"metrics.jsonl": 3}})
    with pytest.raises(RunFolderError, match=r"run.json is damaged: files.metrics.jsonl is 3"):
        read_run(run)


def test_a_reader_that_stays_sees_a_change_of_a_finished_run(run: Path) -> None:
    reader = RunReader(run)
    reader.read()
    one_digit(run / "evaluations" / "step-0.json")
    with pytest.raises(RunFolderError, match=r"step-0\.json holds something else"):
        reader.read()


@pytest.mark.slow
def test_what_goes_on_has_no_record_until_it_ends_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = save_tiny(tmp_path / "model"), write_rows(tmp_path / "pairs.jsonl", pair_rows())
    run = train(model, data, tmp_path / "run", "--save-steps", "1")
    recorded = read_card(run)["files"]
    shutil.rmtree(run / "checkpoints" / "step-2")
    began: list[object] = []
    write = RunFolder.append_metrics

    def seen(self: RunFolder, metrics: dict[str, object]) -> None:
        began.append(self.read_card().get("files"))
        write(self, metrics)

    monkeypatch.setattr(RunFolder, "append_metrics", seen)
    train(model, data, run, "--save-steps", "1", "--resume")
    assert began and set(began) == {None}
    again = read_card(run)["files"]
    assert set(again) == set(recorded)
    read_run(run)


@pytest.mark.slow
def test_an_interrupted_run_has_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = save_tiny(tmp_path / "model"), write_rows(tmp_path / "pairs.jsonl", pair_rows())

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("likelier.training.trainer.PreferenceTrainer._log_last_window", stop)
    with pytest.raises(AssertionError):
        train(model, data, tmp_path / "run")
    card = read_card(tmp_path / "run")
    assert card["status"] == "interrupted" and "metrics.jsonl" in card["files"]
    without_last_line(tmp_path / "run" / "metrics.jsonl")
    with pytest.raises(RunFolderError, match="was cut"):
        read_run(tmp_path / "run")


def test_what_is_uploaded_reads_although_not_all_is_sent(run: Path, tmp_path: Path) -> None:
    for name, content in published_files(run).items():
        path = tmp_path / "sent" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    assert len(read_run(tmp_path / "sent").evaluations) == 2


def test_changes_are_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    before = written_in(tmp_path)
    assert what_changed(before, before) is None
    assert what_changed({}, before) == "metrics.jsonl was not there"
    assert what_changed(before, {}) == "metrics.jsonl is missing"
