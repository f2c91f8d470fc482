"""A reward for written answers: a sequence classifier, or a Python function of the user's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import torch

from likelier.data.options import ChatOptions
from likelier.data.records import Message
from likelier.data.rendering import render
from likelier.data.vocabulary import embedding_rows, require_rows_for
from likelier.models.safe_loading import check_model_folder, loading_failed, read_config, read_tokenizer
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError, ModelError, whole_reason
from likelier.utils.files import local
from likelier.utils.statistics import wilson

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
    """`file.py:function`, or a sequence classifier (a hub id or a folder), which is in memory while it judges only.

    Raises `ConfigError` for a file or function that is not there.
    """
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return checked(_function(name, local(path), function), name)
    return checked(lambda prompts, answers: _classify(name, prompts, answers), name)


def _function(name: str, path: Path, function: str) -> Judge:
    if not path.is_file():
        raise ConfigError(f"eval_reward={name!r}: no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"likelier_judge_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise ConfigError(
            f"eval_reward={name!r}: {path} fails: {type(error).__name__}: {whole_reason(error)}"
        ) from error
    if not callable(getattr(module, function, None)):
        raise ConfigError(f"eval_reward={name!r}: {path} has no function {function!r}")
    return getattr(module, function)


def checked(judge: Judge, name: str) -> Judge:
    """The judge, whose every answer is held to be a number for each answer. Raises `ConfigError`."""

    def judged(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        try:
            rewards = [float(reward) for reward in judge(prompts, answers)]
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"eval_reward={name!r}: it must give one number an answer: {whole_reason(error)}"
            ) from error
        if len(rewards) != len(answers) or not all(map(isfinite, rewards)):
            raise ConfigError(
                f"eval_reward={name!r}: {len(answers)} answers got {len(rewards)} rewards, of which "
                f"{sum(map(isfinite, rewards))} are finite; it must give one number an answer"
            )
        return rewards

    return judged


def _classify(name: str, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """One output is the reward; of two it is the log-odds of the second (positive, preferred)."""
    from transformers import AutoModelForSequenceClassification

    try:
        if local(name).is_dir():
            check_model_folder(local(name), name)
        read_config(name, name)
        tokenizer = read_tokenizer(name)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"eval_reward={name!r}: {loading_failed(name, 'a sequence classifier', error)}") from error
    if found["missing_keys"]:
        raise ModelError(
            f"eval_reward={name!r} has no trained head for a reward (missing: {sorted(found['missing_keys'])[:3]}); "
            "name a sequence classifier"
        )
    if model.config.num_labels > 2:
        raise ConfigError(f"eval_reward={name!r} has {model.config.num_labels} outputs; it must have one or two")
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 2**31))
    rewards = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = _ids(tokenizer, prompt, answer).to(model.device)
        if ids["input_ids"].shape[1] > limit:
            raise ConfigError(
                f"eval_reward={name!r} takes {limit} tokens, and a prompt with its answer has "
                f"{ids['input_ids'].shape[1]}: a cut answer would be judged as another; lower eval_new_tokens"
            )
        spelt = ids["input_ids"][0].tolist()
        require_rows_for(spelt, embedding_rows(model), f"eval_reward={name!r}: an answer", tokenizer)
        with torch.no_grad():
            logits = model(**ids).logits[0].float().tolist()
        rewards.append(logits[-1] - (logits[0] if len(logits) == 2 else 0.0))
    return rewards


def _ids(tokenizer: Any, prompt: str, answer: str) -> Any:
    if not tokenizer.chat_template:
        return tokenizer(prompt, answer, return_tensors="pt")
    talk = (Message("user", prompt), Message("assistant", answer))
    text = render(tokenizer, talk, ChatOptions(), "the judge's tokenizer")
    return tokenizer(text, add_special_tokens=False, return_tensors="pt")


def reward_metrics(rewards: Sequence[float], at_start: Sequence[float]) -> dict[str, float]:
    """The mean reward, and how often an answer gets more than the same prompt's at the start (a tie is half)."""
    found = {"reward": fmean(rewards)}
    if at_start:
        wins = sum((now > then) + 0.5 * (now == then) for now, then in zip(rewards, at_start, strict=True))
        low, high = wilson(wins, len(rewards))
        found |= {"win_rate": wins / len(rewards), "win_rate_low": low, "win_rate_high": high}
    return found
