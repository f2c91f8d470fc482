"""Preferences among own answers: which answers make a pair, what a pair's loss is, and what changes neither."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import fields, replace
from math import log, nan
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from likelier.objectives.losses import rebel_loss
from likelier.objectives.online_preference import ONLINE_PREFERENCE, OnlineDPO, OnlinePairs, Rebel, pair_advantages
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import SequenceScores
from likelier.runs.method import MethodFacts

DPO_OF_PAPER, REBEL_OF_PAPER = ONLINE_PREFERENCE
assert isinstance(DPO_OF_PAPER, OnlineDPO) and isinstance(REBEL_OF_PAPER, Rebel)
EVERY: dict[str, OnlinePairs] = {
    "online_dpo": DPO_OF_PAPER,
    "online_dpo, ipo": replace(DPO_OF_PAPER, preference_loss="ipo"),
    "rebel": REBEL_OF_PAPER,
}
METHODS = pytest.mark.parametrize("method", EVERY.values(), ids=EVERY)
LENGTHS = torch.tensor([3, 2, 4, 1, 2, 5])  # three pairs


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


# --- which answers are a pair -----------------------------------------------------------------------------------------


def test_the_best_and_the_worst_answer_of_a_prompt_are_a_pair() -> None:
    found = pair_advantages(
        doubles(2, 5, 1, 5, 1, nan, 3, nan, 4), torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2]), keep_ties=True
    )
    assert found.counts.nonzero()[:, 0].tolist() == [1, 2]  # the first of several; one verdict makes no pair
    assert found.values.tolist() == [0, 2, -2, 0, 0, 0, 0, 0, 0]


def test_a_tie_is_skipped_unless_there_is_nothing_else() -> None:
    rewards, whose = doubles(1, 1, 1, 0, 2), torch.tensor([0, 0, 0, 1, 1])
    assert pair_advantages(rewards, whose, keep_ties=False).counts.tolist() == [False, False, False, True, True]
    assert pair_advantages(rewards, whose, keep_ties=True).counts.tolist() == [True, True, False, True, True]
    alone = pair_advantages(rewards[:3], whose[:3], keep_ties=False)
    assert alone.counts.tolist() == [True, True, False] and not alone.values.any()
    assert not pair_advantages(doubles(nan, 1), torch.tensor([0, 0]), keep_ties=True).counts.any()


@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0, nan]), min_size=1, max_size=12), st.integers(2, 4))
def test_every_pair_is_two_answers_that_add_up_to_0(rewards: list[float], each: int) -> None:
    whose = torch.arange(len(rewards)) // each
    found = pair_advantages(doubles(*rewards), whose, keep_ties=True)
    for group in whose.unique():
        own, of = found.values[whose == group], found.counts[whose == group]
        said = [one for one in doubles(*rewards)[whose == group].tolist() if one == one]
        assert int(of.sum()) == (2 if len(said) > 1 else 0) and float(own.sum()) == 0
        assert float(own.max() - own.min()) == (max(said) - min(said) if len(said) > 1 else 0)


def test_rebel_charges_the_divergence_in_the_reward() -> None:
    limits: dict[str, Any] = {"lengths": LENGTHS[:4], "max_length": 9}
    rewards, whose, kl = doubles(1, 0, 0.5, 1), torch.tensor([0, 0, 1, 1]), doubles(40, 0, 0, 0)
    found = REBEL_OF_PAPER.advantages(rewards, whose, **limits, kl=kl)
    assert found.values.tolist() == pytest.approx([-0.5, 0.5, -0.25, 0.25])  # 40 nats x .05 are 2
    with pytest.raises(ValueError, match="charges the divergence in the reward and got none"):
        REBEL_OF_PAPER.advantages(rewards, whose, **limits)
    free = replace(REBEL_OF_PAPER, kl_coefficient=0.0)
    assert free.advantages(rewards, whose, **limits).values.tolist() == [0.5, -0.5, -0.25, 0.25]
    assert not free.needs_reference and not free.needs_old_logps(1) and free.needs_old_logps(2)
    assert REBEL_OF_PAPER.needs_old_logps(1) and not DPO_OF_PAPER.needs_old_logps(1)


# --- what its loss is -------------------------------------------------------------------------------------------------


def test_golden_numbers() -> None:
    assert float(rebel_loss(doubles(2), doubles(-1), doubles(1), eta=1.0)) == 4
    assert float(rebel_loss(doubles(2), doubles(-1), doubles(1), eta=3.0)) == 0


def world(seed: int, *, moved: float = 0.3) -> tuple[Tensor, RolloutItems]:
    """Three pairs, chosen and rejected next to each other: token log-probabilities, and what was known of them."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(int(LENGTHS.sum()), dtype=torch.double, generator=generator)  # noqa: E731
    logps, gaps = -draw().abs(), torch.rand(3, dtype=torch.double, generator=generator)
    items = RolloutItems(
        torch.stack([gaps / 2, -gaps / 2], 1).flatten(),
        old_token_logps=logps - moved * draw(),
        ref_token_logps=logps - 0.5 * draw(),
        sampler_token_logps=logps - 0.5 * draw(),
    )
    return logps.requires_grad_(), items


STEP = StepCounts.of(LENGTHS, torch.ones(6, dtype=torch.bool), 9)


def some(logps: Tensor, items: RolloutItems, pairs: list[int]) -> tuple[SequenceScores, RolloutItems]:
    """Scores and items of some pairs, in the order given."""
    answers = [number for pair in pairs for number in (2 * pair, 2 * pair + 1)]
    starts = (LENGTHS.cumsum(0) - LENGTHS).tolist()
    tokens = torch.cat([torch.arange(starts[one], starts[one] + int(LENGTHS[one])) for one in answers])
    per_token = {one.name: getattr(items, one.name) for one in fields(items) if one.name.endswith("token_logps")}
    found = {name: None if values is None else values[tokens] for name, values in per_token.items()}
    return SequenceScores.of(logps[tokens], LENGTHS[answers]), RolloutItems(items.advantages[answers], **found)


def total(method: OnlinePairs, logps: Tensor, items: RolloutItems, parts: list[list[int]]) -> Tensor:
    return torch.cat([method.losses(*some(logps, items, part), STEP) for part in parts]).sum()


@METHODS
@settings(max_examples=25)
@given(order=st.permutations([0, 1, 2]), cut=st.integers(1, 2), seed=st.integers(0, 5))
def test_the_cut_into_micro_batches_and_the_order_change_no_gradient(
    method: OnlinePairs, order: list[int], cut: int, seed: int
) -> None:
    logps, items = world(seed)
    (whole,) = torch.autograd.grad(total(method, logps, items, [[0, 1, 2]]), logps)
    (parts,) = torch.autograd.grad(total(method, logps, items, [order[:cut], order[cut:]]), logps)
    assert parts.tolist() == pytest.approx(whole.tolist(), abs=1e-12) and whole.abs().max() > 1e-3


@METHODS
def test_loss_and_gradient_are_those_of_a_plain_loop(method: OnlinePairs) -> None:
    logps, items = world(7)
    expected = torch.zeros((), dtype=torch.double)
    ends = LENGTHS.cumsum(0).tolist()
    base = items.old_token_logps if isinstance(method, Rebel) else items.ref_token_logps
    assert base is not None
    for pair in range(3):
        chosen, rejected = (slice(ends[one] - int(LENGTHS[one]), ends[one]) for one in (2 * pair, 2 * pair + 1))
        difference = (logps[chosen] - base[chosen]).sum() - (logps[rejected] - base[rejected]).sum()
        if isinstance(method, Rebel):
            loss = (difference / method.eta - (items.advantages[2 * pair] - items.advantages[2 * pair + 1])) ** 2
        elif isinstance(method, OnlineDPO) and method.preference_loss == "ipo":
            loss = (difference - 1 / (2 * method.beta)) ** 2
        else:
            assert isinstance(method, OnlineDPO)
            loss = torch.log(1 + torch.exp(-method.beta * difference))
        expected = expected + loss / 3
    found = total(method, logps, items, [[0, 1, 2]])
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-10)
    gradients = [torch.autograd.grad(value, logps)[0].tolist() for value in (found, expected)]
    assert gradients[0] == pytest.approx(gradients[1], abs=1e-10)


@METHODS
def test_gradients_in_fp64(method: OnlinePairs) -> None:
    logps, items = world(2, moved=0.1)
    assert torch.autograd.gradcheck(lambda x: total(method, x, items, [[0, 1, 2]]), (logps,))


def test_where_the_policy_is_the_reference_dpo_is_ln_2() -> None:
    logps, items = world(0)
    same = replace(items, ref_token_logps=logps.detach())
    assert float(total(DPO_OF_PAPER, logps, same, [[0, 1, 2]]).detach()) == pytest.approx(log(2))
    with pytest.raises(ValueError, match="compares with a reference and got none"):
        total(DPO_OF_PAPER, logps, replace(items, ref_token_logps=None), [[0, 1, 2]])


def test_before_the_first_update_rebel_follows_the_reward_gap() -> None:
    """D is 0: the gradient is -2 gap / eta on the chosen answer's tokens, the opposite on the other's."""
    logps, items = world(0)
    found = total(replace(REBEL_OF_PAPER, eta=2.0), logps, replace(items, old_token_logps=None), [[0, 1, 2]])
    (gradient,) = torch.autograd.grad(found, logps)
    whose = SequenceScores.of(logps, LENGTHS).answer_of
    assert gradient.tolist() == pytest.approx((-2 * items.advantages / 3)[whose].tolist(), abs=1e-12)


def test_a_tie_has_no_gradient_but_holds_rebel_where_it_was() -> None:
    logps, items = world(0)
    ties = replace(items, advantages=torch.zeros(6, dtype=torch.double))
    for method, moves in ((DPO_OF_PAPER, False), (EVERY["online_dpo, ipo"], False), (REBEL_OF_PAPER, True)):
        found = total(method, logps, ties, [[0, 1, 2]])
        (gradient,) = torch.autograd.grad(found, logps)
        assert bool(gradient.any()) is moves and bool(found > 0) is moves


# --- what is said of it -----------------------------------------------------------------------------------------------


def test_metrics_have_the_names_of_trl_and_leave_ties_out() -> None:
    logps, items = world(3)
    items = replace(items, advantages=items.advantages * doubles(1, 1, 0, 0, 1, 1))
    means = DPO_OF_PAPER.metrics(*some(logps, items, [0, 1, 2])).means()
    assert means.keys() == {
        *(f"{kind}/{side}" for kind in ("rewards", "logps", "lengths") for side in ("chosen", "rejected")),
        *("rewards/margins", "rewards/accuracies", "sampler/kl"),
    }
    assert items.ref_token_logps is not None
    ratios = [float(part.sum()) for part in (logps - items.ref_token_logps).detach().split(LENGTHS.tolist())]
    assert means["rewards/margins"] == pytest.approx(0.1 * (ratios[0] - ratios[1] + ratios[4] - ratios[5]) / 2)
    assert means["lengths/chosen"] == 2.5
    nothing = DPO_OF_PAPER.metrics(*some(logps, items, [1]))
    assert nothing.sums.keys() == DPO_OF_PAPER.metrics(*some(logps, items, [0])).sums.keys()


def test_pairs_ties_and_divergence_of_a_rollout_are_counted() -> None:
    rewards, whose = doubles(1, 0, 1, 1, nan, 1), torch.tensor([0, 0, 1, 1, 2, 2])
    found = DPO_OF_PAPER.advantages(rewards, whose, lengths=LENGTHS, max_length=9)
    sums = DPO_OF_PAPER.rollout_metrics(found, whose, rewards, doubles(1, 2, 3, 4, 5, 6))
    means = DPO_OF_PAPER.readable(sums)
    assert means == {
        "pairs/count": 1,
        "pairs/ties": 1,
        "pairs/reward_gap": 1,
        "kl": 3.5,
        "kl_standard_error": pytest.approx((35 / 12 / 5) ** 0.5),
    }


@METHODS
def test_a_method_tells_the_card_of_itself(method: OnlinePairs) -> None:
    facts = MethodFacts(**method.facts())
    assert facts.source and facts.strength in method.hyperparameters()
    assert facts.writes_answers and facts.needs_reference and method.answers_learnt == 2


@pytest.mark.parametrize(
    ("preset", "changed", "words"),
    [
        (DPO_OF_PAPER, {"answers_per_prompt": 1}, "answers_per_prompt=1 is out of range; it must be at least 2"),
        (DPO_OF_PAPER, {"beta": 0.0}, "beta=0.0 is out of range; it must be above 0"),
        (DPO_OF_PAPER, {"preference_loss": "slic"}, "one of dpo, ipo"),
        (REBEL_OF_PAPER, {"eta": -1.0}, "eta=-1.0 is out of range; it must be above 0"),
        (REBEL_OF_PAPER, {"kl_coefficient": -1.0}, "it must be at least 0"),
    ],
)
def test_what_cannot_work_is_refused(preset: OnlinePairs, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(preset, **changed)


# --- another implementation -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("sigmoid", "online_dpo"), ("ipo", "online_dpo, ipo")])
def test_a_step_is_that_of_trl(kind: str, name: str) -> None:
    """Its own `training_step` on given answers: three prompts with two each, the second one the better of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.online_dpo import OnlineDPOTrainer
    generator = torch.Generator().manual_seed(0)
    token_logps, reference = (-torch.rand(6, 5, dtype=torch.double, generator=generator) for _ in range(2))
    lengths, rewards = torch.tensor([5, 3, 2, 1, 4, 5]), doubles(1, 0.2, 0.7, 0, 0.9, 0.1)  # first answers, then second
    mask = torch.arange(5) < lengths[:, None]
    token_logps.requires_grad_()
    given = iter([token_logps, reference])
    ids = torch.ones(6, 5, dtype=torch.long)
    same = SimpleNamespace(gather_for_metrics=lambda value: value, backward=lambda loss, **_: loss.backward())
    trainer = SimpleNamespace(
        args=SimpleNamespace(
            use_vllm=False,
            missing_eos_penalty=None,
            loss_type=kind,
            torch_empty_cache_steps=None,
            optim=None,
            n_gpu=1,
            gradient_accumulation_steps=1,
        ),
        _generate=lambda *_: (ids, ids, ids, mask, None),
        eos_token_ids=[0],
        _forward=lambda *_: next(given),
        ref_model=object(),
        processing_class=SimpleNamespace(batch_decode=lambda *_, **__: ["text"] * 6),
        _calculate_rewards_from_functions=lambda **_: rewards,
        reward_funcs=[None],
        accelerator=same,
        beta=0.1,
        stats=defaultdict(list),
    )
    model = SimpleNamespace(train=lambda: None)
    theirs = OnlineDPOTrainer.training_step(trainer, model, {"prompt": ["a", "b", "c"]})  # type: ignore[arg-type]

    pairs = [(0, 3), (4, 1), (2, 5)]  # chosen, rejected
    order = [number for pair in pairs for number in pair]
    logps = torch.cat([token_logps.detach()[one, : int(lengths[one])] for one in order]).requires_grad_()
    ref = torch.cat([reference[one, : int(lengths[one])] for one in order])
    whose = torch.arange(3).repeat_interleave(2)
    found = pair_advantages(rewards[order], whose, keep_ties=False)
    items = RolloutItems(found.values, ref_token_logps=ref)
    scores = SequenceScores.of(logps, lengths[order])
    step = StepCounts.of(lengths[order], found.counts, 5)
    losses = EVERY[name].losses(scores, items, step)
    assert float(losses.sum().detach()) == pytest.approx(float(theirs), abs=1e-12)
    losses.sum().backward()
    assert token_logps.grad is not None and logps.grad is not None
    expected = torch.cat([token_logps.grad[one, : int(lengths[one])] for one in order])
    assert logps.grad.tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    means = EVERY[name].metrics(scores, items).means()
    for metric in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert means[metric] == pytest.approx(trainer.stats[metric][0], abs=1e-12)
