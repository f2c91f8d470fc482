"""A reward model held against a run of a preference method: do both prefer the same answers of the same pairs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from likelier.data.groups import Group
from likelier.data.load import PreferenceData
from likelier.runs.folder import RunFolder
from likelier.scoring.engine import prompt_numbers
from likelier.scoring.restore import card_of, final_model
from likelier.scoring.score_file import Scoring, rows_of_policy
from likelier.utils.errors import ConfigError
from likelier.utils.statistics import rank_correlation_of, share_of

Rows = Sequence[Mapping[str, Any]]


def require_comparable(run: str, data: str, loaded: PreferenceData) -> None:
    """Raise `ConfigError` for a run that gives an answer no implicit reward, and for data without pairs."""
    folder = RunFolder(final_model(run))
    if not folder.card_file.is_file():
        raise ConfigError(
            f"agree_with={run!r} is no run folder (it has no run.json); name a run of a method with a reference"
        )
    card = folder.card()
    if card.facts.reads_values:
        raise ConfigError(
            f"agree_with={run!r} is a reward model itself; two are compared by --reward-model A B, without agree_with"
        )
    if not card.reward_scale or not card.facts.needs_reference:
        raise ConfigError(
            f"agree_with={run!r} was trained by {card.method}, which gives an answer no implicit reward: that is a "
            "multiple of its log-ratio to a reference; name a run of dpo, ipo or another method that has one"
        )
    if loaded.kind != "pairs":
        raise ConfigError(
            f"agree_with={run!r} asks which answer of a pair is preferred, and {data} holds {loaded.kind}; drop it, or "
            "give pairs"
        )


def with_implicit(
    rows: Rows, run: str, reference: str | None, loaded: PreferenceData, how: Scoring
) -> list[dict[str, Any]]:
    """The rows of `likelier score --reward-model`, each with what the run says of the same pair: `implicit` (both
    rewards, margin, correct) and whether the two agree: `agrees`, false where one of them prefers neither answer.

    Raises `ConfigError` where one of the two leaves out rows that the other has.
    """
    model = final_model(run)
    scale = card_of(model).reward_scale or 1.0
    theirs, _ = rows_of_policy(model, reference, loaded, how, beta=scale)
    if [row["source"] for row in rows] != [row["source"] for row in theirs]:
        raise ConfigError(
            f"the reward model and {run} read different rows of the data: one of them leaves out what is too long for "
            "it; give a --max-length that fits both, or cut the rows"
        )
    return [_beside(row, implicit) for row, implicit in zip(rows, theirs, strict=True)]


def _beside(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    implicit = {side: other[side]["reward"] for side in ("chosen", "rejected")}
    implicit |= {name: other[name] for name in ("margin", "correct")}
    return {**row, "implicit": implicit, "agrees": row["margin"] * other["margin"] > 0}


def agreement_words(rows: Rows, groups: Sequence[Group], run: str) -> str:
    """A few lines: how often the run is right, how often both prefer the same answer, how their margins go together."""
    prompts = prompt_numbers(groups)
    implicit = [row["implicit"] for row in rows]
    own, theirs = (share_of([row["correct"] for row in side], prompts) for side in (rows, implicit))
    agrees = share_of([row["agrees"] for row in rows], prompts)
    apart = own.value * theirs.value + (1 - own.value) * (1 - theirs.value)
    ours, others = ([row["margin"] for row in side] for side in (rows, implicit))
    margins = rank_correlation_of(ours, others, prompts)
    lines = [
        f"implicit accuracy {theirs}   of {Path(run).name}, by its implicit reward",
        f"agreement         {agrees}   prefer the same answer; {apart:.1%} if their mistakes had nothing in common",
        f"margins           {margins}   rank correlation of the two",
    ]
    return "\n".join(lines)
