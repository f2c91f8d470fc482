"""The ways that scoring takes on CUDA, with real numbers on a device that is made up: where operands lie, which kernel
is called with what, and that the scores are those of a CPU.
"""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from likelier.models.policy import Policy
from likelier.scoring import attach_scorer, collate
from likelier.scoring import attention as attentions
from likelier.scoring.attention import has_varlen_kernel
from likelier.scoring.engine import PACK_LARGER, micro_batches, score_everywhere, score_groups
from likelier.scoring.logprobs import HeadTransform, linear_token_logprobs
from likelier.scoring.reference import ReferenceScoring, start_reference
from likelier.scoring.reference.store import attach_reference
from likelier.scoring.trial import _device_words
from tests.helpers.architectures import SHARING, hard_pairs, hard_rows, tiny
from tests.helpers.pretend_cuda import Gpu, OnCuda, on_cuda, pretended_cuda
from tests.helpers.support import tiny_tokenizer

WITH_A_MATRIX = {"gemma2", "gpt-oss"}  # capped scores or sinks, for which there is no kernel


# --- the device itself -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_operands_on_two_devices_are_refused_as_on_cuda() -> None:
    with pretended_cuda() as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: there @ here,
            lambda: there.masked_fill(here > 0, 0.0),
            lambda: there.index_select(0, torch.tensor([0])),
            lambda: nn.functional.embedding(torch.tensor([0]), there[:, None]),
            lambda: there.index_add(0, torch.tensor([0], device=device), here[:1]),
        ):
            with pytest.raises(RuntimeError, match="two devices, cuda:0 and cpu"):
                mixed()
        assert (there + torch.tensor(2.0)).tolist() == [3.0, 3.0, 3.0]  # CUDA takes these
        assert there[torch.tensor([0, 2])].device == device and there.cpu().device.type == "cpu"
        assert (there + here.to(device)).tolist() == [2.0, 2.0, 2.0]


def test_a_graph_goes_through_it() -> None:
    with pretended_cuda() as device:
        weight = nn.Parameter(OnCuda(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
        (weight @ torch.tensor([1.0, -1.0], device=device)).square().sum().backward()
        assert isinstance(weight.grad, OnCuda) and weight.grad.tolist() == [[-2.0, 2.0], [-2.0, 2.0]]


# --- the kernel for all segments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "dtype", "size", "has"),
    [
        ((8, 0), torch.bfloat16, 64, True),
        ((12, 0), torch.float16, 256, True),
        ((9, 0), torch.bfloat16, 8, True),
        ((7, 5), torch.float16, 64, False),
        ((9, 0), torch.float32, 64, False),
        ((9, 0), torch.bfloat16, 264, False),
        ((9, 0), torch.bfloat16, 20, False),
    ],
)
def test_which_heads_the_kernel_takes(capability: tuple[int, int], dtype: torch.dtype, size: int, has: bool) -> None:
    query = torch.zeros(1, 300, 5, size, dtype=dtype)
    with pretended_cuda(Gpu(capability)):
        assert has_varlen_kernel(OnCuda(query)) is has
        assert not has_varlen_kernel(query)


def test_a_torch_whose_kernel_lacks_an_argument_attends_segment_by_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")

    def older(query: Any, *more: Any, scale: float, window_size: tuple[int, int]) -> None: ...

    monkeypatch.setattr(varlen, "varlen_attn", older)
    attentions._takes_our_call.cache_clear()
    with pretended_cuda():
        assert not has_varlen_kernel(OnCuda(torch.zeros(1, 2, 5, 8, dtype=torch.bfloat16)))
    attentions._takes_our_call.cache_clear()


def test_the_installed_kernel_takes_our_call() -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    given = {"scale": 0.5, "window_size": (-1, 0), "enable_gqa": True}
    bound = signature(varlen.varlen_attn).bind("q", "k", "v", "cu_q", "cu_k", 3, 5, **given)
    assert list(bound.arguments) == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", *given]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many segments each call of the kernel attends to."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    found, real = [], varlen.varlen_attn

    def counted(query: Tensor, key: Tensor, value: Tensor, cu_queries: Tensor, *more: Any, **how: Any) -> Tensor:
        found.append(len(cu_queries) - 1)
        return real(query, key, value, cu_queries, *more, **how)

    monkeypatch.setattr(varlen, "varlen_attn", counted)
    monkeypatch.setattr(attentions, "_takes_our_call", lambda: True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARING)
def test_every_architecture_scores_and_learns_there_as_on_a_cpu(name: str, calls: list[int]) -> None:
    here = tiny(name, torch.bfloat16)
    attach_scorer(here, scorer="shared-prefix")
    expected = here(batch=collate(hard_pairs()))
    expected.logps.sum().backward()
    with pretended_cuda() as device:
        there = on_cuda(tiny(name, torch.bfloat16))
        attach_scorer(there, scorer="shared-prefix")
        before, batch = len(calls), collate(hard_pairs(), device=device)
        found = there(batch=batch)
        layers = 0 if name in WITH_A_MATRIX else here.config.num_hidden_layers
        assert len(calls) - before == layers and len(set(calls[before:])) <= 1
        found.logps.sum().backward()
    assert found.logps.device == device == found.answer_of.device
    torch.testing.assert_close(found.token_logps.cpu(), expected.token_logps, atol=0.06, rtol=0)
    gaps, whole = [], []
    for (which, weight), other in zip(there.named_parameters(), here.parameters(), strict=True):
        if other.grad is not None:
            assert isinstance(weight.grad, OnCuda), which
            gaps.append((weight.grad.cpu().float() - other.grad.float()).norm())
            whole.append(other.grad.float().norm())
    assert float(torch.stack(gaps).norm()) < 0.05 * float(torch.stack(whole).norm())  # of rounding to 16 bits


@pytest.mark.parametrize("scorer", ["plain", "shared-prefix"])
def test_in_float32_the_scores_are_those_of_a_cpu(scorer: Any) -> None:
    here = tiny("llama, untied")
    attach_scorer(here, scorer=scorer)
    with pretended_cuda() as device:
        there = on_cuda(tiny("llama, untied"))
        attach_scorer(there, scorer=scorer)
        for groups in (hard_pairs(), hard_rows()):
            found = there(batch=collate(groups, device=device))
            torch.testing.assert_close(
                found.token_logps.detach().cpu(), here(batch=collate(groups)).token_logps.detach(), atol=1e-5, rtol=0
            )


# --- the head --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [3, 100])
def test_a_float32_head_learns_under_autocast_from_factors_in_16_bits(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """One product that sums in float32, for every chunk; its result is that of float32 copies of the factors."""
    sums, multiplied = [], torch.mm

    def product(*factors: Tensor, **how: Any) -> Tensor:
        sums.append(how)
        return multiplied(*factors, **how)

    monkeypatch.setattr(torch, "mm", product)
    generator = torch.Generator().manual_seed(0)
    rows, targets = torch.randn(10, 16, generator=generator), torch.randint(0, 40, (10,), generator=generator)
    first, bias = torch.randn(40, 16, generator=generator), torch.randn(40, generator=generator)

    def gradients(weight: Tensor, bias: Tensor, rows: Tensor, targets: Tensor) -> list[Tensor]:
        head, hidden = nn.Linear(16, 40, device="meta"), nn.Parameter(rows)
        head.weight, head.bias = nn.Parameter(weight), nn.Parameter(bias)
        with torch.autocast(weight.device.type, torch.bfloat16):
            linear_token_logprobs(hidden, targets, head, HeadTransform(), chunk).sin().sum().backward()
        return [leaf.grad.cpu() for leaf in (head.weight, head.bias, hidden) if leaf.grad is not None]

    expected = gradients(first, bias, rows, targets)
    assert sums == []
    with pretended_cuda():
        found = gradients(*map(OnCuda, (first, bias, rows, targets)))
    assert sums == [{"out_dtype": torch.float32}] * (4 if chunk == 3 else 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# --- the engine ------------------------------------------------------------------------------------------------------


def test_without_gradients_more_is_scored_at_once() -> None:
    with pretended_cuda() as device:
        model = on_cuda(tiny("llama, tied"))
        attach_scorer(model, scorer="shared-prefix")
        parts = list(score_groups(model, hard_pairs(), token_budget=60, device=device))
        whole = score_everywhere(model, hard_pairs(), token_budget=60, device=device, collisions=True)
    expected = micro_batches(model, hard_pairs(), PACK_LARGER["cuda"] * 60)
    assert [part.groups for part in parts] == expected and len(expected) < len(micro_batches(model, hard_pairs(), 60))
    for part in (*parts, *whole):
        values = (part.scores.logps, part.scores.lengths, part.scores.token_logps, part.batch.items.pairs)
        assert {one.device for one in values if one is not None} == {device}


def test_the_trial_is_remembered_for_the_gpu() -> None:
    with pretended_cuda(Gpu((8, 6))):
        assert _device_words(torch.device("cuda", 0)) == "a made-up GPU (8, 6)"


def test_reference_scores_are_computed_there_and_are_those_of_a_cpu(tmp_path: Path) -> None:
    here, groups = tiny("llama, tied"), hard_pairs()
    attach_scorer(here, scorer="plain")
    expected = attach_reference(
        groups, start_reference(here, precision="float32"), ReferenceScoring(tmp_path / "here", 100, "cpu")
    )
    with pretended_cuda():
        there = on_cuda(tiny("llama, tied"))
        how = ReferenceScoring.here(Policy(there, tiny_tokenizer(), "tiny", "a tiny model"), groups)
        assert torch.device(how.device).type == "cuda" and how.token_budget == 65536  # not a CPU's 1024
        how = replace(how, store=tmp_path / "there")
        reference = start_reference(there, precision="float32")
        found, again = (attach_reference(groups, reference, how) for _ in range(2))
    assert found.computed == expected.computed > 0 == again.computed
    for one, stored, other in zip(found.groups, again.groups, expected.groups, strict=True):
        assert one.ref_logps == stored.ref_logps == pytest.approx(other.ref_logps, abs=1e-3)
