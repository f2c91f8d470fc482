"""What held-out figures say of themselves: how sure they are, which accuracy is which, and what was known before."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier import DPO, IPO, KTO, SFT, PreferenceTrainer, RobustDPO, SimPO
from likelier.data.groups import Group
from likelier.data.records import to_labels
from likelier.data.tokenize import tokenize_records
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.generalization import fresh_accuracies
from likelier.insight.diagnose.items import Items, Side
from likelier.insight.diagnose.length import _gap
from likelier.objectives import Objective, Scored
from likelier.objectives.metrics import label_is_right
from likelier.runs.card import RunCard
from likelier.runs.reader import Run
from likelier.scoring import attach_scorer
from likelier.scoring.implicit_rewards import summarize
from likelier.scoring.reference import ReferenceScoring
from likelier.training.evaluation import Evaluator
from likelier.training.evaluation.heldout import Evaluation, evaluate_groups, item_table, pairs_of_rows
from likelier.training.evaluation.schedule import some_of
from likelier.training.options import TrainingOptions
from likelier.utils.statistics import wilson
from tests.helpers.support import chat_pairs, labelled_rows, naive_logp, tiny_policy


@pytest.fixture(scope="module")
def policy() -> Any:
    found = tiny_policy(dtype=torch.float32)
    attach_scorer(found.model, scorer="plain")
    return found


def groups_of(policy: Any, records: Sequence[Any]) -> list[Group]:
    groups = tokenize_records(records, policy.tokenizer, max_length=256, chat=policy.chat).groups
    rng = random.Random(0)
    return [replace(group, ref_logps=tuple(rng.uniform(-40, -5) for _ in group.answers)) for group in groups]


def evaluated(policy: Any, objective: Objective, groups: Sequence[Group]) -> Evaluation:
    return evaluate_groups(policy.model, objective, groups, token_budget=4096, device="cpu")


def width(metrics: dict[str, float], name: str) -> float:
    return metrics[f"{name}_high"] - metrics[f"{name}_low"]


def test_rows_five_times_under_their_prompt_are_not_five_times_as_sure(policy: Any) -> None:
    groups = groups_of(policy, chat_pairs(16, seed=2))
    once, often = (evaluated(policy, DPO(), rows).metrics for rows in (groups, groups * 5))
    names = [name for name in once if f"{name}_low" in once]
    assert set(names) == {"rewards/accuracies", "pair_accuracy", "ranking_accuracy", "ranking_accuracy_per_token"}
    for name in names:
        assert often[name] == pytest.approx(once[name]) and 0 < once[name] < 1
        surer = wilson(5 * 16 * once[name], 5 * 16)
        assert width(often, name) > 1.5 * (surer[1] - surer[0])
        assert width(often, name) == pytest.approx(width(once, name), abs=0.12)
        low, high = wilson(16 * once[name], 16)
        assert (once[f"{name}_low"], once[f"{name}_high"]) == pytest.approx((low, high))


def test_labelled_rows_five_times_under_their_prompt_are_not_five_times_as_sure(policy: Any) -> None:
    groups = groups_of(policy, labelled_rows(16, seed=2))
    answers = [group.answers[0] for group in groups]
    partnered = [
        replace(group, answers=(*group.answers, other), ref_logps=(-20.0, -20.0))
        for group, other in zip(groups, answers[1:] + answers[:1], strict=True)
    ]
    once, often = (evaluated(policy, KTO(), rows).metrics for rows in (partnered, partnered * 5))
    assert often["rewards/accuracies"] == pytest.approx(once["rewards/accuracies"])
    assert width(often, "rewards/accuracies") > 0.8 * width(once, "rewards/accuracies")


def score_rows(correct: Sequence[bool], ranked: Sequence[bool]) -> list[dict[str, Any]]:
    return [
        {
            "chosen": {"logp": float(likelier), "reward": 1.5},
            "rejected": {"logp": 0.5, "reward": -0.25},
            "correct": right,
        }
        for right, likelier in zip(correct, ranked, strict=True)
    ]


def shares(text: str) -> dict[str, tuple[float, float, float]]:
    found = re.findall(r"^(\w+ accuracy) +([\d.]+)% \[([\d.]+)%, ([\d.]+)%\] +\((.*)\)$", text, re.M)
    words = {"reward accuracy": "higher implicit reward", "ranking accuracy": "policy finds the chosen answer likelier"}
    assert all(words[name] in meaning for name, *_, meaning in found)
    return {name: (float(value), float(low), float(high)) for name, value, low, high, _ in found}


def test_score_prints_each_accuracy_under_its_own_name(policy: Any) -> None:
    groups = groups_of(policy, chat_pairs(20))
    rows = score_rows([number < 15 for number in range(20)], [number % 10 < 3 for number in range(20)])
    found = shares(summarize(rows, groups, 0.1))
    for name, right in (("reward accuracy", 15), ("ranking accuracy", 6)):
        low, high = wilson(right, 20)
        assert found[name] == pytest.approx((5 * right, 100 * low, 100 * high), abs=0.051)
    often = shares(summarize(rows * 5, groups * 5, 0.1))
    for name, (value, low, high) in found.items():
        assert often[name][0] == value and often[name][2] - often[name][1] > 0.8 * (high - low)


def test_score_means_each_side_over_its_own_answers(policy: Any) -> None:
    groups = groups_of(policy, labelled_rows(4))
    rows = [{"label": up, "completion": {"reward": value}} for up, value in ((True, 1.0), (False, -4.0), (True, 2.0))]
    said = summarize(rows, groups[:3], 0.25)
    assert "+1.5000   desirable, 2 answers, beta 0.25" in said and "-4.0000   undesirable, 1 answers" in said
    assert "accuracy" not in said
    said = summarize(score_rows([True, False], [True, True]), groups[:2], 0.1)
    assert "+1.5000   chosen, 2 answers" in said and "-0.2500   rejected, 2 answers" in said


# --- rewards -------------------------------------------------------------------------------------------------------


def scored(seed: int, pairs: int = 6) -> Scored:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 30, (2 * pairs,), generator=generator)
    logps, refs = (-torch.rand(2 * pairs, generator=generator, dtype=torch.double) * 3 * lengths for _ in range(2))
    return Scored.of(logps, lengths, refs, pairs=torch.arange(2 * pairs).view(pairs, 2))


@pytest.mark.parametrize("objective", [DPO(), RobustDPO(beta=0.3), SimPO(), SimPO(beta=4.0)], ids=repr)
def test_a_loss_of_the_rewards_difference_differs_from_the_logged_ones_by_a_constant(objective: Objective) -> None:
    items = scored(3)
    logits, rewards = objective.logits(items), objective.rewards(items)
    assert logits is not None and rewards.shape == items.logps.shape
    chosen, rejected = items.chosen_rejected(rewards)
    offset = logits - (chosen - rejected)
    assert torch.allclose(offset, offset[0].expand_as(offset))


@pytest.mark.parametrize("objective", [SimPO(), SimPO(beta=7.5, gamma_beta_ratio=0.1), SFT()], ids=repr)
def test_rewards_per_token_do_not_know_how_long_an_answer_is(objective: Objective) -> None:
    items = scored(4)
    twice = Scored.of(2 * items.logps, 2 * items.lengths)
    assert torch.equal(objective.rewards(items), objective.rewards(twice))
    token = items.with_sums(torch.full_like(items.logps, -0.5) * items.lengths)
    beta = getattr(objective, "beta", 1.0)
    assert torch.allclose(objective.rewards(token), torch.full_like(items.logps, -0.5 * beta))


@pytest.mark.parametrize("objective", [DPO(), IPO(tau=0.5)], ids=repr)
def test_rewards_of_sums_are_their_scale_times_the_log_ratio(objective: Objective) -> None:
    items = scored(5)
    scale = objective.reward_scale()
    assert scale is not None and torch.allclose(objective.rewards(items), scale * (items.logps - items.items.ref_logps))  # type: ignore[operator]


def test_a_simpo_runs_held_out_accuracy_is_that_of_means_per_token(policy: Any) -> None:
    groups = groups_of(policy, chat_pairs(24, seed=5))
    found = evaluated(policy, SimPO(), groups).metrics
    means = [[naive_logp(policy.model, group, side) / len(group.answers[side]) for side in (0, 1)] for group in groups]
    right = sum(chosen > rejected for chosen, rejected in means) / len(means)
    assert found["pair_accuracy"] == found["ranking_accuracy_per_token"] == pytest.approx(right)
    assert found["rewards/chosen"] == pytest.approx(2 * sum(mean for mean, _ in means) / len(means), rel=1e-4)
    sums = sum(naive_logp(policy.model, group, 0) > naive_logp(policy.model, group, 1) for group in groups)
    assert found["ranking_accuracy"] == pytest.approx(sums / len(groups)) and found["ranking_accuracy"] != right


def test_a_label_is_right_on_its_own_side_and_never_on_the_line() -> None:
    rewards = torch.tensor([2.0, 1.0, 0.0, 2.0, 1.0, 0.0])
    right = label_is_right(rewards, torch.tensor([True] * 3 + [False] * 3), 1.0)
    assert right.tolist() == [True, False, False, False, False, True]


def test_a_pair_of_equal_answers_is_not_right(policy: Any) -> None:
    groups = groups_of(policy, chat_pairs(4))
    groups = [replace(group, answers=group.answers[:1] * 2, ref_logps=(-9.0, -9.0)) for group in groups]
    found = evaluated(policy, DPO(), groups).metrics
    names = ("rewards/accuracies", "pair_accuracy", "ranking_accuracy", "ranking_accuracy_per_token")
    assert [found[name] for name in names] == [0.0] * 4


def test_a_pair_read_as_two_labels_stands_good_against_bad(policy: Any) -> None:
    """Two of one row and prompt, one good and one bad, in either order; nothing else is a pair."""
    good, bad, alone = labelled_rows(3)
    good, bad = replace(good, desirable=True), replace(bad, prompt=good.prompt, source=good.source, desirable=False)

    def found(*rows: Any) -> list[list[int]] | None:
        groups = groups_of(policy, rows)
        numbers = torch.arange(len(rows))
        up = torch.tensor([row.desirable for row in rows])
        pairs = pairs_of_rows(Scored.of(-numbers.double(), numbers + 1, rows=numbers, desirable=up), groups)
        return None if pairs is None else pairs.tolist()

    assert found(good, bad, alone) == [[0, 1]] and found(alone, bad, good) == [[2, 1]]
    assert found(good, alone) is None and found(good, replace(bad, desirable=True)) is None
    assert found(replace(good, desirable=False), bad) is None  # two bad ones
    assert found(good, bad, replace(bad, answer=alone.answer)) is None  # a ranking
    assert found(good, replace(bad, prompt=alone.prompt)) is None


# --- the items' table ----------------------------------------------------------------------------------------------


def test_the_table_holds_each_row_beside_its_own_scores(policy: Any) -> None:
    records = chat_pairs(30, seed=6)
    groups = groups_of(policy, [*records[::2], *records[1::2]])
    found = evaluated(policy, DPO(), groups)
    for most in (30, 7, 1):
        table = item_table(found, most)
        assert len(table["source"]) == most == len(set(table["source"])) and table["source"][0].endswith(":1")
        own = {str(group.source): group for group in groups}
        for place, name in enumerate(table["source"]):
            for number, side in enumerate(("chosen", "rejected")):
                assert table[side]["lengths"][place] == len(own[name].answers[number])
                naive = naive_logp(policy.model, own[name], number)
                assert table[side]["logps"][place] == pytest.approx(naive, abs=1e-3)
                assert table[side]["ref_logps"][place] == pytest.approx(own[name].ref_logps[number], abs=1e-5)  # type: ignore[index]
    places = [int(name.rsplit(":", 1)[1]) for name in item_table(found, 10)["source"]]
    gaps = [after - before for before, after in itertools.pairwise(places)]
    assert set(gaps) == {3}  # evenly spaced, in the order of the data


def test_some_of_the_rows_are_evenly_spaced_and_whole(policy: Any) -> None:
    groups = groups_of(policy, to_labels(chat_pairs(40)))
    assert some_of(groups, 80) == groups and some_of(groups, 200) == groups
    for most in (79, 40, 20, 8):
        kept = some_of(groups, most)
        assert 0.7 * most <= len(kept) <= most
        rows = [str(group.source) for group in kept]
        assert all(rows.count(name) == 2 for name in rows)
        numbers = sorted({group.source.number for group in kept})
        gaps = [after - before for before, after in itertools.pairwise(numbers)]
        assert max(gaps) - min(gaps) <= 1 and numbers[0] == 1 and numbers[-1] > 40 - 2 * max(gaps)


# --- before and after ----------------------------------------------------------------------------------------------


def evaluator(policy: Any, **more: Any) -> Evaluator:
    groups = groups_of(policy, chat_pairs(8, seed=1))
    options = TrainingOptions(eval_prompts=4, eval_new_tokens=5)
    how = ReferenceScoring(Path("unused"), 1024, "cpu")
    settings: dict[str, Any] = {"words": {}, "reference": None, "judge": None, "how": how, "live": list}
    return Evaluator(policy, DPO(), options, groups, **(settings | more))


def test_figures_of_the_start_are_compared_with_only_where_all_are_known(policy: Any) -> None:
    asked = evaluator(policy, judge=lambda prompts, answers: [float(len(answer)) for answer in answers])
    start = asked.evaluate("start", 0)
    assert start.metrics.get("answer_length_ratio") is None
    whole = asked.evaluate("interval", 1).metrics
    assert whole["answer_length_ratio"] == 1.0  # nothing was trained in between
    samples = start.detail["samples"]
    assert len(samples) == 4
    asked.began = {"samples": samples[:3]}
    assert "answer_length_ratio" not in asked.evaluate("interval", 2).metrics
    judged = set(asked.evaluate("end", 3).metrics)
    asked.began = {"samples": samples}
    more = set(asked.evaluate("end", 3).metrics) - judged
    assert "answer_length_ratio" in more and any("win" in name for name in more)
    lost = [{**one, "sampled": {**one["sampled"]}} for one in samples]
    del lost[2]["sampled"]["reward"]
    asked.began = {"samples": lost}
    assert set(asked.evaluate("end", 4).metrics) - judged == {"answer_length_ratio"}


def test_seconds_at_intervals_are_taken_over_and_added_up(policy: Any) -> None:
    asked = evaluator(policy)
    lines = [
        {"step": 0, "eval_seconds": 5.0},
        {"step": 2, "eval_seconds": 1.5},
        {"step": 3},
        {"step": 4, "eval_seconds": 2.0},
    ]
    asked.go_on_from(lines)
    account = asked.account(2, 35.0)
    assert account == {"eval_steps": 2, "seconds": {"interval": 3.5}, "share_at_intervals": 0.1}


# --- what is concluded ---------------------------------------------------------------------------------------------


def facts(steps: int, batch_size: int, logging_steps: int | None, accuracy: float = 0.6) -> Facts:
    rows = [
        {"step": number, "epoch": number / steps, "rewards/accuracies": accuracy, "rewards/chosen": 1.0}
        for number in range(1, steps + 1)
    ]
    options = {"batch_size": batch_size, **({} if logging_steps is None else {"logging_steps": logging_steps})}
    return Facts(
        Run(Path("run"), RunCard.of({"options": options, "batch_size": batch_size, "reward_scale": 0.1}), rows, ())
    )


@pytest.mark.parametrize(
    ("steps", "batch_size", "logging_steps"), [(40, 8, 1), (20, 8, 2), (10, 16, 2), (8, 4, 10), (80, 4, None)]
)
def test_an_accuracy_of_the_first_pass_is_as_sure_as_its_items_allow(
    steps: int, batch_size: int, logging_steps: int | None
) -> None:
    """A logged line is the mean of all items since the line before: the later half of these are 160 items, always."""
    (found,) = fresh_accuracies(facts(steps, batch_size, logging_steps))
    assert (found.low, found.high) == pytest.approx(wilson(0.6 * 160, 160)) and found.value == pytest.approx(0.6)
    assert not fresh_accuracies(facts(2, 7, 4)) and fresh_accuracies(facts(2, 8, 4))  # 28 and 32 items


def test_what_was_seen_before_or_had_not_moved_is_not_fresh() -> None:
    told = facts(40, 8, 1)
    for row in told.run.steps:
        row["epoch"] = row["epoch"] + 1.01  # type: ignore[index]
    assert fresh_accuracies(told) == []
    told = facts(40, 8, 1)
    for row in told.run.steps:
        row["rewards/chosen"] = 0.024  # type: ignore[index]  # 0.24 nats
    assert fresh_accuracies(told) == []


def items(longer: Sequence[int], shorter: Sequence[int]) -> Items:
    """Pairs whose chosen answer is the longer one, and others: so many right of so many."""
    moved, lengths = [], []
    for (right, count), by in ((longer, 5), (shorter, -5)):
        moved += [1.0] * right + [-1.0] * (count - right)
        lengths += [20 + by] * count
    none = Side((0.0,) * len(moved), (20,) * len(moved))
    return Items({"chosen": Side(tuple(moved), tuple(lengths)), "rejected": none}, is_paired=True)


@pytest.mark.parametrize(
    ("longer", "shorter", "told"),
    [
        ((40, 40), (12, 40), True),
        ((12, 40), (40, 40), True),
        ((8, 8), (4, 8), False),  # all and half of eight: the intervals overlap
        ((7, 8), (3, 8), False),
        ((80, 80), (40, 80), True),  # half is chance
        ((80, 80), (44, 80), False),  # better than chance
        ((60, 100), (36, 100), False),  # 24 % apart
        ((64, 100), (33, 100), True),
        ((7, 7), (0, 40), False),  # too few of one kind
        ((8, 8), (0, 8), True),
    ],
)
def test_length_is_blamed_only_where_the_two_kinds_are_surely_apart(
    longer: tuple[int, int], shorter: tuple[int, int], told: bool
) -> None:
    found = _gap(items(longer, shorter))
    assert (found is not None) is told
    intervals = [wilson(*one) for one in (longer, shorter)]
    apart = intervals[0][0] > intervals[1][1] or intervals[1][0] > intervals[0][1]
    assert apart or not told
    if found:
        assert f"of {longer[1]}" in found[0][1] and f"of {shorter[1]}" in found[1][1]


# --- counts of a run -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "steps"), [(0.3, 1), (0.5, 2), (1.4, 5), (2.0, 6)])
def test_a_run_makes_the_steps_that_were_planned_and_counts_every_token(
    tmp_path: Path, epochs: float, steps: int
) -> None:
    trainer = PreferenceTrainer(
        tiny_policy(dtype=torch.float32),
        DPO(),
        chat_pairs(10),
        output_dir=tmp_path / "run",
        batch_size=4,
        epochs=epochs,
        learning_rate=1e-3,
        warmup=0.0,  # or the only step of a run would have rate 0, which is refused
        logging_steps=1,
        order="file",
    )
    planned = trainer.run.planned_steps()
    sizes = [len(group.prompt) + len(answer) for group in trainer.train_groups for answer in group.answers]
    trainer.train()
    assert planned == trainer.state.global_step == steps
    items = sum((4, 4, 2)[number % 3] for number in range(steps))
    seen = list(itertools.islice(itertools.cycle(zip(sizes[::2], sizes[1::2], strict=True)), items))
    last = [line for line in trainer.folder.read_metrics() if "num_tokens" in line][-1]
    assert last["num_tokens"] == sum(map(sum, seen)) and last["items"] == items
