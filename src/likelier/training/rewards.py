"""A reward for written answers in an evaluation: a sequence classifier, or a Python function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TypeAlias

from likelier.data.records import Message
from likelier.models.classifier import load_classifier
from likelier.training.options import TrainingOptions
from likelier.training.reward_function import Function, ask
from likelier.utils.errors import ConfigError
from likelier.utils.statistics import wilson
from likelier.utils.user_code import load_function, names_function

# Prompts and answers in words, one reward an answer: higher is better.
Judge: TypeAlias = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


def judge_of(options: TrainingOptions, function: Judge | None, *, held_out: bool) -> Judge | None:
    """The judge of a run: `eval_reward`, or a function. Raises `ConfigError` for both, and for one without effect."""
    if function is None:
        return None if options.eval_reward is None else load_judge(options.eval_reward)
    if options.eval_reward is not None:
        raise ConfigError("judge and eval_reward were both given; keep one of them")
    if not held_out or not options.answered_prompts:
        raise ConfigError("judge has no effect: it judges the answers to held-out prompts, and there are none")
    return checked(function, getattr(function, "__name__", "judge"))


def load_judge(name: str) -> Judge:
    """`file.py:function`, `module:function`, or a sequence classifier (a hub id or a folder), which is in memory while
    it judges only.

    Raises `ConfigError` for a file or function that is not there.
    """
    where = f"eval_reward={name!r}"
    if names_function(name):
        return checked(load_function(name, where), name)
    return checked(lambda prompts, answers: _classify(name, prompts, answers), name)


def checked(judge: Function, name: str) -> Judge:
    """The judge, whose every answer is held to be a number for each answer. Raises `ConfigError`."""

    def judged(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        given = {"prompts": list(prompts), "completions": list(answers)}
        places = [f"answer {number}" for number in range(1, len(answers) + 1)]
        return ask(judge, given, f"eval_reward={name!r}", places, abstains=False)

    return judged


def _classify(name: str, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    judge = load_classifier(name, f"eval_reward={name!r}")
    places = [f"answer {number}" for number in range(1, len(answers) + 1)]
    asked = [(Message("user", prompt),) for prompt in prompts]
    rows = [judge.row_of(*one) for one in zip(asked, answers, places, strict=True)]
    return judge.scores(rows, places).tolist()


def reward_metrics(rewards: Sequence[float], at_start: Sequence[float]) -> dict[str, float]:
    """The mean reward, and how often an answer gets more than the same prompt's at the start (a tie is half)."""
    found = {"reward": fmean(rewards)}
    if at_start:
        wins = sum((now > then) + 0.5 * (now == then) for now, then in zip(rewards, at_start, strict=True))
        low, high = wilson(wins, len(rewards))
        found |= {"win_rate": wins / len(rewards), "win_rate_low": low, "win_rate_high": high}
    return found
