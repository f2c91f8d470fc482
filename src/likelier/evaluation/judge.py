"""A reward for written answers: a sequence classifier, or a Python function of the user's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import torch

from likelier.errors import ConfigError, ModelError
from likelier.metrics import wilson_interval

# Prompts and answers in words, one reward an answer: higher is better.
Judge: TypeAlias = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


def judge_of(name: str | None, function: Judge | None) -> Judge | None:
    """The judge of a run: the one that is named, or a function. Raises `ConfigError` where both are given."""
    if name is None:
        return None if function is None else checked(function, getattr(function, "__name__", "judge"))
    if function is not None:
        raise ConfigError("judge and eval_reward were both given; keep one of them")
    return load_judge(name)


def load_judge(name: str) -> Judge:
    """`file.py:function`, or a sequence classifier (a hub id or a folder), which is in memory while it judges only.

    Raises `ConfigError` for a file or function that is not there.
    """
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return checked(_function(name, Path(path).expanduser(), function), name)
    return checked(lambda prompts, answers: _classify(name, prompts, answers), name)


def _function(name: str, path: Path, function: str) -> Judge:
    if not path.is_file():
        raise ConfigError(f"eval_reward={name!r}: no such file: {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise ConfigError(f"eval_reward={name!r}: {path} fails: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, function, None)):
        raise ConfigError(f"eval_reward={name!r}: {path} has no function {function!r}")
    return getattr(module, function)


def checked(judge: Judge, name: str) -> Judge:
    """The judge, whose every answer is held to be a number for each answer. Raises `ConfigError`."""

    def judged(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        try:
            rewards = [float(reward) for reward in judge(prompts, answers)]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"eval_reward={name!r}: it must give one number an answer: {error}") from error
        if len(rewards) != len(answers) or not all(map(isfinite, rewards)):
            raise ConfigError(
                f"eval_reward={name!r}: {len(answers)} answers got {len(rewards)} rewards, of which "
                f"{sum(map(isfinite, rewards))} are finite; it must give one number an answer"
            )
        return rewards

    return judged


def _classify(name: str, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """One output is the reward; of two it is the log-odds of the second (positive, preferred)."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModelForSequenceClassification.from_pretrained(name).eval()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"eval_reward={name!r} cannot be loaded as a sequence classifier: {error}") from error
    if model.config.num_labels > 2:
        raise ConfigError(f"eval_reward={name!r} has {model.config.num_labels} outputs; it must have one or two")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    limit = getattr(model.config, "max_position_embeddings", None)
    rewards = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = _ids(tokenizer, prompt, answer, limit).to(model.device)
        with torch.no_grad():
            logits = model(**ids).logits[0].float().tolist()
        rewards.append(logits[-1] - (logits[0] if len(logits) == 2 else 0.0))
    return rewards


def _ids(tokenizer: Any, prompt: str, answer: str, limit: int | None) -> Any:
    how = {"return_tensors": "pt", "truncation": limit is not None, "max_length": limit}
    if not tokenizer.chat_template:
        return tokenizer(prompt, answer, **how)
    talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False, **how)


def reward_metrics(rewards: Sequence[float], at_start: Sequence[float]) -> dict[str, float]:
    """The mean reward, and how often an answer gets more than the same prompt's at the start (a tie is half)."""
    found = {"reward": fmean(rewards)}
    if at_start:
        wins = sum((now > then) + 0.5 * (now == then) for now, then in zip(rewards, at_start, strict=True))
        low, high = wilson_interval(wins, len(rewards))
        found |= {"win_rate": wins / len(rewards), "win_rate_low": low, "win_rate_high": high}
    return found
