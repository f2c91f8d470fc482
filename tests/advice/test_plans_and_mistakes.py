"""Plans against what then happens: bytes against real tensors, budgets against real steps, words against the loss."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from likelier import DPO, IPO, KTO, PreferenceTrainer, RobustDPO, SigmoidNorm, SimPO
from likelier.advice.memory import MemoryPlan, own_memory, planner_for
from likelier.data.records import Labelled, Message, Pair, Record, content_key
from likelier.experiments.sweep.data import SharedData, load_shared, records_hash
from likelier.experiments.sweep.plan import SweepPlan, plan_sweep
from likelier.experiments.sweep.record import SweepRecord
from likelier.models.generation import WRITE_LARGER
from likelier.models.options import LoraOptions
from likelier.models.policy import Policy, disable_dropout
from likelier.objectives import Objective, Scored
from likelier.training.merge import _difference, _token_difference
from likelier.training.options import TrainingOptions
from likelier.utils.errors import RunFolderError
from tests.helpers.small_runs import pair_rows, write_rows
from tests.helpers.support import chat_pairs, labelled_rows, lora_policy, tiny_model, tiny_policy, tiny_tokenizer

# --- memory --------------------------------------------------------------------------------------------------------


def state_bytes(trainer: PreferenceTrainer) -> int:
    """What the optimizer really keeps, a few counters aside."""
    assert trainer.optimizer is not None
    tensors = [value for state in trainer.optimizer.state.values() for value in state.values()]
    return sum(one.nbytes for one in tensors if isinstance(one, torch.Tensor) and one.numel() > 8)


def after_a_step(folder: Path, policy: Policy) -> PreferenceTrainer:
    trainer = PreferenceTrainer(policy, DPO(), chat_pairs(4), output_dir=folder, batch_size=4, max_steps=1, warmup=0)
    trainer.train()
    return trainer


def adapted() -> Policy:
    return lora_policy(dtype=torch.float32)


def in_bfloat16() -> Policy:
    model = tiny_model(dtype=torch.bfloat16)
    disable_dropout(model)
    return Policy(model, tiny_tokenizer(), "tiny", "a tiny random Llama")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: tiny_policy(dtype=torch.float32), {"dtype": "float32"}),
        (adapted, {"dtype": "float32", "lora": LoraOptions(lora_r=4)}),
        (in_bfloat16, {"dtype": "pure-bfloat16"}),
    ],
    ids=["whole", "adapter", "bfloat16"],
)
def test_the_optimizers_planned_bytes_are_those_of_its_real_state(
    make: Callable[[], Policy], options: dict[str, Any], tmp_path: Path
) -> None:
    policy = make()
    config = policy.model.config
    trained = sum(weight.nbytes for weight in policy.model.parameters() if weight.requires_grad)
    found = planner_for(config, method="dpo", device="cpu", max_length=64, **options).plan(512).parts
    assert found["optimizer"] == state_bytes(after_a_step(tmp_path / "run", policy)) > trained
    assert found["gradients"] in (0, trained)


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_key_value_heads": 4}, {"num_hidden_layers": 5}, {"head_dim": 24}, {"num_key_value_heads": 1}],
    ids=str,
)
def test_the_planned_keys_and_values_are_those_of_a_real_cache(changes: dict[str, Any]) -> None:
    model = tiny_model(dtype=torch.float32, **changes)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.ones(3, 40, dtype=torch.long), past_key_values=cache, use_cache=True)
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    planner = planner_for(model.config, method="dpo", device="cpu", dtype="float32", max_length=64)
    budget = 100
    assert planner._written(budget) * 3 * 40 == real * WRITE_LARGER * budget
    usual = TrainingOptions()
    most = usual.answered_prompts * (64 + usual.answer_tokens)
    assert planner._written(10**9) * 3 * 40 == real * most  # all prompts at once, and no more


def test_a_peak_is_the_fullest_of_three_moments_with_what_surrounds_it() -> None:
    plan = planner_for(tiny_model(dtype=torch.float32).config, method="dpo", device="cpu", max_length=64).plan(512)
    for name in ("scoring", "evaluating"):
        high: MemoryPlan = replace(plan, **{name: 10**12})
        assert high.peak == 10**12 and high.needed == 10**12 + (plan.needed - besides(plan))
    assert plan.peak == max(sum(plan.parts.values()), plan.scoring, plan.evaluating)
    assert plan.needed > plan.peak and plan.fits is None
    for memory, fits in ((plan.needed, True), (plan.needed - 1, False)):
        assert replace(plan, memory=memory).fits is fits


def besides(plan: MemoryPlan) -> int:
    """The plan's own figure without what a process takes before a model is loaded."""
    blocks = plan.parts["activations"] + plan.parts["head"]
    return max(sum(plan.parts.values()) + blocks, plan.scoring, plan.evaluating)


@pytest.mark.slow
def test_evaluating_holds_no_gradients_but_a_reference_again() -> None:
    config = tiny_model(dtype=torch.float32).config

    def plan(**more: Any) -> MemoryPlan:
        settings = {"method": "dpo", "device": "cpu", "max_length": 64, "dtype": "float32"} | more
        return planner_for(config, **settings).plan(512)

    whole, live = plan(), plan(reference_scores="live")
    assert whole.evaluating == live.evaluating  # loaded once more, or there all the time
    assert live.scoring - whole.scoring == whole.parts["weights"] == live.parts["reference"]
    moves = plan(reference_moves="soft")  # and the start is loaded beside it, to measure KL
    assert moves.parts["reference"] == whole.parts["weights"] == moves.scoring - whole.scoring
    assert moves.evaluating == whole.evaluating + whole.parts["weights"]
    assert plan(reference_moves="bema").parts["reference"] == 3 * whole.parts["weights"]  # on a CPU, all in one memory
    adapter = plan(lora=LoraOptions(lora_r=4))
    copied = plan(lora=LoraOptions(lora_r=4), reference_moves="hard")
    assert copied.parts["reference"] == adapter.parts["gradients"] > 0
    assert adapter.evaluating < whole.evaluating - whole.parts["weights"] and adapter.parts["reference"] == 0
    assert own_memory("cpu") and own_memory("cpu") > 10**9  # type: ignore[operator]


# --- words ---------------------------------------------------------------------------------------------------------


def scored(margin: float, length: int, rejected_length: int | None = None) -> Scored:
    """A pair whose chosen answer is `margin` nats a token above the reference, and above the rejected one."""
    lengths = torch.tensor([length, rejected_length or length])
    logps = torch.tensor([margin * length, 0.0], dtype=torch.double)
    return Scored.of(logps, lengths, torch.zeros(2, dtype=torch.double), pairs=torch.tensor([[0, 1]]))


def said(pattern: str, text: str) -> list[float]:
    found = re.search(pattern, text)
    assert found, text
    return [float(value) for value in found.groups()]


@pytest.mark.parametrize(("beta", "ratio", "median"), [(2.0, 0.5, 100.0), (10.0, 0.3, 37.0), (2.5, 0.1, 8.0)])
def test_simpos_margin_in_words_is_where_its_logit_is_0(beta: float, ratio: float, median: float) -> None:
    objective = SimPO(beta=beta, gamma_beta_ratio=ratio)
    number = r"([\d.e+-]+)"
    (told_beta, gamma, token, answer) = said(
        rf"beta {number}, gamma {number}: the margin is {number} nats a token, {number} nats at the median",
        objective.explain(median),
    )
    assert (
        told_beta == beta and gamma == pytest.approx(beta * token) and answer == pytest.approx(token * median, rel=6e-3)
    )
    assert float(objective.logits(scored(token, 9))) == pytest.approx(0, abs=1e-9)
    assert float(objective.logits(scored(0.0, 9))) == pytest.approx(-gamma)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", [DPO(beta=0.05), RobustDPO(beta=0.3)], ids=repr)
def test_a_reward_margin_of_1_in_words_is_a_logit_of_1(objective: Objective) -> None:
    (nats,) = said(r"a reward margin of 1 is ([\d.e+-]+) nats", objective.explain(50))
    assert float(objective.logits(scored(nats / 10, 10))) == pytest.approx(1, rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("objective", "median"), [(IPO(tau=0.4), 20.0), (IPO(tau=0.05), 7.0), (IPO(), 64.0)], ids=repr)
def test_ipos_target_in_words_is_where_its_loss_is_0(objective: IPO, median: float) -> None:
    for one in (objective.resolved(median), replace(objective, length_normalize=False).resolved(median)):
        words = one.explain(median)
        if one.length_normalize:
            token, answer = said(r"target is ([\d.e+-]+) nats a token, ([\d.e+-]+) nats at the median", words)
            assert answer == pytest.approx(token * median, rel=1e-2)
        else:
            (answer,) = said(r"target is ([\d.e+-]+) nats an answer", words)
        at_target = scored(answer / median, int(median))
        assert float(one.losses(at_target)) < 1e-3 * float(one.losses(scored(0.0, int(median))))
        assert objective.tau is not None or answer == pytest.approx(5, rel=1e-2)


def test_sigmoid_norms_beta_in_words_is_its_slope_at_the_median() -> None:
    objective = SigmoidNorm(beta=4.0)
    (slope,) = said(r"is ([\d.e+-]+) per nat at the median", objective.explain(25))
    logits = [float(objective.logits(scored(nats / 25, 25))) for nats in (1.0, 2.0)]
    assert logits[1] - logits[0] == pytest.approx(slope)


@pytest.mark.parametrize(("up", "down"), [(10, 90), (90, 10), (1, 7), (300, 100), (5, 3)])
@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 2.0}, {"undesirable_weight": 0.5}])
def test_the_proposed_weight_makes_both_sides_count_alike(up: int, down: int, weights: dict[str, float]) -> None:
    objective = KTO(**weights)
    name, weight = objective.balancing_weight(up, down)
    mended = replace(objective, **{name: weight})
    assert mended.desirable_weight * up == pytest.approx(mended.undesirable_weight * down)
    assert mended.proposals(up, down) == []
    ratio = objective.desirable_weight * up / (objective.undesirable_weight * down)
    proposals = objective.proposals(up, down)
    assert bool(proposals) is not (0.95 <= ratio <= 1.5)
    for told in proposals:
        assert f"--{name.replace('_', '-')} {weight:.3g}" in told and f"their ratio is {ratio:.3g}" in told
        assert f"{up} desirable and {down} undesirable" in told
    assert replace(objective, undesirable_weight=0.0).proposals(up, down) == objective.proposals(up, 0) == []


# --- merging -------------------------------------------------------------------------------------------------------


def test_a_merges_difference_is_that_of_sums_per_token_and_of_tokens_one_by_one() -> None:
    for count in (1, 3, 50):
        one = [-1.0] * count
        shifted = [value + 0.02 for value in one]
        assert (
            _difference([one], [shifted]) == pytest.approx(0.02) == pytest.approx(_token_difference([one], [shifted]))
        )
    there_and_back = [-1.02, -0.98, -1.02, -0.98]
    assert _difference([[-1.0] * 4], [there_and_back]) == pytest.approx(0, abs=1e-12)
    assert _token_difference([[-1.0] * 4], [there_and_back]) == pytest.approx(0.02)
    many, worst = [[-1.0] * 40, [-2.0] * 5, [-1.0] * 3], [[-1.001] * 40, [-2.1] * 5, [-1.0] * 3]
    for difference in (_difference, _token_difference):
        assert difference(many, worst) == pytest.approx(0.1) == pytest.approx(difference(worst, many))
        assert difference(many, [[math.nan] * 40, [-2.0] * 5, [-1.0] * 3]) == math.inf
        assert difference([*many, [math.nan]], [*many, [math.nan]]) == math.inf


# --- sweeps --------------------------------------------------------------------------------------------------------


def plan(tmp_path: Path, *words: str, rows: list[dict[str, Any]] | None = None, **more: Any) -> SweepPlan:
    data = write_rows(tmp_path / "pairs.jsonl", rows or pair_rows(24))
    settings = {"model": "not-loaded", "data": str(data), "output": str(tmp_path / "out"), "eval_fraction": 0.25}
    return plan_sweep({**settings, "batch_size": 4, "learning_rate": 1e-3, **more}, words, (1,))


def steps_taken(items: int, batch_size: int, steps: int) -> int:
    """Items of so many steps, one after the other through the data."""
    sizes = [min(batch_size, items - start) for start in range(0, items, batch_size)]
    return sum(itertools.islice(itertools.cycle(sizes), steps))


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ({"epochs": 1}, 5),
        ({"epochs": 0.3}, 2),
        ({"epochs": 0.5}, 3),
        ({"epochs": 1.5}, 8),
        ({"epochs": 3}, 15),
        ({"max_steps": 1, "warmup": 0}, 1),
        ({"max_steps": 5}, 5),
        ({"max_steps": 13}, 13),
    ],
)
def test_a_budget_is_what_the_steps_will_take_up(tmp_path: Path, more: dict[str, Any], steps: int) -> None:
    found = plan(tmp_path, "dpo", "kto", **more)
    shared = load_shared(found)
    rows = len(shared.of(found.runs[0].config).train)
    assert rows == 18
    pairs, labels = (shared.budget(run.config) for run in found.runs)
    items = steps_taken(rows, 4, steps)
    assert (pairs.items, pairs.unit, pairs.answers, pairs.steps) == (items, "pairs", 2 * items, steps)
    label_steps = more.get("max_steps") or math.ceil(9 * more["epochs"])
    items = steps_taken(36, 4, label_steps)
    assert (labels.items, labels.unit, labels.answers, labels.steps) == (items, "rows", items, label_steps)


@pytest.mark.slow
def test_a_budget_is_what_a_real_run_takes_up(tmp_path: Path) -> None:
    """Steps of whole prompts and half an epoch, where it is not the number of rows over the batch size."""
    rows = pair_rows(8)
    rows = [row for number, row in enumerate(rows) for _ in range(1 + number % 4)]
    settings: dict[str, Any] = {"group_by": "prompt", "epochs": 1.5, "eval_fraction": 0.2, "batch_size": 4}
    found = plan(tmp_path, rows=rows, **settings)
    shared, config = load_shared(found), found.runs[0].config
    trainer = PreferenceTrainer(
        tiny_policy(dtype=torch.float32),
        DPO(),
        shared.of(config).train,
        output_dir=tmp_path / "run",
        batch_size=4,
        epochs=1.5,
        group_by="prompt",
        learning_rate=1e-3,
        logging_steps=1,
        seed=config.training.seed,
    )
    trainer.train()
    last = [line for line in trainer.folder.read_metrics() if "items" in line][-1]
    budget = shared.budget(config)
    assert (budget.items, budget.steps) == (last["items"], trainer.state.global_step)


def changes(record: Record) -> list[Record]:
    """The record with one thing changed that training would see."""
    other = (Message("assistant", "something else"),)
    found: list[Record] = [replace(record, prompt=(Message("user", "who?"),)), replace(record, tools='[{"name": "f"}]')]
    found.append(replace(record, weight=2.0))
    if isinstance(record, Labelled):
        return [*found, replace(record, answer=other), replace(record, desirable=not record.desirable)]
    assert isinstance(record, Pair)
    found += [replace(record, chosen=other), replace(record, rejected=other)]
    found.append(replace(record, chosen=record.rejected, rejected=record.chosen))
    found += [replace(record, votes=(3, 1, 0)), replace(record, votes=(2, 1, 0)), replace(record, margin=0.5)]
    return [*found, replace(record, ref_logps=(-3.0, -4.0)), replace(record, flip_chance=0.2)]


@pytest.mark.parametrize("records", [chat_pairs(3), labelled_rows(3)], ids=["pairs", "labels"])
def test_rows_that_differ_in_anything_have_another_hash(records: list[Record]) -> None:
    own = records_hash(records)
    others = [[*records[:place], one, *records[place + 1 :]] for place in range(3) for one in changes(records[place])]
    others += [records[:2], records[::-1], [*records, records[0]]]
    hashes = [records_hash(one) for one in others]
    assert own not in hashes and len(set(hashes)) == len(hashes)
    assert own == records_hash(list(records))


def test_texts_that_join_to_the_same_are_not_the_same_rows() -> None:
    source = chat_pairs(1)[0].source
    rows = [Pair("ab", "c", "d", source), Pair("a", "bc", "d", source), Pair("ab", "", "cd", source)]
    assert len({records_hash([row]) for row in rows}) == 3
    mark = content_key("")  # what stands before a text in its key may stand in a text
    rows = [
        Pair("a", f"b{mark}c", "d", source),
        Pair(f"a{mark}b", "c", "d", source),
        Pair("a", "b", f"c{mark}d", source),
    ]
    assert len({records_hash([row]) for row in rows}) == 3


def record_of(found: SweepPlan, shared: SharedData) -> SweepRecord:
    return SweepRecord.of(found, shared.card())


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_sweep_whose_rows_were_edited_is_another_one(tmp_path: Path, part: str) -> None:
    """As many rows, of the same prompts, in the same file: one answer says something else."""
    found = plan(tmp_path)
    shared = load_shared(found)
    record_of(found, shared).check_same(record_of(found, shared))
    rows = pair_rows(24)
    held = {one.source.number for one in shared.held_out}
    edited = next(number for number in range(1, 25) if (number in held) is (part == "test"))
    rows[edited - 1]["chosen"][-1]["content"] += " indeed"
    again = plan(tmp_path, rows=rows)
    now = load_shared(again)
    assert {one.source.number for one in now.held_out} == held
    name, other = ("data", "held_out") if part == "train" else ("held_out", "data")
    with pytest.raises(RunFolderError, match=f"another one: {name}: was") as error:
        record_of(found, shared).check_same(record_of(again, now))
    assert f"{other}: was" not in str(error.value)


def test_a_sweep_names_every_run_and_option_that_differs(tmp_path: Path) -> None:
    def record(*words: str, **more: Any) -> SweepRecord:
        found = plan(tmp_path, *words, **more)
        return record_of(found, load_shared(found))

    before = record("dpo.beta=0.1,0.2")
    for now, told in (
        (record("dpo.beta=0.1,0.3"), ("dpo-beta-0.3-seed-42 is new", "dpo-beta-0.2-seed-42 is gone")),
        (record("dpo.beta=0.1,0.2", epochs=2), ("epochs of dpo-beta-0.1-seed-42: was", "is 2")),
        (record("dpo.beta=0.1,0.2", label_smoothing=0.1), ("label_smoothing of", "is 0.1")),
        (record("dpo.beta=0.1"), ("dpo-beta-0.2-seed-42 is gone",)),
    ):
        with pytest.raises(RunFolderError) as error:
            before.check_same(now)
        assert all(one in str(error.value) for one in told), str(error.value)
