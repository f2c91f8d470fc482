"""A recommendation for those who have prompts and something that judges answers: the policy writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch

from likelier.advice.choice import Choice
from likelier.advice.estimate import plan_json
from likelier.advice.fit import ways_of
from likelier.advice.memory import Device, MemoryPlan, own_memory
from likelier.advice.online import (
    BATCH,
    FAMILY,
    HELD_OUT,
    PLACE_OF_REWARD,
    OnlineFitted,
    fit_online,
    judged_by_a_model,
    online_command,
    with_critic,
)
from likelier.advice.prompts import PromptPlan, prompt_plan
from likelier.advice.runfile import StagePlan, run_file, run_options
from likelier.advice.speed import speed_for
from likelier.advice.tables import size
from likelier.advice.timing import SpeedOf, context_of, times_of
from likelier.data.columns import Columns
from likelier.data.options import ChatOptions
from likelier.data.prompts import PromptData, load_prompts
from likelier.data.split import split_by_prompt
from likelier.objectives.advice import Setting
from likelier.objectives.online import ONLINE_METHODS
from likelier.online.options import OnlineOptions
from likelier.training.duration import Duration
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError, DataError

_ENOUGH_TO_HOLD_OUT = 50  # prompts
# Columns that hold answers or verdicts: a file that has one, or nearly, was meant for another method.
_OF_JUDGEMENTS = ("chosen", "rejected", "completion", "label", "votes", "winner", "score", "scores")


def prompts_alone(paths: Sequence[str], columns: Columns | None) -> PromptData | None:
    """The prompts of files that only ask; None where they cannot be read so, or look like judgements misnamed."""
    try:
        data = load_prompts(list(paths), columns=columns)
    except (ConfigError, DataError):
        return None
    names = {name for prompt in data.train for name in prompt.columns}
    if any(get_close_matches(name.lower(), _OF_JUDGEMENTS, 1, 0.8) for name in names):
        return None
    return data


@dataclass(frozen=True)
class OnlineRecommendation:
    """What `likelier recommend` says of prompts. `reward` is empty where nothing that judges was named."""

    model: str
    paths: tuple[str, ...]
    choice: Choice
    online_needs: tuple[str, ...]
    doubts: tuple[str, ...]
    alternatives: tuple[str, ...]
    fitted: OnlineFitted
    prompts: PromptPlan
    settings: tuple[Setting, ...]
    times: tuple[Duration, ...]
    untimed: str
    evidence_lines: tuple[str, ...] = ()

    @property
    def plans(self) -> dict[str, MemoryPlan]:
        """The memory of the way of training that is taken."""
        return {self.fitted.way.words: self.fitted.plan}

    @property
    def _stage(self) -> StagePlan:
        return StagePlan(FAMILY, self.paths, self.settings)

    @property
    def output(self) -> str:
        """The run folder that the run file names."""
        return f"runs/{FAMILY}"

    @property
    def options(self) -> dict[str, Any]:
        """The run file's values."""
        return run_options(self.model, self.output, [self._stage], [])

    @property
    def run_file(self) -> str:
        """The run file."""
        heading = [f"recommended by likelier: {self.choice.row}", *self.choice.reasons]
        return run_file(heading, self.model, self.output, [self._stage], [])

    def start(self, file: str) -> str:
        """The command that trains with this run file."""
        return f"likelier train {file}"

    def run_lines(self) -> list[str]:
        """What will happen: prompts, and the time."""
        told = [found.line() for found in self.times]
        return [*self.prompts.words(), *told, *([f"time: not known, since {self.untimed}"] if self.untimed else [])]

    def as_json(self) -> dict[str, Any]:
        """With the names of a recommendation for files of judgements; sizes in bytes."""
        return {
            "row": self.choice.row,
            "methods": list(self.choice.methods),
            "online": True,
            "reasons": list(self.choice.reasons),
            "way": self.fitted.way.words,
            "memory": plan_json(self.fitted.plan) | {"fits": self.fitted.fits},
            "doubts": list(self.doubts),
            "alternatives": list(self.alternatives),
            "online_needs": list(self.online_needs),
            "hyperparameters": [
                {"stage": 1, "name": one.name, "value": one.value, "source": one.source} for one in self.settings
            ],
            "data": [self.prompts.as_json()],
            "time": [found.as_json() for found in self.times],
            "time_unknown_because": self.untimed or None,
            "run": self.options,
        }


def recommend_online(
    paths: Sequence[str],
    model: str,
    *,
    reward: Sequence[str] = (),
    columns: Columns | None = None,
    memory: int | None = None,
    device: Device | None = None,
    given: Mapping[str, Any] | None = None,
    chat: ChatOptions | None = None,
    speed_of: SpeedOf | None = None,
) -> OnlineRecommendation:
    """Plan a run that learns from its own answers to these files' prompts.

    Args:
        reward: what judges answers, as `--reward` of a run; none leaves a place for it.
        given: options of a run that are decided already (held-out data, order, seed).
        paths, model, columns, memory, device, chat, speed_of: as for `recommend`.
    """
    given, device = dict(given or {}), device or ("cuda" if torch.cuda.is_available() else "cpu")
    memory = memory or own_memory(device)
    named = tuple(reward) or (PLACE_OF_REWARD,)
    held = {name: given[name] for name in ("eval_data", "eval_fraction") if name in given}
    seed = given.get("seed", TrainingOptions.seed)
    read = load_prompts(list(paths), columns=columns, **held, seed=seed)
    if not held and len(read.train) >= _ENOUGH_TO_HOLD_OUT:
        held = {"eval_fraction": HELD_OUT}
        read.train, read.test = map(list, split_by_prompt(read.train, HELD_OUT, seed))
    online = OnlineOptions(reward=named)
    prompts = prompt_plan(read, model, online, chat or ChatOptions(), context_of(model))
    ways = [way for way in ways_of(model, device, adapter_first=False) if not way.shard]
    fitted = fit_online(model, prompts.train, ways, device, memory, reward=named)
    settings = tuple(_settings(fitted, named, bool(reward), held, given, columns))
    options = TrainingOptions(batch_size=fitted.options.get("batch_size", BATCH))
    runs: dict[str, Any] = {FAMILY: (fitted.planner, prompts)}
    budget = fitted.options.get("token_budget")
    times, untimed = times_of(runs, options, budget, speed_of or speed_for(None))
    row, reasons = _row(reward)
    return OnlineRecommendation(
        model=model,
        paths=tuple(paths),
        choice=Choice(row, (FAMILY,), reasons, (), online=True),
        online_needs=() if reward else _NEEDS,
        doubts=tuple(_doubts(fitted, reward, bool(held))),
        alternatives=tuple(_alternatives(model, paths, fitted, reward)),
        fitted=fitted,
        prompts=prompts,
        settings=settings,
        times=tuple(times.values()),
        untimed=untimed,
    )


_NEEDS = (
    "a reward: put it in place of the name in the run file, or name it with --reward. A program that checks answers "
    "(exact:COLUMN, math:COLUMN, a function of yours) knows more than any model of people's taste",
    "without a program: a reward model of judged answers (likelier train --method reward on pairs, then --reward "
    "model:FOLDER), or judgements of the policy's own answers (likelier sample writes them)",
)


def _row(reward: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    if not reward:
        return "prompts alone", (
            "these rows ask and hold no answers: the policy writes them, and something must judge",
        )
    if judged_by_a_model(reward):
        return "a reward model at hand", (
            "a model judges answers: the policy writes, and learns from what earned more",
            f"{FAMILY} compares the answers to a prompt and needs no critic; ppo learns one beside the policy",
        )
    return "a verifier at hand", (
        "a program judges answers, and knows what no file of pairs shows: the policy writes, and learns from what "
        "earned more",
    )


def _settings(
    fitted: OnlineFitted,
    named: Sequence[str],
    has_reward: bool,
    held: Mapping[str, Any],
    given: Mapping[str, Any],
    columns: Columns | None,
) -> list[Setting]:
    preset, adapter = ONLINE_METHODS[FAMILY], fitted.way.lora.lora_r is not None
    rate = preset.lora_learning_rate if adapter else preset.learning_rate
    source = "as it was given" if has_reward else "TO BE WRITTEN: what an answer earns"
    found = [Setting("reward", list(named), source)]
    if columns is not None:
        words = {name: list(one) if isinstance(one, tuple) else one for name, one in columns.given.items()}
        found.append(Setting("columns", words, "as they were named"))
    found.append(Setting("learning_rate", rate, preset.learning_rate_source))
    found += [Setting(name, value, "the memory allows no more") for name, value in fitted.way.options().items()]
    found += [Setting(name, value, "the memory allows no more") for name, value in fitted.options.items()]
    if "eval_fraction" in held and "eval_fraction" not in given:
        found.append(Setting("eval_fraction", held["eval_fraction"], "ours: held out by prompt, answered and judged"))
    return found + [Setting(name, value, "as it was given") for name, value in given.items()]


def _doubts(fitted: OnlineFitted, reward: Sequence[str], is_held_out: bool) -> list[str]:
    found = []
    if not fitted.fits:
        found.append(
            f"no way of training fits with a tenth to spare: {fitted.way.words} takes the least, "
            f"{size(fitted.plan.needed)} of {size(fitted.planner.memory)}. Take a smaller model, or more memory"
        )
    if judged_by_a_model(reward):
        found.append(
            "a reward model of few labels is over-optimized (docs/studies, S19): have held-out answers judged by a "
            "second one that learnt from other labels (--eval-reward), which likelier diagnose then reads"
        )
    else:
        found.append("a program that can be gamed is gamed: judge held-out answers by another one (--eval-reward)")
    if not is_held_out:
        found.append("so few prompts are all learnt from: whether it works on others is not known (--eval-data)")
    found.append("a prompt whose answers all earn the same teaches nothing: likelier sample shows how many there are")
    return found


def _alternatives(model: str, paths: Sequence[str], fitted: OnlineFitted, reward: Sequence[str]) -> list[str]:
    judge = list(reward) or [PLACE_OF_REWARD]
    found = [
        f"online_dpo: the best and the worst of a prompt's answers as a pair: "
        f"{online_command(model, paths, fitted, method='online_dpo', reward=judge)}"
    ]
    if judged_by_a_model(reward):
        found.append(f"ppo: {with_critic(model, paths, fitted, judge)}")
    return [
        *found,
        "the same in rounds, with files between them that people can judge: stages with a sample step "
        "(docs/tutorials/stages.md)",
        "judgements in these files, where they hold any, are learnt from without sampling: the same without --reward",
    ]
