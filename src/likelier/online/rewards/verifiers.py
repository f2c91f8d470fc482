"""Verifiers of other packages: mathematics (math-verify) and the tasks of reasoning-gym."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from threading import current_thread, main_thread
from typing import Any

from likelier.data.gym import gym_task, read_metadata
from likelier.online.rewards.builtin import OfColumn, text_of
from likelier.training.reward_function import Function
from likelier.utils.errors import ConfigError

_MATH_SECONDS = 5  # of one answer; math-verify sets itself an alarm, which the main thread alone can


def math(column: str, where: str) -> Function:
    """1 where the answer's last formula equals the column's as mathematics (1/2 and 0.5), else 0; no verdict where the
    column's cannot be read. What stands behind `####` is the answer of a worked one (GSM8K).
    """
    if find_spec("math_verify") is None:
        raise ConfigError(f"{where} needs a package that is not installed: pip install 'likelier[math]'")
    package = import_module("math_verify")  # types hold without it
    parse, verify = package.parse, package.verify

    def verdict(text: str, value: Any) -> float | None:
        limit: Any = _MATH_SECONDS if current_thread() is main_thread() else None
        gold = str(value).rpartition("####")[2].strip()
        marked = gold if "$" in gold or "\\boxed" in gold else f"${gold}$"
        known = parse(marked, parsing_timeout=limit)
        if not known:
            return None
        return float(verify(known, parse(text, parsing_timeout=limit), timeout_seconds=limit))

    return OfColumn(verdict, column or "answer")


def gym(task: str, where: str) -> Function:
    """What the verifier of a reasoning-gym task gives, from 0 to 1, to what stands between `<answer>` and `</answer>`,
    or to the whole answer without these. The row's columns `answer` and `metadata` are the task's own. An answer that
    the verifier cannot read (it raises, and does not for the row's own answer) is a wrong one.
    """
    score = gym_task(task, where, inert=("size", "seed")).score_answer
    extract_answer = import_module("reasoning_gym.utils").extract_answer

    def reward(
        prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], metadata: Sequence[Any]
    ) -> list[float]:
        found = []
        for prompt, completion, own, more in zip(prompts, completions, answer, metadata, strict=True):
            text = text_of(completion)
            known = read_metadata(more) if isinstance(more, str) else more
            entry = {"question": text_of(prompt), "answer": own, "metadata": known}
            try:
                found.append(float(score(extract_answer(text) or text.strip(), entry)))
            except Exception:  # of code that was written for answers of the right form
                score(own, entry)
                found.append(0.0)
        return found

    return reward
