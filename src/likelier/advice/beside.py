"""The models beside a policy that writes its answers, and what each holds: reference, critic, reward models.

Frozen weights that are equal are held once (`online.critic.hold_once`). What is equal is told by names here: an
adapter's base is what its folder names, and a whole model is equal to itself alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from likelier.advice.memory import Planner
from likelier.advice.trace import Device, Training, training_of
from likelier.advice.weights import Weights, count_weights, find_model
from likelier.models.layers import value_head
from likelier.models.loading import DEMO_MODEL, demo_model_folder
from likelier.models.options import Dtype, LoraOptions
from likelier.models.safe_loading import read_config, reading
from likelier.models.tokenizer import base_of
from likelier.objectives.online_base import OnlineObjective
from likelier.objectives.ppo import PPO
from likelier.online.options import OnlineOptions
from likelier.scoring.restore import card_of, final_model, has_no_reference
from likelier.utils.files import local

WORDS = ("start", "base")  # references that are no model of their own
_MODEL = "model"  # the kind of a reward that is a classifier
_Base: TypeAlias = tuple[str, torch.dtype]


@dataclass(frozen=True)
class CriticMemory:
    """What a critic adds. `own` counts the weights that it trains and the policy does not have; `bytes` are those of
    what it alone holds, `gradients` those of what its backward pass makes. `weights` are all of its model's, which is
    of `config` and trained as `training` says.
    """

    words: str
    config: Any
    training: Training
    weights: Weights
    own: int
    bytes: int
    gradients: int
    own_gradients: int

    @property
    def passed(self) -> int:
        """Weights that a token meets: all but the embedding."""
        text = self.config.get_text_config()
        return self.weights.count - text.vocab_size * text.hidden_size


@dataclass(frozen=True)
class Beside:
    """Bytes of the models beside a policy. `loading` are those of all models before equal weights are put together."""

    reference: int = 0
    rewards: int = 0
    critic: CriticMemory | None = None
    loading: int = 0

    @property
    def bytes(self) -> int:
        """All of them, without what a critic learns with."""
        return self.reference + self.rewards + (0 if self.critic is None else self.critic.bytes)


@dataclass(frozen=True)
class _Judge:
    """A classifier that judges: `frozen` bytes of a base, which others may have, and its `own`. `config` is that of a
    critic that begins as it, None where none can; `lora` its adapter's, None for a whole model.
    """

    name: str
    base: _Base
    frozen: int
    own: int
    config: Any | None
    lora: LoraOptions | None = None

    @property
    def bytes(self) -> int:
        """As it is loaded."""
        return self.frozen + self.own

    def has_vocabulary(self, size: int) -> bool:
        """Whether a critic of so many words may begin as it: names tell no more of a vocabulary than its size."""
        return self.config is not None and self.config.get_text_config().vocab_size == size


def models_beside(
    planner: Planner,
    model: str | Path | Any,
    objective: OnlineObjective,
    online: OnlineOptions,
    *,
    dtype: Dtype,
    reference: str,
    judge: str | None,
) -> Beside:
    """What stands beside the policy that `planner` plans.

    Args:
        model: the policy's name, or a configuration.
        objective, online: the run's.
        dtype: the run's.
        reference: asked where the objective needs one: `start`, `base`, or a model's name.
        judge: the reward of evaluations, where it is another one.
    """
    other = reward_bytes(judge) if judge else 0
    asked = _reference_bytes(planner, reference, dtype) if objective.needs_reference else 0
    names = dict.fromkeys(spec.partition(":")[2] for spec in online.reward if _kind(spec) == _MODEL)
    judges = [_judge(name) for name in names]
    base = _base_of_policy(planner, model)
    no_critic = (None, None, 0)
    found = _critic(planner, objective, judges, base, dtype) if isinstance(objective, PPO) else no_critic
    critic, critics_base, loaded = found
    known = {base, critics_base} - {None}
    judging = sum(one.own + (0 if one.base in known else one.frozen) for one in judges)
    implicit = sum(reward_bytes(spec) for spec in online.reward if _kind(spec) != _MODEL)
    read = [*(one.bytes for one in judges), loaded]
    loading = planner.weights.bytes + implicit + other + (max(read) if _is_mapped(planner) else sum(read))
    return Beside(asked, judging + implicit + other, critic, loading)


def _is_mapped(planner: Planner) -> bool:
    """Whether weights stay in their files until they are used: on a CPU, in the precision that the files have. Then
    equal ones are compared and let go before those of the next model are looked at.
    """
    asked = planner.asked
    return asked.device == "cpu" and getattr(planner.known.config, "dtype", None) == asked.training.weights


def _base_of_policy(planner: Planner, model: str | Path | Any) -> _Base | None:
    """The frozen weights of a policy with an adapter."""
    if not planner.asked.training.adapter or not isinstance(model, (str, Path)):
        return None
    return _resolved(base_of(str(model))[0]), planner.asked.training.weights


def _resolved(name: str) -> str:
    folder = demo_model_folder() if name == DEMO_MODEL else local(name)
    return str(folder.resolve()) if folder.exists() else name


# --- the critic ----------------------------------------------------------------------------------------------------


def _critic(
    planner: Planner, objective: PPO, judges: list[_Judge], base: _Base | None, dtype: Dtype
) -> tuple[CriticMemory, _Base | None, int]:
    """The critic, the frozen weights beneath it, and its bytes as it is loaded."""
    text = planner.known.config.get_text_config()
    if objective.critic == "own" and len(judges) == 1 and judges[0].has_vocabulary(text.vocab_size):
        return _as_judge(planner, judges[0], base, dtype)
    training = replace(planner.asked.training, values=True)
    weights = count_weights(planner.known.config, training)
    head, all_of_it = 4 * text.hidden_size, weights.trained_bytes
    if objective.critic == "shared":
        words = "a new head on the policy's own trunk"
        sizes = (text.hidden_size, head, all_of_it, head)
    else:
        whole = "an adapter of its own on the policy's base" if training.adapter else "a copy of the policy"
        words, sizes = f"{whole}, with a new head", (weights.trained, all_of_it, all_of_it, all_of_it)
    return CriticMemory(words, planner.known.config, training, weights, *sizes), base, 0


def _as_judge(
    planner: Planner, judge: _Judge, base: _Base | None, dtype: Dtype
) -> tuple[CriticMemory, _Base | None, int]:
    """A critic that begins as a reward model: as its adapter goes on, with a new one, or whole."""
    asked = planner.asked
    lora = judge.lora or (asked.training.lora if asked.training.adapter else LoraOptions())
    lora = replace(lora, load_in_4bit=False)
    training = replace(training_of(lora, dtype, asked.device, asked.training.checkpointing), values=True)
    weights = count_weights(judge.config, training)
    beneath = (judge.base[0], training.weights) if training.adapter else None
    shares = beneath is not None and beneath == base
    how = "with an adapter of its own" if training.adapter else "a copy of it"
    held, trained = weights.trained_bytes + (0 if shares else weights.frozen_bytes), weights.trained_bytes
    critic = CriticMemory(
        f"the reward model {judge.name}, {how}",
        judge.config,
        training,
        weights,
        weights.trained,
        held,
        trained,
        trained,
    )
    return critic, beneath, weights.bytes


# --- references and rewards ----------------------------------------------------------------------------------------


def _reference_bytes(planner: Planner, name: str, dtype: Dtype) -> int:
    """Bytes of the reference: an adapter switched off takes none, a policy that moves on is copied."""
    weights, asked = planner.weights, planner.asked
    if name not in WORDS:
        other = find_model(name, LoraOptions())
        return count_weights(other.config, training_of(other.lora, dtype, asked.device, False)).bytes
    if not asked.training.adapter:
        return weights.bytes
    return weights.trained_bytes if planner.known.adapter_loaded and name == WORDS[0] else 0


def reward_bytes(spec: str) -> int:
    """Bytes of the model that a reward is; 0 for functions and services, of which nothing is known."""
    kind, name = _kind(spec), spec.partition(":")[2]
    return _MODELS[kind](name) if kind in _MODELS else 0


def _kind(spec: str) -> str:
    return spec.partition(":")[0]


def _judge(name: str) -> _Judge:
    """A classifier by name, as `load_classifier` loads it."""
    if (local(name) / "adapter_config.json").is_file():
        known = find_model(name, LoraOptions())
        training = replace(training_of(known.lora, "auto", _device(), False), values=True)
        weights = count_weights(known.config, training)
        base = _resolved(base_of(name)[0]), training.weights
        return _Judge(name, base, weights.frozen_bytes, weights.trained_bytes, known.config, known.lora)
    from transformers import AutoModelForSequenceClassification

    with reading(name, "the configuration of a classifier"), torch.device("meta"):
        config = read_config(name, name)
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    kept = list(model.parameters())
    base, reads_on = (_resolved(name), kept[0].dtype), value_head(model) is not None and config.num_labels == 1
    return _Judge(name, base, sum(weight.nbytes for weight in kept), 0, config if reads_on else None)


def _device() -> Device:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _implicit_bytes(run: str) -> int:
    """A run's model, and its reference where that is a model of its own."""
    name = final_model(run)
    known = find_model(name, LoraOptions())
    own = count_weights(known.config, training_of(known.lora, "auto", _device(), False)).bytes
    return own if known.adapter_loaded or has_no_reference(card_of(name)) else 2 * own


_MODELS: dict[str, Callable[[str], int]] = {_MODEL: lambda name: _judge(name).bytes, "implicit": _implicit_bytes}
