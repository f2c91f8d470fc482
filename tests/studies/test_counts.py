"""Counted comparisons: they ask for what the objectives ask of the same pairs one by one, and are drawn as they say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from likelier.objectives.base import Objective
from likelier.objectives.pairwise import DPO, IPO, RobustDPO, SimPO
from likelier.objectives.pointwise import KTO
from likelier.objectives.scored import Scored
from studies import counts, tabular
from studies.tabular import Pairs, World


@pytest.fixture(scope="module")
def world() -> World:
    return World.made(5, prompts=6, answers=4)


def listed(pairs: Tensor) -> Pairs:
    """Counts (prompts, answers, answers) as pairs one by one."""
    return Pairs(*pairs.nonzero().repeat_interleave(pairs[pairs > 0].long(), 0).T)


def one_by_one(objective: Objective, logps: Tensor, ref: Tensor, pairs: Pairs, lengths: Tensor | None = None) -> Tensor:
    """The summed loss of an objective on them, every answer one token where it has no other length."""
    lengths = torch.ones_like(logps).long() if lengths is None else lengths
    sides = torch.cat([tabular.at(logps, pairs.prompts, side) for side in _sides(pairs)])
    refs = torch.cat([tabular.at(ref, pairs.prompts, side) for side in _sides(pairs)])
    numbers = torch.arange(len(sides)).reshape(2, -1).T
    long = torch.cat([tabular.at(lengths, pairs.prompts, side) for side in _sides(pairs)])
    return objective.losses(Scored.of(sides, long, refs, pairs=numbers)).sum()


def _sides(pairs: Pairs) -> tuple[Tensor, Tensor]:
    return pairs.chosen, pairs.rejected


@pytest.mark.parametrize(
    ("loss", "objective"),
    [
        (counts.dpo, DPO(beta=1.0)),
        (counts.cdpo(0.2), DPO(beta=1.0, label_smoothing=0.2)),
        (counts.rdpo(0.2), RobustDPO(beta=1.0, flip_probability=0.2)),
        (counts.ipo, IPO(tau=1.0, length_normalize=False)),
    ],
    ids=["dpo", "cdpo", "rdpo", "ipo"],
)
def test_counts_ask_for_what_the_pairs_ask_for(world: World, loss: counts.Loss, objective: Objective) -> None:
    generator = torch.Generator().manual_seed(1)
    many = counts.labelled(counts.asked(world, 9, generator), counts.preference(world), generator)
    logps = torch.log_softmax(torch.randn(6, 4, dtype=torch.double, generator=generator), -1)
    ratios = (logps - world.ref).requires_grad_(True)
    (own,) = torch.autograd.grad((many * loss(ratios[:, :, None], ratios[:, None, :])).sum(), ratios)
    table = logps.clone().requires_grad_(True)
    (other,) = torch.autograd.grad(one_by_one(objective, table, world.ref, listed(many)), table)
    assert torch.allclose(own, other, atol=1e-12) and float(own.abs().max()) > 0.1


def first_step(monkeypatch: pytest.MonkeyPatch, learn: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """The gradient that training begins with, and where it begins."""
    seen: list[tuple[Tensor, Tensor]] = []

    def noted(loss: Callable[[Tensor], Tensor], start: Tensor, *_: object, **__: object) -> Tensor:
        table = start.clone().requires_grad_(True)
        seen.append((torch.autograd.grad(loss(table), table)[0], start))
        return start

    monkeypatch.setattr(counts, "minimized", noted)
    monkeypatch.setattr(counts, "path", lambda *given, **more: [noted(*given, **more)] * 10)
    learn()
    return seen[0]


def test_kto_asks_for_what_its_rows_ask_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    up, down = (torch.randint(1, 5, (6, 4), generator=generator).double() for _ in range(2))
    start = torch.log_softmax(torch.randn(6, 4, dtype=torch.double, generator=generator), -1)
    betas, weight = torch.tensor([0.5], dtype=torch.double), torch.tensor(3.0, dtype=torch.double)
    found, _ = first_step(monkeypatch, lambda: counts.kto(up, down, world.ref, betas, weight=weight, start=start))
    rows, numbers = up + down, torch.arange(24).reshape(6, 4)
    many = torch.cat([up, down]).flatten().long()
    answers = torch.cat([numbers, numbers]).flatten().repeat_interleave(many)
    good = torch.arange(len(answers)) < int(up.sum())
    by_prompt, by_answer = (rows.sum(dim).long() for dim in (1, 0))
    asked, given = torch.arange(6).repeat_interleave(by_prompt), torch.arange(4).repeat_interleave(by_answer)
    partners = numbers[asked[:, None], given[None]].flatten()  # every prompt with every answer
    table = ((start - world.ref) * 0.5).requires_grad_(True)
    logps = torch.log_softmax(world.ref + table / 0.5, -1).flatten()
    places = torch.arange(len(answers))
    scored = Scored.of(
        torch.cat([logps[answers], logps[partners]]),
        torch.ones(len(answers) + len(partners), dtype=torch.long),
        torch.cat([world.ref.flatten()[answers], world.ref.flatten()[partners]]),
        rows=places,
        desirable=good,
        partners=torch.arange(len(partners)) + len(answers),
    )
    objective = KTO(beta=0.5, desirable_weight=3.0)
    (other,) = torch.autograd.grad(objective.losses(scored, objective.step_statistics(scored)).sum(), table)
    assert torch.allclose(found[0], other, atol=1e-10) and float(other.abs().max()) > 0.1


@pytest.mark.parametrize(("margin", "most"), [(0.5, 1), (0.0, 4)])
def test_simpo_asks_for_what_its_pairs_ask_for(
    world: World, monkeypatch: pytest.MonkeyPatch, margin: float, most: int
) -> None:
    generator = torch.Generator().manual_seed(3)
    many = counts.labelled(counts.asked(world, 9, generator), counts.preference(world), generator)
    lengths = torch.randint(1, most + 1, world.ref.shape, generator=generator)
    sets = torch.stack([many, torch.zeros_like(many)])
    found, _ = first_step(monkeypatch, lambda: counts.simpo(sets, world.ref, lengths, margin=margin)[-1])
    table = world.ref.clone().requires_grad_(True)
    objective = SimPO(gamma_beta_ratio=margin)
    loss = one_by_one(objective, torch.log_softmax(table, -1), world.ref, listed(many), lengths)
    assert torch.allclose(found[0], torch.autograd.grad(loss, table)[0], atol=1e-12)
    assert not found[1].any()


@pytest.mark.slow
def test_one_training_gives_the_whole_line_over_beta(world: World) -> None:
    generator = torch.Generator().manual_seed(4)
    many = counts.labelled(counts.asked(world, 200, generator), counts.preference(world), generator)
    betas = torch.tensor([2.0, 4.0], dtype=torch.double)
    line = counts.line(world, counts.learnt(counts.dpo, many, 400), betas)
    own = tabular.preferred("dpo", listed(many), world.ref, betas, world.ref, 400)
    assert torch.allclose(line.exp(), own.exp(), atol=5e-3)


def test_comparisons_are_drawn_and_labelled_as_they_say(world: World) -> None:
    generator = torch.Generator().manual_seed(5)
    questions = counts.asked(world, 4000, generator)
    assert torch.equal(questions.sum((1, 2)), torch.full((6,), 4000.0, dtype=torch.double))
    chance = counts.flipped(counts.preference(world), 0.2)
    found, expected = counts.labelled(questions, chance, generator) / 4000, counts.of_all(world, chance)
    assert torch.allclose(found, expected, atol=0.04)
    both = Pairs.drawn(world, world.ref, 4000, generator)
    drawn = torch.zeros(6, 4, 4, dtype=torch.double)
    drawn.index_put_((both.prompts, both.chosen, both.rejected), torch.ones(24000, dtype=torch.double), accumulate=True)
    assert torch.allclose(drawn / 4000, counts.of_all(world, counts.preference(world)), atol=0.04)
    soft, hard = counts.voted(questions, chance, 5, generator)
    assert torch.allclose(soft / 4000, expected, atol=0.04)
    assert torch.allclose(hard + hard.mT, soft + soft.mT)
