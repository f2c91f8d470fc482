"""Which row is looked at: one of the run's own data, one of another file, or one that was typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from likelier.data.groups import Group
from likelier.data.load import PreferenceData
from likelier.data.options import ChatOptions
from likelier.data.prepare import prepare_groups
from likelier.data.records import Demonstration, Labelled, Message, Pair, Record, Source
from likelier.data.tokenize import tokenize_records
from likelier.models.policy import Policy
from likelier.objectives import Objective
from likelier.runs.card import RunCard, required
from likelier.scoring.restore import recorded_signals
from likelier.utils.errors import ConfigError, DataError, require_text

_TYPED = Source("typed", 1, "row")


class RowName(NamedTuple):
    """What `--row` names: a number as the file counts, and the data set where the run has several."""

    number: int
    data_set: str = ""

    @staticmethod
    def parse(text: str) -> RowName:
        """From `12` or `name:12`. Raises `ValueError` for anything else (an argparse type)."""
        data_set, _, number = text.rpartition(":")
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(text)
        return RowName(int(number), data_set)


@dataclass(frozen=True)
class Subject:
    """A row, what part it had in the run, and the rows that it was weighed among (none for one from elsewhere)."""

    record: Record
    part: str = ""
    among: Sequence[Record] = ()
    held_out: bool = False


def row_of_run(data: PreferenceData, name: RowName, *, held_out: bool, split_of_one: bool, pair: int) -> Subject:
    """The row `name` of a run's data: of the held-out ones where that is asked for, else of the training data.

    `split_of_one` says that both are parts of the same files, whose rows are counted together.
    """
    if held_out and not data.test:
        raise ConfigError("held_out has no effect: the run held no rows out; drop it")
    if not held_out and (found := _found(data.train, name)):
        return Subject(_one_of(found, pair), "trained on", data.train)
    if (held_out or split_of_one) and (found := _found(data.test, name)):
        return Subject(_one_of(found, pair), "held out", data.test, held_out=True)
    raise DataError(_missing(data, name, data.test if held_out else data.train))


def row_of_file(data: PreferenceData, name: RowName, pair: int) -> Subject:
    """The row `name` of a file that need not be the run's."""
    found = _found(data.train, name)
    if not found:
        raise DataError(_missing(data, name, data.train))
    return Subject(_one_of(found, pair))


def typed_row(
    prompt: str, *, chosen: str | None, rejected: str | None, completion: str | None, label: str | None, talks: bool
) -> Subject:
    """A row from the command line; with `talks` its prompt is a user's turn, else plain text to be continued."""
    given = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "completion": completion}
    for name, text in given.items():
        if text is not None:
            require_text(f"--{name}", text)

    def turn(role: str, text: str) -> Any:
        return (Message(role, text),) if talks else text

    asked = turn("user", prompt)
    if completion is None:
        assert chosen is not None and rejected is not None
        return Subject(Pair(asked, turn("assistant", chosen), turn("assistant", rejected), _TYPED))
    answer = turn("assistant", completion)
    if label is None:
        return Subject(Demonstration(asked, answer, _TYPED))
    return Subject(Labelled(asked, answer, label == "good", _TYPED))


def _found(records: Sequence[Record], name: RowName) -> list[Record]:
    """The records of that row: none, one, or the pairs that a ranking gives."""
    own = [one for one in records if one.source.number == name.number]
    if name.data_set:
        own = [one for one in own if one.source.data_set == name.data_set]
    sets = sorted({one.source.data_set for one in own})
    if len(sets) > 1:
        choices = " or ".join(f"--row {one}:{name.number}" for one in sets)
        raise ConfigError(f"row {name.number} is in several data sets; say which: {choices}")
    return list(dict.fromkeys(own))  # a data set of weight 2 has each row twice


def _one_of(found: list[Record], pair: int) -> Record:
    if pair > len(found):
        raise ConfigError(f"{found[0].source} gives {len(found)} row(s), so --pair {pair} is none of them")
    return found[pair - 1]


def _missing(data: PreferenceData, name: RowName, records: Sequence[Record]) -> str:
    own = [one.source for one in records if name.data_set in ("", one.source.data_set)]
    mend = _nearest(own, name.number)
    left_out = next((row for row in data.unusable if row.source.number == name.number), None)
    if left_out is not None:
        return f"{left_out}: the row cannot be used{mend}"
    numbers = [one.number for one in own]
    where = own[0].file if own else "the data"
    return (
        f"row {name.number} is not among the {len(own)} rows of {where} (numbers {min(numbers, default=0)} to "
        f"{max(numbers, default=0)}){mend}; other rows can be named with --data FILE"
    )


def _nearest(sources: Sequence[Source], number: int) -> str:
    """The row that can be inspected and stands nearest, in words; empty where there is none."""
    found = min(sources, key=lambda one: (abs(one.number - number), one.number), default=None)
    return "" if found is None else f"; the nearest that can be inspected is --row {row_words(found)}"


def row_words(source: Source) -> str:
    """What `--row` takes for a place in the data."""
    return f"{source.data_set}:{source.number}" if source.data_set else str(source.number)


def group_of(subject: Subject, policy: Policy, objective: Objective, card: RunCard) -> Group:
    """The row as the run would see it: tokens, cut as there, with the weight, margin and soft label that it had."""
    record = subject.record
    chat = policy.chat if isinstance(record.prompt, tuple) else None
    group = replace(_tokenized(record, policy, card, chat), weight=1.0, margin=None, flip_chance=None)
    signals = recorded_signals(card)
    if not signals.words() or not subject.among:
        return group
    every = prepare_groups(
        subject.among,
        policy.tokenizer,
        method=objective.method,
        wants=objective.data,
        partners=False,
        **_limits(card),
        chat=chat,
        signals=signals,
        held_out=subject.held_out,
    )
    same = [other for other in every.groups if other.source == group.source and _is_part(other, group)]
    if not same:
        reasons = [row.reason for row in every.unusable if row.source == group.source]
        mend = _nearest([other.source for other in every.groups], group.source.number)
        raise DataError(f"{group.source}: the run left the row out ({', '.join(reasons) or 'unknown'}){mend}")
    return replace(group, weight=same[0].weight, margin=same[0].margin, flip_chance=same[0].flip_chance)


def _limits(card: RunCard) -> dict[str, Any]:
    limit = required(card.data.max_length, "the run", "data.max_length")
    return {"max_length": limit, "truncation": card.options.truncation}


def _tokenized(record: Record, policy: Policy, card: RunCard, chat: ChatOptions | None) -> Group:
    found = tokenize_records([record], policy.tokenizer, **_limits(card), chat=chat)
    if not found.groups:
        limit = card.data.max_length
        raise DataError(f"{next(iter(found.unusable))}: the row cannot be used (the run's max_length is {limit})")
    return found.groups[0]


def _is_part(other: Group, group: Group) -> bool:
    """Whether the run's group is the row, or one answer of it, or has the row among its scored answers."""
    if other.scores is not None:
        return set(group.answer_keys) <= set(other.answer_keys)
    return all(key in group.answer_keys for key in other.answer_keys[: len(other.own_answers)])
