"""A column map for a file of no known layout, guessed from the names of its columns and tried on its own rows.

Nothing is read by a guess: it is proposed, as a command to be pasted, where the file's first rows become records by it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeAlias

from likelier.data.columns import Columns, columns_of
from likelier.data.formats.codings import key_of
from likelier.data.formats.column_words import (
    ANSWER,
    BEFORE,
    CONTRASTS,
    LABEL,
    PROMPT,
    RANKS,
    SCORES,
    SIDES,
    VOTES,
    WINNER,
    words_of,
)
from likelier.data.formats.layouts import Format
from likelier.data.formats.messages import Row, is_messages, speaker
from likelier.data.formats.questions import OpenQuestion
from likelier.data.records import Source
from likelier.utils.errors import ConfigError, DataError

TRIED_ON = 200  # rows that a guess is tried on
_TRIED = 60  # maps that are tried
_DEEPEST = 2  # objects inside of objects whose fields are looked at
_WORD = 40  # characters that a judgement has at most

Kind: TypeAlias = Literal["text", "number", "messages", "texts", "numbers", "other"]
Roles: TypeAlias = "dict[str, tuple[str, ...]]"


@dataclass(frozen=True)
class Guess:
    """What to add to the column map, as words of a command (`prompt=question`), and what the tried rows become."""

    words: tuple[str, ...]
    told: str


@dataclass(frozen=True)
class _Column:
    """A column, or a field inside one, what its name says, and what its values are; `is_short` where all are words."""

    name: str
    kind: Kind
    is_short: bool

    @property
    def words(self) -> tuple[str, ...]:
        return words_of(self.name)


def guessed(
    places: Sequence[tuple[Source, Row]], own: Columns, layouts: Iterable[Format], read: Callable[[Columns], str]
) -> list[Guess]:
    """The first map by which `read` makes records of the rows; several where values can mean several things.

    `own` is the map that was given, to which a guess only adds. `read` says in words what the rows become by a map, and
    raises `DataError` or `ConfigError` where they become nothing. Where a prompt is a layout, it needs no answers.
    """
    columns = list(_columns([row for _, row in places]))
    prompts_alone = any(layout.columns == {"prompt"} for layout in layouts)
    for roles in islice(_additions(columns, own, [{}] if prompts_alone else _judged(columns)), _TRIED):
        if found := list(_held(_as_words(roles), own, read)):
            return found
    return []


def _held(words: tuple[str, ...], own: Columns, read: Callable[[Columns], str]) -> Iterator[Guess]:
    """The map if it holds, or with each of the settings that it leaves open and holds with."""
    try:
        yield Guess(words, read(_with(own, words)))
    except OpenQuestion as question:
        for setting in question.settings:
            try:
                yield Guess((*words, setting), read(_with(own, (*words, setting))))
            except (DataError, ConfigError):
                continue
    except (DataError, ConfigError):
        return


def _with(own: Columns, words: Sequence[str]) -> Columns:
    """The map that was given with these words: read as the words that will be typed."""
    added = columns_of(words)
    assert added is not None
    return Columns(**{**own.given, **added.given})


def _as_words(roles: Roles) -> tuple[str, ...]:
    return tuple(f"{role}={','.join(names)}" for role, names in roles.items())


def _additions(columns: Sequence[_Column], own: Columns, judgements: Iterable[Roles]) -> Iterator[Roles]:
    """Roles for the file's columns, the likeliest first: only what the map does not give, nor the column's own name."""
    of_map = {name for names in own.roles.values() for name in _names(names)}
    for judged in judgements:
        taken = {name for names in judged.values() for name in names} | of_map
        for asked in _asked([column for column in columns if column.name not in taken]):
            roles = {**asked, **judged}
            given = {role: _names(own.roles[role]) for role in roles.keys() & own.roles.keys()}
            added = {role: names for role, names in roles.items() if role not in given and names != (role,)}
            if all(roles[role] == names for role, names in given.items()) and added and _can_be_typed(added):
                yield added


def _names(given: str | tuple[str, ...]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else given


def _can_be_typed(roles: Roles) -> bool:
    """Whether no name has a comma, which parts columns in a word."""
    return not any("," in name for names in roles.values() for name in names)


# --- what the columns are ------------------------------------------------------------------------------------------


def _columns(rows: Sequence[Row]) -> Iterator[_Column]:
    names = dict.fromkeys(name for row in rows for name in row if isinstance(name, str))
    for name in names:
        yield from _inside(name, [row.get(name) for row in rows], _DEEPEST)


def _inside(name: str, values: Iterable[Any], deeper: int) -> Iterator[_Column]:
    """A column, and the fields of the objects that it holds."""
    known = [value for value in values if value is not None and value != ""]
    yield _Column(name, _kind_of_all(known), all(len(str(value)) <= _WORD for value in known))
    objects = [value for value in known if isinstance(value, Mapping)]
    lists = [value for value in known if isinstance(value, (list, tuple)) and not _is_talk(value)]
    inner = [one for value in lists for one in value if isinstance(one, Mapping)]
    for key in dict.fromkeys(key for one in objects or inner for key in one if isinstance(key, str)):
        if not deeper:
            return
        fields = [one.get(key) for one in objects]
        fields += [[one.get(key) for one in value] for value in lists if all(isinstance(one, Mapping) for one in value)]
        yield from _inside(f"{name}.{key}", fields, deeper - 1)


def _kind_of_all(values: Iterable[Any]) -> Kind:
    kinds: set[Kind] = {_kind(value) for value in values}
    if len(kinds) == 1:
        return kinds.pop()
    return "text" if kinds == {"text", "number"} else "other"


def _is_talk(value: Any) -> bool:
    return is_messages(value) and speaker(value[0]) is not None


def _kind(value: Any) -> Kind:
    if _is_talk(value):
        return "messages"
    if isinstance(value, (list, tuple)):
        kinds = {_kind(one) for one in value}
        return "texts" if kinds == {"text"} else "numbers" if kinds == {"number"} else "other"
    if isinstance(value, (bool, int, float)) or isinstance(key_of(value), (int, float)):
        return "number"
    return "text" if isinstance(value, str) else "other"


def _named(columns: Iterable[_Column], words: Sequence[str], kinds: Container[Kind]) -> list[_Column]:
    """The columns of these kinds whose names have one of the words: those of the first words and of few words first."""
    fitting = [one for one in columns if one.kind in kinds and not set(words).isdisjoint(one.words)]
    return sorted(
        fitting, key=lambda one: (min(words.index(word) for word in one.words if word in words), len(one.words))
    )


# --- what they may be for ------------------------------------------------------------------------------------------


def _asked(columns: Sequence[_Column]) -> Iterator[Roles]:
    """What may be the prompt, by its name or as the only text that is left; nothing, where answers bring theirs."""
    found = _named(columns, PROMPT, {"text", "messages"})
    for one in found:
        later = BEFORE.get(one.words[-1])
        rest = next((other for other in found if later is not None and other.words == (*one.words[:-1], later)), None)
        rest = rest or next((other for other in columns if later and other.words == (later,)), None)
        if rest is not None and one.kind == rest.kind == "text":
            yield {"prompt": (one.name, rest.name)}
    yield from ({"prompt": (one.name,)} for one in found)
    texts = [one for one in columns if one.kind == "text"]
    if not found and len(texts) == 1:
        yield {"prompt": (texts[0].name,)}
    yield {}


def _judged(columns: Sequence[_Column]) -> Iterator[Roles]:
    """What may be the answers and what judges them."""
    for better, worse in _contrasted(columns):
        yield {"chosen": (better.name,), "rejected": (worse.name,)}
    yield from _compared(columns)
    answers = _named(columns, ANSWER, {"texts"})
    for scores in _named(columns, SCORES, {"numbers"}):
        yield from ({"answers": (one.name,), _scores(scores): (scores.name,)} for one in answers)
    singles = _named(columns, ANSWER, {"text"})
    for role, words, kinds in (("score", SCORES, {"number"}), ("label", LABEL, {"number", "text"})):
        for judgement in _named(columns, words, kinds):
            if judgement.is_short:
                yield from ({"completion": (one.name,), role: (judgement.name,)} for one in singles if one != judgement)
    talks = [one for one in columns if one.kind == "messages"]
    for judgement in _named(columns, LABEL, {"number", "text"}):
        yield from ({"messages": (one.name,), "label": (judgement.name,)} for one in talks)
    if not any(one.is_short for one in _named(columns, (*WINNER, *LABEL), {"number", "text"})):
        yield from ({"completion": (one.name,)} for one in singles if len(singles) == 1)
        yield from ({"messages": (one.name,)} for one in talks if len(talks) == 1)
    yield {}


def _scores(column: _Column) -> str:
    return "scores" if RANKS.isdisjoint(column.words) else "ranks"


def _contrasted(columns: Sequence[_Column]) -> Iterator[tuple[_Column, _Column]]:
    """Two columns of answers of whose names one says better where the other says worse."""
    by_words = {one.words: one for one in columns if one.kind in ("text", "messages")}
    for good, bad in CONTRASTS:
        for words, better in by_words.items():
            worse = by_words.get(tuple(bad if word == good else word for word in words))
            if good in words and worse is not None:
                yield better, worse


def _compared(columns: Sequence[_Column]) -> Iterator[Roles]:
    """Answers that are numbered alike, with who won, or with numbers that are numbered likewise."""
    judges = [one for one in _named(columns, WINNER, {"text", "number"}) if one.is_short]
    numbered = _families(columns, {"number"})
    for answers in _families(columns, {"text", "messages"}):
        first, second, names = answers[0].name, answers[1].name, tuple(one.name for one in answers)
        if len(answers) == 2:
            yield from ({"first": (first,), "second": (second,), "winner": (judge.name,)} for judge in judges)
        for scores in numbered:
            given = tuple(one.name for one in scores)
            if len(answers) == 2 and not VOTES.isdisjoint(scores[0].words):
                yield {"first": (first,), "second": (second,), "votes": given}
            elif len(scores) == len(answers) and not set(SCORES).isdisjoint(scores[0].words):
                yield {"answers": names, _scores(scores[0]): given}


def _families(columns: Sequence[_Column], kinds: Container[Kind]) -> list[list[_Column]]:
    """Columns whose names differ in a number or a letter only, in its order; those named for answers first."""
    by_words = {one.words: one for one in columns if one.kind in kinds}
    found: list[list[_Column]] = []
    for words in by_words:
        for at, sides in ((at, sides) for at, word in enumerate(words) for sides in SIDES if word == sides[0]):
            named = [by_words.get((*words[:at], side, *words[at + 1 :])) for side in sides]
            known = [one for one in named[: named.index(None) if None in named else None] if one is not None]
            found += [known] if len(known) > 1 else []
    return sorted(found, key=lambda family: (set(ANSWER).isdisjoint(family[0].words), family[0].is_short))
