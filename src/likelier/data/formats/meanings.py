"""What the values of a whole column can mean: the one meaning that they have, or all those that they may have.

Words that name a side mean that side everywhere. Numbers, shares and true or false do not: one tool writes 1, 2 and 0
for the first, the second and a tie, another 0, 1 and 2. Such a column has a meaning only where the user, a known data
set, or the name of the column says it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from likelier.data.columns import Columns
from likelier.data.formats.codings import (
    Coding,
    Key,
    label_coding,
    scale_coding,
    table_coding,
    threshold_coding,
    winner_coding,
)

Coded: TypeAlias = Literal["winner", "judgements", "label"]

# The words of one place mean the two sides of one kind of naming.
_FIRST = "a,first,left,1st,model_a,response_a,answer_a,assistant_a,output_a,option_a,model_1,response_1,response1,"
_FIRST += "answer_1,output_1,assistant_1,model a,response a,answer a,model 1,response 1,answer 1"
_SECOND = "b,second,right,2nd,model_b,response_b,answer_b,assistant_b,output_b,option_b,model_2,response_2,response2,"
_SECOND += "answer_2,output_2,assistant_2,model b,response b,answer b,model 2,response 2,answer 2"
_TIE = "tie,ties,tied,draw,equal,same,both,neither,both bad,bothbad,tie (bothbad),tie (both bad),unentschieden"
_GOOD = "good,up,thumbs_up,thumbs up,thumbsup,thumb up,positive,like,liked,upvote,desirable,accept,accepted,👍"
_BAD = "bad,down,thumbs_down,thumbs down,thumbsdown,thumb down,negative,dislike,disliked,downvote,undesirable,reject,"
_BAD += "rejected,👎"

_OPPOSITE: dict[str, str] = dict(zip(_FIRST.split(","), _SECOND.split(","), strict=True))
_OPPOSITE |= {second: first for first, second in _OPPOSITE.items()}


def _words(sides: Mapping[float, str]) -> dict[Key, float]:
    return {word: side for side, words in sides.items() for word in words.split(",")}


_WINNER_WORDS = _words({1.0: _FIRST, 0.0: _SECOND, 0.5: _TIE})
_LABEL_WORDS = _words({1.0: _GOOD, 0.0: _BAD})
_TRUTH: dict[Key, float] = {**_words({1.0: "true,yes,y,t", 0.0: "false,no,n,f"}), 1: 1.0, 0: 0.0}


@dataclass(frozen=True)
class Choice:
    """One meaning that a column may have, and the setting of a column map that says so."""

    setting: str
    coding: Coding


def understood(coded: Coded, values: Iterable[Key], columns: Columns) -> Coding | None:
    """The coding of a column whose values can mean one thing only, else None."""
    known = set(values)
    if not known:
        return None
    label = columns.label if columns.label is None or isinstance(columns.label, str) else columns.label[0]
    return _label(known, label) if coded == "label" else _winner(known, sides_of(coded, columns))


def choices(coded: Coded, values: Iterable[Key]) -> list[Choice]:
    """The codings that the values of a column may have, as far as they differ on these values; the usual ones first."""
    known = sorted(set(values), key=lambda key: (isinstance(key, str), key))
    texts = (_label_texts if coded == "label" else _winner_texts)(known)
    return _differing((_choice(coded, text) for text in texts), known)


def scale_choices(values: Iterable[Key]) -> list[Choice]:
    """The scales on which the numbers of a share may lie, as far as their ends can be seen; from either end."""
    numbers = [key for key in values if not isinstance(key, str)]
    if not numbers or len(set(numbers)) < len(set(values)) or min(numbers) == max(numbers):
        return []
    low, high = _usual_ends(min(numbers), max(numbers))
    texts = [f"{low:g}..{high:g}", f"{high:g}..{low:g}"]
    return [Choice(f"scale={text}", scale_coding(text)) for text in texts]


def _usual_ends(least: float, most: float) -> tuple[float, float]:
    """The ends that a scale probably has on which such numbers lie."""
    if least < 0:
        return -max(-least, most), max(-least, most)
    if most <= 1:
        return 0, 1
    if most > 10:
        return 0, 100 if most <= 100 else most
    return (1 if least >= 1 else 0), most


_STRONG = re.compile(r"much|far|strong|signific|clear|definite|lot|>>|<<")
_WEAK = re.compile(r"slight|somewhat|bit|little|margin|barely|weak")
_FOR_FIRST = re.compile(r"better|prefer|\b(first|a|1|l|left)\b")
_FOR_SECOND = re.compile(r"worse|\b(second|b|2|r|right)\b")
_FOR_NEITHER = re.compile(r"same|equal|tie|about|=|\bno (preference|difference|winner)\b")


def proposed_shares(values: Iterable[Key]) -> str:
    """A coding of words of strength to be looked at by the user: each with a share of the first answer, `?` where none
    can be proposed. Empty where no word tells a strength.
    """
    words = [str(value) for value in values]
    if not any(_STRONG.search(word) or _WEAK.search(word) for word in words):
        return ""
    return "/".join(f"{word}={_proposed_share(word)}" for word in words)


def _proposed_share(word: str) -> str:
    if _WINNER_WORDS.get(word) == 0.5 or _FOR_NEITHER.search(word):
        return "0.5"
    first, second = bool(_FOR_FIRST.search(word)), bool(_FOR_SECOND.search(word))
    if sign := re.search(r"\b(a|1|b|2)\W*([<>])", word):  # a>b, b>>a
        first = (sign[1] in "a1") == (sign[2] == ">")
        second = not first
    elif re.search(r"\b(second|b|2|r|right)\b", word) and "worse" not in word:
        first, second = False, True
    if first == second:
        return "?"
    share = 0.65 if _WEAK.search(word) else 0.95 if _STRONG.search(word) else 0.8
    return f"{share if first else 1 - share:.4g}"


def _choice(coded: Coded, text: str) -> Choice:
    if text.startswith("threshold="):
        return Choice(text, threshold_coding(float(text.partition("=")[2])))
    make: Callable[[str], Coding] = label_coding if coded == "label" else winner_coding
    return Choice(f"{'label' if coded == 'label' else 'winner'}_coding={text}", make(text))


def _differing(found: Iterable[Choice], known: Sequence[Key]) -> list[Choice]:
    kept: dict[tuple[float | None, ...], Choice] = {}
    for choice in found:
        meanings = tuple(map(choice.coding.meaning, known))
        if None not in meanings:
            kept.setdefault(meanings, choice)
    return list(kept.values())


def _coded_texts(*parts: Iterable[Key]) -> list[str]:
    """The values of each side as one text of a setting, if it can be written so."""
    sides = [[str(key) for key in part] for part in parts]
    if any("/" in key or "|" in key for side in sides for key in side):
        return []
    return ["/".join("|".join(side) for side in sides if side)]


# --- who won -------------------------------------------------------------------------------------------------------


def sides_of(coded: Coded, columns: Columns) -> tuple[str, str]:
    """What the two compared answers are called in the file."""
    if coded == "judgements":
        several = columns.answers if isinstance(columns.answers, tuple) else ()
        return (several[0], several[1]) if len(several) > 1 else ("answer 1", "answer 2")
    return columns.first or "first", columns.second or "second"


def _winner(known: set[Key], sides: tuple[str, str]) -> Coding | None:
    names = dict(zip((name.strip().lower() for name in sides), (1.0, 0.0), strict=True))
    by_name: dict[Key, float] = {**{word: side for word, side in _WINNER_WORDS.items() if side == 0.5}, **names}
    for table in (by_name, {} if _crossed(sides) or _half_numbered(known) else _WINNER_WORDS):
        if known <= table.keys():
            said = {1.0: "the first answer", 0.0: "the second", 0.5: "a tie"}
            return table_coding(table, ", ".join(f"{key} means {said[table[key]]}" for key in sorted(map(str, known))))
    return None


def _crossed(sides: tuple[str, str]) -> bool:
    """Whether the answer that stands first is called the second, or b: then `b` may mean either."""
    return _side_named(sides[0]) == 0.0 or _side_named(sides[1]) == 1.0


def _side_named(name: str) -> float | None:
    parts = re.findall(r"[a-z]+|\d+", name.lower())
    sides = {"a": 1.0, "1": 1.0, "first": 1.0, "left": 1.0, "b": 0.0, "2": 0.0, "second": 0.0, "right": 0.0}
    return next((sides[part] for part in reversed(parts) if part in sides), None)


def _half_numbered(known: set[Key]) -> bool:
    """Whether there is a `model_1` and no `model_2`: it may be counted from 0."""
    return any(str(key)[-1:] == "1" and _OPPOSITE.get(str(key), key) not in known for key in known)


def _winner_texts(known: Sequence[Key]) -> list[str]:
    numbers = [key for key in known if not isinstance(key, str)]
    if not numbers:
        return _texts_of_words([str(key) for key in known])
    if len(numbers) < len(known):
        return []
    if any(not isinstance(number, int) for number in numbers):
        return ["share", "share-second", *_signs(numbers)]
    return ["1/0", "0/1", "1/2/0", "0/1/2", "1/2/3", *_signs(numbers), "0/1/-1", *_scale(numbers)]


def _signs(numbers: Sequence[int | float]) -> list[str]:
    return ["positive-first", "negative-first"] if min(numbers) < 0 else []


def _scale(numbers: Sequence[int | float]) -> list[str]:
    """A scale from one answer to the other, such as 1 to 5, from either end."""
    low, high = min(numbers), max(numbers)
    if low not in (0, 1) or not 3 <= high <= 10:
        return []
    steps = list(range(int(low), int(high) + 1))
    half = len(steps) // 2
    start, middle, end = steps[:half], steps[half : len(steps) - half], steps[len(steps) - half :]
    return [*_coded_texts(start, end, middle), *_coded_texts(end, start, middle)]


def _texts_of_words(known: Sequence[str]) -> list[str]:
    ties = [word for word in known if _WINNER_WORDS.get(word) == 0.5]
    sides = [word for word in known if word not in ties]
    if not sides or len(sides) > 2:
        return []
    if len(sides) == 2:
        first, second = sorted(sides, key=lambda word: (word in ("false", "no"), word))
        return [*_coded_texts([first], [second], ties), *_coded_texts([second], [first], ties)]
    (only,) = sides
    if _half_numbered({only}) and only in _OPPOSITE:
        before = only[:-1] + "0"
        return [*_coded_texts([only], [_OPPOSITE[only]], ties), *_coded_texts([before], [only], ties)]
    other = {**_OPPOSITE, "true": "false", "false": "true", "yes": "no", "no": "yes"}.get(only)
    if other is None:
        return []
    return [*_coded_texts([only], [str(other)], ties), *_coded_texts([str(other)], [only], ties)]


# --- whether an answer is good -------------------------------------------------------------------------------------


def _label(known: set[Key], column: str | None) -> Coding | None:
    """true, yes and 1 mean good in a column that is called `label` (as in TRL), or by a word for good."""
    says_good = _says_good(column or "label")
    if says_good and known == {1, -1}:
        return label_coding("1/-1")
    table = {**_LABEL_WORDS, **(_TRUTH if says_good else {})}
    if not known <= table.keys():
        return None
    words = (f"{key} means {'good' if table[key] else 'bad'}" for key in sorted(known, key=str))
    return table_coding(table, ", ".join(words))


def is_plain_label(key: Key) -> bool:
    """Whether a value in a column that is called `label` needs no word of what it means."""
    return key in _TRUTH or key in _LABEL_WORDS


def _says_good(column: str) -> bool:
    name = column.rpartition(".")[2].strip().lower()
    return name in ("label", "labels") or name.removeprefix("is_").removeprefix("was_") in _GOOD.split(",")


def _label_texts(known: Sequence[Key]) -> list[str]:
    numbers = [key for key in known if not isinstance(key, str)]
    if not numbers:
        return _texts_of_answers([str(key) for key in known])
    if len(numbers) < len(known):
        return []
    if set(numbers) <= {0, 1}:
        return ["1/0", "0/1"]
    if set(numbers) <= {-1, 0, 1}:
        return ["1/-1/0", "-1/1/0", "1/0/-1"]
    return _texts_of_ratings(numbers)


def _texts_of_answers(known: Sequence[str]) -> list[str]:
    pairs = [("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f")]
    if len(known) == 2:
        pairs.append(tuple(sorted(known)))  # type: ignore[arg-type]
    pair = next((pair for pair in pairs if set(known) <= set(pair)), None)
    return [] if pair is None else [*_coded_texts(pair[:1], pair[1:]), *_coded_texts(pair[1:], pair[:1])]


def _texts_of_ratings(numbers: Sequence[int | float]) -> list[str]:
    low, high = min(numbers), max(numbers)
    if low == high or not all(abs(number) < 1e9 for number in numbers):
        return []
    if len(numbers) == 2 and all(isinstance(number, int) for number in numbers):
        return [*_coded_texts([high], [low]), *_coded_texts([low], [high])]
    middle = (low + high) / 2
    least = min(number for number in numbers if number > middle)
    falling = _coded_texts([n for n in numbers if n < middle], [n for n in numbers if n >= middle])
    return [f"threshold={least}", *(falling if len(numbers) <= 10 else [])]
