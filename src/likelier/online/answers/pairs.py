"""Pairs from rewarded answers: the policy's own, for training on preferences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from likelier.data.convert import write_records
from likelier.data.formats.messages import json_text, read_messages
from likelier.data.records import Content, Pair, Source, TokenIds
from likelier.utils.errors import ConfigError, DataError

PairsFrom = Literal["best-worst", "all", "threshold"]
Row = Mapping[str, Any]


def check_pairing(pairs: str | None, threshold: float | None, output: str | None, *, rewarded: bool) -> None:
    """Raises `ConfigError` for options of pairs that contradict each other."""
    if pairs is None:
        given = "threshold" if threshold is not None else "pairs_output" if output is not None else None
        if given:
            raise ConfigError(f"{given} has no effect without pairs; give --pairs, or drop it")
        return
    if pairs not in get_args(PairsFrom):
        raise ConfigError(f"pairs={pairs!r} is unknown; known: {', '.join(get_args(PairsFrom))}")
    if not rewarded:
        raise ConfigError("pairs are of answers with different rewards, and no reward is named; give --reward")
    if output is None:
        raise ConfigError("pairs need a file; give --pairs-output")
    if (pairs == "threshold") != (threshold is not None):
        missing = threshold is None
        raise ConfigError(
            "pairs=threshold needs the reward from which on an answer is good; give --threshold"
            if missing
            else f"threshold has no effect on pairs={pairs}; drop it"
        )


@dataclass(frozen=True)
class Paired:
    """The pairs of rewarded answers to `prompts` prompts. `left_out` counts answers that have no part, and `without`
    prompts that give no pair, by the reason.
    """

    pairs: list[Pair]
    prompts: int
    left_out: Mapping[str, int]
    without: Mapping[str, int]

    @property
    def ties(self) -> int:
        """Prompts whose answers all have the same reward."""
        return self.without.get(_TIED, 0)

    def write(self, output: Path) -> str:
        """Write them to `output`; returns what was found in words. Raises `DataError` where there is no pair."""
        words = [f"{count} answers have no part ({reason})" for reason, count in self.left_out.items()]
        words += [
            f"{count} of {self.prompts} prompts give no pair ({reason})" for reason, count in self.without.items()
        ]
        told = "".join(f"\n{one}" for one in words)
        if not self.pairs:
            raise DataError(f"no pair can be made of the answers:{told}")
        write_records(self.pairs, output)
        return (
            f"{len(self.pairs)} pairs of {self.prompts - sum(self.without.values())} prompts written to {output}{told}"
        )


def make_pairs(
    rows: Iterable[Row], pairs: PairsFrom, *, threshold: float | None = None, keep_cut: bool = False
) -> Paired:
    """The pairs among `rows`, answers with rewards.

    `best-worst` gives one pair a prompt, `all` one for every two answers of different rewards, `threshold` every answer
    of at least `threshold` with every one below it. Answers without a verdict, without text, and (unless `keep_cut`)
    those that were cut have no part.
    """
    prompts: dict[int, list[Row]] = {}
    for row in rows:
        prompts.setdefault(row["prompt_number"], []).append(row)
    left_out: Counter[str] = Counter()
    without: Counter[str] = Counter()
    found: list[Pair] = []
    for answers in prompts.values():
        usable = [row for row in answers if _is_usable(row, left_out, keep_cut)]
        two = _chosen(usable, pairs, threshold)
        own = [_pair(good, bad) for good, bad in two if good["completion"] != bad["completion"]]
        if not own:
            without[_why_none(usable, pairs)] += 1
        found += own
    return Paired(found, len(prompts), left_out, without)


_TIED = "all rewards are equal"
_CUT = "cut at max_new_tokens: training would teach an end that they do not have; raise it, or give --keep-cut"


def _is_usable(row: Row, left_out: Counter[str], keep_cut: bool) -> bool:
    reason = ""
    if row.get("reward") is None:
        reason = "no verdict"
    elif not _text(row).strip():
        reason = "empty"
    elif row["stop_reason"] == "length" and not keep_cut:
        reason = _CUT
    left_out.update([reason] if reason else [])
    return not reason


def _text(row: Row) -> str:
    completion = row["completion"]
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _chosen(rows: Sequence[Row], pairs: PairsFrom, threshold: float | None) -> list[tuple[Row, Row]]:
    """(better, worse), of answers to one prompt."""
    if threshold is not None:
        good = [row for row in rows if row["reward"] >= threshold]
        return list(product(good, [row for row in rows if row["reward"] < threshold]))
    if pairs == "all":
        return [(one, other) for one, other in product(rows, rows) if one["reward"] > other["reward"]]
    ranked = sorted(rows, key=lambda row: -row["reward"])
    return [(ranked[0], ranked[-1])] if ranked and ranked[0]["reward"] > ranked[-1]["reward"] else []


def _why_none(rows: Sequence[Row], pairs: PairsFrom) -> str:
    if len(rows) < 2:
        return "fewer than two answers"
    if len({row["reward"] for row in rows}) == 1:
        return _TIED
    return "all on one side of the threshold" if pairs == "threshold" else "the answers are the same"


def _pair(good: Row, bad: Row) -> Pair:
    if "prompt_ids" in good:  # it came as token ids, and no text need give the same
        contents = [
            TokenIds(tuple(ids)) for ids in (good["prompt_ids"], *(one["completion_ids"] for one in (good, bad)))
        ]
    else:
        contents = [_content(one) for one in (good["prompt"], good["completion"], bad["completion"])]
    scores = (good["reward"], bad["reward"])
    source = Source(good["source"], good["prompt_number"], "prompt")
    return Pair(*contents, source, scores=scores, tools=json_text(good.get("tools")))  # type: ignore[arg-type]


def _content(value: Any) -> Content:
    return value if isinstance(value, str) else read_messages(value)
