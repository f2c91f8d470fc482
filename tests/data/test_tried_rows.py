"""Rows of kinds that people bring, tried on templates: what is lost is named, and nothing honest is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from likelier.cli.main import main
from likelier.data.formats.detect import check_answers
from likelier.data.formats.messages import Unfit, read_messages
from likelier.data.preview import as_json, preview_rows
from likelier.data.records import Pair, Source
from likelier.data.tokenize import tokenize_records
from likelier.utils.errors import DataError
from tests.data.test_fidelity import USER, found, pair, problem, tokenizer
from tests.helpers.chat_templates import LLAMA3, MISTRAL, QWEN3, TEMPLATES
from tests.helpers.support import tiny_model, tiny_tokenizer

# --- white space inside a text -------------------------------------------------------------------------------------

CODE = "def f(x):\n\tif x:\n\t\treturn x   \n\treturn 0\n"


def changing(expression: str) -> str:
    """ChatML whose texts go through a filter."""
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ " + expression + " }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("m.content.split() | join(' ')", CODE),
        ("m.content | replace('\n\n', '\n')", "First.\n\nSecond."),
        ("m.content | replace('\t', '    ')", CODE),
        ("m.content | replace('\\r\\n', '\\n')", "one\r\ntwo"),
    ],
)
def test_white_space_that_a_template_changes_inside_a_text_is_told(expression: str, answer: str) -> None:
    words = problem(changing(expression), pair(answer))
    assert words.startswith("text-lost: the chat template changes the white space inside the answer: ")
    assert problem(changing("m.content | trim"), pair(answer)) == ""


def test_white_space_changed_in_a_prompt_is_told_as_well() -> None:
    row = pair("It is six.", prompt=({"role": "user", "content": CODE},))
    assert "white space inside the user turn" in problem(changing("m.content.split() | join(' ')"), row)


@pytest.mark.parametrize(
    "text", ["<think>a\n\n  b</think>It is 6.", "<think>\na\n</think>\n\n\n  It is 6.", "a</think> 6"]
)
def test_empty_lines_that_a_template_writes_around_reasoning_are_its_own(text: str) -> None:
    assert problem(QWEN3, pair(text)) == ""


@pytest.mark.parametrize("earlier", ["I'll <think>x y</think> do it\n now", "<think>x</think>\n\ny", "a <think>b"])
def test_earlier_turns_that_a_template_keeps_whole_are_not_called_lost(earlier: str) -> None:
    prompt = (USER, {"role": "assistant", "content": earlier}, USER)
    assert problem(changing("m.content"), pair("It is 6.", prompt=prompt)) == ""


# --- tool calls ----------------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, Any] = {"q": 'say "hi"\nnow', "path": "C:\\x", "who": "é", "deep": {"list": ["a\n b", 2]}}


def calling(arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "ask", "arguments": arguments}}
    return [{"role": "assistant", "content": "", "tool_calls": [call]}]


@pytest.mark.parametrize("template", [LLAMA3, QWEN3, MISTRAL])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_arguments_given_as_json_text_are_found_where_a_template_spells_them_again(
    template: str, ascii_only: bool
) -> None:
    text = json.dumps(ARGUMENTS, ensure_ascii=ascii_only)
    assert problem(template, pair(calling(text), calling('{"q": "no"}'))) == ""
    assert problem(template, pair(calling(ARGUMENTS), calling({"q": "no"}))) == ""


@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS)])
def test_a_template_that_writes_the_name_of_a_tool_alone_is_told(arguments: Any) -> None:
    names_only = changing("m.content ~ ((m.tool_calls or [{'function': {'name': ''}}])[0].function.name)")
    assert "leaves out of the tool calls of the answer" in problem(names_only, pair(calling(arguments), "It is 7."))


# --- tool trajectories ---------------------------------------------------------------------------------------------


def trajectory(query: str, said: str = "", **more: Any) -> list[dict[str, Any]]:
    (call,) = calling({"q": query})
    result = {"role": "tool", "content": f"found {query}", "tool_call_id": "abcdefghi"}
    return [call | {"content": said} | more, result, {"role": "assistant", "content": f"It is {query}."}]


def trained(template: str, row: Any) -> list[str]:
    """Of each answer what is trained on, its runs joined by bars."""
    (group,) = found(template, row).groups
    texts = []
    for ids, mask in zip(group.own_answers, group.own_masks, strict=True):
        runs, own = "", tokenizer(template)
        for token, one in zip(ids.tolist(), [True] * len(ids) if mask is None else mask.tolist(), strict=True):
            runs += own.decode([token]) if one else "|"
        texts.append("|".join(filter(None, runs.split("|"))))
    return texts


@pytest.mark.parametrize("said", ["", "I will look."])
def test_tool_trajectories_are_trained_on_where_only_the_last_turn_gets_an_empty_block(said: str) -> None:
    row = pair(trajectory("six", said), trajectory("seven", said))
    assert problem(QWEN3, row) == ""
    chosen, rejected = trained(QWEN3, row)
    call = '<tool_call>\n{"name": "ask", "arguments": {"q": "six"}}\n</tool_call><'
    for text, query in ((chosen, "six"), (rejected, "seven")):
        assert query in text and "found" not in text and text.count("<think>") == 1
    assert call in chosen


def test_reasoning_of_earlier_turns_that_is_rewritten_is_still_refused() -> None:
    talk = [
        {"role": "assistant", "content": "<think>two and two</think>It is 5."},
        USER,
        {"role": "assistant", "content": "It is 6."},
    ]
    assert problem(QWEN3, pair(talk, "It is 7.")).startswith("earlier-turns-rewritten")
    kept = pair(trajectory("six", reasoning_content="look it up"), "It is 7.")
    assert problem(QWEN3, kept) == ""


# --- what the template writes by itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "added"),
    [
        (changing("('Sure! I will gladly help you. ' if m.role == 'assistant' else '') ~ m.content"), "Sure!"),
        (changing("m.content ~ m.content"), "……"),
        (QWEN3, "<think>\n\n</think>\n\n…"),
    ],
)
def test_what_a_template_writes_into_answers_by_itself_is_named(template: str, added: str) -> None:
    rows = found(template, pair("It is 6."))
    (text,) = rows.added
    assert text.startswith(added) and str(rows.added[text]) == "r.jsonl:1"
    (shown,) = preview_rows([pair("It is 6.")], tokenizer(template), max_length=4096)
    assert as_json(shown)["written_by_the_template"] == [text]


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - {"qwen3"}))
def test_headers_and_ends_of_turns_are_no_text_of_the_template_s_own(name: str) -> None:
    assert found(TEMPLATES[name], pair("It is 6.")).added == {}
    assert found(QWEN3, pair("<think>\nTwo and two.\n</think>\n\nIt is 6.", "<think>a</think>It is 7.")).added == {}


# --- messages ------------------------------------------------------------------------------------------------------


def test_a_second_text_of_a_message_is_kept_to_be_named() -> None:
    (one,) = read_messages([{"role": "user", "content": "a", "value": "b"}])
    assert one.content == "a" and json.loads(one.fields) == {"value": "b"}
    for same in ({"content": "a", "value": "a"}, {"content": None, "value": "a"}, {"content": "a", "value": None}):
        assert read_messages([{"role": "user"} | same])[0].fields == ""


@pytest.mark.parametrize("name", ["function_call", "audio", "refusal"])
def test_an_answer_without_text_says_what_it_holds_instead(name: str) -> None:
    with pytest.raises(Unfit) as raised:
        check_answers(pair([{"role": "assistant", "content": "", name: {"name": "f"}}], "It is 7."))
    assert raised.value.reason == "empty-answer" and name in raised.value.detail


# --- the tokenizer -------------------------------------------------------------------------------------------------


def words_only(unknown: str = "<unk>") -> Any:
    """A tokenizer of a few words, which writes `unknown` for all others."""
    words = [unknown, "</s>", *["What", "is", "2", "times", "3", "?", "It", "6", "7", "."]]
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=unknown))
    backend.pre_tokenizer = Whitespace()
    known = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown, eos_token="</s>")
    known.chat_template = "{% for m in messages %}{{ m.content }} {{ '</s>' if m.role == 'assistant' }}{% endfor %}"
    return known


@pytest.mark.parametrize(("answer", "lost"), [("It is six .", "six"), ("It is 6 \U0001f431 .", "\U0001f431")])
def test_what_a_tokenizer_does_not_know_of_an_answer_is_told(answer: str, lost: str) -> None:
    with pytest.raises(DataError, match=rf"r.jsonl:1: the tokenizer has no tokens for .*{lost}.*<unk>"):
        tokenize_records([pair(answer, "It is 7 .")], words_only(), max_length=64)
    plain = Pair("What is 2 ?", answer, "It is 7 .", Source("r.jsonl", 1))
    found = tokenize_records([plain], words_only(), max_length=64, losses="collect")
    assert found.unusable.counts() == {"text-lost": 1}


def test_unknown_tokens_in_prompts_and_those_that_a_text_spells_are_let_be() -> None:
    asked = pair("It is 6 .", "It is 7 .", prompt=({"role": "user", "content": "Wieviel ?"},))
    spelled = pair("It is <unk> .", "It is 7 .")
    assert len(tokenize_records([asked, spelled], words_only(), max_length=64).groups) == 2


# --- score ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["--reasoning", "drop"], ["--reasoning", "keep"], []])
def test_score_takes_the_options_that_its_message_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    answer = {"role": "assistant", "content": "It is 6.", "reasoning_content": "two and two and two"}
    row = {"prompt": [USER], "chosen": [answer], "rejected": [{"role": "assistant", "content": "It is 7."}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    model, data, out = (str(tmp_path / name) for name in ("model", "rows.jsonl", "out.jsonl"))
    code = main(["score", "--model", model, "--reference", model, "--data", data, "--output", out, *options])
    assert code == (0 if options else 2)
    assert ("--reasoning keep" in capsys.readouterr().err) == (not options)
