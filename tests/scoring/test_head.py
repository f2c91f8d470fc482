"""Log-probabilities at the head: the hand-made gradient against finite differences and against the plain path's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from likelier.models.layers import causal_model
from likelier.models.options import LoraOptions
from likelier.models.policy import add_lora
from likelier.scoring import attach_scorer, collate, score_plain, score_shared_prefix
from likelier.scoring import shared_prefix as scorer_room
from likelier.scoring.attention import install_attention, restore_attention
from likelier.scoring.engine import _exchanged, score_groups
from likelier.scoring.logprobs import (
    HeadTransform,
    is_plain_linear,
    linear_token_logprobs,
    token_logprobs,
    token_logprobs_and_entropies,
)
from likelier.utils.distributed import ALONE
from tests.helpers.architectures import gradient_gap, hard_pairs, tiny, weighted_gradients
from tests.helpers.support import tiny_model

TOKENS, WIDTH, VOCABULARY = 6, 5, 7
TRANSFORMS = {
    "plain": HeadTransform(),
    "scaled": HeadTransform(scale=0.3),
    "capped": HeadTransform(softcap=1.5),
    "scaled and capped": HeadTransform(scale=2.0, softcap=1.5),
    "at a temperature": HeadTransform(temperature=0.6),
    "capped, at a temperature": HeadTransform(scale=2.0, softcap=1.5, temperature=1.7),
}
CHUNKS = [1, 4, TOKENS, 100]


def made_up(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> tuple[Tensor, Tensor, nn.Linear]:
    """Hidden states, targets (two of them equal) and a head."""
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias).to(dtype)
    hidden = (2 * torch.randn(TOKENS, WIDTH)).to(dtype)
    return hidden, torch.tensor([0, 6, 3, 3, 1, 5]), head


# --- against finite differences ---


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_the_gradient_is_the_derivative(transform: HeadTransform, frozen: bool, bias: bool, chunk: int) -> None:
    hidden, targets, head = made_up(bias=bias)

    def logprobs(hidden: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(("weight", "bias"), parameters, strict=False))
        return torch.func.functional_call(_Calls(head, targets, transform, chunk), _named(given), (hidden,))

    parameters = [] if frozen else [parameter.detach().requires_grad_() for parameter in head.parameters()]
    head.requires_grad_(not frozen)
    assert torch.autograd.gradcheck(logprobs, (hidden.requires_grad_(), *parameters))


class _Calls(nn.Module):
    """A head in a module, so that its parameters can be exchanged for a call."""

    def __init__(self, head: nn.Linear, targets: Tensor, transform: HeadTransform, chunk: int) -> None:
        super().__init__()
        self.head, self.targets, self.transform, self.chunk = head, targets, transform, chunk

    def forward(self, hidden: Tensor) -> Tensor:
        return linear_token_logprobs(hidden, self.targets, self.head, self.transform, self.chunk)


def _named(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"head.{name}": tensor for name, tensor in parameters.items()}


@pytest.mark.parametrize(("weight", "bias"), [(True, False), (False, True)])
def test_weight_and_bias_may_be_trained_one_without_the_other(weight: bool, bias: bool) -> None:
    hidden, targets, head = made_up()
    head.weight.requires_grad_(weight)
    head.bias.requires_grad_(bias)
    found = gradients_of(linear_token_logprobs, hidden, targets, head)
    for mine, theirs in zip(found, gradients_of(token_logprobs, hidden, targets, head), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def gradients_of(
    logprobs: Any, hidden: Tensor, targets: Tensor, head: nn.Linear, chunk: int = 4, *, autocast: bool = False
) -> tuple[Tensor | None, ...]:
    head.zero_grad()
    hidden = hidden.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = logprobs(hidden, targets, head, HeadTransform(0.5, 2.0), chunk)
    (found * torch.linspace(-1, 2, len(targets), dtype=found.dtype)).sum().backward()
    return hidden.grad, head.weight.grad, None if head.bias is None else head.bias.grad


def test_frozen_hidden_states_with_a_trained_head() -> None:
    hidden, targets, head = made_up()
    linear_token_logprobs(hidden, targets, head, HeadTransform(), 4).sum().backward()
    expected = torch.autograd.grad(token_logprobs(hidden, targets, head, HeadTransform(), 4).sum(), head.weight)[0]
    torch.testing.assert_close(head.weight.grad, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_a_second_derivative_is_refused(frozen: bool) -> None:
    """The hand-made backward is not itself differentiable: asking for it must not give a number that is wrong."""
    hidden, targets, head = made_up()
    head.requires_grad_(not frozen)
    hidden.requires_grad_()
    logps = linear_token_logprobs(hidden, targets, head, HeadTransform(), 100)
    gradient = torch.autograd.grad(logps.square().sum(), hidden, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


@settings(max_examples=40)
@given(tokens=st.integers(1, 12), chunk=st.integers(1, 14), seed=st.integers(0, 1000))
def test_with_and_without_gradients_the_same_numbers(tokens: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, (tokens,), generator=generator)
    head = made_up()[2]
    direct = torch.log_softmax(head(hidden), 1).gather(1, targets[:, None]).squeeze(1)
    with torch.no_grad():
        silent = linear_token_logprobs(hidden, targets, head, HeadTransform(), chunk)
    for found in (linear_token_logprobs(hidden, targets, head, HeadTransform(), chunk), silent):
        torch.testing.assert_close(found.detach(), direct.detach(), atol=1e-12, rtol=0)


def test_extreme_logits_give_finite_numbers_and_gradients() -> None:
    hidden, targets, head = made_up(torch.float32)
    hidden = (hidden * 1e4).requires_grad_()
    found = linear_token_logprobs(hidden, targets, head, HeadTransform(), 4)
    found.sum().backward()
    assert bool(torch.isfinite(found).all()) and bool(torch.isfinite(hidden.grad).all())  # type: ignore[arg-type]
    assert float(found.detach().max()) <= 0


# --- lower precision ---

BFLOAT16 = 2**-8  # half the distance of two numbers near 1


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("chunk", [4, 100])
def test_under_autocast_it_stays_near_float32(frozen: bool, chunk: int) -> None:
    """A logit is a sum of products of rounded numbers: within 2 * 2^-8 of the sum of their sizes."""
    hidden, targets, head = made_up(torch.float32)
    head.requires_grad_(not frozen)
    exact = linear_token_logprobs(hidden, targets, head, HeadTransform(), chunk).detach()
    expected = gradients_of(linear_token_logprobs, hidden, targets, head, chunk)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = linear_token_logprobs(hidden, targets, head, HeadTransform(), chunk).detach()
    found = gradients_of(linear_token_logprobs, hidden, targets, head, chunk, autocast=True)
    sizes = (hidden.abs() @ head.weight.detach().abs().t() + head.bias.detach().abs()).amax(1)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert bool(((rounded - exact).abs() <= 2 * 2 * BFLOAT16 * sizes).all())
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert mine.dtype == theirs.dtype == torch.float32
            assert float((mine - theirs).norm() / theirs.norm()) < 4 * BFLOAT16


@pytest.mark.parametrize("chunk", [1, 2000])
@pytest.mark.parametrize("backward_too", [False, True], ids=["forward", "forward and backward"])
def test_the_weights_gradient_is_summed_in_the_weights_own_precision(chunk: int, backward_too: bool) -> None:
    """A thousand small numbers summed in bfloat16 would stop growing at 256 times their size."""
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    nn.init.zeros_(head.weight)
    hidden, targets = torch.ones(1000, WIDTH), torch.zeros(1000, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        total = linear_token_logprobs(hidden, targets, head, HeadTransform(), chunk).sum()
    with torch.autocast("cpu", torch.bfloat16, enabled=backward_too):
        total.backward()
    assert head.weight.grad is not None and head.weight.grad.dtype == torch.float32
    expected = torch.full((WIDTH,), 1000 * (1 - 1 / VOCABULARY))
    torch.testing.assert_close(head.weight.grad[0], expected, atol=0, rtol=2 * BFLOAT16)


def test_a_bfloat16_model_gets_gradients_of_its_own_dtype() -> None:
    hidden, targets, head = made_up(torch.bfloat16)
    exact = gradients_of(linear_token_logprobs, hidden.float(), targets, nn.Linear.float(made_up(torch.bfloat16)[2]))
    for mine, theirs in zip(gradients_of(linear_token_logprobs, hidden, targets, head), exact, strict=True):
        assert mine is not None and theirs is not None and mine.dtype == torch.bfloat16
        assert float((mine.float() - theirs).norm() / theirs.norm()) < 8 * BFLOAT16


# --- which heads take the short way ---


def test_what_counts_as_a_plain_linear_head() -> None:
    assert is_plain_linear(nn.Linear(2, 3)) and is_plain_linear(nn.Linear(2, 3, bias=False))
    assert is_plain_linear(tiny("llama, tied").get_output_embeddings())
    hooked = nn.Linear(2, 3)
    hooked.register_forward_hook(lambda module, inputs, output: output * 2)
    assert not is_plain_linear(hooked)
    assert not is_plain_linear(nn.Sequential(nn.Linear(2, 3)))
    assert not is_plain_linear(type("Quantized", (nn.Linear,), {})(2, 3))
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    assert not is_plain_linear(parametrized)


def adapted(targets: str) -> Any:
    """A model with an adapter that has an effect."""
    base = tiny_model(tie_word_embeddings=False)
    model = add_lora(base, LoraOptions(lora_r=4, lora_targets=targets), 0).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def with_bias() -> Any:
    model = tiny("llama, untied", torch.float64)
    model.lm_head = nn.Linear(32, model.config.vocab_size, dtype=torch.float64)
    return model


def with_frozen(*parts: str) -> Any:
    model = tiny("llama, untied", torch.float64)
    for name, parameter in model.named_parameters():
        if name.startswith(parts):
            parameter.requires_grad_(False)
    return model


HEADS = {
    "adapter on projections": (lambda: adapted("q_proj,v_proj,down_proj"), True),
    "adapter on the head": (lambda: adapted("q_proj,lm_head"), False),
    "bias": (with_bias, True),
    "frozen head": (lambda: with_frozen("lm_head"), True),
    "only the head is trained": (lambda: with_frozen("model."), True),
    "frozen beginning": (lambda: with_frozen("model.embed_tokens", "model.layers.0"), True),
    "tied": (lambda: tiny("llama, tied", torch.float64), True),
    "soft-capped": (lambda: tiny("gemma2"), True),
    "scaled": (lambda: tiny("granite", torch.float64), True),
}


@pytest.mark.parametrize("chunk", [3, None])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_learns_as_on_the_plain_path(monkeypatch: pytest.MonkeyPatch, name: str, chunk: int | None) -> None:
    make, is_short = HEADS[name]
    model = make()
    calls: list[str] = []
    for way in (linear_token_logprobs, token_logprobs):
        monkeypatch.setattr(scorer_room, way.__name__, _counted(way, calls))
    batch = collate(hard_pairs())
    plain = score_plain(model, batch)
    expected = weighted_gradients(model, plain)
    install_attention(causal_model(model))
    shared = score_shared_prefix(model, batch, chunk)
    tolerance = 1e-5 if shared.logps.dtype == torch.float32 else 1e-10
    torch.testing.assert_close(shared.token_logps, plain.token_logps, atol=tolerance, rtol=0)
    assert gradient_gap(weighted_gradients(model, shared), expected) < 1e-6  # norms compute in float32
    assert calls == ["linear_token_logprobs" if is_short else "token_logprobs"]


def _counted(way: Any, calls: list[str]) -> Any:
    def counted(*arguments: Any) -> Tensor:
        calls.append(way.__name__)
        return way(*arguments)

    return counted


@pytest.mark.parametrize("targets", ["q_proj,v_proj", "q_proj,lm_head"])
def test_an_adapted_model_gets_the_shared_prefix_and_its_base_too(targets: str) -> None:
    model = adapted(targets)
    assert attach_scorer(model, groups=hard_pairs()).name == "shared-prefix"
    batch = collate(hard_pairs())
    with torch.no_grad():
        with_adapter = model(batch=batch).token_logps
        torch.testing.assert_close(with_adapter, score_plain(model, batch).token_logps, atol=1e-10, rtol=0)
        with model.disable_adapter():
            base = model(batch=batch).token_logps
            torch.testing.assert_close(base, score_plain(model, batch).token_logps, atol=1e-10, rtol=0)
    untouched = tiny_model(tie_word_embeddings=False).eval()
    with torch.no_grad():
        torch.testing.assert_close(base, score_plain(untouched, batch).token_logps, atol=1e-10, rtol=0)
    assert float((with_adapter - base).abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["llama, tied", "gemma3", "granite"])
def test_answers_drawn_at_a_temperature_are_scored_at_it(name: str) -> None:
    model = tiny(name, torch.float32)
    attach_scorer(model)
    batch = replace(collate(hard_pairs()), temperature=0.7)
    found = score_shared_prefix(model, batch)
    torch.testing.assert_close(found.token_logps, score_plain(model, batch).token_logps, atol=1e-5, rtol=1e-5)
    row = torch.cat([batch.prompts[batch.prompt_of[0]], batch.answers[0]])[None]
    logits = (model(row).logits[0, -len(batch.answers[0]) - 1 : -1] / 0.7).log_softmax(1)
    expected = logits.gather(1, batch.answers[0][:, None])[:, 0]
    torch.testing.assert_close(found.token_logps[found.answer_of == 0], expected, atol=1e-5, rtol=1e-5)


# --- entropies ---


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_entropies_are_those_of_the_whole_distribution(transform: HeadTransform, chunk: int) -> None:
    hidden, targets, head = made_up()
    hidden.requires_grad_()
    logps, entropies = token_logprobs_and_entropies(hidden, targets, head, transform, chunk)
    wanted = torch.distributions.Categorical(logits=transform(head(hidden)))
    torch.testing.assert_close(logps, token_logprobs(hidden, targets, head, transform, chunk), rtol=0, atol=1e-12)
    torch.testing.assert_close(entropies, wanted.entropy(), rtol=0, atol=1e-12)
    found, expected = (
        torch.autograd.grad(one.sum(), hidden, retain_graph=True)[0] for one in (entropies, wanted.entropy())
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_both_scorers_tell_the_same_collision_entropies_which_are_those_of_the_logits() -> None:
    model = tiny_model()
    attach_scorer(model)
    install_attention(causal_model(model))
    batch = replace(collate(hard_pairs(), collisions=True), temperature=0.8)
    plain, shared = score_plain(model, batch), score_shared_prefix(model, batch, chunk=3)
    found = plain.collision_entropies
    assert found is not None and shared.collision_entropies is not None and not found.requires_grad
    torch.testing.assert_close(found, shared.collision_entropies, rtol=0, atol=1e-9)
    restore_attention(causal_model(model))
    for number, (prompt, answer) in enumerate(zip(batch.prompt_of, batch.answers, strict=True)):
        ids = torch.cat([batch.prompts[prompt], answer])
        chances = (model(input_ids=ids[None]).logits[0, len(ids) - len(answer) - 1 : -1].double() / 0.8).softmax(1)
        assert float(found[number]) == pytest.approx(float(-chances.detach().square().sum(1).log().sum()), abs=1e-9)
    some = shared.of_answers(torch.tensor([1, 0])).collision_entropies
    assert some is not None and torch.equal(some, shared.collision_entropies[[1, 0]])
    assert score_plain(model, replace(batch, collisions=False)).collision_entropies is None


def test_ranks_hand_on_each_others_collision_entropies() -> None:
    model, groups = tiny_model(), hard_pairs()
    attach_scorer(model)
    how: dict[str, Any] = {"token_budget": 40, "device": "cpu", "collisions": True}
    own = list(score_groups(model, groups, **how))
    (joined,) = _exchanged(own, groups, torch.device("cpu"), ALONE, collisions=True)
    alone = model(batch=collate(groups, collisions=True))
    assert len(own) > 1 and joined.scores.collision_entropies is not None
    torch.testing.assert_close(joined.scores.collision_entropies, alone.collision_entropies, rtol=0, atol=1e-9)
    torch.testing.assert_close(joined.scores.logps, alone.logps, rtol=0, atol=1e-9)


def test_both_scorers_tell_the_same_entropies() -> None:
    model = tiny_model()
    attach_scorer(model)
    install_attention(causal_model(model))
    batch = replace(collate(hard_pairs()), entropies=True, temperature=0.8)
    with torch.no_grad():
        plain, shared = score_plain(model, batch), score_shared_prefix(model, batch)
    assert plain.token_entropies is not None and shared.token_entropies is not None
    torch.testing.assert_close(plain.token_entropies, shared.token_entropies, rtol=0, atol=1e-9)
    torch.testing.assert_close(plain.token_logps, shared.token_logps, rtol=0, atol=1e-9)
    some = shared.of_answers(torch.tensor([1, 0]))
    assert some.token_entropies is not None and len(some.token_entropies) == int(some.lengths.sum())
