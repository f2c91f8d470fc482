"""Whatever a record holds, from whatever file: the same tokens, and every text in them or named."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likelier.data.fidelity import holds
from likelier.data.load import load_preferences
from likelier.data.records import Message, Record, answers_of
from likelier.data.rendering import reasoning_in, without_reasoning
from likelier.data.tokenize import Tokenized, tokenize_records
from tests.helpers.chat_templates import TEMPLATES
from tests.helpers.support import tiny_tokenizer

pytestmark = pytest.mark.slow

LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))
TEXT = st.one_of(
    st.sampled_from(
        ["a", "no", "yes it was", "  red  ", 'say "it"\n\n  - one\n\ttwo', "<b>&amp;</b>", "猫 🐈‍⬛ é", "{}", "null"]
    ),
    st.text(LETTERS, min_size=1, max_size=30).filter(str.strip),
)
NAMES = st.sampled_from(["look", "add"])


def call(name: str, city: str, days: int | None, ratio: float | None) -> dict[str, Any]:
    arguments = {"city": city, "days": days, "ratio": ratio}
    kept = {key: value for key, value in arguments.items() if value is not None}
    return {"id": "abcdefghi", "type": "function", "function": {"name": name, "arguments": kept}}


CALLS = st.builds(
    call, NAMES, TEXT, st.one_of(st.none(), st.integers(0, 99)), st.one_of(st.none(), st.sampled_from([0.5, 2.0, 3.25]))
)


def assistant(content: str, thought: str, mark: str, tool_call: Any) -> dict[str, Any]:
    """An assistant's turn, its reasoning in a field, in the text, or not there."""
    turn: dict[str, Any] = {"role": "assistant", "content": content}
    if mark == "field":
        turn["reasoning_content"] = thought
    elif mark == "text":
        turn["content"] = f"<think>\n{thought}\n</think>\n\n{content}"
    return turn if tool_call is None else turn | {"tool_calls": [tool_call]}


MARKS = st.sampled_from(["", "", "", "field", "text"])
ASSISTANT = st.builds(assistant, TEXT, TEXT, MARKS, st.one_of(st.none(), st.none(), CALLS))
USER = st.builds(
    lambda text, name: {"role": "user", "content": text} | name, TEXT, st.sampled_from([{}, {}, {"name": "Ann"}])
)
TOOL = st.builds(lambda text: {"role": "tool", "content": text, "tool_call_id": "abcdefghi", "name": "look"}, TEXT)
SYSTEM = st.builds(lambda text: {"role": "system", "content": text}, TEXT)
PROMPTS = st.builds(
    lambda system, first, middle: [*system, first, *middle],
    st.lists(SYSTEM, max_size=1),
    USER,
    st.one_of(
        st.just([]),
        st.builds(lambda turn, user: [turn, user], st.builds(assistant, TEXT, TEXT, MARKS, st.none()), USER),
        st.builds(lambda turn, tool: [turn, tool], st.builds(assistant, TEXT, TEXT, st.just(""), CALLS), TOOL),
    ),
)
TOOLS = st.one_of(
    st.none(),
    st.lists(
        st.builds(
            lambda name, words: {"type": "function", "function": {"name": name, "description": words}}, NAMES, TEXT
        ),
        min_size=1,
        max_size=2,
    ),
)
ROWS = st.lists(
    st.builds(
        lambda prompt, chosen, rejected, tools: (
            {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]} | ({} if tools is None else {"tools": tools})
        ),
        PROMPTS,
        ASSISTANT,
        ASSISTANT,
        TOOLS,
    ),
    min_size=1,
    max_size=3,
)


# --- the same rows in every kind of file ---------------------------------------------------------------------------


def write_json(rows: list[dict[str, Any]], path: Path) -> None:
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_lines(rows: list[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_csv(rows: list[dict[str, Any]], path: Path, spelled: Callable[[Any], str] = json.dumps) -> None:
    names = sorted({name for row in rows for name in row})
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows([spelled(row[name]) if name in row else "" for name in names] for row in rows)


def write_repr(rows: list[dict[str, Any]], path: Path) -> None:
    write_csv(rows, path, repr)


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    names = sorted({name for row in rows for name in row})
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pydict({name: [row.get(name) for row in rows] for name in names}), path
    )


def write_folder(rows: list[dict[str, Any]], path: Path) -> None:
    names = sorted({name for row in rows for name in row})
    datasets.Dataset.from_dict({name: [row.get(name) for row in rows] for name in names}).save_to_disk(path)


KINDS = {
    "rows.json": write_json,
    "rows.jsonl": write_lines,
    "rows.csv": write_csv,
    "repr.csv": write_repr,
    "rows.parquet": write_parquet,
    "folder": write_folder,
}


def tokens_of(found: Tokenized) -> list[Any]:
    groups = [(one.source.number, one.prompt.tolist(), [ids.tolist() for ids in one.answers]) for one in found.groups]
    return [groups, [(row.reason, row.detail) for row in found.unusable], sorted(one.name for one in found.unprinted)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    datasets.disable_progress_bars()
    yield tmp_path_factory.mktemp("kinds")
    datasets.enable_progress_bars()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.sampled_from(sorted(TEMPLATES)), st.data())
def test_the_same_tokens_from_every_file_and_every_text_in_them_or_named(
    folder: Path, rows: list[dict[str, Any]], template: str, data: st.DataObject
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATES[template]
    expected: list[Any] | None = None
    for name, write in KINDS.items():
        path = folder / name
        if path.is_dir():
            path = folder / f"folder-{len(list(folder.iterdir()))}"
        write(rows, path)
        try:
            records = load_preferences(path).train
        except Exception:
            records = []  # no row can be used, which is the same for all
        found = tokenize_records(records, tokenizer, max_length=1 << 20, losses="collect") if records else Tokenized()
        if expected is None:
            expected = tokens_of(found)
            require_every_text(records, found, tokenizer)
        assert tokens_of(found)[1:] == expected[1:]
        assert [group[1:] for group in tokens_of(found)[0]] == [group[1:] for group in expected[0]]


def require_every_text(records: list[Record], found: Tokenized, tokenizer: Any) -> None:
    named = {one.name for one in found.unprinted}
    for number, group in zip(found.kept, found.groups, strict=True):
        record = records[number]
        for answer, ids in zip(answers_of(record), group.answers, strict=True):
            assert isinstance(record.prompt, tuple) and isinstance(answer, tuple)
            own = tokenizer.decode(ids)
            whole = tokenizer.decode([*group.prompt.tolist(), *ids.tolist()])
            for message in record.prompt:
                require(message, whole, named)
            require(answer[0], own, named - {"reasoning_content", "tool_calls"})
        if record.tools and "tools" not in named:
            assert all(holds(whole, tool["function"]["description"]) for tool in json.loads(record.tools))


def require(message: Message, text: str, named: set[str]) -> None:
    in_text = "reasoning inside the text of earlier turns"
    assert holds(text, without_reasoning(message.content) if in_text in named else message.content)
    assert not reasoning_in(message.content) or in_text in named or holds(text, reasoning_in(message.content))
    for name, value in (json.loads(message.fields) if message.fields else {}).items():
        assert name in named or holds(text, value), name
    for one in json.loads(message.tool_calls) if message.tool_calls else []:
        arguments = one["function"]["arguments"].values()
        assert "tool_calls" in named or all(
            holds(text, value if isinstance(value, str) else json.dumps(value)) for value in arguments
        )
