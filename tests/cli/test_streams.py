"""Whatever the streams, names and machine of a command are: one message, an exit code, no traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from likelier import __main__ as start
from likelier.advice.estimate import bytes_of
from likelier.cli import faults
from likelier.cli import main as cli
from likelier.data.load import load_preferences
from likelier.data.sources import read_rows
from likelier.models.generation import Decoding
from likelier.models.policy import load_policy
from likelier.runs.folder import RunFolder
from likelier.utils.errors import ConfigError, RunFolderError
from likelier.utils.files import local
from likelier.utils.strict_json import encodable

SAYS = """
from likelier.cli.streams import end_streams, prepare_streams
prepare_streams()
from likelier.utils.console import put, say
import sys
try:
    say("to the person: caf\\u00e9 \\U0001f600")
    put('{"name": "caf\\u00e9 \\U0001f600 \\udcff"}', exact=True)
    code = 0
except Exception as error:
    from likelier.cli.faults import report_error
    code = report_error(error)
sys.exit(end_streams(code))
"""


def shell(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell in which $SAYS is a small program that prints to both streams as commands do."""
    env = {**os.environ, "SAYS": f"{sys.executable} -c '{SAYS}'", **environment}
    line = words.replace("$SAYS", f'{sys.executable} -c "$PROGRAM"')
    return subprocess.run(["bash", "-c", line], env={**env, "PROGRAM": SAYS}, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("$SAYS > /dev/full", 2),
        ("$SAYS 2> /dev/full", 0),
        ("$SAYS > /dev/full 2>&1", 2),
        ("$SAYS >&-", 0),
        ("$SAYS 2>&-", 0),
        ("$SAYS <&- >&- 2>&-", 0),
        ("$SAYS | head -0; exit ${PIPESTATUS[0]}", 0),
        ("$SAYS 2>&1 | head -0; exit ${PIPESTATUS[0]}", 0),
    ],
)
def test_closed_and_full_streams(words: str, code: int) -> None:
    found = shell(words)
    assert found.returncode == code, found
    assert "Traceback" not in found.stderr and "Exception ignored" not in found.stderr
    if words == "$SAYS > /dev/full":
        assert found.stderr.endswith("error: standard output cannot be written: No space left on device\n")
        assert found.stderr.count("error:") == 1


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_a_stream_of_another_encoding_gets_json_that_reads_as_the_same(encoding: str) -> None:
    line = f'{sys.executable} -c "$PROGRAM"'
    env = {**os.environ, "PROGRAM": SAYS, "PYTHONIOENCODING": encoding}
    found = subprocess.run(["bash", "-c", line], env=env, capture_output=True)
    assert found.returncode == 0 and b"Traceback" not in found.stderr
    assert json.loads(found.stdout.decode(encoding)) == {"name": "caf\u00e9 \U0001f600 \udcff"}


@pytest.mark.slow
def test_a_closed_stream_gives_its_number_to_no_file(tmp_path: Path) -> None:
    program = (
        "from likelier.cli.streams import prepare_streams; prepare_streams(); import os\n"
        f"number = os.open({str(tmp_path / 'file')!r}, os.O_WRONLY | os.O_CREAT)\n"
        "os.write(2, str(number).encode())\n"
    )
    found = subprocess.run([sys.executable, "-c", program], close_fds=True, preexec_fn=lambda: os.close(1),
                           stderr=subprocess.PIPE)  # fmt: skip
    assert int(found.stderr) > 2


# --- names -----------------------------------------------------------------------------------------------------------

LATIN = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("name", ["~nosuchuser", "~nosuchuser/x", "a\0b"])
def test_a_path_without_a_home_or_with_a_null_byte_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"nosuchuser leads to no home folder|holds a null byte"):
        local(name)


@pytest.mark.parametrize(
    "words",
    [
        "diagnose ~nosuchuser/run",
        "report ~nosuchuser/run",
        "watch ~nosuchuser/run --once",
        "compare ~nosuchuser/a ~nosuchuser/b",
        "convert {pairs} ~nosuchuser/out.jsonl",
        "audit ~nosuchuser/pairs.jsonl",
        "merge {pairs}x ~nosuchuser/out",
        "train --model demo --data {pairs} --output ~nosuchuser/out --max-steps 1",
        "train --model ~nosuchuser/model --data {pairs} --output out --max-steps 1",
    ],
)
def test_every_command_names_a_home_that_nobody_has(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "ask", "chosen": "yes", "rejected": "no"}) + "\n")
    assert cli.main(words.format(pairs=pairs).split()) == 2
    said = capsys.readouterr().err
    assert "error: " in said and "Traceback" not in said and "fault of likelier" not in said


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(ConfigError, match="leads to no home folder on this machine"):
        local("~/.cache")


def test_data_in_a_file_whose_name_is_not_utf8_is_read_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / f"{LATIN}.jsonl"
    path.write_text(json.dumps({"prompt": "ask", "chosen": "yes", "rejected": "no"}) + "\n")
    found = load_preferences(str(path))
    assert len(found.train) == 1
    folder = RunFolder(tmp_path / "run")
    folder.lock()
    folder.update_card({"run": {"data": str(path)}})
    folder.append_metrics({"step": 1, "note": str(path)})
    assert folder.read_card()["run"]["data"] == str(path)
    assert folder.read_metrics()[0]["note"] == str(path)
    folder.close()
    assert json.loads(encodable(json.dumps(LATIN, ensure_ascii=False))) == LATIN


def test_an_output_or_a_model_whose_name_is_not_utf8_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the output .* is not a name in UTF-8"):
        RunFolder(tmp_path / LATIN).lock()
    with pytest.raises(ConfigError, match=r"the model .* is not a name in UTF-8"):
        load_policy(tmp_path / LATIN)
    with pytest.raises(ConfigError, match=r"the output .* is not a name in UTF-8"):
        RunFolder(tmp_path / LATIN / "run").open(resume=False)
    assert not list(tmp_path.iterdir())


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["1e999GB", "1e400", "1e30TB", "infGB", "nanGB", "-5GB", "0GB", "GB", "5XB", "1..5G", ""]
)
def test_a_memory_that_no_machine_has_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        bytes_of(text)


@pytest.mark.parametrize(("text", "size"), [("24GB", 24 * 10**9), ("1.5GiB", 3 * 2**29), ("7.5e9", 7_500_000_000)])
def test_a_memory_in_bytes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    "settings",
    [
        *({"temperature": value} for value in (-1.0, 1e-30, 1e9, float("nan"), float("inf"))),
        *({"max_new_tokens": value} for value in (0, -3, 10**30)),
        *({"seed": value} for value in (-1, 2**64)),
    ],
    ids=str,
)
def test_extreme_sampling_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is out of range"):
        Decoding(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1.0, 1e3])
def test_sampling_within_the_range_writes(temperature: float) -> None:
    from likelier.models.generation import write_answers
    from tests.helpers.support import tiny_policy

    policy = tiny_policy()
    written = write_answers(policy.model.float(), policy.tokenizer, [[5, 6]], Decoding(3, temperature))
    assert 1 <= len(written[0].ids) <= 3


# --- formats of `datasets` -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas", "arrow"])
def test_a_data_set_with_a_format_reads_as_without(tmp_path: Path, kind: str) -> None:
    import datasets

    rows = [
        {"prompt": f"ask {number}", "completion": "yes", "label": number % 2 == 0, "scores": [number, 2]}
        for number in range(3)
    ]
    plain = datasets.Dataset.from_list(rows)
    formatted = plain.with_format(kind, columns=["label", "scores"])
    formatted.save_to_disk(str(tmp_path / "set"))
    for source in (str(tmp_path / "set"), formatted):
        found = [row for _, row in read_rows(source).rows]
        assert found == rows and type(found[0]["label"]) is bool


# --- the boundary ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunFolderError("mend it"), 2, "error: mend it"),
        (MemoryError(), 2, "error: the memory of this machine"),
        (OSError(28, "No space left on device", "file"), 2, "error: file: No space left on device"),
        (
            UnicodeEncodeError("utf-8", "name \udcff", 5, 6, "surrogates not allowed"),
            2,
            "error: a name or text is not UTF-8",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (TypeError("what"), 1, "error: TypeError: what"),
        (OSError("of a library"), 1, "error: OSError: of a library"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_ends_a_command_is_told_in_words(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert faults.report_error(error) == code
    told = capsys.readouterr().err
    assert told.startswith(said) and "Traceback" not in told
    assert len(list(tmp_path.iterdir())) == (1 if code == 1 else 0)


def test_a_traceback_that_is_kept_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "abcdefgh12345678")
    monkeypatch.setattr("sys.argv", ["likelier", "abcdefgh12345678"])
    faults.report_error(TypeError("with abcdefgh12345678"))
    assert "abcdefgh" not in capsys.readouterr().err + next(tmp_path.iterdir()).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.05, 0.4, 1.0])
def test_an_interruption_while_things_are_imported_is_one_line(after: float, tmp_path: Path) -> None:
    words = ["train", "--model", "absent", "--data", "absent.jsonl", "--output", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "likelier", *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    begun = [name for name in ("__main__.py", "cli.py") if f"likelier/{name}" in said]
    assert "Traceback" not in said or not begun, said  # else Python was still on its way to the command
    assert process.returncode in (130, 2, 1, -signal.SIGINT), said


@pytest.mark.parametrize("where", ["likelier.cli.streams.prepare_streams", "likelier.cli.streams.end_streams"])
def test_an_interruption_before_or_after_the_command_is_one_line(
    where: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    monkeypatch.setattr("sys.argv", ["likelier", "--version"])
    with pytest.raises(SystemExit) as ended:
        start.run()
    assert ended.value.code == 130
    assert capfd.readouterr().err == "interrupted\n"
