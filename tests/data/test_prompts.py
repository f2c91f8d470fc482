"""Prompts alone: read from every kind of row, each once, and tokenized as training has them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likelier.data import too_long
from likelier.data.options import ChatOptions, DataSet
from likelier.data.prompts import PromptData, load_prompts, prepare_prompts
from likelier.data.records import Message, TokenIds
from likelier.data.tokenize import tokenize_records
from likelier.utils.errors import ConfigError, DataError, LikelierWarning, ModelError
from tests.helpers.support import chat_pairs, tiny_tokenizer

USER, YES = {"role": "user", "content": "ask"}, {"role": "assistant", "content": "yes"}
NO = {"role": "assistant", "content": "no"}
ASK = (Message("user", "ask"),)


def contents(data: PromptData) -> list[Any]:
    return [one.prompt for one in data.train]


@pytest.mark.parametrize(
    ("row", "prompt", "columns"),
    [
        ({"prompt": "ask", "answer": 4}, "ask", {"answer": 4}),
        ({"prompt": [USER], "level": "hard"}, ASK, {"level": "hard"}),
        ({"prompt": "ask", "system": "be"}, (Message("system", "be"), *ASK), {}),
        ({"messages": [USER]}, ASK, {}),
        ({"conversations": [{"from": "human", "value": "ask"}], "kind": "a"}, ASK, {"kind": "a"}),
        ({"messages": [USER, YES]}, ASK, {"messages": [USER, YES]}),
        ({"messages": [USER, YES, USER]}, (*ASK, Message("assistant", "yes"), *ASK), {}),
        ({"prompt": "ask", "chosen": "yes", "rejected": "no"}, "ask", {"chosen": "yes", "rejected": "no"}),
        ({"prompt": "ask", "chosen": [YES], "rejected": [NO]}, ASK, {"chosen": [YES], "rejected": [NO]}),
        ({"prompt": "ask", "completion": "yes", "label": True}, "ask", {"completion": "yes", "label": True}),
        ({"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7]}, TokenIds((5,)), None),
        ({"prompt": "ask", "chosen": "same", "rejected": "same"}, "ask", None),
        ({"prompt": "ask", "completion": ""}, "ask", {"completion": ""}),
    ],
)
def test_every_layout_gives_its_prompts_and_what_stands_beside(row: Any, prompt: Any, columns: Any) -> None:
    (found,) = load_prompts([row]).train
    assert found.prompt == prompt
    assert columns is None or found.columns == columns


def test_columns_are_json_whatever_the_file_holds() -> None:
    row = {
        "prompt": "ask",
        "when": datetime.date(2026, 1, 2),
        "nan": float("nan"),
        "deep": {"a": (1.0, None)},
        "n": 2.5,
    }
    columns = load_prompts([row]).train[0].columns
    assert columns == {"when": "2026-01-02", "nan": None, "deep": {"a": [1, None]}, "n": 2.5}
    assert json.loads(json.dumps(columns, allow_nan=False)) == columns


def test_maps_and_templates_name_the_prompt() -> None:
    rows = [{"question": "ask", "hint": "think", "answer": "4"}]
    (found,) = load_prompts(rows, columns={"prompt": "question"}).train
    assert (found.prompt, found.columns) == ("ask", {"hint": "think", "answer": "4"})
    (found,) = load_prompts(rows, columns={"prompt": "{hint}: {question}", "chat": "true"}).train
    assert found.prompt == (Message("user", "think: ask"),)
    with pytest.raises(ConfigError, match="threshold has no effect on 'prompts'"):
        load_prompts(rows, columns={"prompt": "question", "threshold": 3})


def test_a_file_of_no_known_kind_is_told_of_prompts_too() -> None:
    with pytest.raises(DataError, match=r"(?s)not a format known here.*prompts: \{\"prompt\""):
        load_prompts([{"question": "ask", "answer": "4"}])


def test_a_prompt_comes_once_and_what_repeats_is_counted() -> None:
    rows = [{"prompt": "a", "n": 1}, {"prompt": "a", "n": 1}, {"prompt": "a", "n": 2}, {"prompt": "b", "n": 1}]
    data = load_prompts(rows)
    assert contents(data) == ["a", "b"]
    assert "2 rows repeat a prompt, which is taken once (first rows, row 2); 1 of them have other" in str(data)


def test_a_ranking_is_one_row() -> None:
    rows = [{"prompt": "a", "answers": ["x", "y", "z"], "scores": [1, 2, 3]}]
    assert contents(data := load_prompts(rows)) == ["a"]
    assert not any("repeat" in note for note in data.notes)


def test_rows_without_a_prompt_are_counted_by_reason() -> None:
    rows = [{"prompt": "a"}, {"prompt": "  "}, {"prompt": None}, {"prompt": "\ud800"}]
    data = load_prompts(rows)
    assert contents(data) == ["a"]
    assert data.unusable.counts() == {"no-prompt": 1, "not-text": 1, "not-unicode": 1}
    assert "3 rows cannot be used" in str(data)
    with pytest.raises(DataError, match="none of the 1 rows can be used"):
        load_prompts(rows[1:2])


def test_held_out_prompts() -> None:
    rows = [{"prompt": str(number)} for number in range(20)]
    data = load_prompts(rows, eval_fraction=0.25, seed=1)
    assert (len(data.train), len(data.test)) == (15, 5)
    assert not set(contents(data)) & {one.prompt for one in data.test}
    again = load_prompts(rows[::-1], eval_fraction=0.25, seed=1)
    assert {one.prompt for one in again.test} == {one.prompt for one in data.test}
    with pytest.warns(LikelierWarning, match="1 held-out prompts are trained on as well"):
        assert len(load_prompts(rows[:3], eval_data=rows[2:4]).test) == 2
    with pytest.raises(ConfigError, match="both given"):
        load_prompts(rows, eval_data=rows, eval_fraction=0.5)


def test_several_data_sets(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lines = "".join(json.dumps({"prompt": text}) + "\n" for text in (name, "both"))
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    files = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    data = load_prompts(files)
    assert [(one.prompt, one.source.data_set) for one in data.train] == [
        ("one", "one"),
        ("both", "one"),
        ("two", "two"),
    ]
    with pytest.raises(ConfigError, match="a weight has no effect on prompts"):
        load_prompts([DataSet(files[0], weight=2)])


def test_ids_are_those_that_training_has_in_front_of_an_answer() -> None:
    tokenizer = tiny_tokenizer()
    pairs: list[Any] = list(chat_pairs(8))
    trained = tokenize_records(pairs, tokenizer, max_length=512, chat=ChatOptions(system_prompt="it was good"))
    prompts = load_prompts(
        [{"prompt": [{"role": one.role, "content": one.content} for one in pair.prompt]} for pair in pairs]
    )
    found = prepare_prompts(
        prompts.train, tokenizer, max_prompt_length=512, chat=ChatOptions(system_prompt="it was good")
    )
    assert [ids.tolist() for ids in found.ids] == [group.prompt.tolist() for group in trained.groups]
    assert all(ids.dtype == np.int32 for ids in found.ids)


def test_plain_text_and_token_ids_go_past_the_template() -> None:
    tokenizer = tiny_tokenizer(chat=False)
    rows = [{"prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [8]}]
    assert prepare_prompts(load_prompts(rows).train, tokenizer, max_prompt_length=9).ids[0].tolist() == [5, 6]
    text = prepare_prompts(load_prompts([{"prompt": "the cat"}]).train, tokenizer, max_prompt_length=9)
    assert text.ids[0].tolist() == tokenizer("the cat")["input_ids"]
    with pytest.raises(ModelError, match="no chat template"):
        prepare_prompts(load_prompts([{"messages": [USER]}]).train, tokenizer, max_prompt_length=99)
    with pytest.raises(DataError, match="999 is not in this model's vocabulary"):
        bad = load_prompts([{"prompt_ids": [999], "chosen_ids": [7], "rejected_ids": [8]}])
        prepare_prompts(bad.train, tokenizer, max_prompt_length=9)


LONG = [{"prompt": "cat"}, {"prompt": "the cat sat on the mat " * 9}]


def test_prompts_over_the_limit_are_left_out_cut_or_refused() -> None:
    tokenizer, prompts = tiny_tokenizer(), load_prompts(LONG).train
    with pytest.warns(LikelierWarning, match="50% of the prompts are longer than 8 tokens"):
        found = prepare_prompts(prompts, tokenizer, max_prompt_length=8)
    assert ([one.prompt for one in found.prompts], found.unusable.counts()) == (["cat"], {"over-max-prompt-length": 1})
    cut = prepare_prompts(prompts, tokenizer, max_prompt_length=8, truncation="cut-prompt-left")
    assert cut.counts() == {"prompts": 2, "unusable": 0, "cut_prompts": 1}
    assert cut.ids[1].tolist() == tokenizer(LONG[1]["prompt"])["input_ids"][-8:]
    with pytest.raises(DataError, match=r"rows, row 2: the prompt has \d+ tokens, the limit is 8"):
        prepare_prompts(prompts, tokenizer, max_prompt_length=8, truncation="error")
    with pytest.raises(DataError, match=r"(?s)none of the 1 prompts is left.*--max-prompt-length"):
        prepare_prompts(prompts[1:], tokenizer, max_prompt_length=8)
    with pytest.raises(ConfigError, match="must be 1 or more"):
        prepare_prompts(prompts, tokenizer, max_prompt_length=0)


def test_a_huge_prompt_is_not_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(too_long, "LARGE", 100)
    with pytest.warns(LikelierWarning, match="50%"):
        found = prepare_prompts(load_prompts(LONG).train, tiny_tokenizer(), max_prompt_length=2)
    assert found.unusable[0].detail.startswith("more than ")


def test_what_the_template_loses_or_does_not_print_is_told() -> None:
    tokenizer = tiny_tokenizer()
    tools = [{"type": "function", "function": {"name": "look"}}]
    prompts = load_prompts([{"messages": [USER], "tools": tools}]).train
    assert "look" in prompts[0].tools
    with pytest.warns(LikelierWarning, match="does not print what messages hold"):
        prepare_prompts(prompts, tokenizer, max_prompt_length=99)
    tokenizer.chat_template = "{{ messages[-1]['role'] }}"
    with pytest.raises(DataError, match="leaves out of the user turn"):
        prepare_prompts(load_prompts([{"messages": [USER]}]).train, tokenizer, max_prompt_length=99)
    with pytest.raises(ConfigError, match="train_on=last has no effect"):
        prepare_prompts(prompts, tiny_tokenizer(), max_prompt_length=99, chat=ChatOptions(train_on="last"))


def test_the_hash_tells_prompts_and_columns_apart() -> None:
    def hashed(*rows: Any) -> str:
        return prepare_prompts(load_prompts(list(rows)).train, tiny_tokenizer(), max_prompt_length=99).hash

    one, two = {"prompt": "a", "n": 1}, {"prompt": "b", "n": 1}
    assert hashed(one, two) == hashed(one, two)
    assert len({hashed(one, two), hashed(two, one), hashed(one), hashed(one | {"n": 2})}) == 4


def test_text_that_goes_past_a_chat_template_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    prompts = load_prompts([{"prompt": "the cat"}]).train
    prepare_prompts(prompts, tiny_tokenizer(), max_prompt_length=9)
    assert "goes past the model's chat template: 1 of 1" in "".join(capfd.readouterr())
