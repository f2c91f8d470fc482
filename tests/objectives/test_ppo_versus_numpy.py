"""PPO's step on a tabular model against an implementation of its own in NumPy, with hand-written gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from likelier.objectives.online import online_method
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import SequenceScores

pytestmark = pytest.mark.slow
VOCABULARY, PROMPTS, RATE = 5, 3, 0.05
STATES = PROMPTS * (VOCABULARY + 1)  # a prompt with the token before, or with none


class Rollouts:
    """Ragged answers to prompts under a tabular policy: states and tokens, flat."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.table = random.normal(size=(STATES, VOCABULARY))
        self.reference = self.table + 0.3 * random.normal(size=self.table.shape)
        self.critic = random.normal(size=STATES)
        self.lengths = random.integers(1, 7, 9)
        self.states, self.tokens = [], []
        for number, length in enumerate(self.lengths):
            before = VOCABULARY
            for _ in range(length):
                self.states.append((number % PROMPTS) * (VOCABULARY + 1) + before)
                before = int(random.integers(VOCABULARY))
                self.tokens.append(before)
        self.scores = random.normal(size=len(self.lengths))
        self.answer_of = np.repeat(np.arange(len(self.lengths)), self.lengths)


def log_softmax(table: np.ndarray) -> np.ndarray:
    shifted = table - table.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def whiten(values: np.ndarray, keep_mean: bool) -> np.ndarray:
    found = (values - values.mean()) / np.sqrt(values.var() + 1e-8)
    return found + values.mean() if keep_mean else found


def in_numpy(made: Rollouts, options: dict) -> tuple[np.ndarray, np.ndarray]:
    """Policy and critic after four passes over the rollout: arXiv 2403.17031, written out."""
    states, tokens = np.array(made.states), np.array(made.tokens)
    old = log_softmax(made.table)[states, tokens]
    kl = old - log_softmax(made.reference)[states, tokens]
    rewards = -0.05 * kl
    ends = np.cumsum(made.lengths) - 1
    rewards[ends] += made.scores
    if options["whiten"] in ("rewards", "both"):
        rewards = whiten(rewards, keep_mean=True)
    values = made.critic[states]
    advantages = np.zeros_like(values)
    for end, length in zip(ends, made.lengths, strict=True):
        following, ahead = 0.0, 0.0
        for place in range(end, end - length, -1):
            delta = rewards[place] + options["gamma"] * following - values[place]
            ahead = delta + options["gamma"] * 0.95 * ahead
            advantages[place], following = ahead, values[place]
    returns = advantages + values
    if options["whiten"] in ("advantages", "both"):
        advantages = whiten(advantages, keep_mean=False)
    table, critic = made.table.copy(), made.critic.copy()
    moments = [np.zeros_like(one) for one in (table, table, critic, critic)]
    for update in range(1, 5):
        policy = log_softmax(table)
        ratios = np.exp(policy[states, tokens] - old)
        first, second = -advantages * ratios, -advantages * np.clip(ratios, 0.8, 1.2)
        of_logp = np.where(first >= second, first, np.where((ratios > 0.8) & (ratios < 1.2), second, 0)) / len(tokens)
        to_table = np.zeros_like(table)
        for state, token, slope in zip(states, tokens, of_logp, strict=True):
            to_table[state] -= slope * np.exp(policy[state])
            to_table[state, token] += slope
        now = critic[states]
        near = np.clip(now, values - 0.2, values + 0.2)
        is_near = (near - returns) ** 2 > (now - returns) ** 2
        inside = np.abs(now - values) < 0.2
        of_value = np.where(is_near, (near - returns) * inside, now - returns) * 0.1 / len(tokens)
        to_critic = np.zeros_like(critic)
        np.add.at(to_critic, states, of_value)
        norm = np.sqrt((to_table**2).sum() + (to_critic**2).sum())
        shrink = min(1.0, options["most"] / (norm + 1e-6))
        for weight, gradient, place in ((table, to_table * shrink, 0), (critic, to_critic * shrink, 2)):
            moments[place] = 0.9 * moments[place] + 0.1 * gradient
            moments[place + 1] = 0.999 * moments[place + 1] + 0.001 * gradient**2
            mean, square = moments[place] / (1 - 0.9**update), moments[place + 1] / (1 - 0.999**update)
            weight -= RATE * mean / (np.sqrt(square) + 1e-5)
    return table, critic


def with_ours(made: Rollouts, options: dict) -> tuple[np.ndarray, np.ndarray]:
    method = online_method("ppo", whiten=options["whiten"], gamma=options["gamma"])
    assert method.adam_epsilon == 1e-5 and method.run_defaults["updates_per_rollout"] == 4
    table, critic = (torch.tensor(one, requires_grad=True) for one in (made.table, made.critic))
    states, tokens, lengths = (torch.tensor(np.array(one)) for one in (made.states, made.tokens, made.lengths))

    def scores(values: torch.Tensor) -> SequenceScores:
        return SequenceScores.of(values, lengths)

    old = table.detach().log_softmax(1)[states, tokens]
    reference = torch.tensor(made.reference).log_softmax(1)[states, tokens]
    counts = torch.ones(len(lengths), dtype=torch.bool)
    found = method.advantages(
        torch.tensor(made.scores), torch.arange(len(lengths)), lengths=lengths, max_length=6, kl=None
    )
    estimates = method.estimates(
        found.values,
        critic.detach()[states],
        kl=old - reference,
        lengths=lengths,
        counts=counts,
        kl_coefficient=method.kl_coefficient,
    )
    items = RolloutItems(found.values, old_token_logps=old, ref_token_logps=reference, estimates=estimates)
    step = StepCounts.of(lengths, counts, 6)
    optimizer = torch.optim.Adam([table, critic], lr=RATE, eps=method.adam_epsilon)
    for _ in range(method.run_defaults["updates_per_rollout"]):
        optimizer.zero_grad()
        losses = method.losses(scores(table.log_softmax(1)[states, tokens]), items, step)
        (losses.sum() + method.value_losses(scores(critic[states]), items, step).sum()).backward()
        torch.nn.utils.clip_grad_norm_([table, critic], options["most"])
        optimizer.step()
    return table.detach().numpy(), critic.detach().numpy()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("whiten_what", ["advantages", "rewards", "both", "none"])
@pytest.mark.parametrize(("gamma", "most"), [(1.0, 1e9), (0.9, 0.1)])
def test_a_rollout_moves_policy_and_critic_as_in_numpy(seed: int, whiten_what: str, gamma: float, most: float) -> None:
    made, options = Rollouts(seed), {"whiten": whiten_what, "gamma": gamma, "most": most}
    for ours, theirs, before in zip(
        with_ours(made, options), in_numpy(made, options), (made.table, made.critic), strict=True
    ):
        assert np.abs(theirs - before).max() > 0.1
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
