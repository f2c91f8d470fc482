"""The rows of a run and how long it will take, put together: account, work, speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

from likelier.advice.memory import Planner
from likelier.advice.prompts import PromptPlan
from likelier.advice.rollout_memory import OnlinePlanner
from likelier.advice.rows import longest_row
from likelier.advice.rundata import RowPlan, row_plan
from likelier.advice.trace import made_up_group
from likelier.advice.weights import find_model
from likelier.data.load import PreferenceData
from likelier.data.options import ChatOptions
from likelier.models.options import LoraOptions
from likelier.models.policy import set_template
from likelier.models.tokenizer import tokenizer_of
from likelier.objectives import METHODS
from likelier.online.work import UNTIMED, online_work
from likelier.training.duration import Duration, Speed, duration
from likelier.training.options import TrainingOptions, for_model_of
from likelier.training.work import Work, work_of
from likelier.utils.errors import LikelierError
from likelier.utils.terminal import busy

SpeedOf = Callable[[Planner, Work], Speed]


def rows_of_run(
    data: PreferenceData,
    model: str,
    method: str,
    *,
    options: TrainingOptions | None = None,
    chat: ChatOptions | None = None,
) -> RowPlan:
    """The rows of a run of this method on `data` (of `load_preferences`), by the model's tokenizer."""
    options, chat = options or TrainingOptions(), chat or ChatOptions()
    tokenizer, default = tokenizer_of(model)
    set_template(tokenizer, chat)
    return row_plan(
        data,
        tokenizer,
        METHODS[method],
        max_length=options.max_length or default,
        context=context_of(model) or default,
        truncation=options.truncation,
        chat=chat,
        signals=options.signals,
    )


def made_up_rows(count: int, max_length: int, method: str, *, held_out: float = 0.0) -> RowPlan:
    """So many rows of a run that has none yet, all as long as `max_length`, half prompt and half answers."""
    objective = METHODS[method]
    row, labels = longest_row(max_length, objective), objective.data == "labels"
    some = [
        replace(made_up_group(row, number), desirable=True if labels else None)
        for number in range(min(count, _MADE_UP))
    ]
    held = some[: round(held_out * len(some))]
    train = some[len(held) :]
    return RowPlan(
        read=count,
        train=tuple(train),
        held_out=tuple(held),
        over=0,
        left_out={},
        lengths=(max_length,) * len(some),
        max_length=max_length,
        context=max_length,
        share=len(some) / count,
    )


_MADE_UP = 2048  # rows that are made; more are like them


def times_of(
    runs: Mapping[str, tuple[Planner, RowPlan | PromptPlan]],
    options: TrainingOptions,
    budget: int | None,
    speed_of: SpeedOf,
) -> tuple[dict[str, Duration], str]:
    """How long each of several runs takes on its rows, or why that is not known."""
    found: dict[str, Duration] = {}
    for way, (planner, rows) in runs.items():
        try:
            found[way] = time_of(planner, rows, options, budget, speed_of)
        except LikelierError as error:
            return found, str(error)
    return found, ""


def time_of(
    planner: Planner,
    rows: RowPlan | PromptPlan,
    options: TrainingOptions,
    budget: int | None,
    speed_of: SpeedOf,
) -> Duration:
    """How long a run on these rows takes, by its work and what `speed_of` says of the device."""
    spread, weights = planner.asked.spread, planner.weights
    work = _work(planner, rows, options, budget or planner.default_budget())
    with busy("timing a few rows of this run, to tell how long all will take"):
        speed = speed_of(planner, work)
    speed = replace(speed, update=speed.update * planner.updated / (spread.gpus if spread.shard else 1))
    waits = spread.waits(weights, planner.asked.training, speed.link)
    found = duration(work, speed, weights=weights.bytes, trained=weights.trained_bytes, waits=waits)
    return replace(found, words=f"{found.words}{UNTIMED}") if work.answers else found


def _work(planner: Planner, rows: RowPlan | PromptPlan, options: TrainingOptions, budget: int) -> Work:
    if isinstance(planner, OnlinePlanner):
        assert isinstance(rows, PromptPlan)
        found, at_once = planner.rollouts, 0 if planner.rollouts.served else planner.at_once
        how: dict[str, Any] = {"at_once": at_once, "token_budget": budget, "share": rows.share}
        how["critic"] = planner.critic_share(fmean(rows.train))
        return online_work(rows.train, rows.held_out, found.objective, found.online, options, **how)
    assert isinstance(rows, RowPlan)
    options = for_model_of(planner.asked.objective, options, held_out=bool(rows.held_out))
    return work_of(
        rows.train,
        rows.held_out,
        planner.asked.objective,
        options,
        token_budget=budget,
        device=planner.asked.device,
        adapter=planner.asked.training.adapter,
        share=rows.share,
        gpus=planner.asked.spread.gpus,
    )


def context_of(model: str) -> int | None:
    """The most tokens that a model takes, where its configuration says so."""
    config = find_model(model, LoraOptions()).config
    return getattr(config.get_text_config(), "max_position_embeddings", None)
