"""What a chat template loses of a row is found: text, reasoning, tool calls, answers where the model never writes."""

from __future__ import annotations

from typing import Any

import pytest

from likelier.data.audit.checks import audit_records
from likelier.data.formats.messages import read_messages
from likelier.data.options import ChatOptions
from likelier.data.prepare import prepare_data
from likelier.data.records import Pair, Source
from likelier.data.tokenize import Tokenized, tokenize_records
from likelier.utils.errors import ConfigError, DataError, LikelierWarning
from tests.helpers.chat_templates import DEEPSEEK, GEMMA, LLAMA3, MISTRAL, PHI, QWEN3, TEMPLATES
from tests.helpers.support import CHATML, tiny_tokenizer

ENDS = ("<|eot_id|>", "<end_of_turn>", "<|eos|>", "</s>", "<|end|>", "<|im_end|>")
USER = {"role": "user", "content": "What is 2 times 3?"}


def tokenizer(template: str) -> Any:
    found = tiny_tokenizer()
    found.chat_template = template
    found.add_special_tokens({"eos_token": next(end for end in ENDS if end in template)})
    return found


def pair(chosen: Any, rejected: Any = "It is a cat.", prompt: Any = (USER,), tools: str = "", number: int = 1) -> Pair:
    def turns(value: Any) -> Any:
        return read_messages([{"role": "assistant", "content": value}] if isinstance(value, str) else value)

    return Pair(read_messages(list(prompt)), turns(chosen), turns(rejected), Source("r.jsonl", number), tools=tools)


def found(template: str, *rows: Pair, chat: ChatOptions | None = None) -> Tokenized:
    return tokenize_records(rows, tokenizer(template), max_length=4096, chat=chat, losses="collect")


def problem(template: str, row: Pair, chat: ChatOptions | None = None) -> str:
    rows = found(template, row, chat=chat).unusable
    return f"{rows[0].reason}: {rows[0].detail}" if rows else ""


@pytest.mark.parametrize("template", [LLAMA3, QWEN3, GEMMA, MISTRAL, PHI, CHATML])
@pytest.mark.parametrize(
    "text", ["It is 6.", "a", "\n  six  \n\n", "6\n\n```\nprint(2 * 3)\n```", 'He said "6"\t\\ é 🐈']
)
def test_faithful_templates_pass_whatever_they_trim(template: str, text: str) -> None:
    assert problem(template, pair(text)) == ""


THOUGHT = "<think>\n2 and 2 and 2\n</think>\n\nIt is 6."


def test_reasoning_that_a_template_cuts_off_is_told_with_the_lost_text() -> None:
    words = problem(DEEPSEEK, pair(THOUGHT, "<think>\nno idea\n</think>\n\nIt is 7."))
    assert words.startswith("reasoning-lost: the chat template leaves out the reasoning of the answer: '2 and 2 and 2'")
    assert "--reasoning drop" in words and "--chat-template" in words
    assert problem(QWEN3, pair(THOUGHT)) == problem(PHI, pair(THOUGHT)) == ""


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_in_a_field_must_be_in_the_answers_tokens(name: str) -> None:
    row = pair([{"role": "assistant", "content": "It is 6.", name: "2 and 2 and 2"}])
    words = problem(PHI, row)
    assert words.startswith(
        f"reasoning-lost: the chat template leaves out the reasoning ({name}) of the answer: '2 and 2"
    )
    assert "--reasoning keep" in words
    assert problem(QWEN3, row) == ""  # transformers gives a template its own name for the field
    for chat in (ChatOptions(reasoning="keep"), ChatOptions(reasoning="drop")):
        assert problem(PHI, row, chat) == ""
    kept, dropped = (found(PHI, row, chat=ChatOptions(reasoning=how)) for how in ("keep", "drop"))
    assert "<think>\n2 and 2 and 2\n</think>\n\nIt is 6." in tiny_tokenizer().decode(kept.groups[0].answers[0])
    assert "2 and 2" not in tiny_tokenizer().decode(dropped.groups[0].answers[0])


def test_an_answer_behind_another_text_than_the_generation_prompt_is_told() -> None:
    words = problem(DEEPSEEK, pair("It is 6."))
    assert words.startswith("answer-elsewhere: the chat template asks for an answer behind")
    assert "<think>\\n" in words and "the model would be trained where it never writes" in words
    late = PHI.replace("<|assistant|>\n{% endif %}", "<|assistant|>\nSure: {% endif %}")
    assert problem(late, pair("It is 6.")).startswith("answer-elsewhere")
    assert problem(late, pair("Sure: it is 6.", "Sure: a cat.")) == ""


@pytest.mark.parametrize("end", ["\n", " ", "\n\n"])
def test_white_space_alone_ends_no_run_and_is_counted(end: str) -> None:
    spaced = CHATML.replace("assistant\n", f"assistant\n{end}")
    (group,) = found(spaced, pair("It is 6.")).groups
    assert tiny_tokenizer().decode(group.answers[0]) == "It is 6.<|im_end|>\n"
    assert found(spaced, pair("It is 6.")).boundary_merges == 1


LOSING = {
    "the last line": "{{ m.content.split('\n')[0] }}",
    "all that is long": "{{ m.content[:9] }}",
    "letter case": "{{ m.content | upper }}",
    "one role": "{{ m.content if m.role == 'user' else '' }}",
}


@pytest.mark.parametrize("how", LOSING)
def test_text_that_an_answer_loses_is_told_with_what_is_missing(how: str) -> None:
    template = PHI.replace("{{ m.content }}", LOSING[how])
    words = problem(template, pair("It is six\nand no cat."))
    assert words.startswith("text-lost: the chat template leaves out of the answer: '")
    assert "It is six" in words or "and no cat." in words


@pytest.mark.parametrize("answer", ["a", "an", "i", "end", "|"])
def test_short_answers_are_not_found_by_accident(answer: str) -> None:
    silent = PHI.replace("{{ m.content }}", "{{ m.content if m.role == 'user' else '' }}")
    assert problem(silent, pair(answer, "another")).startswith(
        f"text-lost: the chat template leaves out of the answer: {answer!r}"
    )


def test_text_that_a_prompt_loses_is_told_with_its_turn() -> None:
    system = {"role": "system", "content": "Be brief."}
    no_system = (
        PHI.replace("<|{{ m.role }}|>", "{% if m.role != 'system' %}<|{{ m.role }}|>")
        .replace("<|end|>\n", "<|end|>\n{% endif %}")
        .replace("{% endif %}{% if add", "{% if add")
    )
    no_system = "{% for m in messages if m.role != 'system' %}" + PHI.partition("{% for m in messages %}")[2]
    assert problem(no_system, pair("6", prompt=(system, USER))).startswith(
        "text-lost: the chat template leaves out of the system turn: 'Be brief.'"
    )
    yes, no = {"role": "user", "content": "yes"}, {"role": "assistant", "content": "no"}
    last_only = "{% for m in messages[-2:] %}" + PHI.partition("{% for m in messages %}")[2]
    assert "text-lost" in problem(last_only, pair("6", prompt=(yes, no, yes)))
    assert "the system turn: 'Be brief.'" in problem(no_system, pair("6"), ChatOptions(system_prompt="Be brief."))


def test_texts_may_move_and_be_spelled_as_json() -> None:
    talk = (
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call(left=2, right="3")]},
        {"role": "tool", "content": '{"is": "6\n7"}', "tool_call_id": "abcdefghi"},
    )
    for template in (LLAMA3, MISTRAL, QWEN3):
        assert problem(template, pair("6", prompt=talk)) == ""


def call(**arguments: Any) -> dict[str, Any]:
    return {"id": "abcdefghi", "type": "function", "function": {"name": "times", "arguments": arguments}}


@pytest.mark.parametrize("arguments", [{"left": 2}, {"text": 'a "b"'}, {"many": ["cat", {"dog": "red"}]}])
def test_an_answers_tool_call_must_be_in_its_tokens(arguments: dict[str, Any]) -> None:
    row = pair([{"role": "assistant", "content": "", "tool_calls": [call(**arguments)]}])
    assert problem(PHI, row).startswith(
        "text-lost: the chat template leaves out of the tool calls of the answer: 'times'"
    )
    assert problem(QWEN3, row) == problem(MISTRAL, row) == problem(LLAMA3, row) == ""
    nameless = QWEN3.replace("{{ c.function | tojson }}", "{{ c.function.name }}")
    assert "leaves out of the tool calls of the answer" in problem(nameless, row)


@pytest.mark.parametrize("thought", ["a", "{}", "[1]", "end", "null"])
def test_short_reasoning_is_not_found_by_accident(thought: str) -> None:
    row = pair([{"role": "assistant", "content": "and a [1] {} null end", "reasoning_content": thought}])
    assert problem(PHI, row).startswith("reasoning-lost")
    assert problem(QWEN3, row) == ""


# --- what is named -------------------------------------------------------------------------------------------------


def test_what_is_not_printed_is_named_with_its_rows() -> None:
    earlier = {"role": "assistant", "content": "Hm.", "reasoning_content": "a cat"}
    marked = {"role": "assistant", "content": "<think>\nred\n</think>\n\nHm."}
    rows = [
        pair("6", prompt=({**USER, "uuid": 7},), number=1),
        pair("6", prompt=(USER, earlier, USER), number=2),
        pair("6", prompt=(USER, marked, USER), number=3),
        pair("6", prompt=({**USER, "uuid": 8},), number=4, tools='[{"name": "look"}]'),
    ]
    names = {one.name: [source.number for source in one.sources] for one in found(QWEN3, *rows).unprinted}
    assert names == {
        "uuid": [1, 4],
        "reasoning_content": [2],
        "reasoning inside the text of earlier turns": [3],
    }
    names = {one.name: [source.number for source in one.sources] for one in found(PHI, *rows).unprinted}
    assert names == {"uuid": [1, 4], "reasoning_content": [2], "tools": [4]}


def test_a_template_that_needs_a_field_prints_it() -> None:
    tool = {"role": "tool", "content": "6", "tool_call_id": "abcdefghi"}
    assert (
        found(
            MISTRAL, pair("6", prompt=(USER, {"role": "assistant", "content": "", "tool_calls": [call()]}, tool))
        ).unprinted
        == []
    )


# --- training, audit -----------------------------------------------------------------------------------------------


def prepared(template: str, *rows: Pair, chat: ChatOptions | None = None) -> Any:
    settings: dict[str, Any] = {"method": "dpo", "wants": "pairs", "partners": False, "truncation": "drop"}
    return prepare_data(rows, [], tokenizer(template), max_length=999, chat=chat, **settings)


def test_training_stops_at_a_loss_and_counts_the_rows() -> None:
    rows = [pair("It is 6.", number=1), pair(THOUGHT, number=2), pair(THOUGHT, number=3)]
    template = DEEPSEEK.replace("<think>\n{% endif %}", "{% endif %}")
    with pytest.raises(
        DataError, match=r"^r\.jsonl:2: the chat template leaves out the reasoning .*\(2 of 3 rows are so\)$"
    ):
        prepared(template, *rows)
    assert len(prepared(template, *rows, chat=ChatOptions(reasoning="drop")).train.groups) == 3


def test_training_says_what_the_model_does_not_see() -> None:
    with pytest.warns(LikelierWarning, match=r"does not print what messages hold.*tools \(1 rows, first r\.jsonl:1\)"):
        prepared(PHI, pair("6", tools='[{"name": "look"}]'), pair("7", number=2))


def test_reasoning_options_without_effect_and_answers_of_nothing_else() -> None:
    with pytest.raises(ConfigError, match="reasoning has no effect: no message holds any"):
        prepared(PHI, pair("6"), chat=ChatOptions(reasoning="drop"))
    only = pair("<think>\n6\n</think>\n")
    assert problem(PHI, only, ChatOptions(reasoning="drop")).startswith("empty-answer")


@pytest.mark.parametrize(
    ("template", "row", "name", "severity"),
    [
        (DEEPSEEK, pair(THOUGHT), "reasoning-lost", "error"),
        (DEEPSEEK, pair("It is 6."), "answer-elsewhere", "error"),
        (PHI.replace("{{ m.content }}", "{{ m.content[:9] }}"), pair("It is six and no cat."), "text-lost", "error"),
        (PHI, pair("6", prompt=({**USER, "name": "Ann"},)), "not-printed", "warning"),
    ],
)
def test_the_audit_counts_them_as_findings(template: str, row: Pair, name: str, severity: str) -> None:
    findings = audit_records([row], tokenizer=tokenizer(template), max_length=99).findings
    finding = next(one for one in findings if one.name == name)
    assert (finding.count, finding.severity, finding.examples) == (1, severity, ("r.jsonl:1",))


def test_the_families_are_all_here() -> None:
    assert set(TEMPLATES) == {"llama3", "qwen3", "gemma", "mistral", "deepseek", "phi"}
