"""Rows with other column names, brought to the layouts' own: by a column map, or by that of a known data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from likelier.data.columns import TEXT_ROLES, Columns, constant
from likelier.data.ends import begins_with_mark
from likelier.data.formats.codings import key_of, margin_of
from likelier.data.formats.messages import Row, Unfit, as_json, as_number, is_conversation, is_messages
from likelier.data.formats.structured import shape_of, structure, structured
from likelier.data.formats.turn_names import TALKS, label_inside, label_of_turn, turn_names, without_label
from likelier.data.records import Source
from likelier.utils.errors import DataError, nearest

ALIASES = {"share": "winner"}  # roles that are read as another, and how they are coded tells them apart
_VERDICTS = ("winner", "judgements", "label")
_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Preset:
    """A known data set: the columns by which it is recognised, and its column map.

    `seen` are values that a file must hold for the map's coding to be believed, where others may use the columns' names
    too.
    """

    name: str
    columns: frozenset[str]
    example: str
    of: Callable[[Row], Columns]
    seen: frozenset[int] = frozenset()


def _pandalm(row: Row) -> Columns:
    annotators = _numbered(row, "annotator")
    return Columns(
        prompt=("instruction", "input"),
        first="response1",
        second="response2",
        winner=annotators,
        winner_coding="1/2/0",
        chat=True,
    )


def _numbered(row: Row, start: str) -> tuple[str, ...]:
    """The columns that are called so and have a number, in order."""
    found = [name for name in row if re.fullmatch(re.escape(start) + r"\d+", name)]
    return tuple(sorted(found, key=lambda name: int(name[len(start) :])))


PRESETS = (
    Preset(
        "LLMBar",
        frozenset({"input", "output_1", "output_2", "label"}),
        '{"input": "...", "output_1": "...", "output_2": "...", "label": 1}',
        lambda row: Columns(
            prompt="input", first="output_1", second="output_2", winner="label", winner_coding="1/2", chat=True
        ),
        frozenset({1, 2}),
    ),
    Preset(
        "PandaLM votes",
        frozenset({"instruction", "input", "response1", "response2", "annotator1"}),
        '{"instruction": "...", "input": "...", "response1": "...", "response2": "...", "annotator1": 1, ...}',
        _pandalm,
    ),
    Preset(
        "StackExchange pairs",
        frozenset({"question", "response_j", "response_k"}),
        '{"question": "...", "response_j": "the better one", "response_k": "..."}',
        lambda row: Columns(prompt="question", chosen="response_j", rejected="response_k", chat=True),
    ),
    Preset(
        "QA feedback",
        frozenset({"question", "passages", "prediction 1", "prediction 2", "preference"}),
        '{"question": "...", "passages": [["..."]], "prediction 1": "...", ..., "preference": [1, 2, 0, ...]}',
        lambda row: Columns(
            prompt="{passages}\n\n{question}",
            answers=_numbered(row, "prediction "),
            judgements="preference",
            winner_coding="1/2/0",
            chat=True,
        ),
    ),
    Preset(
        "SHP",
        frozenset({"history", "human_ref_A", "human_ref_B", "labels"}),
        '{"history": "...", "human_ref_A": "...", "human_ref_B": "...", "labels": 1}',
        lambda row: Columns(
            prompt="history", first="human_ref_A", second="human_ref_B", winner="labels", winner_coding="1/0", chat=True
        ),
    ),
    Preset(
        "HelpSteer3 preferences",
        frozenset({"context", "response1", "response2", "overall_preference"}),
        '{"context": [{"role": "user", ...}], "response1": "...", "response2": "...", "overall_preference": -2}',
        lambda row: Columns(
            prompt="context",
            first="response1",
            second="response2",
            winner="overall_preference",
            winner_coding="negative-first",
            margin="overall_preference",
        ),
    ),
    Preset(
        "arena conversations",
        frozenset({"conversation_a", "conversation_b", "winner"}),
        '{"conversation_a": [{"role": "user", ...}, ...], "conversation_b": [...], "winner": "model_a"}',
        lambda row: Columns(first="conversation_a", second="conversation_b"),
    ),
    Preset(
        "OpenAssistant messages",
        frozenset({"message_id", "parent_id", "text", "role"}),
        '{"message_id": "...", "parent_id": "...", "role": "prompter", "text": "...", "rank": 0}',
        lambda row: Columns(id="message_id", parent="parent_id", ranks_best="smallest"),
    ),
    Preset(
        "OpenAssistant trees",
        frozenset({"message_tree_id", "prompt"}),
        '{"message_tree_id": "...", "prompt": {"role": "prompter", "text": "...", "replies": [...]}}',
        lambda row: Columns(tree="prompt", ranks_best="smallest"),
    ),
)


def preset_of(row: Row) -> Preset | None:
    """The known data set that a row belongs to."""
    return next((preset for preset in PRESETS if preset.columns <= row.keys()), None)


def merged(preset: Columns, own: Columns) -> Columns:
    """A known data set's map with what the user says of it. What its values mean is known of its own columns only, and
    of its two answers in their own order.
    """
    if any(_is_other(getattr(own, role), getattr(preset, role)) for role in _CODED_BY):
        preset = replace(preset, winner_coding=None)
    if own.rank is not None or own.tree not in (None, preset.tree):
        preset = replace(preset, ranks_best=None)
    return replace(preset, **own.given)


_CODED_BY = ("first", "second", "winner", "answers", "judgements")


def _is_other(own: str | tuple[str, ...] | None, known: str | tuple[str, ...] | None) -> bool:
    """Whether the user names a column that is not the known set's; fewer annotators of it are its own."""
    if own is None or own == known:
        return False
    return isinstance(own, tuple) or not (isinstance(known, tuple) and own in known)


class ColumnMap:
    """Brings rows to the layouts' column names by a `Columns`, and keeps account of the columns that it read.

    `first` is the file's first row: a column `system` in it makes every row a conversation, and a sentence that names
    none of its columns is the same text for every row. `spelled` is the first row of which a text was read as messages,
    and `made_turns` whether any text became a turn as the map asks.
    """

    def __init__(self, columns: Columns, first: Row) -> None:
        self.turns, columns = turn_names(columns)
        self.columns = columns = _with_sentences(columns, first)
        self._label = label_inside(columns)
        self._silent = {key_of(value) for value in columns.no_verdict or ()}
        kept = {self._label[0]} & TALKS if self._label and columns.messages is None else set()
        self.used = frozenset(_named_columns(columns)) - kept
        self.without_system = columns.chat is False and columns.system is None  # texts are to stay texts
        self.has_system = columns.system is not None or "system" in first.keys() - self.used
        self.spelled: Source | None = None
        self.made_turns = False

    @property
    def constants(self) -> dict[str, str]:
        """What the map says for every row, by role."""
        roles = self.columns.roles.items()
        return {role: said for role, name in roles if isinstance(name, str) and (said := constant(name)) is not None}

    def row(self, row: Row, source: Source) -> Row:
        """The row under the layouts' names, structures as such. Raises `DataError` for a missing column, `Unfit` for a
        missing prompt and for text that cannot be read as what it begins.
        """
        named, spelled = structured(self._named(row, source), keep_text=self.columns.chat is False)
        if spelled and self.spelled is None:
            self.spelled = source
        if self._makes_turns(named):
            self.made_turns = True
            if mark := begins_with_mark(named["prompt"]):
                raise Unfit(
                    "rendered-already", f"its prompt begins with {mark}; chat=true would put it in another turn"
                )
        return self._as_chat(named)

    def shape(self, row: Row, source: Source) -> Row:
        """The row as far as its layout can be seen, also where it cannot be used."""
        try:
            named = self._named(row, source)
        except Unfit:  # it may have no prompt and yet show its layout
            named = {**row, **dict.fromkeys(layout_roles(self.columns), "")}
        return self._as_chat(shape_of(named))

    def _named(self, row: Row, source: Source) -> Row:
        if not self.columns.roles and self.columns.margin_coding is None and not self._silent:
            return self.turns.row(row)
        found = {name: value for name, value in row.items() if name not in self.used}
        for role, name in self.columns.roles.items():
            found[ALIASES.get(role, role)] = _cell(row, role, name, source)
        if self._label is not None:
            found |= {name: without_label(found[name], self._label[1]) for name in TALKS if name in found}
        found |= {name: self._without_silent(found[name]) for name in _VERDICTS if self._silent and name in found}
        if self.columns.margin is not None and self.columns.margin == self.columns.winner:
            found["margin"] = abs(as_number(found["margin"]))  # its sign says who won
        elif found.get("margin") is not None and {"margin", "margin_coding"} & self.columns.given.keys():
            found["margin"] = margin_of(found["margin"], self.columns.margin_coding, source)
        prompt = found.get("prompt")
        if self.columns.prompt is not None and (prompt is None or (isinstance(prompt, str) and not prompt.strip())):
            raise Unfit("no-prompt")
        return self.turns.row(found)

    def _without_silent(self, value: Any) -> Any:
        """A verdict, or each of several, with nothing in place of what the map calls none."""
        if isinstance(value, (list, tuple)):
            return [self._without_silent(one) for one in value]
        return None if key_of(value) in self._silent else value

    def _makes_turns(self, row: Row) -> bool:
        """Whether the map makes a user's turn of the row's prompt."""
        return bool(self.columns.chat and isinstance(row.get("prompt"), str)) and not is_conversation(first_answer(row))

    def _as_chat(self, row: Row) -> Row:
        """The prompt as a user's turn where the map asks for that; a system prompt in each row or in none."""
        changed: dict[str, Any] = {}
        if self._makes_turns(row):
            changed["prompt"] = [{"role": "user", "content": row["prompt"]}]
        if self.has_system and "system" not in row:
            changed["system"] = None
        row = {**row, **changed} if changed else row
        return {name: row[name] for name in row if name != "system"} if self.without_system else row


def layout_roles(columns: Columns) -> set[str]:
    """The columns of a layout that a map gives."""
    return {ALIASES.get(role, role) for role in columns.roles}


def first_answer(row: Row) -> Any:
    """An answer of the row, to see whether answers bring their prompt with them."""
    answers = row.get("answers")
    several = answers[0] if isinstance(answers, (list, tuple)) and answers else None
    return next((row[name] for name in ("chosen", "first", "completion") if name in row), several)


def _with_sentences(columns: Columns, first: Row) -> Columns:
    """The map with quotation marks around a prompt or system prompt that is a sentence and no column's name, nor nearly
    one.
    """
    found: dict[str, Any] = {}
    for role in ("prompt", "system"):
        name = columns.roles.get(role)
        if isinstance(name, str) and " " in name.strip() and constant(name) is None and not _FIELD.search(name):
            is_column = name in first or name.partition(".")[0] in first or nearest(name, first.keys())
            found |= {} if is_column else {role: f'"{name}"'}
    return replace(columns, **found) if found else columns


def _named_columns(columns: Columns) -> Iterable[str]:
    """The columns of the file that a map names, those of a template too."""
    for names in columns.roles.values():
        for name in (names,) if isinstance(names, str) else names:
            if constant(name) is not None:
                continue
            fields = _FIELD.findall(name)
            for field in fields or [name]:
                yield field
                yield field.partition(".")[0]


def _cell(row: Row, role: str, name: str | tuple[str, ...], source: Source) -> Any:
    """What a row has for a role: a column's value, a list of several, a filled template, or a constant."""
    if isinstance(name, tuple) and role == "prompt":
        name = "\n".join(constant(one) or "{" + one + "}" for one in name)
    if isinstance(name, tuple):
        return [_cell(row, role, one, source) for one in name]
    if name not in row and (said := constant(name)) is not None:
        return said
    if name not in row and role in TEXT_ROLES and _FIELD.search(name):
        return _filled(row, name, source)
    return _value(row, name, source, role)


def _value(row: Row, name: str, source: Source, role: str = "") -> Any:
    if name in row:
        return row[name]
    column, dot, inner = name.partition(".")
    if dot and column in row:
        value = structure(row[column], column)
        if role == "label" and isinstance(value, (list, tuple)):  # of the messages that have one
            return [label_of_turn(one, inner) for one in value]
        return _inside(value, inner, f"{source}: {column}")
    close = nearest(name, row.keys())
    text = f"""; a text for every row stands in quotation marks: {role}='"{name}"'""" if role in TEXT_ROLES else ""
    raise DataError(
        f"{source}: no column {name!r}, which the column map names{close}; there are {sorted(row.keys())}{text}"
    )


def _inside(value: Any, name: str, place: str) -> Any:
    """The value under a dotted name, of each object where there is a list of them."""
    if isinstance(value, (list, tuple)):
        return [_inside(one, name, place) for one in value]
    head, dot, rest = name.partition(".")
    value = structure(value, place)
    if not isinstance(value, Mapping) or head not in value:
        raise DataError(f"{place} has no {head!r} inside, which the column map names")
    return _inside(value[head], rest, place) if dot else value[head]


def _filled(row: Row, template: str, source: Source) -> str:
    lines = (_line(row, line, source) for line in template.split("\n"))
    return "\n".join(line for line in lines if line is not None).strip("\n")


def _line(row: Row, line: str, source: Source) -> str | None:
    """A line of a template; None where it has columns and all of them are empty."""
    values = {field: _as_text(_value(row, field, source)) for field in _FIELD.findall(line)}
    if values and not any(values.values()):
        return None
    return _FIELD.sub(lambda match: values[match.group(1)], line)


def _as_text(value: Any) -> str:
    """Part of a prompt as text: lists of texts joined, by blanks inside and by empty lines outside."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)) and not is_messages(value):
        nested = any(isinstance(one, (list, tuple)) for one in value)
        return ("\n\n" if nested else " ").join(map(_as_text, value))
    if isinstance(value, (Mapping, list, tuple)):
        return as_json(value)
    return str(value)
