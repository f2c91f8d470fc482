"""The layouts that rows can have: a test on column names and the first row, and a conversion of one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from likelier.data.formats.comparisons import judged_pairs, labelled_answers, ranked_pairs, voted_pair, winner_pair
from likelier.data.formats.grouped import rankings_of_answers
from likelier.data.formats.messages import Row, is_answer, is_hh, is_messages
from likelier.data.formats.plain import (
    Conversion,
    completion,
    instruction,
    labelled,
    labelled_turns,
    last_turn,
    one,
    pair_hh,
    pair_implicit,
    pair_sharegpt,
    pair_tokenized,
    pair_with_prompt,
)
from likelier.data.formats.trees import rankings_of_messages, rankings_of_trees
from likelier.data.records import Source

Expansion: TypeAlias = "Callable[[Iterable[tuple[Source, Row]]], Iterator[tuple[Source, Row]]]"

_OF_PAIRS = frozenset({"votes", "flip_chance", "margin", "score_chosen", "score_rejected"})
_MARGINS = frozenset({"margin_coding"})
_OF_WINNERS = frozenset({"acceptable", "margin", "score_first", "score_second", "prompt"})
OF_CHATS = frozenset({"system", "tools"})
OF_ALL = OF_CHATS | {"weight", "judge"}
_REFS = frozenset({"ref_chosen_logps", "ref_rejected_logps"})
_NODE = frozenset({"id", "parent", "text", "role"})
_CHAT = frozenset({"chat", "prompt_is"})
_LABELS = frozenset({"label_coding", "threshold", "no_verdict"})
_RANKS = frozenset({"pairs_from", "ranks_best"})
_SCORES = frozenset({"pairs_from", "scores_best"})


def _has_no_judgement(row: Row) -> bool:
    """Half a pair is no demonstration: its other half is missing."""
    return not {"chosen", "rejected", "label"} & row.keys()


@dataclass(frozen=True)
class Format:
    """A layout of rows that is recognised without configuration.

    `columns` must be there, `optional` ones are read where they are (as are `OF_ALL`); `settings` are the settings of
    a column map that have an effect. `coded` names a column whose values' meaning must be known before the rows are
    converted. `expand` turns the rows of a whole file into others first.
    """

    name: str
    columns: frozenset[str]
    example: str
    convert: Conversion
    recognises: Callable[[Row], bool] = lambda row: True
    optional: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()
    coded: Literal["winner", "judgements", "label", None] = None
    expand: Expansion | None = None

    @property
    def read(self) -> frozenset[str]:
        """Every column that it reads. The rows of a tree become others, and token ids are past a chat template."""
        if self.expand is not None:
            return self.columns | self.optional
        return self.columns | self.optional | (OF_ALL - OF_CHATS if "prompt_ids" in self.columns else OF_ALL)

    def fits(self, row: Row) -> bool:
        """Whether a row has this layout."""
        return self.columns <= row.keys() and self.recognises(row)


def _columns(*names: str) -> frozenset[str]:
    return frozenset(names)


def _pairs(name: str, columns: frozenset[str], example: str, convert: Conversion, **more: Any) -> Format:
    optional = _OF_PAIRS | more.pop("optional", frozenset())
    settings = _MARGINS | more.pop("settings", frozenset())
    return Format(name, columns, example, convert, optional=optional, settings=settings, **more)


def _labels(name: str, columns: frozenset[str], example: str, convert: Conversion, **more: Any) -> Format:
    settings = _LABELS | more.pop("settings", frozenset())
    return Format(name, columns, example, convert, settings=settings, coded="label", **more)


FORMATS = (
    _pairs(
        "tokenized pairs",
        _columns("prompt_ids", "chosen_ids", "rejected_ids"),
        '{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}, also ref_chosen_logps, ref_rejected_logps',
        one(pair_tokenized),
        optional=_REFS,
    ),
    _pairs(
        "ShareGPT pairs",
        _columns("conversations", "chosen", "rejected"),
        '{"conversations": [{"from": "human", "value": "..."}], "chosen": {"from": "gpt", "value": "..."}, ...}',
        one(pair_sharegpt),
        recognises=lambda row: is_messages(row["conversations"]),
    ),
    _pairs(
        "prompt, chosen, rejected",
        _columns("prompt", "chosen", "rejected"),
        '{"prompt": "...", "chosen": "...", "rejected": "..."}, or message lists [{"role": "user", "content": "..."}]',
        one(pair_with_prompt),
        settings=_CHAT,
    ),
    _pairs(
        "HH-RLHF dialogues",
        _columns("chosen", "rejected"),
        '{"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": "..."}',
        one(pair_hh),
        recognises=lambda row: is_hh(row["chosen"]),
    ),
    _pairs(
        "conversations with an implicit prompt",
        _columns("chosen", "rejected"),
        '{"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}',
        one(pair_implicit),
        recognises=lambda row: is_messages(row["chosen"]) and not is_answer(row["chosen"]),
    ),
    Format(
        "two answers and a winner",
        _columns("first", "second", "winner"),
        '{"prompt": "...", "first": "...", "second": "...", "winner": "a"}, or each annotator\'s winner: ["a", "b"]',
        winner_pair,
        recognises=lambda row: "prompt" in row or is_hh(row["first"]) or is_messages(row["first"]),
        optional=_OF_WINNERS,
        settings=_CHAT | _MARGINS | {"winner_coding", "scale", "label_coding", "no_verdict"},
        coded="winner",
    ),
    Format(
        "two answers and their votes",
        _columns("first", "second", "votes"),
        '{"prompt": "...", "first": "...", "second": "...", "votes": [3, 1, 0]}, for first, for second, ties',
        voted_pair,
        recognises=lambda row: "prompt" in row or is_hh(row["first"]) or is_messages(row["first"]),
        optional=_OF_WINNERS - {"acceptable"},
        settings=_CHAT | _MARGINS,
    ),
    Format(
        "ranked answers",
        _columns("prompt", "answers", "ranks"),
        '{"prompt": "...", "answers": ["...", "...", "..."], "ranks": [1, 3, 2]}, with ranks_best=smallest',
        ranked_pairs,
        settings=_CHAT | _RANKS,
    ),
    Format(
        "scored answers",
        _columns("prompt", "answers", "scores"),
        '{"prompt": "...", "answers": ["...", "...", "..."], "scores": [8.5, 2, 5]}, the largest is the best',
        ranked_pairs,
        settings=_CHAT | _SCORES,
    ),
    Format(
        "answers with a judgement for each two",
        _columns("prompt", "answers", "judgements"),
        '{"prompt": "...", "answers": ["...", "...", "..."], "judgements": ["a", "b", "tie"]}, of 1 v 2, 1 v 3, 2 v 3',
        judged_pairs,
        settings=_CHAT | {"winner_coding", "no_verdict"},
        coded="judgements",
    ),
    _labels(
        "prompt, completion, label",
        _columns("prompt", "completion", "label"),
        '{"prompt": "...", "completion": "...", "label": true}',
        labelled(completion),
        settings=_CHAT,
    ),
    _labels(
        "answers, each with a label",
        _columns("prompt", "answers", "label"),
        '{"prompt": "...", "answers": ["...", "...", "..."], "label": [true, false, true]}',
        labelled_answers,
        settings=_CHAT,
    ),
    _labels(
        "messages, label",
        _columns("messages", "label"),
        '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}], "label": true}',
        labelled_turns,
        recognises=lambda row: is_messages(row["messages"]),
    ),
    _labels(
        "ShareGPT conversations, label",
        _columns("conversations", "label"),
        '{"conversations": [{"from": "human", ...}, {"from": "gpt", ...}], "label": true}',
        labelled_turns,
        recognises=lambda row: is_messages(row["conversations"]),
    ),
    Format(
        "prompt, completion",
        _columns("prompt", "completion"),
        '{"prompt": "...", "completion": "..."}, answers without a judgement, for sft',
        one(completion),
        recognises=_has_no_judgement,
        settings=_CHAT,
    ),
    Format(
        "a scored answer a row",
        _columns("prompt", "completion", "score"),
        '{"prompt": "...", "completion": "...", "score": 7}, the answers of one prompt as a ranking, by a column map',
        ranked_pairs,
        recognises=lambda row: "label" not in row,
        optional=OF_CHATS,
        settings=_CHAT | _SCORES,
        expand=rankings_of_answers,
    ),
    Format(
        "messages",
        _columns("messages"),
        '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}, for sft on the last turn',
        one(last_turn),
        recognises=lambda row: is_messages(row["messages"]) and _has_no_judgement(row),
    ),
    Format(
        "ShareGPT conversations",
        _columns("conversations"),
        '{"conversations": [{"from": "human", ...}, {"from": "gpt", ...}]}, for sft on the last turn',
        one(last_turn),
        recognises=lambda row: is_messages(row["conversations"]) and _has_no_judgement(row),
    ),
    Format(
        "instruction, output",
        _columns("instruction", "output"),
        '{"instruction": "...", "input": "...", "output": "..."}, for sft',
        one(instruction),
        recognises=lambda row: isinstance(row["output"], str) and _has_no_judgement(row),
        optional=_columns("input"),
    ),
    Format(
        "conversation tree, a message a row",
        _NODE,
        '{"id": "2", "parent": "1", "role": "assistant", "text": "...", "rank": 0}, also score instead of rank',
        ranked_pairs,
        optional=_columns("rank", "score"),
        settings=_RANKS | _SCORES,
        expand=rankings_of_messages,
    ),
    Format(
        "conversation tree, a tree a row",
        _columns("tree"),
        '{"tree": {"role": "user", "text": "...", "replies": [{"role": "assistant", "text": "...", "rank": 0}, ...]}}',
        ranked_pairs,
        recognises=lambda row: isinstance(row["tree"], dict),
        settings=_RANKS | _SCORES,
        expand=rankings_of_trees,
    ),
)
