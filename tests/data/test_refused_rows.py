"""A row that a chat template refuses is left out and named; the other rows train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from likelier.data import token_cache
from likelier.data.options import ChatOptions
from likelier.data.prepare import PreparedData, prepare_data
from likelier.data.records import Message, Pair, Source
from likelier.data.rendering import render
from likelier.data.token_cache import sharing_ids
from likelier.data.tokenize import tokenize_records
from likelier.utils.errors import ConfigError, DataError, LikelierWarning
from tests.helpers.support import CHATML, tiny_tokenizer

NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
TOOL_IDS = (
    "{% for m in messages %}{% if m.role == 'tool' and m.tool_call_id | length != 9 %}"
    "{{ raise_exception('a tool_call_id of 9 characters') }}{% endif %}{% endfor %}"
)


def pair(number: int, *prompt: Message) -> Pair:
    answers = ((Message("assistant", text),) for text in ("yes it was", "no"))
    return Pair(prompt or (Message("user", "was it right"),), *answers, Source("rows.jsonl", number))


def tokenizer(template: str) -> Any:
    found = tiny_tokenizer()
    found.chat_template = template + CHATML
    return found


def prepared(rows: list[Pair], template: str, chat: ChatOptions | None = None) -> PreparedData:
    settings: dict[str, Any] = {"method": "dpo", "wants": "pairs", "partners": False, "truncation": "drop"}
    return prepare_data(rows, [], tokenizer(template), max_length=64, chat=chat, **settings)


REFUSED = [
    ("system", NO_SYSTEM, (Message("system", "be good"), Message("user", "was it right"))),
    ("order", ALTERNATE, (Message("user", "was it"), Message("user", "right"))),
    ("two systems", NO_SYSTEM, (Message("system", ""), Message("system", "good"), Message("user", "was it right"))),
    ("tool", TOOL_IDS, (Message("user", "was it"), Message("tool", "right", "", '{"tool_call_id": "7"}'))),
]


@pytest.mark.parametrize(("template", "prompt"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_one_row_that_a_template_refuses_is_left_out_and_named(template: str, prompt: tuple[Message, ...]) -> None:
    rows = [pair(1), pair(2, *prompt), pair(3)]
    with pytest.warns(LikelierWarning, match=r"the chat template refuses the roles .*first rows\.jsonl:2"):
        data = prepared(rows, template)
    assert [group.source.number for group in data.train.groups] == [1, 3]
    assert data.train.unusable.counts() == {"template-refuses": 1}


def test_where_every_row_is_refused_the_error_has_the_templates_own_words() -> None:
    with pytest.raises(DataError, match=r"none of the 2 rows is left(.|\n)*no system turn\. --fold-system"):
        prepared([pair(number, *REFUSED[0][2]) for number in (1, 2)], NO_SYSTEM)


def test_tools_that_are_no_json_cost_their_own_row_only() -> None:
    broken = pair(2, Message("user", "a"), Message("assistant", "", "[{broken"), Message("user", "b"))
    found = tokenize_records([pair(1), broken], tokenizer(""), max_length=64)
    assert found.unusable.counts() == {"broken-tool-calls": 1} and len(found.groups) == 1


@pytest.fixture
def few_are_cached(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(token_cache, "WORTH_CACHING", 1)
    yield


@pytest.mark.usefixtures("few_are_cached")
def test_refused_rows_are_the_same_from_the_cache_and_in_common() -> None:
    rows = [pair(1), pair(2, *REFUSED[0][2]), pair(3)]
    plain = tokenize_records(rows, tokenizer(NO_SYSTEM), max_length=64)
    for _ in range(2):
        cached = tokenize_records(rows, tokenizer(NO_SYSTEM), max_length=64, cached=True)
        assert [str(row) for row in cached.unusable] == [str(row) for row in plain.unusable]
        assert [group.prompt.tolist() for group in cached.groups] == [group.prompt.tolist() for group in plain.groups]
    with sharing_ids():
        for _ in range(2):
            common = tokenize_records(rows, tokenizer(NO_SYSTEM), max_length=64, cached=True)
            assert [str(row) for row in common.unusable] == [str(row) for row in plain.unusable]


# --- the fold ------------------------------------------------------------------------------------------------------

FOLD = ChatOptions(fold_system=True)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ((Message("system", "be good"), Message("user", "was it")), "be good\n\nwas it"),
        ((Message("system", ""), Message("user", "was it")), "was it"),
        ((Message("system", "a"), Message("system", "b"), Message("user", "was it")), "a\n\nb\n\nwas it"),
    ],
)
def test_a_system_turn_is_folded_into_the_first_users(prompt: tuple[Message, ...], text: str) -> None:
    folded = render(tokenizer(NO_SYSTEM), prompt, FOLD, "here")
    assert folded == render(tokenizer(NO_SYSTEM), (Message("user", text),), ChatOptions(), "here")


def test_the_system_prompt_of_the_options_is_folded_too() -> None:
    chat = ChatOptions(fold_system=True, system_prompt="be good")
    data = prepared([pair(1), pair(2)], NO_SYSTEM, chat)
    assert len(data.train.groups) == 2


def test_a_fold_without_a_system_turn_is_an_error() -> None:
    with pytest.raises(ConfigError, match="fold_system has no effect: no conversation begins with a system turn"):
        prepared([pair(1)], NO_SYSTEM, FOLD)
