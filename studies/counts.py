"""Comparisons of a small world, counted. Where policies are tables it only matters how often each answer was preferred
to each other one, so that twenty thousand pairs cost no more than a hundred, and many sets of them are learnt from at
once: (..., prompts, answers, answers), the chosen answer first.

What a loss of log-ratios learns there is a table of implicit rewards in units of beta: the policy of any beta is the
reference tilted by it, so that one training gives the whole line over beta. KTO's baseline and SimPO's missing
reference do not scale like that; they have functions of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from likelier.objectives.losses import dpo_loss, ipo_loss, kto_loss, robust_dpo_loss, simpo_loss
from likelier.objectives.pointwise import KTO
from studies.tabular import RATE, STEPS, World, minimized, path

Loss = Callable[[Tensor, Tensor], Tensor]  # of the chosen and the rejected answers' log-ratios
BETAS = torch.logspace(-0.8, 1.6, 13, dtype=torch.double)
dpo: Loss = partial(dpo_loss, beta=1.0)


def cdpo(noise: Tensor | float) -> Loss:
    """Conservative DPO that knows the noise."""
    return partial(dpo_loss, beta=1.0, label_smoothing=noise)


def rdpo(noise: Tensor | float) -> Loss:
    """Robust DPO that knows the noise."""
    return lambda chosen, rejected: robust_dpo_loss(chosen, rejected, beta=1.0, flip_probability=noise)


def ipo(chosen: Tensor, rejected: Tensor) -> Tensor:
    """IPO at a tau of 1: every answer is one token."""
    ones = torch.ones((), dtype=chosen.dtype)
    return ipo_loss(chosen, rejected, ones, ones, tau=1.0)


def asked(world: World, each: int, generator: torch.Generator) -> Tensor:
    """(prompts, answers, answers): how often each two different answers of the reference were compared, `each` times a
    prompt in all; the smaller number first.
    """
    chances = _both_drawn(world).flatten(1)
    drawn = torch.multinomial(chances, each, replacement=True, generator=generator)
    found = torch.zeros_like(chances).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=chances.dtype))
    return found.reshape(world.ref.shape[0], *2 * world.ref.shape[1:])


def _both_drawn(world: World) -> Tensor:
    """(prompts, answers, answers): the chance that these are the two, drawn without replacement; above the diagonal."""
    chances = world.ref.exp()
    ordered = chances[:, :, None] * (chances / (1 - chances).clamp(min=1e-12))[:, None, :]
    return (ordered + ordered.mT).triu(1)


def preference(world: World, sharpness: float = 1.0) -> Tensor:
    """(prompts, answers, answers): the chance that the first is preferred, by Bradley and Terry's model."""
    return torch.sigmoid(sharpness * (world.gold[:, :, None] - world.gold[:, None, :]))


def labelled(questions: Tensor, chance: Tensor, generator: torch.Generator) -> Tensor:
    """Each of these comparisons decided by one rater, who prefers the first answer with this chance; both broadcast."""
    many, chance = torch.broadcast_tensors(questions, chance)
    wins = torch.binomial(many.contiguous(), chance.contiguous(), generator=generator)
    return wins + (many - wins).mT


def flipped(chance: Tensor, noise: Tensor | float) -> Tensor:
    """The chance where labels are wrong with the chance `noise`."""
    return chance * (1 - noise) + (1 - chance) * noise


def voted(questions: Tensor, chance: Tensor, votes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each of these comparisons decided by so many raters: their votes as soft labels, and their majorities."""
    many, chance = torch.broadcast_tensors(questions, chance)
    soft, hard, left = torch.zeros_like(chance), torch.zeros_like(chance), many
    while bool((left > 0).any()):  # one comparison of every two answers at a time
        now = (left > 0).double()
        found = labelled(votes * now, chance, generator)
        soft, hard, left = soft + found / votes, hard + (found > votes / 2), left - now
    return soft, hard


def of_all(world: World, chance: Tensor) -> Tensor:
    """The counts of as many comparisons as one likes: their shares."""
    both = _both_drawn(world)
    return (both + both.mT) * chance


def learnt(loss: Loss, counts: Tensor, steps: int = STEPS, rate: float = RATE) -> Tensor:
    """(..., prompts, answers): the implicit rewards that Adam ends with."""

    def total(table: Tensor) -> Tensor:
        return (counts * loss(table[..., :, None], table[..., None, :])).sum()

    return minimized(total, torch.zeros(counts.shape[:-1], dtype=counts.dtype), steps, rate)


def line(world: World, rewards: Tensor, betas: Tensor = BETAS) -> Tensor:
    """(betas, prompts, answers): the policies of implicit rewards (prompts, answers) at every beta."""
    return torch.log_softmax(world.ref + rewards / betas[:, None, None], -1)


def share(world: World, rewards: Tensor, kl: float) -> float:
    """What the policy of implicit rewards (prompts, answers) gains where its beta brings it to this divergence, as a
    share of what the exact frontier gains there.
    """
    return world.share(float(world.gain(world.tilted(rewards, kl))), kl)


def wins(world: World, policy: Tensor) -> float:
    """How often an answer of a policy has more gold reward than one of the reference, ties as half."""
    better = torch.sign(world.gold[:, :, None] - world.gold[:, None, :]) / 2 + 0.5
    return float(torch.einsum("pa,pab,pb->p", policy.exp(), better, world.ref.exp()).mean())


def kto(
    up: Tensor,
    down: Tensor,
    ref: Tensor,
    betas: Tensor,
    *,
    weight: Tensor | None = None,
    start: Tensor | None = None,
    pairs: Tensor | None = None,
    steps: int = STEPS,
) -> Tensor:
    """(..., betas, prompts, answers): the policies that KTO ends with, from how often each answer is labelled desirable
    and undesirable (..., prompts, answers), where a desirable label weighs as much as `weight` (...,) undesirable ones
    (default: one). z0 is the mean over answers that are matched with prompts at random, whole. It begins with the
    policy `start` (default: the reference); with `pairs` their DPO loss is added, a pair as much as a label.
    """
    beta, rows = betas[:, None, None], up + down
    partners = (rows.sum(-1, keepdim=True) * rows.sum(-2, keepdim=True) / rows.sum((-2, -1), keepdim=True)).unsqueeze(
        -3
    )
    heavy = up if weight is None else up * weight[..., None, None]
    sides = ((True, heavy.unsqueeze(-3)), (False, down.unsqueeze(-3)))

    def loss(table: Tensor) -> Tensor:
        ratios = torch.log_softmax(ref + table / beta, -1) - ref
        sums = [(partners * value.detach()).sum((-2, -1)) for value in (ratios, ratios**2, torch.ones_like(ratios))]
        z0 = KTO.baseline(torch.stack(sums))[..., None, None]
        values = [
            many * kto_loss(ratios, torch.full_like(ratios, good, dtype=torch.bool), z0, beta=beta)
            for good, many in sides
        ]
        more = 0.0 if pairs is None else (pairs * dpo(table[..., :, None], table[..., None, :])).sum()
        return torch.stack(values).sum() + more

    begin = torch.zeros_like(ref) if start is None else start - ref
    table = minimized(loss, (begin * beta).expand(*up.shape[:-2], len(betas), *ref.shape), steps)
    return torch.log_softmax(ref + table / beta, -1)


def simpo(
    counts: Tensor,
    ref: Tensor,
    lengths: Tensor | None = None,
    *,
    margin: float = 0.5,
    steps: int = STEPS,
    every: int = 10,
) -> Tensor:
    """(stations, ..., prompts, answers): SimPO's policies on their way; nothing but the number of steps says how far
    they go. Answers are one token, or have `lengths` (prompts, answers); `margin` is its gamma in units of beta.
    """
    start, long = ref.expand(counts.shape[:-1]), torch.ones_like(ref) if lengths is None else lengths

    def loss(table: Tensor) -> Tensor:
        logps = torch.log_softmax(table, -1)
        sides = (logps[..., :, None], logps[..., None, :], long[..., :, None], long[..., None, :])
        return (counts * simpo_loss(*sides, beta=2.0, gamma_beta_ratio=margin)).sum()

    tables = list(path(loss, start, steps, rate=RATE, falls=False))
    return torch.log_softmax(torch.stack([start, *tables[every - 1 :: every]]), -1)
