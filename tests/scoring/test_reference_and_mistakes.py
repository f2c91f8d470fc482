"""The reference's proof against damaged numbers, its identity, and what an interrupted scoring leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from likelier import DPO, IPO, KTO
from likelier.data.groups import Group
from likelier.data.mismatched import with_partners
from likelier.data.tokenize import tokenize_records
from likelier.objectives import Objective
from likelier.scoring import attach_scorer
from likelier.scoring.engine import score_groups
from likelier.scoring.reference import Reference, ReferenceStore, start_reference
from likelier.scoring.reference.identity import identities
from likelier.scoring.reference.proof import (
    check_first_step,
    check_scores,
    check_start,
    largest_difference,
    sample_of,
)
from likelier.scoring.reference.store import ReferenceScoring, answer_key, attach_reference, score_live
from likelier.utils.errors import WrongReferenceError
from tests.helpers.support import chat_pairs, labelled_rows, lora_policy, naive_logp, tiny_model, tiny_tokenizer

TOLERANCE = 1e-8


def groups_of(count: int = 9, objective: Objective | None = None) -> list[Group]:
    labelled = objective is not None and objective.data == "labels"
    records: Sequence[Any] = labelled_rows(count) if labelled else chat_pairs(count)
    groups = tokenize_records(records, tiny_tokenizer(), max_length=512).groups
    return with_partners(groups, 512) if labelled else groups


@pytest.fixture(scope="module")
def model() -> nn.Module:
    made = tiny_model()
    attach_scorer(made, scorer="plain")
    return made.eval()


def how_in(folder: Path, budget: int = 80) -> ReferenceScoring:
    """A pair or so in each micro-batch."""
    return ReferenceScoring(folder / "store", budget, "cpu")


def reference_of(model: nn.Module) -> Reference:
    return start_reference(model, precision="float64")


def known(model: nn.Module, objective: Objective | None = None) -> list[Group]:
    """Groups with the right scores, each computed alone in the most direct way."""
    return [
        replace(one, ref_logps=tuple(naive_logp(model, one, number) for number in range(len(one.answers))))
        for one in groups_of(objective=objective)
    ]


def damaged(groups: Sequence[Group], at: int, value: float) -> list[Group]:
    spoilt = groups[at]
    assert spoilt.ref_logps is not None
    changed = replace(spoilt, ref_logps=(spoilt.ref_logps[0] + value, *spoilt.ref_logps[1:]))
    return [*groups[:at], changed, *groups[at + 1 :]]


# --- the proof -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("value", [nan, inf, -inf, 1e-3, -1e-3])
@pytest.mark.parametrize("budget", [80, 100_000])
def test_one_damaged_score_fails_every_check_wherever_it_lies(
    model: nn.Module, tmp_path: Path, value: float, budget: int
) -> None:
    """NaN compares with nothing: neither a number before it nor one behind it may hide it."""
    right, how, reference = known(model), how_in(tmp_path, budget), reference_of(model)
    checks: list[Callable[[list[Group]], object]] = [
        lambda groups: check_scores(groups, reference, how, TOLERANCE, "the store"),
        lambda groups: check_start(model, groups, reference, DPO(), how, TOLERANCE),
        lambda groups: [
            check_first_step(part, reference, TOLERANCE)
            for part in score_groups(model, groups, token_budget=budget, device="cpu")
        ],
    ]
    for check in checks:
        check(right)
        for at in range(len(right)):
            with pytest.raises(WrongReferenceError, match=f"at {right[at].source} "):
                check(damaged(right, at, value))


def test_the_largest_difference_is_a_tokens_share_and_is_named(model: nn.Module, tmp_path: Path) -> None:
    right = known(model)
    for at, budget in ((0, 80), (4, 80), (8, 100_000)):
        wrong = damaged(damaged(right, at, 3.0), (at + 1) % len(right), 0.5)
        found = largest_difference(model, wrong, how_in(tmp_path, budget))
        assert found.nats_per_token == pytest.approx(3.0 / len(right[at].answers[0]), rel=1e-9)
        assert found.group.source == right[at].source


def test_a_difference_at_the_tolerance_passes_and_above_it_does_not(model: nn.Module, tmp_path: Path) -> None:
    right = known(model)
    wrong = damaged(right, 3, 0.01 * len(right[3].answers[0]))
    for check in (check_scores, lambda *a: check_start(model, a[0], a[1], DPO(), a[2], a[3])):
        check(wrong, reference_of(model), how_in(tmp_path), 0.0101, "the store")
        with pytest.raises(WrongReferenceError):
            check(wrong, reference_of(model), how_in(tmp_path), 0.0099, "the store")


@pytest.mark.parametrize("objective", [DPO(), IPO(tau=0.2), KTO()], ids=["dpo", "ipo", "kto"])
def test_the_start_has_the_loss_of_no_difference(model: nn.Module, tmp_path: Path, objective: Objective) -> None:
    figures = check_start(model, known(model, objective), reference_of(model), objective, how_in(tmp_path), TOLERANCE)
    expected = {"dpo": 0.6931471805599453, "ipo": 6.25, "kto": 0.5}[objective.method]
    assert figures["step0_loss"] == pytest.approx(expected, abs=1e-8)
    assert figures["step0_loss_expected"] == pytest.approx(expected, abs=1e-12)
    assert 0 <= figures["step0_largest_difference_per_token"] < TOLERANCE


def test_the_sample_comes_from_all_over_the_data() -> None:
    groups = groups_of(100)
    sample = sample_of(groups)
    numbers = sorted(one.source.number for one in sample)
    assert len(set(numbers)) == 8 and numbers[0] <= 50 < numbers[-1]
    shortest = sorted(one.tokens for one in groups)[:25]
    assert [one.tokens for one in sample_of(groups, 25)] == shortest  # of four times as many, the cheapest
    assert sample_of(groups[:8]) == groups[:8] and len(sample_of(groups[:9])) == 8


# --- identity --------------------------------------------------------------------------------------------------------


def identity(model: nn.Module, *, adapter: bool = True) -> str:
    attach_scorer(model, scorer="plain")
    return identities(model, adapter=adapter, precision="float64")["weights"]


def adapted(**settings: Any) -> nn.Module:
    """One adapter's weights under other settings: they compute something else."""
    policy = lora_policy()
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.01)
    config: Any = policy.model.peft_config["default"]  # type: ignore[index]
    for name, value in settings.items():
        assert getattr(config, name) != value
        setattr(config, name, value)
    return policy.model


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 99},
        {"r": 99},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_scales_an_adapter_is_part_of_its_identity(settings: dict[str, Any]) -> None:
    assert identity(adapted()) == identity(adapted())
    assert identity(adapted()) != identity(adapted(**settings))
    assert identity(adapted(), adapter=False) == identity(adapted(**settings), adapter=False)


def test_every_weight_and_its_place_is_part_of_the_identity() -> None:
    plain = identity(tiny_model())
    for number in range(len(list(tiny_model().parameters()))):
        changed = tiny_model()
        with torch.no_grad():
            list(changed.parameters())[number].view(-1)[-1] += 1e-9
        assert identity(changed) != plain
    exchanged = tiny_model()
    first, second = (exchanged.model.layers[number].mlp.up_proj.weight for number in (0, 1))
    with torch.no_grad():
        kept = first.clone()
        first.copy_(second)
        second.copy_(kept)
    assert identity(exchanged) != plain
    assert identity(tiny_model(dtype=torch.float32)) != plain
    assert identity(tiny_model(rms_norm_eps=1e-3)) != plain


def test_what_changes_no_number_is_no_part_of_the_identity() -> None:
    plain = identity(tiny_model())
    for name, value in {"use_cache": False, "pad_token_id": 5, "architectures": ["Other"], "_own": 1}.items():
        changed = tiny_model()
        assert getattr(changed.config, name, None) != value
        setattr(changed.config, name, value)
        assert identity(changed) == plain
    turned = tiny_model()
    turned.config.rope_parameters = dict(reversed(list(turned.config.rope_parameters.items())))
    assert identity(turned) == plain  # in whatever order a file has them


# --- the store -------------------------------------------------------------------------------------------------------


class Interruption(BaseException):
    """As Ctrl-C."""


def interrupted(model: nn.Module, after: int, error: BaseException) -> Reference:
    """A reference whose scoring ends with an error after so many micro-batches."""

    @contextmanager
    def use() -> Iterator[nn.Module]:
        calls = 0

        def count(*call: Any) -> None:
            nonlocal calls
            calls += 1
            if calls > after:
                raise error

        hook = model.register_forward_pre_hook(count)
        try:
            yield model
        finally:
            hook.remove()

    return replace(reference_of(model), use=use)


@pytest.mark.parametrize("error", [Interruption(), RuntimeError("CUDA error"), torch.OutOfMemoryError("no memory")])
def test_scores_of_an_interrupted_scoring_are_kept(model: nn.Module, tmp_path: Path, error: BaseException) -> None:
    groups, how = groups_of(), how_in(tmp_path)
    with pytest.raises(type(error)):
        attach_reference(groups, interrupted(model, 4, error), how)
    done = len(ReferenceStore(how.store, reference_of(model).identity))
    assert 4 <= done < 2 * len(groups)
    again = attach_reference(groups, reference_of(model), how)
    assert (again.computed, again.found) == (2 * len(groups) - done, done)
    assert_right(model, again.groups)


def assert_right(model: nn.Module, groups: Sequence[Group]) -> None:
    for one in groups:
        assert one.ref_logps == pytest.approx([naive_logp(model, one, k) for k in range(len(one.answers))], abs=1e-9)


@pytest.mark.parametrize("objective", [DPO(), KTO()], ids=["dpo", "kto"])
def test_every_answer_gets_its_own_score_in_the_rows_order(
    model: nn.Module, tmp_path: Path, objective: Objective
) -> None:
    groups = groups_of(objective=objective)
    groups.append(groups[2])  # a row that is there twice is scored once, and so is an answer that two rows hold
    groups.append(replace(groups[3], answers=(groups[3].answers[0], groups[0].answers[0])))
    how = how_in(tmp_path)
    attached = attach_reference(groups, reference_of(model), how)
    assert [one.source for one in attached.groups] == [one.source for one in groups]
    assert_right(model, attached.groups)
    distinct = {answer_key(one.prompt, answer) for one in groups for answer in one.answers}
    assert (attached.computed, attached.found) == (len(distinct), 0)
    assert len(ReferenceStore(how.store, reference_of(model).identity)) == len(distinct)
    again = attach_reference(groups[::-1], reference_of(model), how)
    assert (again.computed, again.found) == (0, len(distinct))
    assert [one.ref_logps for one in again.groups] == [one.ref_logps for one in attached.groups[::-1]]
    live = score_live(groups, reference_of(model), how)
    assert {one.source.number for one in live} == {one.source.number for one in groups}
    assert_right(model, live)


def test_only_what_is_missing_is_computed(model: nn.Module, tmp_path: Path) -> None:
    groups, how = groups_of(), how_in(tmp_path)
    attach_reference(groups[:4], reference_of(model), how)
    scored: list[int] = []
    attached = attach_reference(groups, reference_of(model), replace(how, report=scored.append))
    assert sum(scored) == len(groups) - 4
    assert (attached.computed, attached.found) == (2 * (len(groups) - 4), 8)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_no_score_that_is_not_finite_is_stored(model: nn.Module, tmp_path: Path, value: float) -> None:
    how = how_in(tmp_path)

    @contextmanager
    def use() -> Iterator[nn.Module]:
        hook = model.register_forward_hook(lambda module, args, out: replace(out, logps=out.logps * 0 + value))
        try:
            yield model
        finally:
            hook.remove()

    with pytest.raises(WrongReferenceError, match="not finite"):
        attach_reference(groups_of(), replace(reference_of(model), use=use), how)
    assert not len(ReferenceStore(how.store, reference_of(model).identity))
