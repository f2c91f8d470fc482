"""Plans of a run that writes its answers, side by side."""

from __future__ import annotations

from typing import Any

from likelier.advice.estimate import Estimate, ways
from likelier.advice.memory import Device
from likelier.advice.prompts import PromptPlan, made_up_prompts, prompts_of_run
from likelier.advice.rollout_memory import OnlinePlanner, online_planner_for
from likelier.advice.speed import speed_for
from likelier.advice.spread import Spread
from likelier.advice.timing import context_of, times_of
from likelier.models.options import LoraOptions
from likelier.online.config import OnlineConfig
from likelier.online.prepared import prompt_limit, refuse_options_of_files


def online_estimate(
    config: OnlineConfig,
    *,
    has_data: bool,
    rows: int | None = None,
    device: Device | None = None,
    memory: int | None = None,
    gpu: str | None = None,
) -> Estimate:
    """The plans and times of a run.

    Args:
        config: the run; its data are read where it `has_data`.
        rows: how many prompts there will be, where there are no data; None plans no time then.
        device, memory, gpu: what it will run on, as for `planner_for` and `speed_for`.
    """
    run, training = config.run, config.training
    held = bool(run.eval_data or run.eval_fraction)
    refuse_options_of_files(config.objective, training, has_reference=run.reference != "start", held_out=held)
    context = context_of(run.model)
    limit = prompt_limit(config.online, context)
    prompts = prompts_of_run(config, context) if has_data else made_up_prompts(rows or training.batch_size, limit)
    planners = {
        words: online_plan(config, lora, prompts, device=device, memory=memory)
        for words, lora in ways(run.model, config.lora, device, Spread()).items()
    }
    budget = training.token_budget
    times, untimed = {}, "no --data and no --rows"
    if has_data or rows:
        runs: dict[str, Any] = {words: (planner, prompts) for words, planner in planners.items()}
        times, untimed = times_of(runs, training, budget, speed_for(gpu))
    plans = {words: planner.plan(budget, fit=memory is not None) for words, planner in planners.items()}
    each, most = config.objective.answers_per_prompt, config.online.max_new_tokens
    named = run.data if isinstance(run.data, str) else ", ".join(one.path for one in run.data)
    source = named if has_data else f"{f'{rows:,} ' if rows else ''}made up, of {limit:,} tokens"
    return Estimate(
        model=run.model,
        method=run.method,
        plans=plans,
        methods={},
        models={},
        rows_from=f"{source}; {each} answers to each, of at most {most:,} tokens",
        rows=prompts if has_data else None,
        times=times,
        untimed=untimed,
        timed=has_data or bool(rows),
        what="prompts",
    )


def online_plan(
    config: OnlineConfig, lora: LoraOptions, prompts: PromptPlan, *, device: Device | None, memory: int | None
) -> OnlinePlanner:
    """What plans a run trained in this way. A precision that an adapter cannot have is taken without its `pure`."""
    dtype = config.run.dtype
    beside = lora.lora_r and not config.lora.lora_r
    answered = config.training.eval_prompts
    return online_planner_for(
        config.run.model,
        config.objective,
        config.online,
        prompts=prompts.train,
        held_out=prompts.held_out if answered is None else sorted(prompts.held_out, reverse=True)[:answered],
        lora=lora,
        dtype="bfloat16" if dtype == "pure-bfloat16" and beside else dtype,
        device=device,
        memory=memory,
        activation_checkpointing=config.training.activation_checkpointing,
        batch_size=config.training.batch_size,
        reference=config.run.reference,
        judge=config.training.eval_reward,
    )
