"""Answers of several turns and prompts that begin one: what of them is trained on, and where it stands in the tokens.

A turn of the assistant inside an answer is found by rendering the conversation up to it, with the generation prompt,
and up to its end. Both texts must be beginnings of the whole: only then does the model, when it writes, stand where it
is trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from likelier.data.fidelity import Render
from likelier.data.masks import Mask, Masks, together
from likelier.data.options import ChatOptions
from likelier.data.records import Content, Demonstration, Labelled, Message, Pair, Record, answers_of, spoken_key
from likelier.data.rendering import RowRefused, Then
from likelier.utils.errors import ConfigError

Talk = tuple[Message, ...]


def begins_answer(prompt: Content) -> bool:
    """Whether the prompt ends inside a turn of the assistant, with which the answer goes on."""
    return isinstance(prompt, tuple) and prompt[-1].role == "assistant"


def joined(prompt: Talk, answer: Talk) -> Talk:
    """The whole conversation; a begun turn and what goes on with it are one message."""
    if not begins_answer(prompt):
        return prompt + answer
    begun, more = prompt[-1], answer[0]
    fields = {name: value for one in (begun, more) if one.fields for name, value in json.loads(one.fields).items()}
    turn = Message(
        "assistant",
        begun.content + more.content,
        more.tool_calls,
        json.dumps(fields, ensure_ascii=False, sort_keys=True) if fields else "",
    )
    return (*prompt[:-1], turn, *answer[1:])


def has_several_turns(record: Record) -> bool:
    """Whether an answer of the record is more than one message."""
    return any(isinstance(answer, tuple) and len(answer) > 1 for answer in answers_of(record))


def as_trained(record: Record, chat: ChatOptions) -> Record:
    """The record as it is trained on: with `train_on` last, all of an answer but its last turn belongs to the prompt.
    Raises `RowRefused` where that gives no prompt that both answers share.
    """
    if chat.train_on != "last" or not has_several_turns(record) or not isinstance(record.prompt, tuple):
        return record
    answers = [answer for answer in answers_of(record) if isinstance(answer, tuple)]
    prompts = [record.prompt if len(one) == 1 else joined(record.prompt, one[:-1]) for one in answers]
    if len({spoken_key(prompt) for prompt in prompts}) > 1:
        detail = "the conversations part before the last turn, which alone is trained on; leave --train-on at all"
        raise RowRefused(record.source, "prompts-differ", detail)
    if any(len(one) > 1 and one[-2].role == "assistant" for one in answers):
        detail = "the last turn, which alone is trained on, follows another one of the assistant's"
        raise RowRefused(record.source, "prompt-ends-with-assistant", detail)
    return _with_parts(record, prompts[0], [one[-1:] for one in answers])


def check_train_on(records: Sequence[Record], chat: ChatOptions) -> None:
    """Raises `ConfigError` for the option where no answer has several turns."""
    if chat.train_on is not None and not any(map(has_several_turns, records)):
        raise ConfigError(f"train_on={chat.train_on} has no effect: no answer has several turns; drop it")


def _with_parts(record: Record, prompt: Talk, answers: Sequence[Talk]) -> Record:
    if isinstance(record, Pair):
        return replace(record, prompt=prompt, chosen=answers[0], rejected=answers[1])
    assert isinstance(record, (Labelled, Demonstration))
    return replace(record, prompt=prompt, answer=answers[0])


def check_begun(record: Record, prompt: str, wholes: Sequence[str]) -> None:
    """Raise `RowRefused` where a begun turn is rendered otherwise than the same turn when it is finished."""
    if begins_answer(record.prompt) and not all(whole.startswith(prompt) for whole in wholes):
        raise RowRefused(
            record.source,
            "begun-turn-rewritten",
            "the chat template renders the turn that the prompt begins otherwise once the answer goes on with it, so "
            "the model would be trained in a place where it never writes; end the prompt with the turn before",
        )


def edges(record: Record, asked: str, wholes: Sequence[str], render: Render) -> Iterator[str]:
    """For each answer, rendered whole in `wholes` behind the prompt as it is `asked`: the conversation up to the end of
    each turn of the assistant but the last, and up to where it writes the next one. Raises `RowRefused` where one is no
    beginning of the whole.
    """
    # Behind each turn of the assistant's but the last come two edges, where it ends and where the next one begins:
    #     user: ask | assistant: call | tool: 42 | assistant: it is 42
    #                                 ^          ^
    prompt = record.prompt
    for answer, whole in zip(answers_of(record), wholes, strict=True):
        if not isinstance(prompt, tuple) or not isinstance(answer, tuple):
            continue
        talk = joined(prompt, answer)
        start = asked
        for turn, following in pairwise(_turns(talk, len(talk) - len(answer))):
            ends: tuple[tuple[int, Then], ...] = ((turn + 1, "nothing"), (following, "answer"))
            for end, then in ends:
                text = render(talk[:end], record.source, record.tools, then=then)
                if then == "nothing" and not whole.startswith(text):
                    text = _without_empty_reasoning(text, start, whole)
                if not whole.startswith(text):
                    raise _rewritten(record, turn, then)
                yield text
                start = text


_EMPTY_REASONING = re.compile(r"\s*<think>\s*</think>\s*")


def _without_empty_reasoning(text: str, start: str, whole: str) -> str:
    """A turn, which begins behind `start`, without the empty block of reasoning that some templates (Qwen3's) write
    into the last turn alone, and the white space that `whole` has in its place.
    """
    block = _EMPTY_REASONING.match(text, len(start)) if text.startswith(start) else None
    if block is None:
        return text
    left = whole[len(start) :]
    return start + left[: len(left) - len(left.lstrip())] + text[block.end() :]


def _turns(talk: Talk, start: int) -> list[int]:
    return [place for place in range(start, len(talk)) if talk[place].role == "assistant"]


def _rewritten(record: Record, turn: int, then: str) -> RowRefused:
    what = f"message {turn + 1}, a turn of the assistant," if then == "nothing" else "what stands before a later turn"
    return RowRefused(
        record.source,
        "earlier-turns-rewritten",
        f"the chat template renders {what} otherwise once more turns follow, so it cannot be trained on as the model "
        "writes it. --train-on last trains on the last turn only",
    )


def turn_masks(
    answers: Sequence[Content], wholes: Sequence[list[int]], cuts: Sequence[list[int]], boundary: int
) -> Masks:
    """Which tokens of each answer the model writes itself.

    `wholes` are the ids of prompt + answer, `cuts` those of the `edges`, and `boundary` is where the answers begin.
    """
    if not cuts:
        return None
    left = iter(cuts)
    return together([_mask(answer, whole, left, boundary) for answer, whole in zip(answers, wholes, strict=True)])


def _mask(answer: Content, whole: list[int], cuts: Iterator[list[int]], boundary: int) -> Mask:
    turns = _turns(answer, 0) if isinstance(answer, tuple) else []
    mask = np.ones(len(whole) - boundary, dtype=bool)
    for _ in turns[1:]:  # what stands between the two edges, a tool's result and its mark-up, is read and not written
        end, start = (max(0, common_prefix(next(cuts), whole) - boundary) for _ in range(2))
        mask[end:start] = False
    return mask


def common_prefix(left: list[int], right: list[int]) -> int:
    """How many ids two lists begin with alike."""
    length = min(len(left), len(right))
    return next((i for i in range(length) if left[i] != right[i]), length)
