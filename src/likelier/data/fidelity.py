"""Whether a rendered conversation says what its record says: no text lost, and the answer where the model writes.

A chat template may drop what it likes: reasoning, tool calls, a system turn, fields that it does not know. Each text
of a record is looked for in what the template made of it, up to the white space around it; and for each shape of a
conversation the template is asked once with texts that occur nowhere else, since a short one is found by accident.
Then what the tokenizer loses of an answer, and what the template adds to one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from likelier.data.masks import Mask
from likelier.data.options import ChatOptions
from likelier.data.records import Content, Message, Record, Source, TokenIds, answers_of
from likelier.data.rendering import REASONING_FIELDS, RowRefused, Then, as_given, reasoning_in, without_reasoning
from likelier.utils.strict_json import BrokenJson, parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Render(Protocol):
    """A conversation with its tools (JSON text) as text, with what is to come behind it (see `rendering.render`)."""

    def __call__(
        self, messages: tuple[Message, ...], source: Source | str, tools: str, *, then: Then | None = None
    ) -> str: ...


LOSSES = ("text-lost", "reasoning-lost", "answer-elsewhere")  # reasons for which a row's tokens say another thing
_SHORT = 20  # characters of a text that may stand in a template by accident
_SHOWN = 80
_STRIDE = 1 << 12
_NO_SPACE = dict.fromkeys(code for code in range(0x3001) if chr(code).isspace())  # as `str.split` has it


@dataclass
class Fidelity:
    """Checks renderings of one template against the records they come from, unless it is told not to."""

    render: Render
    chat: ChatOptions
    checks: bool = True
    _probed: dict[Any, frozenset[tuple[int, str]]] = field(default_factory=dict)

    def require(
        self, prompt: tuple[Message, ...], answer: tuple[Message, ...], asked: str, whole: str, record: Record
    ) -> None:
        """Raises `RowRefused` where `asked` (the prompt with its generation prompt) and `whole` (with the answer
        behind it) do not say what the messages say, or the answer stands where the model is not asked to write.
        """
        if not self.checks:
            return
        given, source = as_given(prompt + answer, self.chat), record.source
        count = len(given) - len(answer)
        if self.chat.reasoning == "drop":
            _require_something(given[count:], source)
        lost = self._lost_marks(prompt, answer, record.tools)
        own = whole[_common(asked, whole) :]
        if not all(holds(own, one.content) for one in answer):  # the generation prompt may write its beginning
            own = whole[_common(self.render(prompt, source, record.tools, then="nothing"), whole) :]
        for place in (*range(count, len(given)), *range(count)):  # the answer first: it tells most
            in_answer, parts = place >= count, {part for at, part in lost if at == place - len(given)}
            _require_text(given[place], own if in_answer else asked, source, in_answer=in_answer, lost=parts)
        _require_place(asked, whole, source)

    def _lost_marks(
        self, prompt: tuple[Message, ...], answer: tuple[Message, ...], tools: str
    ) -> frozenset[tuple[int, str]]:
        """What a conversation of this shape does not show: messages, counted from the end (-1 the last), and of each
        its `text` or its `reasoning`.
        """
        messages = prompt + answer
        shape = (len(prompt), bool(tools), *((one.role, bool(one.content.strip()), *names_in(one)) for one in messages))
        if shape not in self._probed:
            self._probed[shape] = self._probe(prompt, answer, tools)
        return self._probed[shape]

    def _probe(
        self, prompt: tuple[Message, ...], answer: tuple[Message, ...], tools: str
    ) -> frozenset[tuple[int, str]]:
        marked = tuple(_marked(message, place) for place, message in enumerate(prompt + answer))
        try:
            asked = self.render(marked[: len(prompt)], "the template", tools)
            whole = self.render(marked, "the template", tools)
        except RowRefused:  # it wants texts of a certain kind
            return frozenset()
        own = whole[_common(asked, whole) :]
        shown = [asked] * len(prompt) + [own] * len(answer)
        return frozenset(
            (place - len(marked), part)
            for place, message in enumerate(marked)
            for part in ("text", "reasoning")
            if (mark := _mark(place, part)) in message.content + message.fields and mark not in shown[place]
        )


def _mark(place: int, part: str) -> str:
    return f"zq{place}xk{place * 7919}{part}qz"


def _marked(message: Message, place: int) -> Message:
    """The message with texts that occur nowhere else."""
    held: dict[str, Any] = json.loads(message.fields) if message.fields else {}
    for name in REASONING_FIELDS & held.keys():
        if isinstance(held[name], str) and held[name].strip():
            held[name] = _mark(place, "reasoning")
    content = _mark(place, "text") if message.content.strip() else message.content
    return replace(message, content=content, fields=json.dumps(held) if held else "")


def _common(left: str, right: str) -> int:
    """How many characters two texts begin with together."""
    if right.startswith(left):
        return len(left)
    at = 0
    while left[at : at + _STRIDE] == right[at : at + _STRIDE] and at < len(right):
        at += _STRIDE  # by large strides where a text is large
    ends = zip(left[at : at + _STRIDE], right[at : at + _STRIDE], strict=False)
    return next((at + place for place, (a, b) in enumerate(ends) if a != b), min(len(left), len(right)))


def names_in(message: Message) -> tuple[str, ...]:
    """What a message holds beyond role and text, by name."""
    own = tuple(json.loads(message.fields)) if message.fields else ()
    return (*own, "tool_calls") if message.tool_calls else own


def _require_something(answer: tuple[Message, ...], source: Source | str) -> None:
    if not any(one.content.strip() or one.tool_calls or one.fields for one in answer):
        raise RowRefused(source, "empty-answer", "nothing of the answer is left without its reasoning")


def _require_text(message: Message, text: str, source: Source | str, *, in_answer: bool, lost: Set[str]) -> None:
    """Raises `RowRefused` unless the message's text stands in the rendered one; of earlier turns reasoning may be left
    out, which is how a template shows the model its own past.
    """
    place = f"the {message.role} turn" if message.role != "assistant" or not in_answer else "the answer"
    content = message.content
    if not in_answer and not holds(text, content):
        content = without_reasoning(content)
    short_and_lost = "text" in lost and len(content.strip()) < _SHORT
    if content.strip() and (short_and_lost or not holds(text, content)):
        if in_answer and reasoning_in(content) and holds(text, without_reasoning(content)):
            raise _reasoning_lost(source, reasoning_in(content), "Training on answers without it is --reasoning drop")
        if not short_and_lost and respaced(text, content):
            words = f"the chat template changes the white space inside {place}: {_shown(content)}"
            raise RowRefused(source, "text-lost", f"{words}. Name one that keeps it with --chat-template")
        missing = content.strip() if short_and_lost else _missing(text, content)
        raise RowRefused(source, "text-lost", f"the chat template leaves out of {place}: {_shown(missing)}. {_MEND}")
    if in_answer:
        _require_fields(message, text, source, place, lost)


_MEND = "Name one that keeps it with --chat-template, or take the text out of the row"


def _require_fields(message: Message, text: str, source: Source | str, place: str, lost: Set[str]) -> None:
    """An answer's reasoning and tool calls are what is trained on, so that they must be there too."""
    held: dict[str, Any] = json.loads(message.fields) if message.fields else {}
    for name in REASONING_FIELDS & held.keys():
        missing = _missing_part(held[name], text, "reasoning" in lost)
        if missing is not None:
            mend = "--reasoning keep writes it into the text in front of the answer, --reasoning drop leaves it out"
            raise _reasoning_lost(source, missing, mend, f" ({name})")
    calls = _parsed(message.tool_calls) if message.tool_calls else None
    missing = _missing_leaf(calls, text)
    if missing is not None:
        words = f"the chat template leaves out of the tool calls of {place}: {_shown(missing)}"
        raise RowRefused(source, "text-lost", f"{words}. Name one that writes tool calls with --chat-template")


def _missing_part(value: Any, text: str, mark_lost: bool) -> str | None:
    """What of a field's value the text does not hold; a short text is believed only where its mark was not lost."""
    if isinstance(value, str):
        short_and_lost = mark_lost and 0 < len(value.strip()) < _SHORT
        return value if short_and_lost or not holds(text, value) else None
    return _missing_leaf(value, text)


def _missing_leaf(value: Any, text: str) -> str | None:
    """The first text inside a structure that is not there. JSON text may stand there as such, spelled twice."""
    for leaf in _leaves(value):
        if holds(text, leaf):
            continue
        inner = _parsed(leaf) if leaf[:1] in ("{", "[") else leaf
        missing = leaf if isinstance(inner, str) else _missing_leaf(inner, text)
        if missing is not None:
            return missing
    return None


def _reasoning_lost(source: Source | str, text: str, mend: str, name: str = "") -> RowRefused:
    words = f"the chat template leaves out the reasoning{name} of the answer: {_shown(text)}"
    return RowRefused(source, "reasoning-lost", f"{words}. Name one that keeps it with --chat-template. {mend}")


def _require_place(asked: str, whole: str, source: Source | str) -> None:
    common = _common(asked, whole)
    if not asked[common:].strip():  # at most white space apart, which is counted with the boundary's merges
        return
    begin = max(0, common - 20)
    raise RowRefused(
        source,
        "answer-elsewhere",
        f"the chat template asks for an answer behind {asked[begin:][-_SHOWN:]!r}, and writes this one behind "
        f"{whole[begin:common]!r}: the model would be trained where it never writes. Name a template whose answers "
        "begin as its generation prompt ends with --chat-template, or say what it is to be given "
        "(chat_template_kwargs in a run file)",
    )


# Around the marks of reasoning, templates write the empty lines that they like.
_MARKS = re.compile(r"(</?(?:think|thinking|thought|reasoning)>|\[/?THINK\])")


def holds(text: str, part: str) -> bool:
    """Whether a text holds another, but for white space around it: as it is, as JSON spells it, or with other white
    space at the marks of its reasoning. White space inside is kept as it is: code is another code without it.
    """
    part = part.strip()
    if part in text:
        return True
    if any(json.dumps(part, ensure_ascii=ascii_only)[1:-1] in text for ascii_only in (False, True)):
        return True
    return bool(_MARKS.search(part)) and _tight(part) in _tight(text)


def _tight(text: str) -> str:
    """Without white space around marks (a pattern that takes it in would look at long runs of it again and again)."""
    return "".join(piece.strip() for piece in _MARKS.split(text))


def respaced(text: str, part: str) -> bool:
    """Whether nothing is lost but white space."""
    return _squeezed(part) in _squeezed(text)


def _squeezed(text: str) -> str:
    return text.translate(_NO_SPACE)


def _missing(text: str, part: str) -> str:
    """The first line that is not there, else all of it."""
    lines = (line for line in part.strip().split("\n") if line.strip())
    return next((line for line in lines if not holds(text, line)), part.strip())


def _shown(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except BrokenJson:
        return text


_CALL_PARTS = ("name", "arguments")


def _leaves(value: Any) -> Iterator[str]:
    """Every text inside a structure, and of tool calls the name and the arguments."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        inside = value.get("function")
        call = inside if isinstance(inside, dict) else value
        kept = {name: call[name] for name in _CALL_PARTS if name in call} if "arguments" in call else call
        for one in kept.values():
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield json.dumps(value)


class Unknown:
    """Finds the unknown token in answers. Tokenizers that have none, or whose token for it is the one that begins or
    ends a text (those of bytes, which know everything), never write it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        token = tokenizer.unk_token_id
        self.token = None if token in (tokenizer.eos_token_id, tokenizer.bos_token_id) else token

    def lost(self, contents: Sequence[Content], answers: Sequence[np.ndarray], masks: Sequence[Mask]) -> str:
        """What of the answers is not in their trained tokens, in words; empty where all is. An answer that came as ids,
        or whose text spells the unknown token as often, says it itself.
        """
        for content, ids, mask in zip(contents, answers, masks, strict=True):
            if self.token is None or isinstance(content, TokenIds):
                continue
            text = content if isinstance(content, str) else "\n".join(one.content for one in content)
            count = int(((ids == self.token) if mask is None else (ids == self.token) & mask).sum())
            if count > text.count(str(self.tokenizer.unk_token)):
                return (
                    f"the tokenizer has no tokens for a part of the answer, {self._first(text)}, and writes "
                    f"{self.tokenizer.unk_token!r}, which the model would learn to say. Mend it, or leave the row out"
                )
        return ""

    def _first(self, text: str) -> str:
        words = (word for word in text.split() if word != self.tokenizer.unk_token)
        found = (word for word in words if self.token in self.tokenizer.encode(word, add_special_tokens=False))
        word = next(found, "")
        return repr(word[:80]) if word else "something that the chat template writes"


_MARK = "zqx0an1answer2qz"


def find_added(records: Iterable[Record], render: Render) -> dict[str, Source]:
    """What stands in front of an answer's text behind the generation prompt, such as an empty block of reasoning, the
    answer's own text as `…`; with the first row that is trained on it. A template is asked once for each shape.
    """
    known: set[Any] = set()
    found: dict[str, Source] = {}
    for record in records:
        for answer in answers_of(record):
            prompt = record.prompt
            if not isinstance(prompt, tuple) or not isinstance(answer, tuple) or not _is_plain(prompt, answer[0]):
                continue
            shape = (bool(record.tools), len(prompt), *((one.role, names_in(one)) for one in prompt + answer))
            if shape not in known:
                known.add(shape)
                added = _added(prompt, answer, record, render)
                if added:
                    found.setdefault(added, record.source)
    return found


def _is_plain(prompt: tuple[Message, ...], turn: Message) -> bool:
    """Whether the turn is a text without reasoning and not begun already, so that nothing but it belongs in front."""
    held = REASONING_FIELDS & set(names_in(turn))
    return bool(turn.content.strip()) and not held and not reasoning_in(turn.content) and prompt[-1].role != "assistant"


def _added(prompt: tuple[Message, ...], answer: tuple[Message, ...], record: Record, render: Render) -> str:
    marked = (replace(answer[0], content=_MARK), *answer[1:])
    try:
        asked = render(prompt, record.source, record.tools, then="answer")
        whole = render(prompt + marked, record.source, record.tools)
    except RowRefused:
        return ""
    if not whole.startswith(asked) or _MARK not in whole:  # which the checks of each row tell
        return ""
    own = whole[len(asked) : whole.rindex(_MARK) + len(_MARK)].strip().replace(_MARK, "…")
    return "" if own == "…" else own
