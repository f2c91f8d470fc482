"""The GRPO family as one objective: presets, what is refused, and what holds for every member."""

from __future__ import annotations

from dataclasses import fields, replace
from math import log
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from likelier.objectives.grpo_family import GRPO_FAMILY, PolicyGradient
from likelier.objectives.online import PAPER_PRESETS, changed_options, online_method
from likelier.objectives.online_metrics import policy_metrics, readable_policy
from likelier.objectives.policy_gradient import answer_sums
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import SequenceScores
from likelier.runs.method import MethodFacts

# advantage, aggregation, ratio, clip or weights, KL coefficient, answers to a prompt
FAMILY = {preset.method: preset for preset in GRPO_FAMILY}
TABLE: dict[str, tuple[str, str, str, tuple[float, ...], float, int]] = {
    "grpo": ("mean", "token", "token", (0.2, 0.28), 0, 8),
    "dr_grpo": ("mean", "constant", "token", (0.2, 0.2), 0, 8),
    "dapo": ("std", "token", "token", (0.2, 0.28), 0, 16),
    "rloo": ("leave-one-out", "sequence-sum", "sequence", (0.2, 0.2), 0.05, 4),
    "gspo": ("std", "sequence-mean", "geometric", (3e-4, 4e-4), 0, 8),
    "cispo": ("std", "token", "token", (0.0, 5.0), 0, 16),
    "reinforce": ("step", "token", "token", (), 0, 1),
}
PAPER = ("std", "sequence-mean", "token", (0.2, 0.2), 0.04, 64)
EVERY = {
    **FAMILY,
    "grpo of the paper": PAPER_PRESETS["grpo"],
    "grpo, dual": online_method("grpo", clip_dual=3.0),
    "grpo, tis": online_method("grpo", tis="token"),
    "gspo, tis and KL": online_method("gspo", tis="sequence", kl_coefficient=0.1),
}
METHODS = pytest.mark.parametrize("method", EVERY.values(), ids=EVERY)
MAX_LENGTH = 9


def as_row(method: PolicyGradient) -> tuple[object, ...]:
    bounds = (method.clip_low, method.clip_high, method.weight_low, method.weight_high)
    limits = tuple(one for one in bounds if one is not None)
    own = (method.advantage, method.aggregation, method.ratio, limits, method.kl_coefficient)
    return *own, method.answers_per_prompt


def test_presets_are_those_of_the_papers() -> None:
    assert {name: as_row(method) for name, method in FAMILY.items()} == TABLE
    assert as_row(online_method("grpo", paper=True)) == PAPER
    rates = {(method.learning_rate, method.lora_learning_rate) for method in EVERY.values()}
    assert rates == {(1e-6, 2e-5)}
    assert {name for name, method in FAMILY.items() if method.refill and method.overlong_cache} == {"dapo"}
    assert {name for name, method in FAMILY.items() if method.kl_place == "reward"} == {"rloo"}
    assert {name for name, method in FAMILY.items() if method.needs_reference} == {"rloo"}


@METHODS
def test_a_method_tells_the_card_of_itself(method: PolicyGradient) -> None:
    facts = MethodFacts(**method.facts())
    assert facts.source and facts.strength in method.hyperparameters()
    assert facts.needs_reference == (method.kl_coefficient > 0)
    assert method.facts().keys() == {one.name for one in fields(MethodFacts)}


def test_what_differs_from_the_preset_is_told() -> None:
    assert changed_options(online_method("dapo")) == {}
    assert changed_options(online_method("dapo", clip_high=0.3, refill=False)) == {"clip_high": 0.3, "refill": False}
    assert set(changed_options(online_method("grpo", paper=True))) == {
        *("answers_per_prompt", "advantage", "aggregation", "clip_high", "kl_coefficient")
    }


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "gspo with grpo's clip": ("gspo", {"clip_high": 0.2}, "clip_high=0.2 .* at most 0.05 .* never holds"),
    "an answer's mean ratio with grpo's clip": ("grpo", {"ratio": "geometric"}, "clip_low=0.2 .* at most 0.05"),
    "cispo with trl's epsilon_high": ("cispo", {"weight_high": 0.2}, "weight_high=0.2 .* at least 1: .* to a fifth"),
    "cispo's lower bound above 1": ("cispo", {"weight_low": 1.5}, "weight_low=1.5 .* from 0 to 1"),
    "cispo without an upper bound": ("cispo", {"weight_high": None}, "weight_high=None .* at least 1"),
    "a clip for cispo": ("cispo", {"clip_high": 0.2}, "clip_high=0.2 .* left out: .* not clipped"),
    "a weight for grpo": ("grpo", {"weight_high": 5.0}, "weight_high=5.0 .* left out: .* not clamped-weight"),
    "a clip for reinforce": ("reinforce", {"clip_low": 0.2}, "clip_low=0.2 .* no effect"),
    "an answer's ratio for reinforce": (
        "reinforce",
        {"ratio": "sequence"},
        "ratio='sequence' .* only a method that clips",
    ),
    "no lower clip": ("grpo", {"clip_low": None}, "clip_low=None .* above 0 and at most 1"),
    "a lower clip of 0": ("grpo", {"clip_low": 0.0}, "clip_low=0.0 .* above 0"),
    "an upper clip of 0": ("grpo", {"clip_high": 0.0}, "clip_high=0.0 .* above 0"),
    "a dual clip inside the clip": ("grpo", {"clip_dual": 1.2}, "clip_dual=1.2 .* above 1 \\+ clip_high"),
    "a group of one": ("grpo", {"answers_per_prompt": 1}, "answers_per_prompt=1 .* at least 2"),
    "no answer": ("reinforce", {"answers_per_prompt": 0}, "answers_per_prompt=0 "),
    "a negative coefficient": ("grpo", {"kl_coefficient": -0.1}, "kl_coefficient=-0.1 .* at least 0"),
    "a cap without a correction": ("grpo", {"tis_cap": 2.0}, "tis_cap=2.0 .* no effect"),
    "a cap below 1": ("grpo", {"tis": "token", "tis_cap": 0.5}, "tis_cap=0.5 .* at least 1"),
    "a level that there is not": ("grpo", {"tis": "answer"}, "tis='answer' .* one of token, sequence, geometric"),
    "an advantage that there is not": ("grpo", {"advantage": "median"}, "advantage='median' .* one of mean"),
    "refilling what is not lost": ("reinforce", {"refill": True}, "refill=True .* left out"),
    "a cache as long as an answer": ("dapo", {"overlong_cache": 1.0}, "overlong_cache=1.0 .* in \\[0, 1\\)"),
    "an unknown option": ("grpo", {"epsilon": 0.2}, "grpo has no option epsilon"),
    "another surrogate": ("grpo", {"surrogate": "none"}, "grpo has no option surrogate"),
    "a paper that the preset is": ("dapo", {"paper": True}, "dapo: the preset is the paper's already"),
    "an unknown method": ("ppo2", {}, "unknown online method 'ppo2'; there are grpo, dr_grpo"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_words(name: str) -> None:
    method, options, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        online_method(method, **options)


def test_a_divergence_under_an_answers_ratio_is_questioned() -> None:
    assert "--kl-place reward" in online_method("gspo", kl_coefficient=0.1).warnings()[0]
    assert online_method("grpo", kl_coefficient=0.1).warnings() == online_method("rloo").warnings() == []


# --- from rewards to advantages --------------------------------------------------------------------------------------

GROUP_OF, LENGTHS = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([3, 1, 9, 2, 4, 2])


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def test_long_answers_and_divergence_are_charged_before_groups_are_compared() -> None:
    rewards, kl = doubles(1, 1, 1, 0, 1, float("nan")), doubles(2, 2, 2, 0, 10, 0)
    common: dict[str, Any] = {"lengths": LENGTHS, "max_length": 10}
    found = online_method("dapo", advantage="mean").advantages(rewards, GROUP_OF, **common)
    assert found.values.tolist() == pytest.approx([1 / 6, 1 / 6, -1 / 3, -0.5, 0.5, 0])  # 9 of 10: half of the penalty
    assert found.counts.tolist() == [True] * 5 + [False]
    found = online_method("rloo").advantages(rewards, GROUP_OF, kl=kl, **common)
    assert found.values.tolist() == pytest.approx([0, 0, 0, -0.5, 0.5, 0])  # 10 nats x .05
    with pytest.raises(ValueError, match="charges the divergence in the reward and got none"):
        online_method("rloo").advantages(rewards, GROUP_OF, **common)


# --- what holds for every member -------------------------------------------------------------------------------------


def world(seed: int, *, moved: float = 0.3, counts: Tensor | None = None) -> tuple[Tensor, RolloutItems]:
    """Six answers: their tokens' log-probabilities, which can be trained, and what was known of them."""
    generator = torch.Generator().manual_seed(seed)
    number = int(LENGTHS.sum())

    def draw(scale: float) -> Tensor:
        return scale * torch.randn(number, dtype=torch.double, generator=generator)

    logps = -draw(1.0).abs()
    items = RolloutItems(
        torch.randn(len(LENGTHS), dtype=torch.double, generator=generator),
        counts,
        old_token_logps=logps - draw(moved),
        ref_token_logps=logps - draw(0.5),
        sampler_token_logps=logps - draw(0.5),
    )
    return logps.requires_grad_(), items


def some(logps: Tensor, items: RolloutItems, answers: list[int]) -> tuple[SequenceScores, RolloutItems]:
    """Scores and items of some answers, in the order given."""
    starts = (LENGTHS.cumsum(0) - LENGTHS).tolist()
    tokens = torch.cat([torch.arange(starts[one], starts[one] + int(LENGTHS[one])) for one in answers])
    per_token = {one.name: getattr(items, one.name) for one in fields(items) if one.name.endswith("token_logps")}
    found = {name: None if values is None else values[tokens] for name, values in per_token.items()}
    counts = None if items.counts is None else items.counts[answers]
    part = RolloutItems(items.advantages[answers], counts, **found)
    return SequenceScores.of(logps[tokens], LENGTHS[answers]), part


ALL = list(range(len(LENGTHS)))


def step_of(items: RolloutItems) -> StepCounts:
    return StepCounts.of(LENGTHS, items.counted(), MAX_LENGTH)


def gradient(method: PolicyGradient, logps: Tensor, items: RolloutItems, parts: list[list[int]]) -> Tensor:
    """Of the step's loss, cut into these micro-batches."""
    losses = [method.losses(*some(logps, items, part), step_of(items)) for part in parts]
    (found,) = torch.autograd.grad(torch.cat(losses).sum(), logps)
    return found


@METHODS
@settings(max_examples=25)
@given(order=st.permutations(ALL), cut=st.integers(1, 5), seed=st.integers(0, 5))
def test_the_cut_into_micro_batches_and_the_order_change_no_gradient(
    method: PolicyGradient, order: list[int], cut: int, seed: int
) -> None:
    logps, items = world(seed, counts=torch.tensor([True, True, False, True, True, True]))
    whole = gradient(method, logps, items, [ALL])
    assert gradient(method, logps, items, [order[:cut], order[cut:]]).tolist() == pytest.approx(
        whole.tolist(), abs=1e-12
    )
    assert whole.abs().max() > 1e-3


@METHODS
def test_before_the_first_update_it_is_reinforce(method: PolicyGradient) -> None:
    """At ratio 1 the gradient is that of -A logp, added up as the method does, whatever is clipped."""
    method = replace(method, tis=None, tis_cap=None, kl_coefficient=0.0)
    logps, items = world(0)
    expected = {
        "token": torch.full((6,), 1 / int(LENGTHS.sum()), dtype=torch.double),
        "sequence-mean": 1 / (6 * LENGTHS.double()),
        "constant": torch.full((6,), 1 / (6 * MAX_LENGTH), dtype=torch.double),
        "sequence-sum": torch.full((6,), 1 / 6, dtype=torch.double),
    }[method.aggregation]
    whose = SequenceScores.of(logps, LENGTHS).answer_of
    for old in (None, logps.detach()):  # the same as now, told and untold
        found = gradient(method, logps, replace(items, old_token_logps=old), [ALL])
        assert found.tolist() == pytest.approx((-items.advantages * expected)[whose].tolist(), abs=1e-12)


@METHODS
@pytest.mark.parametrize("filling", [float("nan"), 1e6, -1e6])
def test_what_stands_in_an_answer_that_does_not_count_changes_nothing(method: PolicyGradient, filling: float) -> None:
    counts = torch.tensor([True, False, True, True, False, True])
    logps, items = world(1, counts=counts)
    clean = gradient(method, logps, items, [ALL])
    tokens = ~counts[SequenceScores.of(logps, LENGTHS).answer_of]
    spoilt = logps.detach().masked_fill(tokens, filling).requires_grad_()
    names = [one.name for one in fields(items) if one.name.endswith("token_logps")]
    filled = {name: getattr(items, name).masked_fill(tokens, -filling) for name in names}
    dirty = replace(items, advantages=items.advantages.masked_fill(~counts, filling), **filled)
    assert torch.equal(gradient(method, spoilt, dirty, [ALL]), clean) and not clean[tokens].any()
    left = [number for number in ALL if counts[number]]  # above and below the fraction bar
    assert torch.equal(gradient(method, logps, items, [left]), clean)
    assert policy_metrics(method, *some(spoilt, dirty, ALL)).means() == pytest.approx(
        policy_metrics(method, *some(logps, items, left)).means(), abs=1e-12
    )


@METHODS
def test_gradients_in_fp64(method: PolicyGradient) -> None:
    logps, items = world(2, moved=0.1)
    if method.surrogate == "clamped-weight":
        method = replace(method, weight_low=1.0, weight_high=1.0)  # the weight itself has no gradient
    assert torch.autograd.gradcheck(lambda x: method.losses(*some(x, items, ALL), step_of(items)), (logps,))


def test_a_divergence_in_the_loss_is_ratio_times_k3() -> None:
    """On a categorical, expected over what the policy draws: the gradient is that of the reverse KL."""
    reference = doubles(0.2, 0.5, 0.3).log()
    logits = doubles(0.4, -0.3, 0.9).requires_grad_()
    logps = logits.log_softmax(0)
    items = RolloutItems(torch.zeros(3, dtype=torch.double), ref_token_logps=reference)
    scores = SequenceScores.of(logps, torch.ones(3, dtype=torch.long))
    losses = online_method("grpo", kl_coefficient=0.7).token_losses(scores, items)
    (found,) = torch.autograd.grad((logps.detach().exp() * losses).sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(0.7 * (logps.exp() * (logps - reference)).sum(), logits)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-12)


SAMPLER_OPTIONS: list[dict[str, Any]] = [{}, {"tis": "token"}, {"tis": "token", "tis_cap": 1.0}]


def test_a_sampler_that_differs_is_corrected_for() -> None:
    logps, items = world(3)
    scores, part = some(logps, items, ALL)
    plain, corrected, capped = (
        online_method("grpo", **options).token_losses(scores, part) for options in SAMPLER_OPTIONS
    )
    assert part.old_token_logps is not None and part.sampler_token_logps is not None
    weights = (part.old_token_logps - part.sampler_token_logps).exp()
    assert (corrected / plain).tolist() == pytest.approx(weights.clamp(max=2).tolist())
    assert (capped / plain).tolist() == pytest.approx(weights.clamp(max=1).tolist())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"kl_coefficient": 0.1}, "got no reference"), ({"tis": "token"}, "got none of its log-probabilities")],
)
def test_what_a_loss_needs_and_was_not_given_is_named(options: dict[str, Any], words: str) -> None:
    scores = SequenceScores.of(doubles(-1, -2), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match=words):
        online_method("grpo", **options).token_losses(scores, RolloutItems(doubles(1, -1)))


# --- metrics ---------------------------------------------------------------------------------------------------------


def two_answers(counts: Tensor | None = None) -> tuple[SequenceScores, RolloutItems]:
    """Ratios 1.5, 1, 0.5 of a good answer and 2, 0.5 of a bad one."""
    old = doubles(-2, -2, -2, -2, -2)
    scores = SequenceScores.of(old + doubles(1.5, 1, 0.5, 2, 0.5).log(), torch.tensor([3, 2]))
    return scores, RolloutItems(doubles(1, -1), counts, old, ref_token_logps=scores.token_logps - 0.5)


def test_clipped_tokens_are_those_that_lose_their_gradient() -> None:
    means = policy_metrics(online_method("grpo"), *two_answers()).means()
    assert means["clip_ratio/high_mean"] == means["clip_ratio/low_mean"] == 0.2  # 1.5 of the good, .5 of the bad one
    assert means["clip_ratio/region_mean"] == 0.4 and means["ratio/mean"] == pytest.approx(1.1)
    clamped = policy_metrics(online_method("cispo", weight_high=1.2, weight_low=0.6), *two_answers()).means()
    assert clamped["clip_ratio/high_mean"] == clamped["clip_ratio/low_mean"] == 0.4  # whoever's they are
    plain = policy_metrics(online_method("reinforce"), *two_answers()).means()
    assert plain.keys() == {"ratio/mean", "approximate_kl", "kl", "kl_squares"}
    moved = [log(ratio) ** 2 / 2 for ratio in (1.5, 1, 0.5, 2, 0.5)]
    assert plain["approximate_kl"] == pytest.approx(sum(moved) / 5)


def test_a_whole_answers_ratio_counts_once_an_answer() -> None:
    sums = policy_metrics(online_method("rloo"), *two_answers())
    assert sums.means()["ratio/mean"] == pytest.approx((0.75 + 1) / 2) and float(sums.counts["ratio/mean"]) == 2


def test_the_divergence_is_told_in_nats_an_answer_with_its_error() -> None:
    means = readable_policy(policy_metrics(online_method("grpo"), *two_answers()))
    assert [means["kl"], means["kl_standard_error"]] == pytest.approx([1.25, 0.25])  # 3 and 2 tokens of half a nat
    one = readable_policy(policy_metrics(online_method("grpo"), *two_answers(torch.tensor([True, False]))))
    assert one["kl"] == pytest.approx(1.5) and not {"kl_standard_error", "kl_squares"} & one.keys()


def test_a_sampler_s_drift_is_a_kl() -> None:
    scores, items = two_answers()
    drifted = replace(
        items, old_token_logps=None, sampler_token_logps=scores.token_logps.detach() - doubles(0, 0, 0.5, 0, -0.7)
    )
    drift = policy_metrics(online_method("grpo"), scores, drifted).means()["sampler/kl"]
    expected = (torch.expm1(doubles(0.5, -0.7)) - doubles(0.5, -0.7)).sum().item() / 5
    assert drift == pytest.approx(expected)


def test_metrics_of_parts_are_those_of_the_whole() -> None:
    logps, items = world(4, counts=torch.tensor([True, False, True, True, True, True]))
    for method in EVERY.values():
        whole, *parts = (policy_metrics(method, *some(logps, items, part)) for part in (ALL, ALL[:2], ALL[2:]))
        assert parts[0].merge(parts[1:]).means() == pytest.approx(whole.means())


def test_sums_of_an_answers_tokens() -> None:
    scores = SequenceScores.of(doubles(1, 2, 3), torch.tensor([2, 0, 1]))
    assert answer_sums(scores.token_logps, scores.answer_of, scores.lengths).tolist() == [3, 0, 3]
