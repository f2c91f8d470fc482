"""What coded judgements mean: who won, and whether an answer is good.

A coding turns a value into a number from 0 to 1: 1 for the first answer (or a good one), 0 for the second (a bad one),
0.5 for neither, anything between for a share. It is given in words (`1/2/0`, `up/down`), or found from the values of
the whole column; where these can mean several things, nothing is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeAlias

from likelier.data.columns import Columns
from likelier.errors import ConfigError, DataError
from likelier.records import Source

Key: TypeAlias = "int | float | str"

_FIRST = "a,first,left,1st,model_a,response_a,answer_a,assistant_a,output_a,option_a,model_1,response_1,response1,"
_FIRST += "answer_1,output_1,assistant_1,model a,response a,answer a,model 1,response 1,answer 1"
_SECOND = "b,second,right,2nd,model_b,response_b,answer_b,assistant_b,output_b,option_b,model_2,response_2,response2,"
_SECOND += "answer_2,output_2,assistant_2,model b,response b,answer b,model 2,response 2,answer 2"
_TIE = "tie,ties,tied,draw,equal,same,both,neither,both bad,bothbad,tie (bothbad),tie (both bad)"
_GOOD = "true,yes,y,up,good,thumbs_up,thumbs up,thumbsup,thumb up,positive,like,liked,upvote,desirable,accept,"
_GOOD += "accepted,👍"
_BAD = "false,no,n,down,bad,thumbs_down,thumbs down,thumbsdown,thumb down,negative,dislike,disliked,downvote,"
_BAD += "undesirable,reject,rejected,👎"


def _words(sides: Mapping[float, str]) -> dict[Key, float]:
    return {word: side for side, words in sides.items() for word in words.split(",")}


_WINNER_WORDS = _words({1.0: _FIRST, 0.0: _SECOND, 0.5: _TIE})
_LABEL_WORDS = _words({1.0: _GOOD, 0.0: _BAD})


def key_of(value: Any) -> Key | None:
    """A judgement as it is compared: numbers as such also where they are text, words in lower case; None if it is
    missing.
    """
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            return key_of(float(text)) if text else None
        except ValueError:
            return text
    if isinstance(value, (int, float)):
        if not isfinite(value):
            return None
        return int(value) if value == int(value) else value
    return repr(value)


@dataclass(frozen=True)
class Coding:
    """What the values of a column mean. `words` says it to the user, `meaning` gives None for an unknown value."""

    words: str
    meaning: Callable[[Key], float | None]

    def read(self, value: Any, source: Source, column: str) -> float | None:
        """The value as a number from 0 to 1, None where it is missing. Raises `DataError` for one without a meaning."""
        key = key_of(value)
        if key is None:
            return None
        found = self.meaning(key)
        if found is None:
            option = "label_coding" if column == "label" else "winner_coding"
            raise DataError(
                f"{source}: {column} is {value!r}, which has no meaning where {self.words}. Mend the row, or say what "
                f"the values mean with {option} under columns (as a flag: --columns {option}=...)"
            )
        return found


@dataclass(frozen=True)
class Reading:
    """What is known of a file before its rows are converted: the column map, and what coded values mean."""

    columns: Columns = field(default_factory=Columns)
    coding: Coding | None = None


def _table(table: Mapping[Key, float], words: str) -> Coding:
    return Coding(words, lambda key: table.get(key))


def _number(key: Key) -> float | None:
    return None if isinstance(key, str) else float(key)


def _share(key: Key) -> float | None:
    number = _number(key)
    return number if number is not None and 0 <= number <= 1 else None


def _signed(key: Key, positive: float) -> float | None:
    number = _number(key)
    if number is None:
        return None
    return 0.5 if number == 0 else (positive if number > 0 else 1 - positive)


_WINNER_KINDS = {
    "share": Coding("numbers are the first answer's share", _share),
    "positive-first": Coding("a positive number means the first answer", lambda key: _signed(key, 1.0)),
    "negative-first": Coding("a negative number means the first answer", lambda key: _signed(key, 0.0)),
}


def _by_values(option: str, text: str, sides: tuple[str, str, str]) -> Coding:
    """A coding from values in the order of `sides`, separated by slashes; several of one side by bars."""
    parts = text.split("/")
    if len(parts) not in (2, 3):
        raise ConfigError(
            f"columns: {option}={text!r}: give the values that mean {sides[0]}, {sides[1]} and (if there are any) "
            f"{sides[2]}, in this order with slashes between, several with bars, as in 1/2/0 or a/b/tie|both"
        )
    table: dict[Key, float] = {}
    for part, side in zip(parts, (1.0, 0.0, 0.5), strict=False):
        for value in part.split("|"):
            key = key_of(value)
            if key is None or key in table:
                raise ConfigError(f"columns: {option}={text!r} names {value!r} twice or names nothing; mend it")
            table[key] = side
    words = ", ".join(f"{part} means {side}" for part, side in zip(parts, sides, strict=False))
    return _table(table, words)


def _shown(values: Counter[Key], limit: int = 8) -> str:
    most = values.most_common(limit)
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(f"{key!r} ({count} times)" for key, count in most) + more


# --- who won -------------------------------------------------------------------------------------------------------

_WINNER_SIDES = ("the first answer", "the second answer", "a tie")


def winner_coding(text: str) -> Coding:
    """A coding that the user names. Raises `ConfigError`."""
    return _WINNER_KINDS[text] if text in _WINNER_KINDS else _by_values("winner_coding", text, _WINNER_SIDES)


def find_winner_coding(values: Counter[Key], name: str) -> Coding:
    """The coding that the values of a whole column have. Raises `DataError` where they can mean several things."""
    if not values:
        raise DataError(f"{name}: no row has a winner")
    known = set(values)
    if known <= _WINNER_WORDS.keys():
        sides = {1.0: "the first answer", 0.0: "the second", 0.5: "a tie"}
        words = (f"{key} means {sides[_WINNER_WORDS[key]]}" for key in sorted(map(str, known)))
        return _table(_WINNER_WORDS, ", ".join(words))
    numbers = {key for key in known if not isinstance(key, str)}
    if numbers == known:
        if known <= {0, 1, 2} and 2 in known:
            return _by_values("winner_coding", "1/2/0" if 0 in known else "1/2", _WINNER_SIDES)
        if min(numbers) >= 0 and max(numbers) <= 1 and any(0 < number < 1 for number in numbers):
            return _WINNER_KINDS["share"]
    raise DataError(
        f"{name}: the winner is {_shown(values)}, which can mean several things. Say what with winner_coding under "
        "columns: the values that mean first, second and tie (1/0: 1 means the first answer; 0/1/2: 0 means the first, "
        "1 the second, 2 a tie), or share (a number from 0 to 1 is the first answer's share), positive-first or "
        "negative-first (the sign says who won); as a flag: --columns winner_coding=1/0"
    )


# --- whether an answer is good -------------------------------------------------------------------------------------


def label_coding(text: str) -> Coding:
    """A coding that the user names. Raises `ConfigError`."""
    return _by_values("label_coding", text, ("good", "bad", "neither"))


def threshold_coding(threshold: float) -> Coding:
    """Numbers that mean good from `threshold` on."""

    def meaning(key: Key) -> float | None:
        number = _number(key)
        return None if number is None else float(number >= threshold)

    return Coding(f"{threshold:g} and above mean good, below means bad", meaning)


def find_label_coding(values: Counter[Key], name: str) -> Coding:
    """The coding that the labels of a whole column have. Raises `DataError` where they can mean several things."""
    known = set(values)
    if known and known <= {0, 1}:
        return _table({1: 1.0, 0: 0.0}, "1 means good, 0 means bad")
    if known == {1, -1}:
        return _table({1: 1.0, -1: 0.0}, "1 means good, -1 means bad")
    if known and known <= _LABEL_WORDS.keys():
        words = ", ".join(f"{key} means {'good' if _LABEL_WORDS[key] else 'bad'}" for key in sorted(map(str, known)))
        return _table(_LABEL_WORDS, words)
    raise DataError(
        f"{name}: the label is {_shown(values) or 'missing in every row'}, which can mean several things. Say what "
        "under columns: threshold (numbers are good from it on), or label_coding (the values that mean good, bad and "
        "neither, such as up/down or 4|5/1|2/3); as a flag: --columns threshold=4"
    )


def label_value(value: Any, source: Source) -> bool:
    """A thumb: true or false, or 1 or 0 (also as CSV text). Anything else is an error that shows the value."""
    known = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    key = value.strip().lower() if isinstance(value, str) else value
    if isinstance(key, (bool, int, str)) and key in known:
        return known[key]
    raise DataError(
        f"{source}: label is {value!r} ({type(value).__name__}); a label must be true (desirable) or false "
        "(undesirable), or 1 or 0. Say what other values mean with label_coding or threshold under columns (as a flag: "
        "--columns label_coding=good/bad)"
    )
