"""KL estimators, as numbers and as losses: what their gradients are, by exact expectation over a categorical."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from likelier.objectives.divergence import k1, k2, k3

Estimator = Callable[[Tensor, Tensor], Tensor]

REFERENCE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.double).log()
START = torch.tensor([0.4, -0.3, 0.9], dtype=torch.double)


def test_golden_numbers() -> None:
    logp, ref = torch.tensor(-1.2, dtype=torch.double), torch.tensor(-1.5, dtype=torch.double)
    assert [float(one(logp, ref)) for one in (k1, k2, k3)] == pytest.approx([0.3, 0.045, 0.040818], abs=5e-7)


def test_k3_keeps_its_digits_where_the_policies_are_close() -> None:
    close = k3(torch.tensor([-1.0 - 1e-4], dtype=torch.double), torch.tensor([-1.0], dtype=torch.double))
    assert close.item() == pytest.approx(5e-9, rel=1e-4)


def gradient(value: Callable[[Tensor], Tensor]) -> Tensor:
    logits = START.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(logits.log_softmax(0)), logits)
    return found


def expected_gradient(estimator: Estimator) -> Tensor:
    """Of the estimator as a loss on tokens that the policy drew: the probabilities weigh and have no gradient."""
    return gradient(lambda logps: (logps.detach().exp() * estimator(logps, REFERENCE)).sum())


def reverse_kl(logps: Tensor) -> Tensor:
    return (logps.exp() * (logps - REFERENCE)).sum()


def forward_kl(logps: Tensor) -> Tensor:
    return (REFERENCE.exp() * (REFERENCE - logps)).sum()


def nothing(logps: Tensor) -> Tensor:
    return 0.0 * logps.sum()


LOSSES: dict[str, tuple[Estimator, Callable[[Tensor], Tensor]]] = {
    "k1 does nothing": (k1, nothing),
    "k2 is the reverse KL": (k2, reverse_kl),
    "k3 is the forward KL": (k3, forward_kl),
    "ratio x k3 is the reverse KL": (lambda logps, ref: (logps - logps.detach()).exp() * k3(logps, ref), reverse_kl),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_an_estimator_is_as_a_loss(name: str) -> None:
    estimator, divergence = LOSSES[name]
    assert expected_gradient(estimator).tolist() == pytest.approx(gradient(divergence).tolist(), abs=1e-12)


@pytest.mark.parametrize("estimator", [k1, k3])
def test_unbiased_as_a_number(estimator: Estimator) -> None:
    logps = START.log_softmax(0)
    assert (logps.exp() * estimator(logps, REFERENCE)).sum().item() == pytest.approx(
        float(reverse_kl(logps)), abs=1e-12
    )
