"""Who takes part in a run with a critic, and what each holds in memory beyond those before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from likelier.models.policy import Policy
from likelier.online.critic import Critic, reward_models
from likelier.online.rewards.load import RewardSet
from likelier.scoring.reference import Reference


@dataclass(frozen=True)
class Role:
    """`weights` are the bytes of what it alone holds, `training` those of its gradients and of AdamW's two moments."""

    name: str
    words: str
    weights: int = 0
    training: int = 0

    @property
    def line(self) -> str:
        """For the person at the terminal."""
        training = f", and {_mb(self.training)} for what it learns with" if self.training else ""
        return f"{self.name}: {self.words}; {_mb(self.weights)} of its own{training}"

    def as_json(self) -> dict[str, Any]:
        """For the run card."""
        return asdict(self)


def roles_of(policy: Policy, critic: Critic, reference: Reference | None, rewards: RewardSet) -> tuple[Role, ...]:
    """Actor, critic, reference and reward models, in this order: what several hold is the first one's."""
    known: set[int] = set()
    actor = Role("actor", policy.words, *_bytes(policy.model.parameters(), known))
    weights, training = _bytes(critic.model.parameters(), known)
    found = [actor, Role("critic", critic.words, weights, training)]
    if reference is None:
        found.append(Role("reference", "none: kl_coefficient is 0"))
    else:
        copied = 0 if reference.at_hand else actor.weights
        found.append(Role("reference", reference.words, copied))
    judges = reward_models(rewards)
    for name, judge in judges.items():
        found.append(Role("reward model", name, *_bytes(judge.model.parameters(), known)))
    others = [one.name for one in rewards.rewards if one.spec.partition(":")[2] not in judges]
    if others:
        found.append(Role("reward", f"{', '.join(others)}, no classifier"))
    return tuple(found)


def _bytes(weights: Iterable[nn.Parameter], known: set[int]) -> tuple[int, int]:
    """Of the weights that are not known yet, and of what training holds of them; they are known afterwards."""
    new = [weight for weight in weights if id(weight) not in known]
    known.update(map(id, new))
    return sum(one.nbytes for one in new), sum(3 * one.nbytes for one in new if one.requires_grad)


def _mb(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
