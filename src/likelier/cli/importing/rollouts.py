"""What the importers of verl and OpenRLHF share: names that both have for one thing, said once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from likelier.cli.importing.common import Draft, Note, missing

NO_REWARD = "./name-your-rewards.py:reward"
WHOLE = "answers are drawn from the policy's whole distribution, which is the one that the loss is about"
SERVER = "the policy itself writes, in the process that trains it"
WORKERS = "workers, devices and micro-batches: one process here, micro-batches are cut by token_budget"
CRITIC = "no critic is trained"
CRITIC_BEGINS = (
    "the critic begins as the reward model here, where that has the policy's vocabulary, else as the policy with a new "
    "head"
)
K1_IN_REWARD = "in the reward it does not pull along the divergence's gradient, k1 does; k1 is charged here"
KL_OF_TOKENS = (
    "nats a token there, nats an answer here, so that the coefficient stays as it is: set kl_target to theirs times "
    "the length of your answers, and kl_horizon"
)
PLAIN_K3 = "the gradient of plain k3 is that of the other direction's KL; here k3 is weighted by the ratio"


def count(draft: Draft, key: str, default: int) -> int:
    """A whole number of at least 1."""
    value = draft.whole(key, default)
    if value < 1:
        raise draft.error(f"{key}: {value} must be at least 1")
    return value


def rewards(draft: Draft, found: Sequence[str], keys: Iterable[str]) -> None:
    """The rewards, or a place to fill in; functions of these tools have another signature than ours."""
    if found:
        draft.put("reward", list(found))
        return
    draft.put("reward", [missing(draft, "reward", NO_REWARD)])
    text = "a reward function there has another signature; here it is f(prompts, completions, **columns) -> numbers"
    draft.note("differs", keys, text)


def clips(draft: Draft, low: float, high: float, dual: float | None, *, geometric: bool) -> None:
    """Both sides of the clip, and the dual one where ratios are those of tokens."""
    draft.put("clip_low", float(low))
    draft.put("clip_high", float(high))
    if dual and not geometric:
        draft.put("clip_dual", float(dual))


def prompts_of_a_step(draft: Draft, prompts: int, rollout: int, keys: Iterable[str]) -> None:
    """Prompts of one optimizer step, of a tool that writes the answers of several steps at once. What it counts in
    rollouts is more of ours.
    """
    draft.put("batch_size", prompts)
    if "critic_warmup" in draft.options:
        draft.options["critic_warmup"] *= max(1, rollout // prompts)
    if rollout != prompts:
        text = (
            f"answers to {rollout} prompts are written at once there and learnt from in pieces of {prompts}; here each "
        )
        draft.note("differs", keys, text + "step's answers are written by the policy as it is then")


def adapter(draft: Draft, rank: int, alpha: float, keys: Iterable[str]) -> None:
    """LoRA where its rank is above 0."""
    if rank > 0:
        draft.put("lora_r", rank)
        draft.put("lora_alpha", alpha)
    else:
        draft.off(keys)


def adam_of_torch(draft: Draft) -> None:
    """What Adam adds to its denominator where a tool leaves that to PyTorch; PPO's paper has a thousand times that."""
    draft.trainer["adam_epsilon"] = 1e-8
    draft.notes.append(Note("default", (), "trainer.adam_epsilon: 1e-08"))


def own_critic(draft: Draft, rate: float | None, default: float) -> None:
    """A critic with an optimizer of its own there, beside the policy's here."""
    draft.put_or_default("critic_learning_rate", rate, default)
    text = (
        "the critic's gradient is clipped by itself there; here policy and critic are clipped together, the critic's "
    )
    draft.note("differs", (), f"critic: {text}loss with the weight value_coefficient")


def entropy(draft: Draft, key: str) -> None:
    """A bonus for entropy, in nats a token."""
    bonus = draft.number(key)
    if bonus:
        draft.put("entropy_coefficient", float(bonus))
