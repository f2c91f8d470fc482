"""What an evaluation saw, evaluations/step-N.json, as its readers see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from likelier.runs.shapes import FLAG, NUMBER, TEXT, WHOLE, Kind, Shape, checked, made, require, shape_of

_SIDE = {"logps!": [NUMBER], "ref_logps": [NUMBER], "lengths": [WHOLE]}
_ITEMS: Shape = {
    "source": [TEXT],
    "prompt": [WHOLE],
    "label": [FLAG],
    "chosen": _SIDE,
    "rejected": _SIDE,
    "completion": {**_SIDE, "lengths!": [WHOLE]},
}
_REWARDS: Shape = [Kind("a number or null", lambda value: value is None or NUMBER.fits(value))]
_TOKEN = {"id": WHOLE, "text": TEXT, "trained": FLAG, "logp": NUMBER, "ref_logp": NUMBER, "logratio": NUMBER}
_SCORED: Shape = {
    **dict.fromkeys(("reward", "logp", "ref_logp", "logratio"), NUMBER),
    **dict.fromkeys(("logp_per_token", "ref_logp_per_token", "logratio_per_token"), NUMBER),
    "length": WHOLE,
    "tokens!": [_TOKEN],
}


@dataclass(frozen=True)
class Answer:
    """An answer of the policy's. `repetition` is the share of its runs of four tokens that came before in it."""

    text: str
    repetition: float
    tokens: int | None = None
    is_whole: bool = False
    refusal: bool = False
    logratio: float | None = None
    reward: float | None = None
    ids: Annotated[Sequence[int], [WHOLE]] = ()


@dataclass(frozen=True)
class Sample:
    """A held-out prompt and what the policy wrote."""

    sampled: Answer
    greedy: Answer | None = None
    source: str = ""
    prompt: str = ""
    prompt_ids: Annotated[Sequence[int], [WHOLE]] = ()


@dataclass(frozen=True)
class TellingPair:
    """A held-out pair, scored token by token. `margin` is of rewards."""

    chosen: Annotated[Mapping[str, Any], _SCORED]
    rejected: Annotated[Mapping[str, Any], _SCORED]
    margin: float
    why: str = ""
    source: str = ""
    prompt: str = ""
    correct: bool = False


@dataclass(frozen=True)
class ConfidenceBin:
    """Held-out pairs on which a reward model is about as sure: its mean `claimed` share, and the share that is `right`
    with its 95 % interval.
    """

    pairs: int
    claimed: float
    right: float
    low: float
    high: float


@dataclass(frozen=True)
class Detail:
    """An evaluation `when` (`start`, `interval`, `end`): columns of its items, answers, pairs. The one of step 0 that
    holds nothing stands for none.

    Of a run that writes its own answers: `rewards` are those of one answer to each prompt, `best_of_n` the best of the
    start policy's several, None for no verdict; `prompts` tells in the same order by hash which prompts these are.
    """

    step: int
    when: str | None = None
    items: Annotated[Mapping[str, Any], _ITEMS] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    pairs: tuple[TellingPair, ...] = ()
    calibration: tuple[ConfidenceBin, ...] = ()
    rewards: Annotated[Sequence[float | None], _REWARDS] = ()
    best_of_n: Annotated[Sequence[float | None], _REWARDS] = ()
    prompts: Annotated[Sequence[str], [TEXT]] = ()


EVALUATION = shape_of(Detail)
NO_DETAIL = Detail(0)


def checked_evaluation(content: Any, file: object) -> Detail:
    """The content of evaluations/step-N.json: items are two sides or one, with as many values in every list. Raises as
    `checked`.
    """
    items = checked(content, EVALUATION, file).get("items") or {}
    require(("chosen" in items) == ("rejected" in items), file, "items", list(items), "both chosen and rejected")
    pair = [bool((items[side] or {}).get("ref_logps")) for side in ("chosen", "rejected") if side in items]
    require(len(set(pair)) < 2, file, "items", list(items), "ref_logps of both sides, or of none,")
    lists = {name: column for name, column in items.items() if isinstance(column, list)}
    for side in ("chosen", "rejected", "completion"):
        columns = (items.get(side) or {}).items()
        lists |= {f"{side}.{name}": column for name, column in columns if isinstance(column, list)}
    scored = [column for name, column in lists.items() if name.endswith(".logps")]
    count = len((scored or list(lists.values()) or [[]])[0])
    for name, column in lists.items():
        require(len(column) == count, file, f"items.{name}", column, f"a list of {count} values")
    count = len(content.get("rewards") or ())
    for name in ("best_of_n", "prompts"):
        column = content.get(name) or []
        require(len(column) in (0, count), file, name, column, f"a list of {count} values")
    return made(Detail, content)
