"""Bad inputs with the messages they give, held in `golden/bad_inputs.md` for people to read.

After a message was changed on purpose: `UPDATE_GOLDEN=1 pytest tests/cli/test_bad_input.py`, then read the difference.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import pytest

from tests.helpers.bad_inputs import PARTS, Case
from tests.helpers.bad_online import ONLINE
from tests.helpers.bad_samples import SAMPLES
from tests.helpers.bad_structures import STRUCTURES
from tests.helpers.fuzzing import command, files_below
from tests.helpers.small_runs import pair_rows, save_tiny, train, write_rows

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden" / "bad_inputs.md"
HEAD = """# What is said of bad input

Every case with what the file holds or what is typed, and the message. Each ends with exit code 2, without a traceback,
and leaves no output behind. Written by `UPDATE_GOLDEN=1 pytest tests/cli/test_bad_input.py`, and held by that test.
"""
EVERY = {**PARTS, "Structures": STRUCTURES, "Sampling": SAMPLES, "Learning from own answers": ONLINE}
LONGEST = 200  # characters of a file that are shown


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the cases share."""
    root = tmp_path_factory.mktemp("made")
    rows = pair_rows()
    plain = [{name: row[name][-1]["content"] for name in ("prompt", "chosen", "rejected")} for row in rows]
    prompts = write_rows(root / "prompts.jsonl", [{"prompt": row["prompt"]} for row in rows])
    own = ("--method", "grpo", "--reward", "length:3", "--max-new-tokens", "4", "--answers-per-prompt", "2")
    model, pairs = save_tiny(root / "model"), write_rows(root / "pairs.jsonl", plain)
    more = ("--eval-fraction", "0.25", "--learning-rate", "1e-2")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("LIKELIER_CACHE", str(root / "cache"))
        return {
            "model": model,
            "pairs": pairs,
            "chat": write_rows(root / "chat.jsonl", rows),
            "run": train(model, pairs, root / "run", *more, "--save-steps", "1"),
            "online": train(model, prompts, root / "online", *own, "--learning-rate", "1e-2", "--save-steps", "1"),
            "adapter": train(model, pairs, root / "adapter", *more, "--lora-r", "4"),
        }


def told(case: Case, folder: Path, made: dict[str, Path]) -> str:
    """The case as the list shows it, after seeing that it ends as it should."""
    for name, content in case.files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            text = _filled(content, folder, made) if isinstance(content, str) else content
            (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    if case.prepare is not None:
        case.prepare(folder, made)
    before = files_below(folder)
    found = command(*_filled(case.command, folder, made).split())
    assert found.code == 2, (case.title, found)
    assert "Traceback" not in found.err + found.out
    assert files_below(folder) == before, case.title
    message = found.err[found.err.rindex("error: ") :].rstrip()
    shown = "".join(f"{_file(name, content)}\n" for name, content in case.files.items())
    typed = f"likelier {re.sub('[@%]', '', case.command)}"
    return f"### {case.title}\n\n{shown}    $ {typed}\n{_indented(_plain(message, folder, made))}\n"


def _filled(text: str, folder: Path, made: dict[str, Path]) -> str:
    text = re.sub(r"%(\w+)", lambda match: str(made[match.group(1)]), text)
    return re.sub(r"@([\w./-]+)", lambda match: str(folder / match.group(1)), text)


def _plain(message: str, folder: Path, made: dict[str, Path]) -> str:
    """The message with folders as the example names them, and without what differs from machine to machine."""
    for place in (folder, made["model"].parent):
        message = message.replace(f"{place}/", "").replace(str(place), ".")
    message = re.sub(r"instead of [\d,]+\.", "instead of SIZE.", message)  # of a log that holds seconds
    return re.sub(r"\b[0-9a-f]{32}\b", "HASH", message)


def _file(name: str, content: str | bytes | None) -> str:
    if content is None:
        return f"`{name}` is a folder.\n"
    text = re.sub(r"[@%](?=\w)", "", content) if isinstance(content, str) else f"{len(content)} bytes"
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"
    return f"`{name}`:\n\n{_indented(text.rstrip())}\n" if text else f"`{name}` is empty.\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


@pytest.fixture(scope="module")
def texts(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every part of the list by its title."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKELIER_CACHE", str(made["model"].parent / "cache"))
        return {
            part: "\n".join(told(case, tmp_path_factory.mktemp("case"), made) for case in cases)
            for part, cases in EVERY.items()
        }


def test_every_message_is_the_one_in_the_list(texts: dict[str, str]) -> None:
    found = HEAD + "".join(f"\n## {part}\n\n{text}" for part, text in texts.items())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(found, encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == found, (
        "UPDATE_GOLDEN=1 pytest tests/cli/test_bad_input.py, then read it"
    )


def test_the_list_has_forty_messages_that_differ(texts: dict[str, str]) -> None:
    messages = re.findall(r"^    error: .*", "".join(texts.values()), re.MULTILINE)
    assert len(set(messages)) >= 40
    assert len(messages) == sum(map(len, EVERY.values()))
