"""What is said of methods that let the policy write: what they take, and the command that starts one."""

from __future__ import annotations

from collections.abc import Sequence

from likelier.advice.estimate import models_in_memory
from likelier.advice.fit import Fitted
from likelier.advice.memory import Device, planner_for
from likelier.advice.tables import size
from likelier.objectives.online import ONLINE_METHODS
from likelier.utils.shell import quoted

FAMILY = next(iter(ONLINE_METHODS))  # the one whose name the family has
ALTERNATIVE = (
    f"online (--method {FAMILY}): the highest ceiling, for a reward that knows more than these rows and much more time"
)
_REWARD = "my_rewards.py:score"
_HELD_OUT = 0.1


def online_command(model: str, files: Sequence[str], fitted: Fitted) -> str:
    """A run of the family on the prompts of these files, trained in the way that fits; the reward is to be written."""
    words = ["likelier train --method", FAMILY, "--model", quoted(model)]
    for file in files:
        words += ["--data", quoted(file)]
    words += ["--eval-fraction", str(_HELD_OUT), "--reward", _REWARD]
    for name, value in fitted.way.options().items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return " ".join([*words, "--output", f"runs/{FAMILY}"])


def online_needs(model: str, files: Sequence[str], fitted: Fitted, device: Device, memory: int | None) -> list[str]:
    """What such a run takes, line by line."""
    planner = planner_for(
        model,
        method="dpo",
        lora=fitted.way.lora,
        device=device,
        memory=memory,
        activation_checkpointing=fitted.way.checkpointing,
    )
    held = models_in_memory(planner, None)
    four, one = list(held.values())[-1], next(iter(held.values()))
    return [
        "prompts alone, as many as possible and like those of the later use; those of these files will do to begin",
        "a reward that knows what the rows do not: a program that checks answers, or labels on the policy's own "
        "answers. A reward model of the policy's size that learnt from these pairs finds about what DPO finds in them",
        f"a command: {online_command(model, files, fitted)}",
        f"memory for one model and the answers that it is writing ({size(one)} by the plan of a run on pairs); PPO "
        f"would hold four models, about {size(four)}, and is not built here",
        "time: most of it goes into writing answers",
    ]
