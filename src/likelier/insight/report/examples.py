"""What of a run's evaluations is shown word by word: telling pairs by their tokens, and answers before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from likelier.insight.pages.charts import number
from likelier.insight.pages.heatmap import legend, scale_of, signed, token_spans
from likelier.runs.evaluations import Answer, Sample, TellingPair
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
class ShownSample:
    """A held-out prompt and what the policy wrote, by manner ("greedy", "drawn"), before and after."""

    prompt: str
    source: str
    rows: tuple[tuple[str, Written | None, Written | None], ...]


def clipped(text: Any, most: int = MOST_TEXT) -> str:
    """A text of bounded length, which says so where it is cut."""
    whole = str(text)
    return whole if len(whole) <= most else f"{whole[:most]}… ({len(whole) - most:,} characters more)"


def place(source: str) -> str:
    """Where in the data a row stands: the file's own name and the line."""
    return clipped(base_names(source), 200)


def heat_maps(run: Run) -> list[HeatMap]:
    """The telling pairs of the evaluation at the end, as many as fit into a page."""
    found: list[HeatMap] = []
    room = MOST_MAPS
    for pair in run.detail("end").pairs:
        shown = _heat_map(pair)
        room -= sum(len(spans) for _, _, spans in shown.answers)
        if room < 0:
            break
        found.append(shown)
    return found


def _heat_map(pair: TellingPair) -> HeatMap:
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    short = {side: _short(answer) for side, answer in sides.items()}
    scale = scale_of(*short.values())
    return HeatMap(
        pair.why,
        place(pair.source),
        clipped(pair.prompt),
        pair.correct,
        signed(pair.margin),
        legend(*short.values()),
        tuple(
            (side, _scores(answer), token_spans(short[side], scale) + _rest(answer)) for side, answer in sides.items()
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


def samples(run: Run) -> list[ShownSample]:
    """The answers of the first and the last evaluation that wrote some, side by side."""
    told = [detail for detail in run.details() if detail.samples]
    if not told:
        return []
    before = {(one.source, one.prompt): one for one in told[0].samples} if told[0].when == "start" else {}
    after = {(one.source, one.prompt): one for one in told[-1].samples} if len(told) > 1 or not before else {}
    return [_shown(key, before.get(key), after.get(key)) for key in list(after or before)[:MOST_SAMPLES]]


def _shown(key: tuple[str, str], before: Sample | None, after: Sample | None) -> ShownSample:
    source, prompt = key
    greedy = (_written(before and before.greedy), _written(after and after.greedy))
    drawn = (_written(before and before.sampled), _written(after and after.sampled))
    return ShownSample(clipped(prompt), place(source), (("greedy", *greedy), ("drawn", *drawn)))


def _written(answer: Answer | None) -> Written | None:
    return Written(clipped(answer.text), ", ".join(_remarks(answer))) if answer else None


def _remarks(answer: Answer) -> Iterator[str]:
    count = "?" if answer.tokens is None else answer.tokens
    yield f"{count} tokens" + ("" if answer.is_whole else ", cut at the limit")
    if answer.repetition:
        yield f"{number(answer.repetition, percent=True)} repeated"
    if answer.refusal:
        yield "a refusal"
    if answer.logratio:
        yield f"log-ratio {signed(answer.logratio, 2)} nats"
    if answer.reward is not None:
        yield f"judged {signed(answer.reward, 2)}"
