"""Votes, weights, margins and scores: what they mean; nothing uses them unasked, and no micro-batch changes them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likelier import (
    DPO,
    DPOP,
    IPO,
    KTO,
    METHODS,
    SFT,
    APODown,
    APOZero,
    Hinge,
    PreferenceTrainer,
    RobustDPO,
    SigmoidNorm,
    SimPO,
)
from likelier.data.mismatched import data_hash, token_hash, with_partners
from likelier.data.prepare import prepare_data
from likelier.data.records import Demonstration, Labelled, Pair, Record, Source, to_demonstrations, to_labels
from likelier.data.tokenize import tokenize_records
from likelier.data.weighting import Signals, applied
from likelier.objectives import (
    AOT,
    CPO,
    EXO,
    FDPO,
    LDDPO,
    NCA,
    ORPO,
    SPPO,
    WPO,
    AlphaPO,
    AOTUnpaired,
    CalDPO,
    DiscoPOP,
    Objective,
    SLiC,
    losses,
)
from likelier.runs.folder import RunFolder
from likelier.scoring import attach_scorer, collate
from likelier.scoring.engine import as_scored, score_groups
from likelier.training.config import parse
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError, DataError, LikelierWarning
from tests.helpers.methods import CHOSEN
from tests.helpers.support import chat_pairs, labelled_rows, logged, tiny_policy, tiny_tokenizer

DW, DL = torch.tensor([2.0], dtype=torch.double), torch.tensor([-1.0], dtype=torch.double)
PW, PL = torch.tensor([-20.0], dtype=torch.double), torch.tensor([-24.0], dtype=torch.double)
NW, NL = torch.tensor([10]), torch.tensor([8])


# --- the losses ----------------------------------------------------------------------------------------------------

# Worked by hand: beta D = 0.3, h = 2/10 + 1/8 = 0.325, p_w/n_w - p_l/n_l = 1.
GOLDEN = {
    "dpo with an offset": (lambda: losses.dpo_loss(DW, DL, beta=0.1, margin=0.5), math.log1p(math.exp(0.2))),
    "dpo, a tie": (
        lambda: losses.dpo_loss(DW, DL, beta=0.1, label_smoothing=torch.tensor([0.5])),
        0.5 * (math.log1p(math.exp(-0.3)) + math.log1p(math.exp(0.3))),
    ),
    "ipo, target doubled": (lambda: losses.ipo_loss(DW, DL, NW, NL, tau=0.1, margin=2.0), (0.325 - 10) ** 2),
    "ipo, labels wrong one time in ten": (
        lambda: losses.ipo_loss(DW, DL, NW, NL, tau=0.1, label_smoothing=0.1),
        (0.325 - 4.0) ** 2,
    ),
    "ipo, a tie": (lambda: losses.ipo_loss(DW, DL, NW, NL, tau=0.1, label_smoothing=torch.tensor([0.5])), 0.325**2),
    "simpo, gamma tripled": (
        lambda: losses.simpo_loss(PW, PL, NW, NL, beta=2.0, gamma_beta_ratio=torch.tensor([0.75])),
        math.log1p(math.exp(-0.5)),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers(name: str) -> None:
    compute, expected = GOLDEN[name]
    assert compute().item() == pytest.approx(expected, abs=1e-9)


@given(h=st.floats(-3, 3), flip=st.floats(0, 0.5), tau=st.floats(0.1, 2))
def test_ipo_with_flips_is_the_expected_loss_up_to_a_constant(h: float, flip: float, tau: float) -> None:
    def loss(value: float, **more: float) -> float:
        one, zero = torch.ones(1), torch.zeros(1, dtype=torch.double)
        return losses.ipo_loss(zero + value, zero, one, one, tau=tau, **more).item()  # type: ignore[arg-type]

    def expected(value: float) -> float:
        return (1 - flip) * loss(value) + flip * loss(-value)

    assert loss(h, label_smoothing=flip) - loss(0.0, label_smoothing=flip) == pytest.approx(
        expected(h) - expected(0.0), abs=1e-9
    )


def test_gradients_in_fp64_with_a_margin_and_a_soft_label_each() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(6, dtype=torch.double, generator=generator, requires_grad=True) for _ in range(2))
    soft = torch.linspace(0, 0.5, 6, dtype=torch.double)
    margin, lengths = torch.linspace(0, 3, 6, dtype=torch.double), (torch.full((6,), 5), torch.full((6,), 3))
    for loss in (
        lambda w, x: losses.dpo_loss(w, x, beta=0.3, label_smoothing=soft, margin=margin),
        lambda w, x: losses.ipo_loss(w, x, *lengths, tau=0.4, label_smoothing=soft, margin=margin),
        lambda w, x: losses.simpo_loss(w, x, *lengths, beta=2.0, gamma_beta_ratio=0.3 * margin, label_smoothing=soft),
    ):
        assert torch.autograd.gradcheck(loss, (chosen, rejected))


# --- what a run makes of its records -------------------------------------------------------------------------------


def pair(number: int = 1, **more: Any) -> Pair:
    return Pair(f"ask {number}", "yes", "no", Source("rows", number, "row"), **more)


def use(records: Sequence[Record], **signals: Any) -> list[Any]:
    return list(applied(records, Signals(**signals))[0])


RICH = {"votes": (2, 1, 0), "weight": 3.0, "margin": 0.5, "scores": (4.0, 1.0), "flip_chance": 0.3}


def test_nothing_is_used_unasked() -> None:
    assert use([pair(**RICH)]) == [pair(votes=(2, 1, 0), scores=(4.0, 1.0))]
    assert [(one.weight, one.margin, one.flip_chance) for one in use([pair(**RICH)])] == [(1.0, None, None)]
    label = Labelled("ask", "yes", True, Source("rows", 1), weight=3.0)
    assert use([label])[0].weight == 1.0


@pytest.mark.parametrize(
    ("votes", "share"), [((3, 0, 0), 0.0), ((2, 1, 0), 1 / 3), ((1, 0, 2), 1 / 3), ((1, 1, 1), 0.5), ((0, 0, 3), 0.5)]
)
def test_votes_become_soft_labels_or_weights(votes: tuple[int, int, int], share: float) -> None:
    other = pair(2, votes=(2, 1, 0))
    assert use([pair(votes=votes), other], votes="soft")[0].flip_chance == pytest.approx(share)
    if share < 0.5:
        assert use([pair(votes=votes), other], votes="weight")[0].weight == pytest.approx(1 - 2 * share)


def test_pairs_without_votes_are_certain() -> None:
    assert [one.flip_chance for one in use([pair(1), pair(2, flip_chance=0.2)], votes="soft")] == [0.0, 0.2]


def test_undecided_pairs_are_only_for_soft_labels_and_never_held_out() -> None:
    records = [pair(1), pair(2, votes=(1, 1, 0)), pair(3, flip_chance=0.5)]
    kept, left_out = applied(records, Signals())
    assert len(kept) == 1 and [row.reason for row in left_out] == ["undecided-pair"] * 2
    assert len(use(records, votes="soft")) == 3
    assert len(applied(records, Signals(votes="soft"), held_out=True)[0]) == 1
    assert len(to_labels(records)) == 2 and len(to_demonstrations(records)) == 1


def test_weights_come_from_a_column_from_scores_or_from_the_prompts() -> None:
    records = [
        pair(1, weight=2.0, scores=(3.0, 1.0)),
        pair(1, weight=0.0, scores=(1.0, 1.0)),
        pair(2, scores=(5.0, 0.5)),
    ]
    assert [one.weight for one in use(records, weights="column")] == [2.0, 0.0, 1.0]
    assert [one.weight for one in use(records, weights="scores")] == [2.0, 0.0, 4.5]
    assert [one.weight for one in use(records, weights="prompt")] == [0.5, 0.5, 1.0]
    both = [pair(1, weight=2.0, votes=(2, 1, 0)), pair(2, votes=(3, 0, 0))]
    assert [one.weight for one in use(both, weights="column", votes="weight")] == pytest.approx([2 / 3, 1.0])


def test_margins_come_from_a_column_or_from_scores() -> None:
    records = [pair(1, margin=0.0, scores=(3.0, 1.0)), pair(2, margin=1.5, scores=(1.0, 1.0))]
    assert [one.margin for one in use(records, margins="column")] == [0.0, 1.5]
    assert [one.margin for one in use(records, margins="scores")] == [2.0, 0.0]


def test_pairs_whose_scores_are_close_are_left_out() -> None:
    records = [pair(1, scores=(3.0, 1.0)), pair(2, scores=(1.5, 1.0)), pair(3, scores=(1.0, 2.0))]
    kept, left_out = applied(records, Signals(min_score_gap=1.0))
    assert len(kept) == 1 and [row.reason for row in left_out] == ["scores-too-close"] * 2
    assert len(use(records, min_score_gap=0.0, margins="scores")) == 2


@pytest.mark.parametrize(
    ("more", "signals", "message"),
    [
        ({"weight": math.nan}, {"weights": "column"}, "row 2: the weight must be a number from 0 on"),
        ({"weight": -1.0}, {"weights": "column"}, "row 2: the weight must be a number from 0 on"),
        ({}, {"margins": "column"}, "row 2: no margin, which use_margins=column needs"),
        ({"margin": -1.0}, {"margins": "column"}, "row 2: the margin must be a number from 0 on"),
        ({}, {"margins": "scores"}, "row 2: no scores of both answers"),
        ({"scores": (1.0, math.nan)}, {"weights": "scores"}, "row 2: the scores 1 and nan are not two numbers"),
        (
            {"scores": (1.0, 2.0)},
            {"weights": "scores"},
            r"the smaller one \(by 1\); mend the row, or leave such rows out",
        ),
    ],
)
def test_a_row_that_lacks_what_is_asked_for_is_named(
    more: dict[str, Any], signals: dict[str, Any], message: str
) -> None:
    first = pair(1, weight=2.0, margin=1.0, scores=(2.0, 1.0))
    with pytest.raises(DataError, match=message):
        use([first, pair(2, **more)], **signals)


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"votes": "soft"}, "use_votes=soft has no effect: no pair has votes for both answers"),
        ({"votes": "weight"}, "use_votes=weight has no effect"),
        ({"weights": "column"}, "use_weights=column has no effect: no row has a weight other than 1"),
        ({"weights": "prompt"}, "use_weights=prompt has no effect: every row has a prompt of its own"),
        ({"margins": "column"}, "use_margins=column has no effect: no pair has a margin"),
    ],
)
def test_what_would_have_no_effect_is_refused(signals: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        use([pair(1), pair(2, votes=(3, 0, 0))], **signals)


# --- which method takes what ---------------------------------------------------------------------------------------

TAKES_MARGINS = {"dpo", "ipo", "simpo", "reward", "wpo", "ld_dpo"}
TAKES_SOFT = {"dpo", "ipo", "simpo", "sigmoid_norm", "sppo", "reward", "wpo", "ld_dpo"}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_refuses_what_it_cannot_use(method: str) -> None:
    base = {"method": method, "model": "m", "data": "d", "output": "o", **CHOSEN.get(method, {})}
    for taken, option in ((TAKES_MARGINS, {"use_margins": "column"}), (TAKES_SOFT, {"use_votes": "soft"})):
        if method in taken:
            assert parse({**base, **option}).run.method == method
        else:
            with pytest.raises(ConfigError, match=f"{method} has no place for"):
                parse({**base, **option})
    assert parse({**base, "use_weights": "column", "use_votes": "weight"}).training.use_votes == "weight"


def test_contradictions_and_unknown_words_are_refused(tmp_path: Path) -> None:
    base = {"model": "m", "data": "d", "output": "o", "use_votes": "soft"}
    with pytest.raises(ConfigError, match=r"use_votes=soft and label_smoothing=0\.1 contradict each other"):
        parse({**base, "label_smoothing": 0.1})
    with pytest.raises(ConfigError, match=r"use_votes=soft and nll_weight=1\.0 contradict each other"):
        parse({**base, "nll_weight": 1})
    with pytest.raises(ConfigError, match=r"use_weights=True is not one of: column, scores, prompt"):
        parse({**base, "use_weights": True})
    with pytest.raises(ConfigError, match=r"use_margins='much' is unknown; known: column, scores"):
        TrainingOptions(use_margins="much")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"min_score_gap=-1 is out of range"):
        TrainingOptions(min_score_gap=-1)
    with pytest.raises(ConfigError, match="hinge has no place for a margin"):
        PreferenceTrainer(tiny_policy(), Hinge(), chat_pairs(4), output_dir=tmp_path / "run", use_margins="column")


# --- through the trainer -------------------------------------------------------------------------------------------

COUNT = 20
BASIC: dict[str, Any] = {
    "batch_size": 8,
    "max_steps": 3,
    "learning_rate": 1e-3,
    "scheduler": "constant",
    "order": "file",
}


def rich_pairs(count: int = COUNT) -> list[Pair]:
    found = []
    for number, one in enumerate(chat_pairs(count)):
        votes = ((3, 0, 0), (2, 1, 0), (1, 0, 2), (1, 1, 1))[number % 4]
        found.append(replace(one, votes=votes, weight=0.5 + number % 3, margin=0.25 * (number % 5)))
    return found


def rich_labels(count: int = COUNT) -> list[Labelled]:
    return [replace(one, weight=0.5 + number % 3) for number, one in enumerate(labelled_rows(count))]


def demonstrations(count: int = COUNT) -> list[Demonstration]:
    return [Demonstration(one.prompt, one.answer, one.source, one.weight) for one in rich_labels(count)]


SOFT = {"use_votes": "soft", "use_weights": "column"}
ALL = SOFT | {"use_margins": "column"}
RUNS: list[tuple[Objective, dict[str, Any], Any]] = [
    (DPO(), ALL, rich_pairs),
    (DPO(nll_weight=0.2), {"use_votes": "weight", "use_weights": "column", "use_margins": "column"}, rich_pairs),
    (IPO(tau=0.5), ALL, rich_pairs),
    (IPO(tau=0.5, length_normalize=False), {"use_margins": "column"}, rich_pairs),
    (SimPO(), ALL, rich_pairs),
    (SigmoidNorm(), SOFT, rich_pairs),
    *((kind(), {"use_weights": "column"}, rich_pairs) for kind in (RobustDPO, Hinge, APOZero, APODown, DPOP)),
    (SPPO(beta=0.2), SOFT, rich_pairs),
    *((kind(), {"use_weights": "column"}, rich_pairs) for kind in (EXO, NCA, DiscoPOP, FDPO)),
    *((kind(), {"use_weights": "column"}, rich_pairs) for kind in (CalDPO, CPO, ORPO, AlphaPO, SLiC)),
    *((kind(), {"use_weights": "column"}, rich_pairs) for kind in (AOT, AOTUnpaired, WPO, LDDPO)),
    (KTO(desirable_weight=1.3), {"use_weights": "column"}, rich_labels),
    (KTO(), {"use_weights": "column", "use_votes": "weight"}, rich_pairs),
    (SFT(), {"use_weights": "column"}, demonstrations),
]
IDS = [f"{objective.method}-{'-'.join(options)}" for objective, options, _ in RUNS]


def trained(
    folder: Path, objective: Objective, data: Sequence[Record], **options: Any
) -> tuple[Any, list[dict[str, float]]]:
    policy = tiny_policy()
    trainer = PreferenceTrainer(
        policy, objective, data, output_dir=folder, **{**BASIC, "token_budget": 100_000, **options}
    )
    trainer.train()
    return policy, logged(trainer)


def assert_same(left: Any, right: Any) -> None:
    others = dict(right.model.named_parameters())
    for name, parameter in left.model.named_parameters():
        torch.testing.assert_close(parameter, others[name], atol=1e-10, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:KTO with")
@pytest.mark.parametrize(("objective", "options", "data"), RUNS, ids=IDS)
def test_micro_batches_change_nothing(tmp_path: Path, objective: Objective, options: dict[str, Any], data: Any) -> None:
    whole, whole_metrics = trained(tmp_path / "whole", objective, data(), **options)
    cut, cut_metrics = trained(tmp_path / "cut", objective, data(), token_budget=110, **options)
    assert_same(whole, cut)
    for metrics in (whole_metrics[0], cut_metrics[0]):
        metrics.pop("rewards/accuracies", None)
    for expected, found in zip(whole_metrics, cut_metrics, strict=True):
        assert found == pytest.approx(expected, abs=1e-9)
    plain, _ = trained(tmp_path / "plain", objective, data())
    with pytest.raises(AssertionError):
        assert_same(whole, plain)  # what is asked for does change the result


@pytest.mark.slow
def test_a_step_is_the_sum_of_weight_times_loss_over_its_items(tmp_path: Path) -> None:
    """Weights have mean 1 over the data set; a step divides by its items, not by its weights."""
    pairs = [one for one in rich_pairs(COUNT) if one.is_decided]
    _, metrics = trained(tmp_path / "run", DPO(), pairs, use_weights="column", max_steps=1, warmup=0)
    mean = sum(one.weight for one in pairs) / len(pairs)
    first = [one.weight / mean for one in pairs[:8]]
    assert metrics[0]["loss"] == pytest.approx(math.log(2) * sum(first) / 8, abs=1e-9)
    card = RunFolder(tmp_path / "run").read_card()
    assert card["data"]["use_weights"] == "column" and card["options"]["use_weights"] == "column"


@pytest.mark.slow
def test_equal_weights_and_no_doubt_are_plain_dpo(tmp_path: Path) -> None:
    pairs = chat_pairs(16)
    doubled = [replace(one, weight=2.0, margin=0.0) for one in pairs]
    plain, _ = trained(tmp_path / "plain", DPO(), pairs)
    same, _ = trained(tmp_path / "same", DPO(), doubled, use_weights="column", use_margins="column")
    assert_same(plain, same)


@pytest.mark.slow
def test_soft_labels_of_one_value_are_label_smoothing(tmp_path: Path) -> None:
    pairs = [replace(one, flip_chance=0.2) for one in chat_pairs(16)]
    soft, _ = trained(tmp_path / "soft", DPO(), pairs, use_votes="soft")
    smoothed, _ = trained(tmp_path / "smoothed", DPO(label_smoothing=0.2), pairs)
    assert_same(soft, smoothed)


def test_each_pair_has_its_own_margin_and_soft_label_wherever_it_lies(tmp_path: Path) -> None:
    """Against NumPy, on scores of the policy itself, with pairs that share prompts and answers."""
    pairs = rich_pairs(12)
    pairs[3] = replace(pairs[3], prompt=pairs[2].prompt, rejected=pairs[2].chosen)
    policy = tiny_policy()
    groups = tokenize_records(use(pairs, votes="soft", margins="column"), policy.tokenizer, max_length=512).groups
    attach_scorer(policy.model, autocast=False, groups=groups)
    objective = SimPO(beta=2.0, gamma_beta_ratio=0.4)
    for part in score_groups(policy.model, groups, token_budget=150, device="cpu"):
        scored = as_scored(part.batch, part.scores)
        found = objective.losses(scored).tolist()
        means = (scored.logps / scored.lengths).numpy()
        for group, loss, (chosen, rejected) in zip(part.groups, found, part.batch.items.pairs.tolist(), strict=True):  # type: ignore[union-attr]
            logit = 2.0 * (means[chosen] - means[rejected] - 0.4 * group.margin)
            expected = (1 - group.flip_chance) * np.log1p(np.exp(-logit)) + group.flip_chance * np.log1p(np.exp(logit))
            assert loss == pytest.approx(expected, abs=1e-10)


@pytest.mark.slow
def test_held_out_pairs_are_weighed_among_themselves_and_never_undecided(tmp_path: Path) -> None:
    held = rich_pairs(8)
    trainer = PreferenceTrainer(
        tiny_policy(), DPO(), rich_pairs(), eval_data=held, output_dir=tmp_path / "run", **BASIC, **SOFT
    )
    assert len(trainer.eval_groups) == 6
    assert sum(group.weight for group in trainer.eval_groups) == pytest.approx(6)
    trainer.train()
    assert trainer.folder.read_card()["evaluation_start"]["eval_loss"] == pytest.approx(math.log(2), abs=1e-9)


def test_a_run_of_other_signals_is_another_run(tmp_path: Path) -> None:
    """Weights, margins and soft labels are in the data's hash, so that a resume cannot change them; KTO's partners are
    not drawn anew by them.
    """
    tokenizer = tiny_tokenizer()

    def prepared(objective: Objective, data: Sequence[Record], **signals: Any) -> Any:
        wants: dict[str, Any] = {
            "method": objective.method,
            "wants": objective.data,
            "partners": objective.needs_partner,
        }
        limits: dict[str, Any] = {"max_length": 512, "truncation": "drop", "signals": Signals(**signals)}
        return prepare_data(data, [], tokenizer, **wants, **limits)

    kinds: list[dict[str, Any]] = [
        {},
        {"weights": "column"},
        {"margins": "column"},
        {"votes": "soft"},
        {"votes": "weight"},
        {"weights": "column", "margins": "column"},
    ]
    decided = [one for one in rich_pairs() if one.is_decided]  # the same rows for every kind: only the signals differ
    found = [prepared(DPO(), decided, **kind) for kind in kinds]
    assert len({one.hash for one in found}) == len(kinds)
    assert len({token_hash(one.train.groups) for one in found}) == 1
    plain, weighed = (prepared(KTO(), rich_labels(), **kind) for kind in ({}, {"weights": "column"}))
    assert plain.hash != weighed.hash
    partners = [[group.answers[1].tolist() for group in one.train.groups] for one in (plain, weighed)]
    assert partners[0] == partners[1]
    groups = with_partners(tokenize_records(labelled_rows(10), tokenizer, max_length=512).groups, 512)
    assert data_hash(groups) == token_hash(groups)  # of data without signals: what it was before there were any


@pytest.mark.slow
def test_a_run_resumes_with_the_same_weights_only(tmp_path: Path) -> None:
    options = {"save_steps": 1, "max_steps": 2}
    trained(tmp_path / "run", DPO(), rich_pairs(), **options, use_weights="column")
    again = {**BASIC, **options, "token_budget": 100_000}
    trainer = PreferenceTrainer(tiny_policy(), DPO(), rich_pairs(), output_dir=tmp_path / "run", resume=True, **again)
    with pytest.raises(Exception, match="data_hash"):
        trainer.train()


def test_a_batch_holds_what_its_groups_hold() -> None:
    records = use(rich_pairs(4), votes="soft", margins="column", weights="column")
    groups = tokenize_records(records, tiny_tokenizer(), max_length=512).groups
    batch = collate(groups)
    items = batch.items
    assert items.weights is not None and items.weights.tolist() == [0.5, 1.5, 2.5, 0.5]
    assert items.margins is not None and items.margins.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert items.flip_chances is not None and items.flip_chances.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 0.5])
    plain = collate(tokenize_records(chat_pairs(4), tiny_tokenizer(), max_length=512).groups)
    assert plain.items.margins is None and plain.items.flip_chances is None
    labelled = collate(tokenize_records(rich_labels(4), tiny_tokenizer(), max_length=512).groups)
    assert labelled.items.weights is not None and labelled.items.margins is None


def test_the_tokenizer_may_leave_rows_out_and_the_mean_is_still_1() -> None:
    options: dict[str, Any] = {"method": "dpo", "wants": "pairs", "partners": False, "truncation": "drop"}
    pairs = [one for one in rich_pairs() if one.is_decided]
    with pytest.warns(LikelierWarning, match="do not fit in 34 tokens"):
        found = prepare_data(pairs, [], tiny_tokenizer(), max_length=34, signals=Signals(weights="column"), **options)
    kept = found.train.groups
    assert 3 < len(kept) < len(pairs)
    assert sum(group.weight for group in kept) == pytest.approx(len(kept))


def test_weights_that_are_all_0_are_refused() -> None:
    options: dict[str, Any] = {"method": "dpo", "wants": "pairs", "partners": False, "truncation": "drop"}
    rows = [replace(one, weight=0.0) for one in chat_pairs(3)]
    with pytest.raises(DataError, match="the weight of this row and of every other one is 0"):
        prepare_data(rows, [], tiny_tokenizer(), max_length=99, signals=Signals(weights="column"), **options)


def test_a_set_of_ties_alone_is_refused() -> None:
    options: dict[str, Any] = {"method": "dpo", "wants": "pairs", "partners": False, "truncation": "drop"}
    rows = [replace(one, votes=(0, 0, 1)) for one in chat_pairs(3)]
    with pytest.raises(DataError, match=r"none of the 3 rows is left:\n  3 x undecided-pair"):
        prepare_data(rows, [], tiny_tokenizer(), max_length=99, **options)


@pytest.mark.slow
def test_the_command_reads_votes_by_a_map_and_trains_on_them(tmp_path: Path) -> None:
    from likelier.cli import main as cli

    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    votes = (["a", "a", "b"], ["b", "tie", "b"], ["a", "b", "tie"])
    rows = [
        {"q": f"ask {place}", "x": f"one {place}", "y": f"two {place}", "w": votes[place % 3]} for place in range(6)
    ]
    (tmp_path / "votes.json").write_text(json.dumps(rows))
    columns = ["--columns", "prompt=q", "first=x", "second=y", "winner=w", "chat=true"]
    paths = [
        "--model",
        str(tmp_path / "model"),
        "--data",
        str(tmp_path / "votes.json"),
        "--output",
        str(tmp_path / "run"),
    ]
    assert cli.main(["train", *paths, *columns, "--use-votes", "soft", "--max-steps", "1", "--warmup", "0"]) == 0
    card = RunFolder(tmp_path / "run").read_card()
    assert card["data"]["train"]["groups"] == 6 and card["data"]["use_votes"] == "soft"
    assert card["run"]["columns"]["winner"] == "w" and card["run"]["data"].endswith("votes.json")
