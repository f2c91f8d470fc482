"""What the files of a run hold beside its card, as far as their readers rely on it, and the check that a file does.

A shape is a kind of value; a block of names, each with the shape of what stands there (a name that ends in `!` must be
there, any other may be absent or null, and names that are not listed hold anything); a list of one shape; or `Every`
name with the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from likelier.utils.errors import RunFolderError


@dataclass(frozen=True)
class Kind:
    """A kind of value in words, and the test for it."""

    words: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Every:
    """A block in which every name holds the same."""

    shape: Shape


Shape: TypeAlias = "Kind | Every | Mapping[str, Any] | list[Any]"
_LARGEST = 1e100  # beyond it no number of a run can be, and its square is no float any more


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


TEXT = Kind("text", lambda value: isinstance(value, str))
NUMBER = Kind("a number", _is_number)
WHOLE = Kind("a whole number from 0 on", lambda value: type(value) is int and 0 <= value < 2**63)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
ANYTHING = Kind("anything", lambda value: True)

_FINDING = {
    **dict.fromkeys(("name", "severity", "summary", "why", "mend"), TEXT),
    "count": WHOLE,
    "examples": [TEXT],
    "details": {**dict.fromkeys(("mean_preferred", "mean_other"), NUMBER), "rule": TEXT},
}
_STATISTICS = {"noise": dict.fromkeys(("ceiling", "flip_rate", "low", "high"), NUMBER)}
ACCOUNT: Shape = {
    "rows": WHOLE,
    "usable": WHOLE,
    "findings": [_FINDING],
    "audit": {"verdict": TEXT, "kind": TEXT, "findings": [_FINDING], "statistics": _STATISTICS},
}

SKIPPED: Shape = {"step!": WHOLE, "cause!": TEXT, "rows!": [{"source!": TEXT}]}
_SIDE = {"logps!": [NUMBER], "ref_logps": [NUMBER], "lengths": [WHOLE]}
_TOKEN = {"id": WHOLE, "text": TEXT, "trained": FLAG, "logp": NUMBER, "ref_logp": NUMBER, "logratio": NUMBER}
_SCORED = {
    **dict.fromkeys(("reward", "logp", "ref_logp", "logratio"), NUMBER),
    **dict.fromkeys(("logp_per_token", "ref_logp_per_token", "logratio_per_token"), NUMBER),
    "length": WHOLE,
    "tokens!": [_TOKEN],
}
_WRITTEN = {
    "text!": TEXT,
    "tokens": WHOLE,
    "is_whole": FLAG,
    "refusal": FLAG,
    "repetition!": NUMBER,
    **dict.fromkeys(("logratio", "reward"), NUMBER),
}
EVALUATION: Shape = {
    "step!": WHOLE,
    "when": TEXT,
    "items_of": WHOLE,
    "items": {
        "source": [TEXT],
        "prompt": [WHOLE],
        "label": [FLAG],
        "chosen": _SIDE,
        "rejected": _SIDE,
        "completion": {**_SIDE, "lengths!": [WHOLE]},
    },
    "samples": [{"source": TEXT, "prompt": TEXT, "greedy": _WRITTEN, "sampled!": _WRITTEN}],
    "pairs": [
        {
            **dict.fromkeys(("why", "prompt", "source"), TEXT),
            "chosen!": _SCORED,
            "rejected!": _SCORED,
            "margin!": NUMBER,
            "correct": FLAG,
        }
    ],
}

_ENTRY = {"name!": TEXT, "status!": TEXT, "setting!": TEXT, "folder!": TEXT, "error": TEXT}
SWEEP: Shape = {"runs!": [{**_ENTRY, "varied!": Every(ANYTHING)}]}
SWEEP_TO_GO_ON: Shape = {
    "began": TEXT,
    "runs!": [{**_ENTRY, "options!": Every(ANYTHING)}],
    "held_out!": {"named": TEXT, "seed": WHOLE, "from_own_data": FLAG},
    "data!": ANYTHING,
}


def checked(content: Any, shape: Shape, file: object) -> Any:
    """The content of `file`, if it has the shape. Raises `RunFolderError` with the place and the value that do not."""
    _check(content, shape, "", file)
    return content


def checked_account(content: Any, file: object) -> dict[str, Any]:
    """The content of audit.json. Raises as `checked`."""
    return checked(content, ACCOUNT, file)


def checked_skipped(content: Any, file: object) -> dict[str, Any]:
    """A file of a step that was skipped. Raises as `checked`."""
    return checked(content, SKIPPED, file)


def checked_line(row: Any, place: str) -> Any:
    """A line of metrics.jsonl: names and values, and where it holds a loss its step and nothing but numbers."""
    _require(isinstance(row, dict), place, "", row, "names and values")
    if "loss" in row or "eval_loss" in row:
        _require(WHOLE.fits(row.get("step")), place, "step", row.get("step"), WHOLE.words)
        for name, value in row.items():
            _require(_is_number(value), place, name, value, NUMBER.words)
    return row


def checked_evaluation(content: Any, file: object) -> Any:
    """A file of an evaluation, whose items are two sides or one, with as many values in every list."""
    items = checked(content, EVALUATION, file).get("items") or {}
    _require(("chosen" in items) == ("rejected" in items), file, "items", list(items), "both chosen and rejected")
    pair = [bool((items[side] or {}).get("ref_logps")) for side in ("chosen", "rejected") if side in items]
    _require(len(set(pair)) < 2, file, "items", list(items), "ref_logps of both sides, or of none,")
    lists = {name: column for name, column in items.items() if isinstance(column, list)}
    for side in ("chosen", "rejected", "completion"):
        columns = (items.get(side) or {}).items()
        lists |= {f"{side}.{name}": column for name, column in columns if isinstance(column, list)}
    scored = [column for name, column in lists.items() if name.endswith(".logps")]
    count = len((scored or list(lists.values()) or [[]])[0])
    for name, column in lists.items():
        _require(len(column) == count, file, f"items.{name}", column, f"a list of {count} values")
    return content


def _check(value: Any, shape: Shape, place: str, file: object) -> None:
    if isinstance(shape, Kind):
        _require(shape.fits(value), file, place, value, shape.words)
    elif isinstance(shape, list):
        _require(isinstance(value, list), file, place, value, "a list")
        if isinstance(shape[0], Kind) and all(map(shape[0].fits, value)):
            return  # nearly always, and quick
        for number, one in enumerate(value):
            _check(one, shape[0], f"{place}[{number}]", file)
    else:
        _require(isinstance(value, dict), file, place, value, "names and values")
        named = dict.fromkeys(value, shape.shape) if isinstance(shape, Every) else shape
        for name, inner in named.items():
            bare = name if isinstance(shape, Every) else name.removesuffix("!")
            found = value.get(bare)
            if found is not None or bare != name:
                _check(found, inner, f"{place}.{bare}" if place else bare, file)


def _require(condition: bool, file: object, place: str, value: Any, wanted: str) -> None:
    if not condition:
        shown = repr(value)
        what = f"{place} is {shown if len(shown) <= 60 else shown[:57] + '...'}" if place else "it holds something else"
        raise RunFolderError(f"{file} is damaged: {what}, where {wanted} should stand; restore the file")
