"""What a row trains on, token by token: what is read, what is trained on, what was cut, what of the row is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from likelier.data.ends import Ends, control_tokens
from likelier.data.groups import Group
from likelier.data.masks import Mask
from likelier.data.options import ChatOptions
from likelier.data.records import Record, TokenIds
from likelier.data.token_text import token_texts
from likelier.data.tokenize import Tokenized, Truncation, tokenize_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind: TypeAlias = Literal["context", "trained", "fed"]
_NO_LIMIT = 1 << 30
_MARK = 24  # characters of the text around a boundary that are quoted


@dataclass(frozen=True)
class ShownToken:
    """A token: its id, what it adds to the text, whether it is a special one, and what it is for: `context` before the
    answer, `trained` on, or `fed` inside an answer of several turns without being trained on.
    """

    id: int
    text: str
    kind: Kind
    special: bool


@dataclass(frozen=True)
class ShownAnswer:
    """An answer by the name of its column, with how it ends."""

    name: str
    tokens: tuple[ShownToken, ...]
    ends: str

    @property
    def trained(self) -> int:
        """Tokens that are trained on."""
        return sum(token.kind == "trained" for token in self.tokens)


@dataclass(frozen=True)
class RowPreview:
    """One row: the context, its answers, where and why these start, and what is worth knowing.

    `problem` is why the row is left out, or ends the run, empty where it trains; its tokens are shown all the same, if
    there are any. `cut` and `missing` tell what truncation took and what of the row is not in the tokens.
    """

    source: str
    kind: str
    prompt: tuple[ShownToken, ...]
    answers: tuple[ShownAnswer, ...]
    starts: str
    problem: str
    cut: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...] = ()


def preview_rows(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    truncation: Truncation = "drop",
    chat: ChatOptions | None = None,
) -> list[RowPreview]:
    """What each record trains on, whether it can be trained on or not. See `tokenize_records` for the arguments."""
    look = _Look(tokenizer, max_length, truncation, chat or ChatOptions())
    return [look.at(record) for record in records]


@dataclass(frozen=True)
class _Look:
    tokenizer: Any
    max_length: int
    truncation: Truncation
    chat: ChatOptions

    def at(self, record: Record) -> RowPreview:
        kept = self._tokenized(record, self.max_length, "collect")
        whole = self._tokenized(record, _NO_LIMIT, "ignore")
        group = next(iter(kept.groups or whole.groups), None)
        problem = next((f"{row.reason}: {row.detail}".rstrip(": ") for row in kept.unusable), "")
        missing = tuple(one.name for one in kept.unprinted)
        kind = type(record).__name__.lower()
        if group is None:
            return RowPreview(str(record.source), kind, (), (), "", problem, (), missing)
        return RowPreview(
            source=str(record.source),
            kind=kind,
            prompt=_context(group, self.tokenizer),
            answers=_answers(group, self.tokenizer),
            starts=self._starts(record, group, merged=bool(whole.boundary_merges)),
            problem=problem,
            cut=_cut(group, whole.groups[0]) if kept.groups and whole.groups else (),
            missing=missing,
            added=tuple(kept.added),
        )

    def _tokenized(self, record: Record, limit: int, losses: Literal["collect", "ignore"]) -> Tokenized:
        chat = self.chat if isinstance(record.prompt, tuple) else None
        truncation = "drop" if self.truncation == "error" else self.truncation
        settings: dict[str, Any] = {"max_length": limit, "truncation": truncation, "chat": chat}
        return tokenize_records([record], self.tokenizer, losses=losses, too_long=self.max_length, **settings)

    def _starts(self, record: Record, group: Group, *, merged: bool) -> str:
        if isinstance(record.prompt, TokenIds):
            return "where the file says"
        if merged:
            return "at the first token that is another one than in the prompt alone: it reaches across the boundary"
        tail = self.tokenizer.decode(group.prompt.tolist())[-_MARK:]
        if isinstance(record.prompt, str):
            return f"behind the prompt's text, {tail!r}"
        begun = record.prompt[-1].role == "assistant"
        return f"behind the {'begun turn' if begun else 'generation prompt of the template'}, {tail!r}"


def preview_group(group: Group, tokenizer: PreTrainedTokenizerBase) -> RowPreview:
    """A row as it was tokenized already: its tokens, and nothing on how they came about."""
    kind = "pair" if group.is_pair else "row"
    return RowPreview(str(group.source), kind, _context(group, tokenizer), _answers(group, tokenizer), "", "", (), ())


def _context(group: Group, tokenizer: Any) -> tuple[ShownToken, ...]:
    kinds: list[Kind] = ["context"] * len(group.prompt)
    return _tokens(group.prompt, kinds, tokenizer)


def _answers(group: Group, tokenizer: Any) -> tuple[ShownAnswer, ...]:
    found, ends = [], Ends(tokenizer)
    for name, ids, mask in zip(_names(group), group.own_answers, group.own_masks, strict=True):
        found.append(ShownAnswer(name, _tokens(ids, _kinds(ids, mask), tokenizer), ends.in_words(ids)))
    return tuple(found)


def _names(group: Group) -> Sequence[str]:
    """What the answers are called."""
    if group.scores is not None:
        return [f"answer {number}, score {score:g}" for number, score in enumerate(group.scores, 1)]
    return ("chosen", "rejected") if group.is_pair else ("answer",)


def _tokens(ids: np.ndarray, kinds: Sequence[Kind], tokenizer: Any) -> tuple[ShownToken, ...]:
    special = control_tokens(tokenizer)
    numbers = [int(token) for token in ids]
    texts = token_texts(tokenizer, numbers)
    return tuple(
        ShownToken(number, text, kind, number in special)
        for number, text, kind in zip(numbers, texts, kinds, strict=True)
    )


def _kinds(ids: np.ndarray, mask: Mask) -> list[Kind]:
    return ["trained"] * len(ids) if mask is None else ["trained" if one else "fed" for one in mask.tolist()]


def _cut(group: Group, whole: Group) -> tuple[str, ...]:
    """What truncation took, in words."""
    found = []
    if len(group.prompt) < len(whole.prompt):
        found.append(f"the prompt's first {len(whole.prompt) - len(group.prompt)} tokens")
    for kept, full in zip(group.own_answers, whole.own_answers, strict=True):
        if len(kept) < len(full):
            found.append(f"the last {len(full) - len(kept)} of an answer's {len(full)} tokens")
    return tuple(found)


# --- in a few lines ------------------------------------------------------------------------------------------------

_CONTEXT_SHOWN, _ANSWER_SHOWN = 40, 90


def in_brief(row: RowPreview) -> list[str]:
    """At most three lines: the end of the context, and each answer in brackets."""
    lines = [
        f"{row.source} trains on what stands in brackets"
        + (f", but {row.problem.split(':')[0]}" if row.problem else ":")
    ]
    for answer in row.answers:
        context, text = visible(row.prompt), bracketed(answer.tokens)
        before = context if len(context) <= _CONTEXT_SHOWN else "..." + context[-_CONTEXT_SHOWN:]
        if len(text) > _ANSWER_SHOWN:
            text = f"{text[: _ANSWER_SHOWN - 30]} ... {text[-25:]}"
        lines.append(f"  {answer.name}: {before}{text}")
    return lines


def visible(tokens: Sequence[ShownToken]) -> str:
    """Their text in one line, line ends and tabs as marks."""
    return "".join(token.text for token in tokens).replace("\t", "\u21e5").replace("\n", "\u21b5")


def bracketed(tokens: Sequence[ShownToken]) -> str:
    """The same, what is trained on in brackets."""
    found, inside = "", False
    for token in tokens:
        if (token.kind == "trained") != inside:
            found, inside = found + ("]" if inside else "["), not inside
        found += visible((token,))
    return found + ("]" if inside else "")


def in_card(row: RowPreview) -> dict[str, str]:
    """What a run card keeps of it: the text, what is trained on in brackets."""
    answers = {answer.name: bracketed(answer.tokens)[:_KEPT] for answer in row.answers}
    return {"source": row.source, "prompt": visible(row.prompt)[-_KEPT:], **answers}


_KEPT = 2000  # characters of each text


def as_json(row: RowPreview) -> dict[str, Any]:
    """Everything, with stable names."""
    return {
        "source": row.source,
        "kind": row.kind,
        "problem": row.problem or None,
        "starts": row.starts,
        "cut": list(row.cut),
        "not_in_the_tokens": list(row.missing),
        "written_by_the_template": list(row.added),
        "prompt": [asdict(token) for token in row.prompt],
        "answers": [
            {
                "name": answer.name,
                "trained_tokens": answer.trained,
                "ends": answer.ends,
                "tokens": [asdict(token) for token in answer.tokens],
            }
            for answer in row.answers
        ],
    }
