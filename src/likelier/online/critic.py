"""The critic of PPO: a model that says of a state what its answer will still earn, and learns beside the policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from likelier.models.adapter_parts import has_adapter
from likelier.models.classifier import Classifier
from likelier.models.layers import value_head
from likelier.models.options import Dtype, LoraOptions
from likelier.models.policy import Policy, load_policy
from likelier.models.sharing import share_frozen, value_copy
from likelier.objectives.online_base import OnlineObjective
from likelier.objectives.ppo import PPO
from likelier.objectives.scored import SequenceScores
from likelier.online.rewards.load import RewardSet
from likelier.online.rewards.models import ModelReward
from likelier.scoring import Batch, attach_scorer, scorer_of
from likelier.scoring.values import state_values_plain, state_values_shared
from likelier.training.checkpointing import undamaged
from likelier.utils.distributed import Ranks
from likelier.utils.errors import ConfigError, RunFolderError
from likelier.utils.files import local

_FILE = "critic.safetensors"
_WAYS = {"plain": state_values_plain, "shared-prefix": state_values_shared}


@dataclass(eq=False)
class Critic:
    """`model` gives a number a token, `objective` says what it learns. `own` are its trained weights that the policy
    does not have, by their names. `words` say what it began as, `is_new` that nothing has taught its head yet. `offset`
    is taken off what its head says. That of a critic which begins as a reward model is found out on the first rollout
    (`Estimator`): scores of whole answers say nothing of how high those of their beginnings lie.
    """

    objective: PPO
    model: Any
    own: dict[str, nn.Parameter]
    words: str
    is_new: bool
    offset: float = 0.0

    @staticmethod
    def of(objective: PPO, model: Any, policy: nn.Module, words: str, *, is_new: bool) -> Critic:
        """A value model beside a policy, some of whose weights may be the policy's."""
        theirs = {id(weight) for weight in policy.parameters()}
        named = model.named_parameters()
        own = {name: weight for name, weight in named if weight.requires_grad and id(weight) not in theirs}
        return Critic(objective, model, own, words, is_new)

    def require_steps(self, steps: int, updates_per_rollout: int) -> None:
        """Raises `ConfigError` for a run that would end before the policy begins to learn."""
        warmup = self.objective.critic_warmup
        if warmup * updates_per_rollout >= steps:
            raise ConfigError(
                f"critic_warmup={warmup} (rollouts, {updates_per_rollout} steps each) takes all {steps} steps of "
                "the run, so that the policy would learn nothing: give a smaller one, or more steps"
            )

    def __call__(self, batch: Batch) -> SequenceScores:
        """The value of the state before each answer token, in the place of its log-probability."""
        found: SequenceScores = self.model(batch=batch, how=_WAYS[scorer_of(self.model).name])
        return SequenceScores.of(found.token_logps - self.offset, found.lengths)

    def average_gradients(self, ranks: Ranks) -> None:
        """Of its own weights over the ranks: those of the policy's are exchanged by what is wrapped around it."""
        if not ranks.several:
            return
        gradients = [weight.grad for weight in self.own.values() if weight.grad is not None]
        mean = ranks.total(torch.cat([one.flatten() for one in gradients])) / ranks.size
        parts = mean.split([one.numel() for one in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def forget_gradients(self) -> None:
        """Of its own weights: those of the policy's are not its business."""
        for weight in self.own.values():
            weight.grad = None

    def save(self, folder: Path) -> None:
        """Its own weights, into a checkpoint."""
        save_file({name: weight.detach().contiguous() for name, weight in self.own.items()}, folder / _FILE)

    def load(self, folder: Path) -> None:
        """What `save` wrote. Raises `RunFolderError` where that is damaged, or of another critic."""
        with undamaged(folder):
            saved = load_file(folder / _FILE)
        if {name: weight.shape for name, weight in saved.items()} != {n: one.shape for n, one in self.own.items()}:
            raise RunFolderError(
                f"the critic in {folder} has other weights than this run's: resume with the reward, the adapter and "
                "the option critic that the run began with"
            )
        with torch.no_grad():
            for name, weight in self.own.items():
                weight.copy_(saved[name])


def critic_for(objective: OnlineObjective, policy: Policy, rewards: RewardSet) -> Critic | None:
    """A critic beside the policy: where the rewards have one reward model that reads as the policy does, it begins as
    that, else as the policy with a new head, which is 0 everywhere. None for an objective that has no critic.
    """
    if not isinstance(objective, PPO):
        return None
    shared = objective.critic == "shared"
    made = None if shared else _from_reward_model(objective, policy, rewards)
    return made or _on_trunk(objective, policy.model, shared=shared)


def hold_once(policy: Policy, critic: Critic | None, *rewards: RewardSet) -> None:
    """Frozen weights that several of policy, critic and reward models have alike are held once."""
    known = [policy.model]
    if critic is not None:
        share_frozen(critic.model, known)
        known.append(critic.model)
    judges = {id(judge.model): judge.model for some in rewards for judge in reward_models(some).values()}
    for judge in judges.values():
        share_frozen(judge, known)
        known.append(judge)


def _on_trunk(objective: PPO, policy: nn.Module, *, shared: bool) -> Critic:
    if shared:
        model = value_copy(policy, lambda weight: True)
        return Critic.of(objective, model, policy, "a new head on the policy's own trunk", is_new=True)
    model = value_copy(policy, lambda weight: not weight.requires_grad)
    whole = "an adapter of its own on the policy's base" if has_adapter(policy) else "a copy of the policy"
    return Critic.of(objective, model, policy, f"{whole}, with a new head", is_new=True)


def _from_reward_model(objective: PPO, policy: Policy, rewards: RewardSet) -> Critic | None:
    """None where there is none that could be it: none or several, another vocabulary, an encoder, two outputs."""
    found = reward_models(rewards)
    if len(found) != 1:
        return None
    ((folder, judge),) = found.items()
    head = value_head(judge.model)
    if head is None or judge.model.config.num_labels != 1:
        return None
    if judge.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        return None
    made = load_policy(folder, values=True, dtype=_dtype_of(policy), lora=_adapter_like(policy, folder))
    made.model.to(next(policy.model.parameters()).device)
    for module in made.model.modules():  # whatever the reward model learnt with
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    attach_scorer(made.model, autocast=made.autocast)
    how = "with an adapter of its own" if has_adapter(made.model) else "a copy of it"
    words = f"the reward model {folder}, {how}"
    return Critic.of(objective, made.model, policy.model, words, is_new=False)


def reward_models(rewards: RewardSet) -> dict[str, Classifier]:
    """The classifiers among them, by the folders or hub ids that they were loaded from."""
    found = (one for one in rewards.rewards if isinstance(one, ModelReward))
    return {one.spec.partition(":")[2]: one.classifier for one in found}


def _dtype_of(policy: Policy) -> Dtype:
    if policy.autocast:
        return "bfloat16"
    return "pure-bfloat16" if policy.model.dtype == torch.bfloat16 else "float32"


def _adapter_like(policy: Policy, folder: str) -> LoraOptions:
    """What is trained of a whole reward model: all of it, or an adapter as the policy's where that has one."""
    own = policy.adapter_settings
    if own is None or (local(folder) / "adapter_config.json").is_file():
        return LoraOptions()
    targets = own["targets"]
    return LoraOptions(
        lora_r=own["r"],
        lora_alpha=own["alpha"],
        lora_targets=targets if isinstance(targets, str) else ",".join(targets),
    )
