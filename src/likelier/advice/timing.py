"""The rows of a run and how long it will take, put together: account, work, speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from likelier.advice.memory import Planner
from likelier.advice.rundata import RowPlan, row_plan
from likelier.advice.weights import find_model
from likelier.data.load import PreferenceData
from likelier.data.options import ChatOptions
from likelier.models.options import LoraOptions
from likelier.models.policy import set_template
from likelier.models.tokenizer import tokenizer_of
from likelier.objectives import METHODS
from likelier.training.duration import Duration, Speed, duration
from likelier.training.options import TrainingOptions
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
        context=_context(model) or default,
        truncation=options.truncation,
        chat=chat,
        signals=options.signals,
    )


def times_of(
    planners: Mapping[str, Planner],
    rows: RowPlan,
    options: TrainingOptions,
    budget: int | None,
    speed_of: SpeedOf,
) -> tuple[dict[str, Duration], str]:
    """How long a run on these rows takes in each way of training, or why that is not known."""
    found: dict[str, Duration] = {}
    for way, planner in planners.items():
        try:
            found[way] = time_of(planner, rows, options, budget, speed_of)
        except LikelierError as error:
            return found, str(error)
    return found, ""


def time_of(
    planner: Planner,
    rows: RowPlan,
    options: TrainingOptions,
    budget: int | None,
    speed_of: SpeedOf,
) -> Duration:
    """How long a run on these rows takes, by its work and what `speed_of` says of the device."""
    adapter = planner.asked.training.lora.lora_r is not None
    work = work_of(
        rows.train,
        rows.held_out,
        planner.asked.objective,
        options,
        token_budget=budget or planner.default_budget(),
        device=planner.asked.device,
        adapter=adapter,
        share=rows.share,
    )
    weights = planner.weights
    with busy("timing a few rows of this run, to tell how long all will take"):
        speed = speed_of(planner, work)
    return duration(work, speed, weights=weights.bytes, trained=weights.trained_bytes)


def _context(model: str) -> int | None:
    config = find_model(model, LoraOptions()).config
    return getattr(config.get_text_config(), "max_position_embeddings", None)
