"""What of a run's evaluations is shown word by word: telling pairs by their tokens, and answers before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from likelier.insight.pages.charts import number
from likelier.insight.pages.heatmap import legend, scale_of, signed, token_spans
from likelier.runs.reader import Run
from likelier.utils.files import base_names

MOST_TOKENS = 400  # of an answer in a heat map
MOST_MAPS = 700_000  # characters of all heat maps
MOST_SAMPLES = 12
MOST_TEXT = 1_500  # characters of a text


@dataclass(frozen=True)
class HeatMap:
    """A telling pair: why it is shown, its prompt, and its two answers with their figures and coloured tokens."""

    why: str
    source: str
    prompt: str
    is_right: bool
    margin: str
    legend: Markup
    answers: tuple[tuple[str, str, Markup], ...]


@dataclass(frozen=True)
class Written:
    """An answer of the policy's: its text, and what is to be said of it."""

    text: str
    remarks: str


@dataclass(frozen=True)
class Sample:
    """A held-out prompt and what the policy wrote, by manner ("greedy", "drawn"), before and after."""

    prompt: str
    source: str
    rows: tuple[tuple[str, Written | None, Written | None], ...]


def clipped(text: Any, most: int = MOST_TEXT) -> str:
    """A text of bounded length, which says so where it is cut."""
    whole = str(text)
    return whole if len(whole) <= most else f"{whole[:most]}… ({len(whole) - most:,} characters more)"


def place(row: Mapping[str, Any]) -> str:
    """Where in the data a row stands: the file's own name and the line."""
    return clipped(base_names(str(row.get("source", ""))), 200)


def heat_maps(run: Run) -> list[HeatMap]:
    """The telling pairs of the evaluation at the end, as many as fit into a page."""
    found: list[HeatMap] = []
    room = MOST_MAPS
    for pair in (run.detail("end") or {}).get("pairs") or []:
        shown = _heat_map(pair)
        room -= sum(len(spans) for _, _, spans in shown.answers)
        if room < 0:
            break
        found.append(shown)
    return found


def _heat_map(pair: Mapping[str, Any]) -> HeatMap:
    sides = {side: _short(pair[side]) for side in ("chosen", "rejected")}
    scale = scale_of(*sides.values())
    return HeatMap(
        str(pair.get("why", "")),
        place(pair),
        clipped(pair.get("prompt", "")),
        bool(pair.get("correct")),
        signed(pair["margin"]),
        legend(*sides.values()),
        tuple(
            (side, _scores(pair[side]), token_spans(answer, scale) + _rest(pair[side]))
            for side, answer in sides.items()
        ),
    )


def _short(answer: Mapping[str, Any]) -> dict[str, Any]:
    tokens = [{**token, "text": clipped(token.get("text", ""), 100)} for token in answer["tokens"][:MOST_TOKENS]]
    return {**answer, "tokens": tokens}


def _rest(answer: Mapping[str, Any]) -> Markup:
    beyond = len(answer["tokens"]) - MOST_TOKENS
    return Markup(' <span class="soft">… and {} tokens more</span>').format(f"{beyond:,}") if beyond > 0 else Markup("")


def _scores(answer: Mapping[str, Any]) -> str:
    named = (("reward", "reward"), ("log-ratio", "logratio"), ("a token", "logratio_per_token"))
    values = [f"{words} {signed(answer[name])}" for words, name in named if isinstance(answer.get(name), (int, float))]
    return ", ".join([*values, f"{answer.get('length', len(answer['tokens']))} tokens"])


def samples(run: Run) -> list[Sample]:
    """The answers of the first and the last evaluation that wrote some, side by side."""
    told = [detail for detail in run.details() if detail.get("samples")]
    if not told:
        return []
    before = {_key(one): one for one in told[0]["samples"]} if told[0].get("when") == "start" else {}
    after = {_key(one): one for one in told[-1]["samples"]} if len(told) > 1 or not before else {}
    found = [_sample(before.get(key, {}), after.get(key, {})) for key in after or before]
    return found[:MOST_SAMPLES]


def _key(sample: Mapping[str, Any]) -> tuple[str, str]:
    return str(sample.get("source")), str(sample.get("prompt"))


def _sample(before: Mapping[str, Any], after: Mapping[str, Any]) -> Sample:
    one = after or before
    manners = (("greedy", "greedy"), ("drawn", "sampled"))
    rows = tuple((words, _written(before.get(key)), _written(after.get(key))) for words, key in manners)
    return Sample(clipped(one.get("prompt", "")), place(one), rows)


def _written(answer: Mapping[str, Any] | None) -> Written | None:
    if not answer:
        return None
    return Written(clipped(answer.get("text", "")), ", ".join(_remarks(answer)))


def _remarks(answer: Mapping[str, Any]) -> Iterator[str]:
    yield f"{answer.get('tokens', '?')} tokens" + ("" if answer.get("is_whole") else ", cut at the limit")
    if answer.get("repetition"):
        yield f"{number(answer['repetition'], percent=True)} repeated"
    if answer.get("refusal"):
        yield "a refusal"
    if isinstance(answer.get("logratio"), (int, float)) and answer["logratio"]:
        yield f"log-ratio {signed(answer['logratio'], 2)} nats"
    if isinstance(answer.get("reward"), (int, float)):
        yield f"judged {signed(answer['reward'], 2)}"
