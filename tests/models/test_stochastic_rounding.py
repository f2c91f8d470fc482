"""Stochastic rounding: right on average, exact where nothing is to be rounded, and what was learned survives it."""

from __future__ import annotations

import pytest
import torch

from likelier.models.stochastic_rounding import round_model_, round_stochastically
from tests.helpers.support import tiny_model

DTYPES = [torch.bfloat16, torch.float16]


def rounded(values: torch.Tensor, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return round_stochastically(values, dtype, torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_is_the_value_and_every_result_is_a_neighbour(dtype: torch.dtype) -> None:
    for value in (0.3, -0.3, 1.0009, -1e-3, 255.9):
        found = rounded(torch.full((200_000,), value), dtype)
        low, high = found.min(), found.max()
        assert low <= value <= high and found.unique().numel() == 2
        assert torch.nextafter(low.to(dtype), high.to(dtype)) == high.to(dtype)
        assert float(found.double().mean()) == pytest.approx(value, abs=float(high - low) * 0.01)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_dtype_holds_stays_as_it_is(dtype: torch.dtype) -> None:
    exact = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    special = torch.tensor([0.0, -0.0, 1.0, -2.0, float("inf")])
    for values in (exact, special, exact.view(10, 100)):
        assert torch.equal(rounded(values, dtype), values)


def test_it_is_repeatable() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(values, torch.bfloat16, 1), rounded(values, torch.bfloat16, 1))
    assert not torch.equal(rounded(values, torch.bfloat16, 1), rounded(values, torch.bfloat16, 2))


def test_small_updates_of_a_base_on_the_grid_survive() -> None:
    base = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).float()
    update = 1e-4 * base
    assert torch.equal((base + update).to(torch.bfloat16).float(), base), "the nearest values are the base's"
    kept = rounded(base + update, torch.bfloat16, seed=1) - base
    assert float((kept @ update) / (update @ update)) == pytest.approx(1.0, abs=0.1)


def test_a_model_keeps_its_ties_and_changes_its_dtype() -> None:
    model = tiny_model(dtype=torch.float32)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    round_model_(model, torch.bfloat16)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert parameter.dtype == torch.bfloat16
        torch.testing.assert_close(parameter.float(), old, rtol=2**-7, atol=0)
