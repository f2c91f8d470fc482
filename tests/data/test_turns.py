"""Answers of several turns and prompts that begin one: how rows are split, and which tokens are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likelier.data.formats import convert
from likelier.data.groups import Group
from likelier.data.load import load_preferences
from likelier.data.options import ChatOptions
from likelier.data.prepare import prepare_data
from likelier.data.records import Message, Pair, Record, answers_of, to_demonstrations, to_labels
from likelier.data.sources import NamedRows, stream_rows
from likelier.data.token_cache import TokenFolder, sharing_ids
from likelier.data.tokenize import Tokenized, tokenize_records
from likelier.data.turns import joined
from likelier.utils.errors import ConfigError
from tests.helpers.support import tiny_tokenizer

CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
# As Qwen3's: the reasoning of turns before the last question of a user is left out, an empty block stands for none.
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_HEADERS = (  # as Mistral's: nothing before an answer, the end behind it
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + '<|im_end|>' }}{% else %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}"
)
REWRITES = (  # the last turn is marked as such, whoever's it is
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ('!' if loop.last else '') + '\n' + m.content }}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant!\n' }}{% endif %}"
)


def message(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def user(content: str) -> dict[str, Any]:
    return message("user", content)


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return message("assistant", content, **more)


def tool(content: str) -> dict[str, Any]:
    return message("tool", content)


def records(*rows: dict[str, Any]) -> list[Record]:
    found = convert(NamedRows("rows", iter(stream_rows(list(rows)).rows)))
    assert not found.unusable, str(found.unusable[0])
    return found.records


def roles(record: Record) -> list[str]:
    """The roles of prompt and answers, by their first letters."""
    return ["".join(one.role[0] for one in part) for part in (record.prompt, *answers_of(record))]  # type: ignore[union-attr]


def tokenized(*rows: dict[str, Any], template: str = "", chat: ChatOptions | None = None, **more: Any) -> Tokenized:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    settings: dict[str, Any] = {"max_length": 2048, **more}
    return tokenize_records(records(*rows), tokenizer, chat=chat, **settings)


def shown(group: Group, side: int = 0) -> str:
    """The prompt's text, a bar, the answer's with what is not trained on in brackets."""
    tokenizer, ids = tiny_tokenizer(), group.answers[side]
    mask = group.own_masks[side]
    mask = np.ones(len(ids), dtype=bool) if mask is None else mask
    text, place = tokenizer.decode(group.prompt) + "|", 0
    for end in [*(np.flatnonzero(np.diff(mask.astype(np.int8))) + 1).tolist(), len(ids)]:
        piece = tokenizer.decode(ids[place:end])
        text, place = text + (piece if mask[place] else f"[{piece}]"), end
    return text.replace("<|im_start|>", "<").replace("<|im_end|>", ">").replace("\n", "/")


# --- how rows are split ----------------------------------------------------------------------------------------------

ASKED = user("one")
ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def talk(words: str) -> list[dict[str, Any]]:
    """Messages, a word each: the first letter of the role, and the content."""
    return [message(ROLES[word[0]], word[1:]) for word in words.split()]


@pytest.mark.parametrize(
    ("chosen", "rejected", "split"),
    [
        ("uone aA", "uone aB", "u a a"),
        ("uone aA utwo aC", "uone aA utwo aD", "uau a a"),
        # part in an earlier turn, at a tool's answer, at a user's
        ("uone aA utwo aC", "uone aB utwo aC", "u aua aua"),
        ("uone aA tX aC", "uone aA tY aD", "u ata ata"),
        ("uone aA utwo aC", "uone aA uthree aC", "u aua aua"),
        # one is the beginning of the other; of different lengths
        ("uone aA", "uone aA utwo aC", "u a aua"),
        ("uone aA tX aC", "uone aB", "u ata a"),
        # two messages of the assistant in a row are one turn, never one that is begun
        ("uone aA aC", "uone aA aD", "u aa aa"),
    ],
)
def test_conversations_part_before_the_turn_in_which_they_differ(chosen: str, rejected: str, split: str) -> None:
    (pair,) = records({"chosen": talk(chosen), "rejected": talk(rejected)})
    assert roles(pair) == split.split()
    assert isinstance(pair, Pair) and isinstance(pair.prompt, tuple) and isinstance(pair.chosen, tuple)
    assert [one.content for one in pair.prompt + pair.chosen] == [one["content"] for one in talk(chosen)]


@pytest.mark.parametrize(
    ("messages", "split"),
    [
        ("uone aA", "u a"),
        ("uone aA utwo aC", "uau a"),
        ("uone aA tX aC", "u ata"),
        ("uone aA utwo aB tX tY aC tZ aD", "uau attata"),
        ("sS uone aA aB", "su aa"),
        ("uone tX aC", "ut a"),
    ],
)
def test_one_conversation_is_split_after_the_last_turn_of_somebody_else(messages: str, split: str) -> None:
    (found,) = records({"messages": talk(messages)})
    assert roles(found) == split.split()
    (labelled,) = records({"messages": talk(messages), "label": True})
    assert roles(labelled) == split.split()


@pytest.mark.parametrize(
    ("prompt", "split"), [("text", "u ata a"), (talk("uone"), "u ata a"), (talk("uone aI"), "ua ata a")]
)
def test_answers_of_several_turns_beside_a_prompt(prompt: Any, split: str) -> None:
    row = {"prompt": prompt, "chosen": [assistant("a"), tool("x"), assistant("c")], "rejected": [assistant("b")]}
    (pair,) = records(row)
    assert roles(pair) == split.split()


def test_an_answer_that_begins_or_ends_with_somebody_else_is_unusable() -> None:
    good = {"prompt": [ASKED], "chosen": [assistant("a")], "rejected": [assistant("b")]}
    bad: list[tuple[Any, str]] = [
        ([user("a"), assistant("b")], "answer-not-the-assistants"),
        ([assistant("b"), tool("x")], "answer-not-the-assistants"),
        ([assistant("b"), tool("x"), assistant(" ")], "empty-answer"),
    ]
    rows = [good, *(good | {"chosen": chosen} for chosen, _ in bad)]
    found = convert(stream_rows(rows))
    assert [row.reason for row in found.unusable] == [reason for _, reason in bad]
    called = [good, good | {"prompt": [ASKED, assistant("", tool_calls=CALL)]}]
    assert [row.reason for row in convert(stream_rows(called)).unusable] == ["prompt-ends-with-tool-calls"]


# --- what is trained on ----------------------------------------------------------------------------------------------

TRAJECTORY = {
    "prompt": [ASKED],
    "chosen": [assistant("yes"), tool("cat"), assistant("good"), user("dog"), assistant("right")],
    "rejected": [assistant("no")],
}


def test_the_model_is_trained_on_what_it_writes_itself() -> None:
    (group,) = tokenized(TRAJECTORY).groups
    assert shown(group) == "<user/one>/<assistant/|yes>/[<tool/cat>/<assistant/]good>/[<user/dog>/<assistant/]right>/"
    assert shown(group, 1) == "<user/one>/<assistant/|no>/"
    assert group.own_masks[1] is None


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (TRIMS, "<user/one><assistant/|yes>[<tool/cat><assistant/]good>[<user/dog><assistant/]right>"),
        (NO_HEADERS, "[INST] one [/INST]|yes>[[INST] cat [/INST]]good>[[INST] dog [/INST]]right>"),
    ],
)
def test_masks_under_other_templates(template: str, text: str) -> None:
    assert shown(tokenized(TRAJECTORY, template=template).groups[0]) == text


def test_two_messages_in_a_row_are_two_turns_with_a_header_between() -> None:
    row = {"chosen": [ASKED, assistant("a"), assistant("b")], "rejected": [ASKED, assistant("a"), assistant("c")]}
    (group,) = tokenized(row).groups
    assert shown(group, 1) == "<user/one>/<assistant/|a>/[<assistant/]c>/"


def test_an_answer_of_one_turn_has_no_mask() -> None:
    row = {"prompt": [ASKED], "chosen": [assistant("yes")], "rejected": [assistant("no")]}
    plain = {"prompt": "one", "chosen": "yes", "rejected": "no"}
    assert tokenized(row).groups[0].masks is None and tokenized(plain).groups[0].masks is None


def test_turns_that_a_template_rewrites_make_the_row_unusable() -> None:
    reasoned = [assistant("yes", reasoning_content="hm"), user("dog"), assistant("right", reasoning_content="so")]
    good = {"prompt": [ASKED], "completion": [assistant("no", reasoning_content="well")]}
    found = tokenized(good, good | {"completion": reasoned}, template=QWEN3)
    assert len(found.groups) == 1 and found.unusable.counts() == {"earlier-turns-rewritten": 1}
    assert "--train-on last" in found.unusable[0].detail and "message 2" in found.unusable[0].detail
    within = [assistant("yes", reasoning_content="hm"), tool("x"), assistant("right", reasoning_content="so")]
    (group,) = tokenized(good | {"completion": within}, template=QWEN3).groups  # after the last question it keeps them
    answer = "<think>/hm/</think>//yes>/[<tool/x>/<assistant/]<think>/so/</think>//right>/"
    assert shown(group) == f"<user/one>/<assistant/|{answer}"
    assert tokenized(good | {"completion": within}, template=REWRITES).unusable.counts() == {
        "earlier-turns-rewritten": 1
    }


def test_only_the_last_turn_is_trained_on_where_asked_for() -> None:
    last = ChatOptions(train_on="last")
    row = {"prompt": [ASKED], "completion": TRAJECTORY["chosen"]}
    (group,) = tokenized(row, chat=last).groups
    assert shown(group) == "<user/one>/<assistant/yes>/<tool/cat>/<assistant/good>/<user/dog>/<assistant/|right>/"
    assert group.masks is None
    head = [ASKED, assistant("a"), tool("x")]
    same = {"chosen": [*head, assistant("c")], "rejected": [*head, assistant("d")]}
    assert [shown(one, 1)[-4:] for one in tokenized(same, chat=last).groups] == ["|d>/"]
    apart = {"chosen": [ASKED, assistant("b"), tool("x"), assistant("c")], "rejected": [*head, assistant("d")]}
    in_a_row = {"chosen": [ASKED, assistant("a"), assistant("b")], "rejected": [ASKED, assistant("a"), assistant("c")]}
    found = tokenized(same, apart, in_a_row, chat=last)
    assert found.unusable.counts() == {"prompts-differ": 1, "prompt-ends-with-assistant": 1}


def test_train_on_without_an_answer_of_several_turns_has_no_effect() -> None:
    one = records({"prompt": [ASKED], "chosen": [assistant("yes")], "rejected": [assistant("no")]})
    settings: dict[str, Any] = {"wants": "pairs", "partners": False, "max_length": 99, "truncation": "drop"}
    with pytest.raises(ConfigError, match="train_on=last has no effect: no answer has several turns"):
        prepare_data(one, [], tiny_tokenizer(), method="dpo", chat=ChatOptions(train_on="last"), **settings)
    with pytest.raises(ConfigError, match="train_on='first' is unknown; known: all, last"):
        ChatOptions(train_on="first")  # type: ignore[arg-type]
    several = prepare_data(
        records(TRAJECTORY), one, tiny_tokenizer(), method="dpo", chat=ChatOptions(train_on="all"), **settings
    )
    assert several.median_length == np.median([several.train.answer_lengths()])


def test_an_end_that_is_missing_within_an_answer_is_counted() -> None:
    only_last = "{% for m in messages %}{{ m.content + ('<|im_end|>' if loop.last else ' ') }}{% endfor %}"
    assert tokenized(TRAJECTORY).answers_without_eos == 0
    every = only_last.replace("loop.last", "loop.last or m.role == 'assistant'")
    assert tokenized(TRAJECTORY, template=every).answers_without_eos == 0
    never = only_last.replace("loop.last", "loop.last and loop.index == 6")
    assert tokenized(TRAJECTORY, template=never).answers_without_eos == 2


def test_cuts_leave_trained_tokens_and_no_tail_that_nobody_is_trained_on() -> None:
    whole = tokenized(TRAJECTORY).groups[0]
    cut: dict[int, str] = {}
    for room in range(1, len(whole.answers[0]) + 1):
        limit = len(whole.prompt) + room
        found = tokenized(TRAJECTORY, truncation="cut-answer-right", max_length=limit)
        cut[room] = shown(found.groups[0]).partition("|")[2]
        assert cut[room] and not cut[room].endswith("]")
    assert "yes>/" in cut.values() and "yes>/[<tool/cat>/<assistant/]good>" in cut.values()


# --- a turn that the prompt begins -----------------------------------------------------------------------------------

BEGUN = {"prompt": [ASKED, assistant("the cat")], "chosen": " sat", "rejected": " ran"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", "<user/one>/<assistant/the cat| sat>/"),
        (TRIMS, "<user/one><assistant/the cat| sat>"),
        (NO_HEADERS, "[INST] one [/INST]the cat| sat>"),
    ],
)
def test_an_answer_goes_on_with_the_turn_that_the_prompt_begins(template: str, text: str) -> None:
    assert shown(tokenized(BEGUN, template=template).groups[0]) == text
    spaced = BEGUN | {"prompt": [ASKED, assistant("the cat ")], "chosen": "sat", "rejected": "ran"}
    (group,) = tokenized(spaced, template=template).groups
    assert shown(group).replace("|", "") == text.replace("|", "")
    assert shown(group, 1).endswith("| ran" + text.rpartition("sat")[2])


def test_a_begun_turn_that_a_template_rewrites_makes_the_row_unusable() -> None:
    thinks = {"prompt": [ASKED, assistant("<think>so")], "completion": "</think>yes"}
    drops = "{% for m in messages %}{{ '<|im_start|>' + m.content.split('</think>')[-1] + '<|im_end|>' }}{% endfor %}"
    good = {"prompt": [ASKED], "completion": "yes"}
    found = tokenized(good, thinks, template=drops)
    assert found.unusable.counts() == {"begun-turn-rewritten": 1}
    assert tokenized(thinks).unusable.counts() == {}


def test_an_answer_of_several_turns_goes_on_with_a_begun_one() -> None:
    row = {"prompt": [ASKED, assistant("the cat")], "completion": [assistant(" sat"), tool("x"), assistant("right")]}
    (group,) = tokenized(row).groups
    assert shown(group) == "<user/one>/<assistant/the cat| sat>/[<tool/x>/<assistant/]right>/"
    (last,) = tokenized(row, chat=ChatOptions(train_on="last")).groups
    assert shown(last) == "<user/one>/<assistant/the cat sat>/<tool/x>/<assistant/|right>/"


def test_the_begun_turn_and_its_rest_are_one_message() -> None:
    begun = Message("assistant", "the", fields='{"name": "a"}')
    rest = Message("assistant", " cat", '[{"x": 1}]', '{"reasoning_content": "é"}')
    (turn,) = joined((begun,), (rest,))
    assert turn == Message("assistant", "the cat", '[{"x": 1}]', '{"name": "a", "reasoning_content": "é"}')


# --- kept ids --------------------------------------------------------------------------------------------------------


def test_masks_come_back_from_disk(tmp_path: Path) -> None:
    found = records(*([TRAJECTORY] * 500 + [BEGUN] * 500))
    folder = TokenFolder.of(found, tiny_tokenizer(), ChatOptions(), tmp_path)
    assert folder is not None
    from likelier.data.tokenize import _record_ids

    made = list(_record_ids(found, tiny_tokenizer(), ChatOptions()))
    folder.write(made)
    read = list(folder.read() or ())
    for kept, fresh in zip(read, made, strict=True):
        assert (kept.masks is None) == (fresh.masks is None)
        for one, other in zip(kept.masks or (), fresh.masks or (), strict=True):
            assert (one is None) == (other is None) and (one is None or np.array_equal(one, other))  # type: ignore[arg-type]
    (folder.path / "gaps.npy").unlink()
    with pytest.warns(match="damaged"):
        assert folder.read() is None
    folder.write(made[500:])
    assert not (folder.path / "gaps.npy").exists()


@pytest.mark.parametrize("chat", [ChatOptions(), ChatOptions(train_on="last")])
def test_ids_in_common_keep_masks_and_never_join_answers_to_different_prompts(chat: ChatOptions) -> None:
    head = [assistant("a"), tool("x")]
    same = {"prompt": [ASKED], "chosen": [*head, assistant("c")], "rejected": [*head, assistant("d")]}
    pairs, tokenizer = records(TRAJECTORY, same), tiny_tokenizer()
    labels, settings = to_labels(pairs), {"max_length": 99, "chat": chat, "cached": True}  # type: ignore[arg-type]
    apart = [tokenize_records(rows, tokenizer, **settings) for rows in (labels, pairs, to_demonstrations(pairs))]  # type: ignore[arg-type]
    with sharing_ids():
        shared = [tokenize_records(rows, tokenizer, **settings) for rows in (labels, pairs, to_demonstrations(pairs))]  # type: ignore[arg-type]
    for one, other in zip(shared, apart, strict=True):
        assert one.unusable.counts() == other.unusable.counts()
        assert [group.answer_keys for group in one.groups] == [group.answer_keys for group in other.groups]
        assert [group.prompt.tobytes() for group in one.groups] == [group.prompt.tobytes() for group in other.groups]


def test_what_convert_writes_reads_as_the_same_records(tmp_path: Path) -> None:
    from likelier.data.convert import write_records

    for number, row in enumerate((TRAJECTORY, BEGUN, {"messages": [ASKED, *TRAJECTORY["chosen"]]})):
        found, path = records(row), tmp_path / f"{number}.jsonl"
        write_records(found, path)
        again = load_preferences(path).train
        assert [(one.prompt, answers_of(one)) for one in again] == [(one.prompt, answers_of(one)) for one in found]
