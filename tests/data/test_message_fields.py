"""What a message holds beyond role and content, and structures that went through a table: nothing lost or added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from likelier.data.convert import write_records
from likelier.data.formats.messages import as_written, json_text, read_messages
from likelier.data.load import load_preferences
from likelier.data.options import ChatOptions
from likelier.data.records import Demonstration, Message, Pair, content_key
from likelier.data.rendering import as_dict, render
from likelier.data.split import prompt_key
from tests.helpers.support import tiny_tokenizer

TOOLS = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}{% if m.name is defined %} {{ m.name }}{% endif %}"
    "{% if m.tool_call_id is defined %} [{{ m.tool_call_id }}]{% endif %}\n"
    "{% if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call id={{ c.id }}>{{ c.function | tojson }}</call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": f"call-{name}", "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


ROWS: list[dict[str, Any]] = [
    {
        "prompt": [
            {"role": "user", "content": "Is it warm?"},
            {"role": "assistant", "content": "", "tool_calls": [call("weather", city="Rome", days=1)]},
            {"role": "tool", "name": "weather", "tool_call_id": "call-weather", "content": "20 degrees"},
        ],
        "chosen": [{"role": "assistant", "content": "Yes.", "reasoning_content": "20 is warm."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "tools": [tool("weather", city={"type": "string"})],
    },
    {
        "prompt": [{"role": "user", "content": "What is a half and one?"}],
        "chosen": [{"role": "assistant", "content": "", "tool_calls": [call("add", left=0.5, right=1)]}],
        "rejected": [{"role": "assistant", "content": "Two."}],
        "tools": [tool("add", left={"type": "number", "minimum": 0}, right={"type": "number"})],
    },
]


def texts(path: str | Path) -> list[str]:
    """Every conversation of a file, rendered."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TOOLS
    found = []
    for record in load_preferences(path).train:
        assert isinstance(record, Pair) and isinstance(record.prompt, tuple)
        for answer in (record.chosen, record.rejected):
            assert isinstance(answer, tuple)
            found.append(render(tokenizer, record.prompt + answer, ChatOptions(), record.source, record.tools))
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_a_template_is_given_every_field_of_a_message(file: Path) -> None:
    first = texts(file)[0]
    for part in ("tool weather [call-weather]", "<think>20 is warm.</think>", "<call id=call-weather>"):
        assert part in first
    assert "null" not in "".join(texts(file))


@pytest.mark.parametrize("kind", ["parquet", "folder", "json"])
def test_every_kind_of_file_gives_the_same_text(file: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"table.{kind}"
    if kind == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif kind == "parquet":
        pandas.DataFrame(ROWS).to_parquet(path)
    else:
        pandas.DataFrame(ROWS).to_parquet(tmp_path / "for-folder.parquet")
        datasets.Dataset.from_parquet(str(tmp_path / "for-folder.parquet"), cache_dir=str(tmp_path)).save_to_disk(path)
    assert texts(path) == texts(file)


def test_convert_keeps_the_fields(file: Path, tmp_path: Path) -> None:
    write_records(load_preferences(file).train, tmp_path / "again.jsonl")
    assert texts(tmp_path / "again.jsonl") == texts(file)
    again = json.loads((tmp_path / "again.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert again["prompt"] == ROWS[0]["prompt"]
    assert again["chosen"] == ROWS[0]["chosen"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a": None, "b": 1}, {"b": 1}),
        ({"a": {"b": None, "c": [{"d": None}]}}, {"a": {"c": [{}]}}),
        ([1.0, 1.5, True, None], [1, 1.5, True, None]),
        ({"big": 1e300}, {"big": 1e300}),
    ],
)
def test_what_a_table_puts_into_a_structure_falls(value: Any, kept: Any) -> None:
    assert json.dumps(as_written(value)) == json.dumps(kept)
    assert json.loads(json_text(value)) == kept


def test_arguments_that_came_as_text_stay_text() -> None:
    spelled = {"function": {"name": "add", "arguments": '{"left": null}'}}
    assert json.loads(json_text([spelled])) == [spelled]


def test_other_reasoning_is_another_answer_and_a_number_of_a_message_no_other_prompt() -> None:
    thought = [read_messages({"role": "assistant", "content": "4", "thinking": text}) for text in ("2 + 2", "guess")]
    assert content_key(thought[0]) != content_key(thought[1])
    rows = [
        {
            "prompt": [{"role": "user", "content": "2 + 2?", "uuid": number}],
            "chosen": [{"role": "assistant", "content": "4", "thinking": "2 + 2"}],
            "rejected": [{"role": "assistant", "content": "4", "thinking": "a guess"}],
        }
        for number in (1, 2)
    ]
    data = load_preferences(rows)
    assert len(data.train) == 2 and not data.unusable
    assert len({prompt_key(record) for record in data.train}) == 1
    assert len({content_key(record.prompt) for record in data.train}) == 2  # a template may print it


def test_conversations_whose_messages_only_have_other_numbers_share_their_prompt() -> None:
    def talk(number: int, answer: str) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": "Hello", "id": number},
            {"role": "assistant", "content": answer, "id": number + 1},
        ]

    data = load_preferences([{"chosen": talk(1, "Hi."), "rejected": talk(7, "What?")}])
    assert [record.prompt for record in data.train] == [(Message("user", "Hello", "", '{"id": 1}'),)]


def test_a_message_as_other_tools_take_it() -> None:
    (message,) = read_messages({"from": "gpt", "value": "Yes.", "weight": 1, "reasoning_content": None})
    assert as_dict(message, "here") == {"role": "assistant", "content": "Yes.", "weight": 1}
    assert Demonstration((message,), (message,), load_preferences(ROWS).train[0].source).tools == ""
