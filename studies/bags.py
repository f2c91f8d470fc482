"""A small language in which a proxy can be over-optimized: an answer is 20 tokens drawn alike, its features are sums
over them, and the gold reward likes a direction of these features, but not too far along it.

The policy's logits are linear in the tokens' embeddings, so that what it learns on some prompts it does on all.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from likelier.insight.diagnose import live_warnings
from likelier.objectives.losses import reward_model_loss
from likelier.objectives.online import online_method
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import SequenceScores
from likelier.runs.card import checked_card
from likelier.runs.reader import Run

TOKENS, WORDS, WIDTH, CONTEXT = 20, 32, 8, 4
CURVE = 0.35  # how much gold a step away from the centre costs


@dataclass(frozen=True)
class Language:
    """`words` (words, 8) embeddings, centred under the reference's `ref` (words,) log-probabilities; `direction` (8,)
    and `contexts` (8, 4) of the gold reward.
    """

    words: Tensor
    ref: Tensor
    direction: Tensor
    contexts: Tensor

    @staticmethod
    def made(generator: torch.Generator) -> Language:
        """Drawn at random. The gold reward is `v . f - CURVE / 2 |f|^2` for features f and a prompt's direction v."""

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.double, generator=generator)

        ref, words, direction = torch.log_softmax(draw(WORDS) / 2, 0), draw(WORDS, WIDTH), draw(WIDTH)
        words = words - ref.exp() @ words
        return Language(words, ref, 1.5 * direction / direction.norm(), draw(WIDTH, CONTEXT) / 4)

    def token_logps(self, policy: Tensor, prompts: Tensor) -> Tensor:
        """(n, words): of each prompt's tokens under a policy (8, 1 + CONTEXT); the zero policy is the reference."""
        return torch.log_softmax(self.ref + (policy[:, 0] + prompts @ policy[:, 1:].T) @ self.words.T, -1)

    def features(self, drawn: Tensor) -> Tensor:
        """(n, TOKENS) word numbers -> (n, 8)."""
        return self.words[drawn].sum(1) / sqrt(TOKENS)

    def gold(self, features: Tensor, prompts: Tensor) -> Tensor:
        """The gold reward of answers, (n,)."""
        wanted = self.direction + prompts @ self.contexts.T
        return (wanted * features).sum(1) - CURVE / 2 * (features**2).sum(1)

    def expected_gold(self, logps: Tensor, prompts: Tensor) -> Tensor:
        """Exactly what answers of such token log-probabilities (n, words) earn in the mean, (n,)."""
        chances = logps.exp()
        means = chances @ self.words
        squares = chances @ (self.words**2).sum(1) + (TOKENS - 1) * (means**2).sum(1)
        return ((self.direction + prompts @ self.contexts.T) * means).sum(1) * sqrt(TOKENS) - CURVE / 2 * squares

    def divergence(self, logps: Tensor) -> Tensor:
        """Exactly, in nats an answer, (n,)."""
        return TOKENS * (logps.exp() * (logps - self.ref)).sum(1)


def drawn_answers(logps: Tensor, generator: torch.Generator) -> Tensor:
    """An answer to each row of token log-probabilities (n, words) -> (n, TOKENS)."""
    return torch.multinomial(logps.exp(), TOKENS, replacement=True, generator=generator)


def described(features: Tensor, prompts: Tensor) -> Tensor:
    """What a reward model sees: features, their products, and their products with the prompt, (n, 76)."""
    first, second = torch.triu_indices(WIDTH, WIDTH)
    crossed = (features[:, :, None] * prompts[:, None]).flatten(1)
    return torch.cat([features, features[:, first] * features[:, second], crossed], 1)


def reward_model(language: Language, labels: int, generator: torch.Generator) -> Tensor:
    """The weights (76,) of a reward model from so many comparisons of the reference's answers, labelled by Bradley and
    Terry from the gold reward: the most likely ones where each weight is standard normal beforehand.
    """
    prompts = torch.randn(labels, CONTEXT, dtype=torch.double, generator=generator)
    rows = language.ref.expand(labels, -1)
    sides = [language.features(drawn_answers(rows, generator)) for _ in range(2)]
    gap = language.gold(sides[0], prompts) - language.gold(sides[1], prompts)
    sign = torch.where(torch.rand(labels, dtype=torch.double, generator=generator) < gap.sigmoid(), 1.0, -1.0)
    apart = sign[:, None] * (described(sides[0], prompts) - described(sides[1], prompts))
    weights = torch.zeros(apart.shape[1], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = apart @ weights
        loss = reward_model_loss(scores, torch.zeros_like(scores)).sum() + (weights**2).sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


# --- optimizing a proxy -----------------------------------------------------------------------------------------------

HELD_OUT, EVERY, RATE = 64, 5, 0.005
GRPO = online_method("grpo")


@dataclass
class Course:
    """A run as its folder would tell it, and beside it what nobody sees: the exact gold reward."""

    steps: list[dict[str, float]]
    evaluations: list[dict[str, Any]]
    gold: list[float]
    kl: list[float]


def optimized(language: Language, proxy: Tensor, judges: Mapping[str, Tensor | None], seed: int, steps: int) -> Course:
    """GRPO against the proxy, with an evaluation on held-out prompts every `EVERY` steps."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randn(HELD_OUT + 256, CONTEXT, dtype=torch.double, generator=generator)
    policy = torch.zeros(8, 1 + CONTEXT, dtype=torch.double, requires_grad=True)
    optimizer, course = torch.optim.Adam([policy], lr=RATE), Course([], [], [], [])
    for step in range(steps + 1):
        if step % EVERY == 0:
            _evaluate(course, language, policy.detach(), judges, prompts[:HELD_OUT], step)
        asked = prompts[HELD_OUT:][torch.randint(256, (16,), generator=generator)].repeat_interleave(8, 0)
        logps = language.token_logps(policy, asked)
        drawn = drawn_answers(logps.detach(), generator)
        rewards = described(language.features(drawn), asked) @ proxy
        lengths, group_of = torch.full((len(asked),), TOKENS), torch.arange(16).repeat_interleave(8)
        scores = SequenceScores.of(logps.gather(1, drawn).flatten(), lengths)
        found = GRPO.advantages(rewards, group_of, lengths=lengths, max_length=TOKENS)
        items = RolloutItems(found.values, found.counts)
        loss = GRPO.losses(scores, items, StepCounts.of(lengths, found.counts, TOKENS)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        row = {"step": step + 1, "loss": float(loss.detach()), "learning_rate": RATE, "reward": float(rewards.mean())}
        row |= {"reward_std": float(rewards.reshape(16, 8).std(1).mean()), "frac_reward_zero_std": 0.0}
        row |= {
            "entropy": float(-(logps.exp() * logps).detach().sum(1).mean()),
            "completions/mean_length": float(TOKENS),
        }
        course.steps.append(row | {"grad_norm": float(policy.grad.norm())})
    return course


def _evaluate(
    course: Course, language: Language, policy: Tensor, judges: Mapping[str, Any], prompts: Tensor, step: int
) -> None:
    logps = language.token_logps(policy, prompts)
    features = language.features(drawn_answers(logps, torch.Generator().manual_seed(1)))  # the same numbers each time
    kl = language.divergence(logps)
    seen = described(features, prompts)
    by_judge = {name: language.gold(features, prompts) if own is None else seen @ own for name, own in judges.items()}
    course.evaluations.append({"step": step, **{name: values.tolist() for name, values in by_judge.items()}})
    course.gold.append(float(language.expected_gold(logps, prompts).mean()))
    course.kl.append(float(kl.mean()))


def first_warning(course: Course, judge: str) -> tuple[int, str] | None:
    """The first evaluation (by number) after which `diagnose` warns while the run goes on, and the verdict's name."""
    facts = {"method": "grpo", "hyperparameters": GRPO.hyperparameters(), "objective": GRPO.facts()}
    online = {"max_new_tokens": TOKENS, "updates_per_rollout": 1}
    more = {"status": "training", "options": {"batch_size": 16}, "online": online, "learning_rate": {"value": RATE}}
    card = checked_card(facts | more, "run.json")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "evaluations").mkdir()
        rows = []
        for number, (evaluation, kl) in enumerate(zip(course.evaluations, course.kl, strict=True)):
            step, rewards = evaluation["step"], evaluation[judge]
            content = {"step": step, "when": "interval" if step else "start", "rewards": rewards}
            (Path(folder) / "evaluations" / f"step-{step}.json").write_text(json.dumps(content), encoding="utf-8")
            numbers = {
                "reward": sum(rewards) / HELD_OUT,
                "items": float(HELD_OUT),
                "kl": kl,
                "kl_per_token": kl / TOKENS,
            }
            rows.append({"step": step, **numbers})
            run = Run(Path(folder), card, [row for row in course.steps if row["step"] <= step], rows)
            if warnings := live_warnings(run):
                return number, warnings[0].name
    return None
