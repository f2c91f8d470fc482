"""What an objective carries from step to step: of whole steps, once each; checkpoints keep it, evaluations ask it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import TrainerCallback

from likelier import DPO, PreferenceTrainer
from likelier.objectives import BCO, MPO, BCOPair, BetaDPO, Objective, Scored
from likelier.objectives.base import State
from likelier.runs.reader import read_run
from likelier.training.checkpointing import read_progress
from likelier.training.guards import StepGuard
from likelier.training.log_window import MetricWindow
from likelier.training.movement import Movement
from likelier.utils.distributed import ALONE
from likelier.utils.errors import RunFolderError
from tests.helpers.support import chat_pairs, logged, tiny_policy
from tests.training.test_step_and_mistakes import (
    assert_same_gradients,
    gradients,
    nothing,
    passes_of,
    rows_for,
    walk,
    walker_of,
)


@dataclass(frozen=True)
class AboveMean(DPO):
    """DPO against the mean margin of all pairs so far, of this step's too."""

    method: ClassVar[str] = "above_mean"
    needs_step: ClassVar[bool] = True

    def first_state(self) -> State:
        return {"total": torch.zeros((), dtype=torch.float64), "pairs": torch.zeros((), dtype=torch.float64)}

    def step_statistics(self, scored: Scored) -> Tensor:
        margins = self.margins(scored).detach()
        return torch.stack([margins.sum(), torch.ones_like(margins).sum()])

    def next_state(self, statistics: Tensor) -> State:
        return {"total": self.state["total"] + statistics[0], "pairs": self.state["pairs"] + statistics[1]}

    def mean(self) -> Tensor:
        return self.state["total"] / self.state["pairs"].clamp(min=1)

    def state_metrics(self) -> dict[str, Tensor]:
        return {"mean_margin": self.mean()}

    def margins(self, scored: Scored) -> Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return self.beta * (chosen - rejected)

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        return -logsigmoid(self.margins(scored) - self.mean())


def values(state: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(one) for name, one in state.items()}


# --- what it is ------------------------------------------------------------------------------------------------------


def test_a_state_belongs_to_a_copy_and_is_no_hyperparameter() -> None:
    first = AboveMean()
    later = first.with_state({"total": 0.1 + 0.2, "pairs": 3})
    assert values(first.state) == {"total": 0.0, "pairs": 0.0}
    assert later.state["total"].dtype == torch.float64 and float(later.mean()) == (0.1 + 0.2) / 3
    assert later == first and later.hyperparameters() == first.hyperparameters() and repr(later) == repr(first)
    written = json.loads(json.dumps(later.recorded_state()))
    assert values(first.with_state(written).state) == values(later.state)  # bit for bit


@pytest.mark.parametrize("state", [{}, {"total": 1.0}, {"total": 1.0, "rows": 2.0}, {"total": [1.0], "pairs": 2.0}])
def test_another_methods_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above_mean carries \['pairs', 'total'\]"):
        AboveMean().with_state(state)


def test_most_methods_carry_nothing() -> None:
    objective = DPO()
    assert objective.state == {} and objective.recorded_state() == {}
    assert objective.after(None) is objective and objective.after(torch.zeros(2)) is objective
    with pytest.raises(ValueError, match="dpo carries nothing, and was given"):
        objective.with_state({"total": 1.0})


# --- in a step -------------------------------------------------------------------------------------------------------


SHIFTED = {"chosen": [2.0, 4.0], "rejected": [-1.0, 4.0]}
CARRYING = [
    AboveMean(beta=0.5).with_state({"total": 2.0, "pairs": 4.0}),
    BCOPair(beta=0.5).with_state(SHIFTED),
    BCO(beta=0.5).with_state(SHIFTED),
    BetaDPO(beta=0.5).with_state({"mean_margin": 0.3, "beta": 0.4}),
    MPO().with_state({f"bco_pair.{side}": sums for side, sums in SHIFTED.items()}),
]


@pytest.mark.parametrize("objective", CARRYING, ids=lambda one: one.method)
@pytest.mark.parametrize("budget", [1, 160])
def test_a_step_takes_its_own_statistics_once_however_it_is_cut(objective: Objective, budget: int) -> None:
    groups = rows_for(objective)
    whole, cut = walker_of(objective), walker_of(objective, budget)
    passes = passes_of(cut.model)
    expected, found = walk(whole, groups), walk(cut, groups)
    assert len(found.parts) > 1 and found.state.keys() == objective.state.keys()
    for name, before in objective.state.items():
        assert found.state[name].tolist() == pytest.approx(expected.state[name].tolist(), rel=1e-12)
        assert not torch.equal(found.state[name], before)
    assert_same_gradients(gradients(cut.model), gradients(whole.model))
    assert [with_gradients for with_gradients, _ in passes] == [False] * len(found.parts) + [True] * len(found.parts)
    assert cut.objective.recorded_state() == objective.recorded_state()  # until the step is learnt from


class Judge:
    """Refuses a step for its losses, or for its gradient."""

    def __init__(self, loss: bool, gradient: bool) -> None:
        self.loss, self.gradient = loss, gradient

    def accepts_loss(self, *_: Any) -> bool:
        return self.loss

    def accepts_gradient(self, *_: Any) -> bool:
        return self.gradient


@pytest.mark.parametrize(("loss", "gradient"), [(True, True), (False, True), (True, False)])
def test_a_step_that_is_skipped_leaves_nothing_behind(loss: bool, gradient: bool) -> None:
    walker, learnt = walker_of(AboveMean()), list[Any]()
    judge: Any = Judge(loss, gradient)
    guard = StepGuard(judge, MetricWindow(), Movement(walker.model, ALONE), learnt=learnt.append)
    groups = rows_for(walker.objective)
    done = walker.walk(walker.model, groups, lambda loss: loss.backward(), nothing)
    guard.accepts(1, done, len(groups))
    assert guard.accepts_gradient(1, 1.0) == (loss and gradient)
    assert learnt == ([done] if loss and gradient else [])


# --- in a run --------------------------------------------------------------------------------------------------------


class Stop(TrainerCallback):
    """Ends a run like a fault, after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise InterruptedError


def trainer(folder: Path, **more: Any) -> PreferenceTrainer:
    options = {"batch_size": 4, "token_budget": 64, "max_steps": 3, "save_steps": 2, "eval_steps": 2, "eval_prompts": 0}
    options |= {"learning_rate": 1e-2, "reference_store": str(folder.with_suffix(".store"))}
    held_out = chat_pairs(3, seed=9)
    return PreferenceTrainer(
        tiny_policy(), AboveMean(), chat_pairs(8), eval_data=held_out, output_dir=folder, **options, **more
    )


@pytest.mark.slow
def test_a_run_keeps_its_state_in_checkpoints_metrics_and_card(tmp_path: Path) -> None:
    """That a run which was killed goes on bit for bit: `test_kill`."""
    with pytest.raises(InterruptedError):
        trainer(tmp_path / "run", callbacks=[Stop(2)]).train()
    file = tmp_path / "run" / "checkpoints" / "step-2" / "progress.json"
    kept = file.read_text(encoding="utf-8")
    assert read_progress(file.parent)["objective_state"]["pairs"] == 8.0
    file.write_text(kept.replace('"total"', '"other"'), encoding="utf-8")
    with pytest.raises(RunFolderError, match="is damaged: above_mean carries"):
        trainer(tmp_path / "run", resume=True).train()
    file.write_text(kept, encoding="utf-8")
    again = trainer(tmp_path / "run", resume=True)
    again.train()
    assert isinstance(again.objective, AboveMean)
    assert values(again.objective.state)["pairs"] == 12.0  # evaluations added none
    means = [row["mean_margin"] for row in logged(again) if "mean_margin" in row]
    assert len(means) == 3 and means[-1] == float(again.objective.mean()) != 0.0
    assert read_run(tmp_path / "run").card.objective_state == again.objective.recorded_state()
