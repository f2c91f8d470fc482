"""The loss of a reward model: its golden numbers, and TRL's on the same rows."""

from __future__ import annotations

from math import log
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.objectives import METHODS, RewardModel, Scored
from likelier.objectives.losses import reward_model_loss
from likelier.scoring import attach_scorer, collate
from likelier.scoring.engine import as_scored

R = torch.tensor([1.2], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)


@pytest.mark.parametrize(
    ("more", "expected"), [({}, 0.474077), ({"margin": 0.3}, 0.598139), ({"center_weight": 0.01}, 0.510177)]
)
def test_golden_numbers(more: dict[str, float], expected: float) -> None:
    assert float(reward_model_loss(*R, **more)) == pytest.approx(expected, abs=5e-7)


def test_equal_scores_say_nothing() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(reward_model_loss(zero, zero)) == pytest.approx(log(2))
    assert float(reward_model_loss(*R, label_smoothing=0.5)) == pytest.approx(
        (float(reward_model_loss(*R)) + float(reward_model_loss(R[1], R[0]))) / 2
    )


def test_the_gradient_is_that_of_the_formula() -> None:
    scores = [torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda *given: reward_model_loss(*given, margin=0.3, center_weight=0.1, label_smoothing=0.1), scores
    )


def test_the_objective_takes_scores_where_others_take_log_probabilities() -> None:
    pairs = torch.tensor([[0, 1]])
    scored = Scored.of(torch.cat(R), torch.tensor([3, 4]), pairs=pairs, margins=torch.tensor([0.3]).double())
    objective = METHODS["reward"]()
    assert isinstance(objective, RewardModel) and not objective.needs_reference
    assert float(objective.losses(scored)) == pytest.approx(0.598139, abs=5e-7)
    assert float(objective.logits(scored)) == pytest.approx(0.2)
    assert objective.rewards(scored).tolist() == [1.2, 0.7]


@pytest.mark.slow
@pytest.mark.parametrize("center", [0.0, 0.01])
@pytest.mark.parametrize("margins", [None, [0.5, 0.0, 1.5]])
def test_loss_scores_and_gradient_are_those_of_trl(center: float, margins: list[float] | None) -> None:
    """RewardTrainer's own collator and loss; the pad token is none of the row's, which TRL needs."""
    from trl.trainer.reward_trainer import DataCollatorForPreference, RewardTrainer

    rng = np.random.default_rng(1)
    rows = [
        [rng.integers(3, 97, count).astype(np.int32) for count in counts]
        for counts in ([5, 4, 7], [3, 2, 2], [8, 1, 6])
    ]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_labels=1
    )
    config.pad_token_id = 0
    model = LlamaForSequenceClassification(config)
    given = margins or [0.0] * 3
    features: list[dict[str, Any]] = [
        {"chosen_ids": [*prompt, *chosen], "rejected_ids": [*prompt, *rejected], "margin": margin}
        for (prompt, chosen, rejected), margin in zip(rows, given, strict=True)
    ]
    if margins is None:
        features = [{name: value for name, value in row.items() if name != "margin"} for row in features]
    inputs = DataCollatorForPreference(pad_token_id=0)(features)
    theirs = _trl_loss(RewardTrainer, model, inputs, center)
    theirs.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    attach_scorer(model)
    groups = [
        Group(prompt, (chosen, rejected), Source("made up", number), margin=None if margins is None else margin)
        for number, ((prompt, chosen, rejected), margin) in enumerate(zip(rows, given, strict=True), 1)
    ]
    batch = collate(groups)
    losses = RewardModel(center_weight=center).losses(as_scored(batch, model(batch=batch)))
    losses.mean().backward()
    assert float(losses.detach().mean()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient, rtol=1e-4, atol=1e-5)


def _trl_loss(trainer: Any, model: Any, inputs: Any, center: float) -> torch.Tensor:
    """TRL's `compute_loss` with as much of a trainer as it looks at."""
    from collections import defaultdict

    metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    own = SimpleNamespace(
        args=SimpleNamespace(center_rewards_coefficient=center or None),
        accelerator=SimpleNamespace(
            gather_for_metrics=lambda value: value, gather=lambda value: value, device=torch.device("cpu")
        ),
        model=model,
        _metrics=metrics,
        _total_train_tokens=0,
        _tp_size=1,
        state=SimpleNamespace(num_input_tokens_seen=0),
    )
    found: torch.Tensor = trainer.compute_loss(own, model, inputs)
    return found
