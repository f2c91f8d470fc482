"""One optimizer step without a trainer: however it is cut, interrupted by a lack of memory or shared by ranks, it
leaves the same gradients, and computes no more for them than is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from likelier import DPO, KTO, SFT
from likelier.data.groups import Group
from likelier.data.mismatched import with_partners
from likelier.data.tokenize import tokenize_records
from likelier.objectives import Objective
from likelier.scoring import attach_scorer
from likelier.scoring.engine import micro_batches
from likelier.training import step as steps
from likelier.training import within_memory
from likelier.training.step import StepResult, StepWalker
from likelier.training.within_memory import moments_of
from likelier.utils.distributed import ALONE, Ranks
from likelier.utils.errors import LikelierWarning, TrainingError
from tests.helpers.support import chat_pairs, labelled_rows, lora_policy, tiny_model, tiny_tokenizer

OBJECTIVES = [DPO(beta=0.5), KTO(beta=0.5, desirable_weight=1.3)]
CPU = torch.device("cpu")


def rows_for(objective: Objective, count: int = 6) -> list[Group]:
    """Rows with weights and reference scores near the model's own (as for a policy that has moved)."""
    labelled = objective.data == "labels"
    records: Sequence[Any] = labelled_rows(count) if labelled else chat_pairs(count)
    groups = tokenize_records(records, tiny_tokenizer(), max_length=512).groups
    groups = with_partners(groups, 512) if objective.needs_partner else groups
    rng = np.random.default_rng(0)
    return [
        replace(
            one,
            ref_logps=tuple(-9.0 * len(answer) + rng.normal() for answer in one.answers),
            weight=float(rng.uniform(0.5, 2)),
        )
        for one in groups
    ]


def walker_of(objective: Objective, budget: int = 100_000, **more: Any) -> StepWalker:
    model = tiny_model()
    attach_scorer(model, scorer="plain")
    model.train()
    return StepWalker(model, objective, budget, CPU, **more)


def backward(loss: Tensor) -> None:
    loss.backward()


def nothing(part: Any) -> None:
    pass


def walk(walker: StepWalker, groups: Sequence[Group], back: Callable[[Tensor], None] = backward) -> StepResult:
    return walker.walk(walker.model, groups, back, nothing)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and expected
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=name)
    assert any(float(value.abs().max()) > 1e-3 for value in expected.values())


def uncut(objective: Objective, groups: Sequence[Group]) -> dict[str, Tensor]:
    walker = walker_of(objective)
    walk(walker, groups)
    return gradients(walker.model)


@pytest.fixture
def retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(within_memory, "can_retry", lambda device, ranks: True)


@dataclass
class ShortOfMemory:
    """A backward that computes and then runs out of memory, in the first walk's micro-batch of that number."""

    at: int
    called: int = 0

    def __call__(self, loss: Tensor) -> None:
        self.called += 1
        loss.backward()
        if self.called == self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


# --- done again ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES, ids=["dpo", "kto"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_step_done_again_is_the_uncut_step(retried: None, objective: Objective, at: int) -> None:
    """Memory runs out inside a backward: gradients of that and of earlier micro-batches are there already."""
    groups = rows_for(objective)
    walker, back = walker_of(objective, budget=200), ShortOfMemory(at)
    assert len(micro_batches(walker.model, groups, 200)) == 3
    with pytest.warns(LikelierWarning, match="memory ran out"):
        done = walk(walker, groups, back)
    assert back.called > at + 2
    assert_same_gradients(gradients(walker.model), uncut(objective, groups))
    assert sorted(group.source.number for group in done.groups) == [group.source.number for group in groups]


@pytest.mark.slow
def test_a_step_done_again_twice_is_the_uncut_step(retried: None) -> None:
    groups, objective, calls = rows_for(DPO(), 12), DPO(beta=0.5), 0

    def short(loss: Tensor) -> None:
        nonlocal calls
        calls += 1
        loss.backward()
        if calls in (2, 5):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    walker = walker_of(objective, budget=600)
    with pytest.warns(LikelierWarning):
        walk(walker, groups, short)
    assert calls > 12
    assert_same_gradients(gradients(walker.model), uncut(objective, groups))


def test_a_step_done_again_draws_the_same_random_numbers(retried: None) -> None:
    """Dropout's masks are those of the first attempt."""
    walker, groups, drawn = walker_of(DPO(), budget=200), rows_for(DPO()), []
    torch.manual_seed(3)

    def seen(part: Any) -> None:
        drawn.append(float(torch.rand(())))

    back = ShortOfMemory(2)
    with pytest.warns(LikelierWarning):
        walker.walk(walker.model, groups, back, seen)
    assert drawn[:2] == drawn[2:4] and drawn[0] != drawn[1]


@pytest.mark.slow
def test_the_budget_halves_what_was_really_held(retried: None) -> None:
    groups = rows_for(DPO())
    largest = 2 * max(group.longest for group in groups)
    for budget in (10_000, 2 * largest):
        walker = walker_of(DPO(), budget=budget)
        cut = micro_batches(walker.model, groups, budget)
        fullest = max(sum(group.tokens for group in part) for part in cut)
        with pytest.warns(LikelierWarning):
            walk(walker, groups, ShortOfMemory(1))
        assert walker.token_budget == min(budget, fullest) // 2 < budget


def test_a_single_row_that_does_not_fit_is_named(retried: None) -> None:
    groups = rows_for(DPO())
    walker = walker_of(DPO(), budget=1)
    longest = max(groups, key=lambda group: group.longest)
    with pytest.raises(TrainingError, match=f"a single row in the micro-batch, at the longest {longest.source}"):
        walk(walker, groups, ShortOfMemory(1))
    assert walker.token_budget == 1


def test_elsewhere_a_lack_of_memory_ends_the_run_with_advice() -> None:
    walker = walker_of(DPO(), budget=100)
    back = ShortOfMemory(1)
    with pytest.raises(TrainingError, match=r"memory ran out: CUDA out of memory.*Lower --token-budget"):
        walk(walker, rows_for(DPO()), back)
    assert back.called == 1 and walker.token_budget == 100


def test_one_process_on_cuda_alone_can_go_on() -> None:
    cuda = torch.device("cuda", 0)
    assert within_memory.can_retry(cuda, ALONE)
    assert not within_memory.can_retry(CPU, ALONE) and not within_memory.can_retry(cuda, Ranks(0, 2))


# --- what a step is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["dpo", "kto"])
def test_a_step_is_the_mean_of_its_weighted_losses(objective: Objective) -> None:
    groups = rows_for(objective)
    done = walk(walker_of(objective), groups)
    assert [group.source.number for group in done.groups] != [] and len(done.losses) == len(groups)
    for budget in (1, 100, 160):
        walker = walker_of(objective, budget)
        cut = walk(walker, groups)
        assert_same_gradients(gradients(walker.model), uncut(objective, groups))
        found = dict(zip([group.source.number for group in cut.groups], cut.losses.tolist(), strict=True))
        expected = dict(zip([group.source.number for group in done.groups], done.losses.tolist(), strict=True))
        assert found == pytest.approx(expected, rel=1e-12)
        assert not any(part.losses.requires_grad or part.scored.logps.requires_grad for part in cut.parts)


def test_the_shared_loss_handed_to_backward_adds_up_to_the_mean() -> None:
    groups, told = rows_for(DPO()), []
    done = walk(walker_of(DPO(), 100), groups, lambda loss: told.append(float(loss.detach())))
    assert len(told) >= 3 and sum(told) == pytest.approx(float(done.losses.mean()), rel=1e-12)


def passes_of(model: nn.Module) -> list[tuple[bool, Any]]:
    """Batches that the model is called with from now on, and whether with gradients."""
    passes: list[tuple[bool, Any]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append((torch.is_grad_enabled(), kwargs["batch"])), with_kwargs=True
    )
    return passes


def answers_in(batches: Sequence[Any]) -> list[list[int]]:
    return sorted(answer.tolist() for batch in batches for answer in batch.answers)


def test_ktos_partners_are_scored_without_gradients() -> None:
    groups, objective = rows_for(KTO()), KTO()
    walker = walker_of(objective, budget=100)
    passes = passes_of(walker.model)
    walk(walker, groups)
    learned = [batch for with_gradients, batch in passes if with_gradients]
    asked = [batch for with_gradients, batch in passes if not with_gradients]
    assert len(learned) >= 3 and all(batch.items.partners is None for batch in learned)
    assert answers_in(learned) == sorted(group.answers[0].tolist() for group in groups)
    assert all(batch.items.rows is None for batch in asked)
    assert answers_in(asked) == sorted(group.answers[1].tolist() for group in groups)


@pytest.mark.parametrize("objective", [DPO(), SFT()], ids=["dpo", "sft"])
def test_a_method_without_partners_scores_nothing_twice(objective: Objective) -> None:
    groups = rows_for(DPO())
    if objective.data == "answers":
        groups = [replace(group, answers=group.answers[:1], desirable=True) for group in groups]
    walker = walker_of(objective, budget=100)
    passes = passes_of(walker.model)
    walk(walker, groups)
    assert all(with_gradients for with_gradients, _ in passes)
    whole = [answer.tolist() for group in groups for answer in group.answers]
    assert answers_in([batch for _, batch in passes]) == sorted(whole)


def test_a_step_of_one_micro_batch_takes_one_pass() -> None:
    walker = walker_of(KTO())
    passes = passes_of(walker.model)
    walk(walker, rows_for(KTO()))
    assert [with_gradients for with_gradients, _ in passes] == [True]


# --- shared by ranks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["dpo", "kto"])
@pytest.mark.parametrize("count", [6, 3, 1])
def test_the_ranks_gradients_average_to_the_whole_steps(
    objective: Objective, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more ranks than rows some have a filler, which counts for nothing."""
    groups = rows_for(objective, 6)[:count]
    walker = walker_of(objective)
    whole = walk(walker, groups)
    expected = gradients(walker.model)
    own: list[Tensor] = []  # what each rank adds to the statistics

    def total(ranks: Ranks, values: Tensor) -> Tensor:
        own.append(values)
        assert whole.statistics is not None
        return whole.statistics

    monkeypatch.setattr(Ranks, "total", total)
    summed: dict[str, Tensor] = {}
    done: list[StepResult] = []
    for rank in range(4):
        walker = walker_of(objective, budget=100, ranks=Ranks(rank, 4))
        done.append(walk(walker, groups))
        for name, value in gradients(walker.model).items():
            summed[name] = summed.get(name, torch.zeros_like(value)) + value / 4
    assert_same_gradients(summed, expected)
    counted = sorted(group.source.number for one in done for group in one.groups)
    assert counted == sorted(group.source.number for group in groups)
    assert sum(len(one.losses) for one in done) == count
    assert all(len(one.parts) >= 1 for one in done)
    if whole.statistics is not None:
        torch.testing.assert_close(torch.stack(own).sum(0), whole.statistics, rtol=1e-12, atol=1e-12)


def test_gradients_are_exchanged_with_the_last_micro_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, **inputs: Any) -> Any:
            return self.module(**inputs)

        @contextmanager
        def no_sync(self) -> Any:
            log.append("apart")
            yield
            log.append("together")

    monkeypatch.setattr(steps, "DistributedDataParallel", Wrapped)
    walker, groups = walker_of(DPO(), 100), rows_for(DPO())
    walker.walk(Wrapped(walker.model), groups, lambda loss: log.append("backward"), nothing)
    count = log.count("backward")
    assert count >= 3 and log == ["apart", "backward", "together"] * (count - 1) + ["backward"]


# --- the trial before the first step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_trial_leaves_nothing_behind(training: bool) -> None:
    walker = walker_of(DPO(), 100)
    walker.model.train(training)
    torch.manual_seed(5)
    before = torch.get_rng_state()

    def draw(*call: Any) -> None:
        torch.rand(())  # as dropout would

    hook = walker.model.register_forward_hook(draw)
    walker.prove_it_fits(rows_for(DPO()), 4, 1000)
    hook.remove()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None for weight in walker.model.parameters())
    assert walker.model.training is training and walker.token_budget == 100


@pytest.mark.parametrize("budget", [160, 100_000])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=["dpo", "kto"])
def test_the_trial_runs_the_fullest_micro_batch_of_the_longest_rows(
    retried: None, objective: Objective, budget: int
) -> None:
    """With KTO's partners only where a step is one micro-batch, and they are learned beside the rows."""
    groups = rows_for(objective, 12)
    walker = walker_of(objective, budget)
    passes = passes_of(walker.model)
    walker.prove_it_fits(groups, 4, 0)
    longest = sorted(groups, key=lambda group: -group.tokens)[:4]
    cut = micro_batches(walker.model, longest, budget)
    assert [with_gradients for with_gradients, _ in passes] == [True]
    held = [group.answers if len(cut) == 1 else group.own_answers for group in cut[0]]
    assert (len(cut) == 1) == (budget > 1000)
    assert answers_in([passes[0][1]]) == sorted(answer.tolist() for own in held for answer in own)


def test_the_trial_shrinks_the_budget_until_it_fits(retried: None) -> None:
    groups = rows_for(DPO(), 12)
    walker = walker_of(DPO(), 1000)
    held: list[int] = []

    def limited(module: nn.Module, args: Any, kwargs: Any) -> None:
        held.append(sum(len(answer) for answer in kwargs["batch"].answers))
        if held[-1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    walker.model.register_forward_pre_hook(limited, with_kwargs=True)
    with pytest.warns(LikelierWarning, match="memory ran out"):
        walker.prove_it_fits(groups, 8, 0)
    assert held[0] > 60 >= held[-1] and walker.token_budget < 1000


@pytest.mark.slow
def test_moments_are_what_the_optimizer_holds() -> None:
    for model in (tiny_model(dtype=torch.float32), lora_policy(dtype=torch.float32).model):
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained)
        for weight in trained:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        state = [value for one in optimizer.state.values() for value in one.values()]
        held = sum(value.nbytes for value in state if isinstance(value, Tensor) and value.dim())
        assert moments_of(model, "adamw_torch") == held > 0
    model = tiny_model(dtype=torch.bfloat16)
    assert moments_of(model, "adamw_torch_fused") == 3 * sum(weight.nbytes for weight in model.parameters())
    assert moments_of(model, "sgd") == moments_of(model, "adamw_torch_8bit") == 0
