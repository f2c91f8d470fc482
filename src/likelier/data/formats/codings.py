"""What coded judgements mean: who won, and whether an answer is good.

A coding turns a value into a number from 0 to 1: 1 for the first answer (or a good one), 0 for the second (a bad one),
0.5 for neither, anything between for a share. It is given in words (`1/2/0`, `up/down`), or found from the values of
the whole column (`meanings`); where these can mean several things, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeAlias

from likelier.data.columns import Columns
from likelier.data.records import Source
from likelier.utils.errors import ConfigError, DataError
from likelier.utils.shell import quoted

Key: TypeAlias = "int | float | str"


_MISSING = ("n/a", "#n/a", "<na>")  # as spreadsheets and pandas write what is not there; they read `nan` so too


def key_of(value: Any) -> Key | None:
    """A judgement as it is compared: numbers as such also where they are text, words in lower case; None if it is
    missing.
    """
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            return key_of(float(text)) if text and text not in _MISSING else None
        except ValueError:
            return text
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            return None
        return int(value) if value == int(value) else value
    return repr(value)


@dataclass(frozen=True)
class Coding:
    """What the values of a column mean. `words` says it to the user, `meaning` gives None for an unknown value;
    `setting` is the setting of a column map that says it.
    """

    words: str
    meaning: Callable[[Key], float | None]
    setting: str = ""

    def read(self, value: Any, source: Source, column: str) -> float | None:
        """The value as a number from 0 to 1, None where it is missing. Raises `DataError` for one without a meaning."""
        key = key_of(value)
        if key is None:
            return None
        found = self.meaning(key)
        if found is None:
            option = self.setting or ("label_coding" if column in ("label", "acceptable") else "winner_coding")
            raise DataError(
                f"{source}: {column} is {value!r}, which has no meaning where {self.words}. Mend the row, or say what "
                f"the values mean with {option} under columns (as a flag: --columns {option}=...), or that it is no "
                f"verdict with no_verdict (--columns {quoted(f'no_verdict={value}')})"
            )
        return found


@dataclass(frozen=True)
class Reading:
    """What is known of a file before its rows are converted: the column map, and what coded values mean."""

    columns: Columns = field(default_factory=Columns)
    coding: Coding | None = None


def table_coding(table: Mapping[Key, float], words: str) -> Coding:
    """The coding that a table of values says."""
    return Coding(words, lambda key: table.get(key))


def _number(key: Key) -> float | None:
    try:
        return None if isinstance(key, str) else float(key)
    except OverflowError:
        return None


def _share(key: Key) -> float | None:
    number = _number(key)
    return number if number is not None and 0 <= number <= 1 else None


def _other_side(share: float | None) -> float | None:
    return None if share is None else 1 - share


def _signed(key: Key, positive: float) -> float | None:
    number = _number(key)
    if number is None:
        return None
    return 0.5 if number == 0 else (positive if number > 0 else 1 - positive)


_WINNER_KINDS = {
    "share": Coding("numbers are the first answer's share", _share),
    "share-second": Coding("numbers are the second answer's share", lambda key: _other_side(_share(key))),
    "positive-first": Coding("a positive number means the first answer", lambda key: _signed(key, 1.0)),
    "negative-first": Coding("a negative number means the first answer", lambda key: _signed(key, 0.0)),
}


def _by_values(option: str, text: str, sides: tuple[str, str, str]) -> Coding:
    """A coding from values in the order of `sides`."""
    found = values_of_sides(option, text, sides)
    words = ", ".join(f"{part} means {side}" for part, side in zip(text.split("/"), sides, strict=False))
    return table_coding({key: (1.0, 0.0, 0.5)[side] for key, side in found.items()}, words)


_AS_IN = {
    "winner_coding": "1/2/0 or a/b/tie|both",
    "label_coding": "up/down or 4|5/1|2/3",
    "role_coding": "customer/agent|bot/notice",
}


def values_of_sides(option: str, text: str, sides: tuple[str, ...]) -> dict[Key, int]:
    """The number of its side for each value, which are given in the order of `sides`, separated by slashes; several of
    one side by bars. Raises `ConfigError`.
    """
    parts = text.split("/")
    if not 2 <= len(parts) <= len(sides):
        raise ConfigError(
            f"columns: {option}={text!r}: give the values that mean {sides[0]}, {sides[1]} and (if there are any) "
            f"{', '.join(sides[2:])}, in this order with slashes between, several with bars, as in {_AS_IN[option]}"
        )
    found: dict[Key, int] = {}
    for side, part in enumerate(parts):
        for value in part.split("|"):
            key = key_of(value)
            if key is None or key in found:
                raise ConfigError(f"columns: {option}={text!r} names {value!r} twice or names nothing; mend it")
            found[key] = side
    return found


# --- who won -------------------------------------------------------------------------------------------------------

_WINNER_SIDES = ("the first answer", "the second answer", "a tie")


def winner_coding(text: str) -> Coding:
    """A coding that the user names. Raises `ConfigError`."""
    if text in _WINNER_KINDS:
        return _WINNER_KINDS[text]
    shares = numbers_of_words("winner_coding", text)
    if shares is None:
        return _by_values("winner_coding", text, _WINNER_SIDES)
    wrong = next((share for share in shares.values() if not 0 <= share <= 1), None)
    if wrong is not None:
        raise ConfigError(f"columns: winner_coding={text!r}: {wrong:g} is no share of the first answer from 0 to 1")
    words = ", ".join(f"{value} is a share of {share:g} for the first answer" for value, share in shares.items())
    return table_coding(shares, words)


def scale_coding(text: str) -> Coding:
    """Numbers on a scale whose ends are wholly for the first answer and for the second, as shares. Raises
    `ConfigError`.
    """
    first, dots, second = text.partition("..")
    try:
        ends = float(first), float(second)
    except ValueError:
        ends = (0.0, 0.0)
    if not dots or ends[0] == ends[1] or not all(map(isfinite, ends)):
        raise ConfigError(
            f"columns: scale={text!r}: give the number that is wholly for the first answer, two dots, and the number "
            "that is wholly for the second, such as 1..2"
        )

    def meaning(key: Key) -> float | None:
        number = _number(key)
        return None if number is None else _share((number - ends[1]) / (ends[0] - ends[1]))

    words = f"numbers go from {ends[0]:g} (the first answer) to {ends[1]:g} (the second)"
    return Coding(words, meaning, "scale")


def numbers_of_words(option: str, text: str) -> dict[Key, float] | None:
    """The number of each value in `slightly better=1/much better|far better=3`; None where that is not its form."""
    found: dict[Key, float] = {}
    for part in text.split("/"):
        values, equals, number = part.rpartition("=")
        try:
            worth = float(number)
        except ValueError:
            return None
        if not equals or not values or not isfinite(worth):
            return None
        for value in values.split("|"):
            key = key_of(value)
            if key is None or key in found:
                raise ConfigError(f"columns: {option}={text!r} names {value!r} twice or names nothing; mend it")
            found[key] = worth
    return found


def margin_of(value: Any, coding: str | None, source: Source) -> Any:
    """A margin as a number where words say it by `coding`. Raises `DataError` for words that nothing explains."""
    if coding is None:
        key = key_of(value)
        if not isinstance(key, str) or not key[:1].isalpha() or key in ("nan", "na", "n/a", "null", "none"):
            return value
        raise DataError(
            f"{source}: margin is {value!r}, which is no number. Say what each word is worth with margin_coding under "
            f'columns (as a flag: --columns "margin_coding={value}=1/...=2")'
        )
    table = numbers_of_words("margin_coding", coding)
    if table is None:
        raise ConfigError(
            f"columns: margin_coding={coding!r}: give each word and its number, such as slightly better=1/much better=3"
        )
    key = key_of(value)
    if key is None or key in table:
        return None if key is None else table[key]
    raise DataError(
        f"{source}: margin is {value!r}, to which margin_coding={coding!r} gives no number. Add it, or mend the row"
    )


# --- whether an answer is good -------------------------------------------------------------------------------------


def truth_coding() -> Coding:
    """true, yes and 1 mean good; false, no and 0 mean bad."""
    table: dict[Key, float] = {"true": 1.0, "yes": 1.0, 1: 1.0, "false": 0.0, "no": 0.0, 0: 0.0}
    return table_coding(table, "true, yes and 1 mean good, false, no and 0 mean bad")


def label_coding(text: str) -> Coding:
    """A coding that the user names. Raises `ConfigError`."""
    return _by_values("label_coding", text, ("good", "bad", "neither"))


def threshold_coding(threshold: float) -> Coding:
    """Numbers that mean good from `threshold` on."""

    def meaning(key: Key) -> float | None:
        number = _number(key)
        return None if number is None else float(number >= threshold)

    return Coding(f"{threshold:g} and above mean good, below means bad", meaning)
