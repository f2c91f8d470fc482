"""Who is held out, which rows make a step, how a step is cut, and whose answer KTO's baseline takes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import permutations
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from likelier.data.groups import Group
from likelier.data.load import load_preferences
from likelier.data.mismatched import data_hash, derangement, with_partners
from likelier.data.packing import StepSampler, padded_micro_batches, padded_tokens
from likelier.data.records import Message, Pair, Source
from likelier.data.split import prompt_key, split_by_prompt
from likelier.data.tokenize import tokenize_records
from likelier.utils.errors import DataError
from tests.helpers.support import labelled_rows, tiny_policy, tiny_tokenizer


def ids(*tokens: int) -> Any:
    return np.asarray(tokens, dtype=np.int32)


def group(prompt: int, *answers: int, number: int = 0, desirable: bool | None = True) -> Group:
    """A group whose prompt and answers are one token each."""
    return Group(ids(prompt), tuple(ids(answer) for answer in answers), Source("rows", number, "row"), desirable)


def sized(length: int, number: int, answers: int = 2) -> Group:
    """A group of `answers` answers, the longest of which makes `length` tokens with its prompt."""
    sides = tuple(ids(*range(length - 1 if side == 0 else 1)) for side in range(answers))
    return Group(ids(1), sides, Source("rows", number, "row"), None if answers == 2 else True)


# --- split by prompt -----------------------------------------------------------------------------------------------


def pairs_of(prompts: list[int]) -> list[Any]:
    def pair(prompt: int, number: int) -> Pair:
        content = (Message("user", f"prompt {prompt}"),)
        return Pair(content, f"yes {number}", f"no {number}", Source("rows", number, "row"))

    return [pair(prompt, number) for number, prompt in enumerate(prompts)]


many_prompts = st.lists(st.integers(0, 30), min_size=12, max_size=80).filter(lambda some: len(set(some)) > 6)


@settings(max_examples=100)
@given(prompts=many_prompts, fraction=st.floats(0.01, 0.3), seed=st.integers(0, 2**32))
def test_no_prompt_stands_on_both_sides_and_the_share_is_about_right(
    prompts: list[int], fraction: float, seed: int
) -> None:
    records = pairs_of(prompts)
    try:
        train, test = split_by_prompt(records, fraction, seed)
    except DataError:  # a few prompts with nearly all the rows
        assert max(Counter(prompts).values()) > len(records) * 0.4
        return
    assert not {prompt_key(record) for record in train} & {prompt_key(record) for record in test}
    assert sorted([*train, *test], key=lambda record: record.source.number) == records
    for side in (train, test):
        assert [record.source.number for record in side] == sorted(record.source.number for record in side)
    assert fraction * len(records) <= len(test) < fraction * len(records) + max(Counter(prompts).values())


def test_the_split_is_fixed_by_the_seed_and_no_other() -> None:
    records = pairs_of(list(range(50)))
    assert split_by_prompt(records, 0.2, 1) == split_by_prompt(list(records), 0.2, 1)
    assert split_by_prompt(records, 0.2, 1) != split_by_prompt(records, 0.2, 2)


def test_the_split_does_not_depend_on_the_order_of_the_rows() -> None:
    records = pairs_of(list(range(50)))
    held = split_by_prompt(records, 0.2, 1)[1]
    assert {id(record) for record in split_by_prompt(records[::-1], 0.2, 1)[1]} == {id(record) for record in held}


def test_text_and_messages_of_the_same_words_are_different_prompts() -> None:
    text = Pair("a", "b", "c", Source("rows", 1))
    assert prompt_key(text) != prompt_key(replace(text, prompt=(Message("user", "a"),)))
    assert prompt_key(text) == prompt_key(replace(text, chosen="d"))


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(DataError, match="a single prompt, which cannot be split"):
        split_by_prompt(pairs_of([1] * 20), 0.1, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        split_by_prompt(pairs_of([1, 2, 3]), fraction, 0)


def test_without_a_share_nothing_is_held_out() -> None:
    rows = [{"prompt": f"p{number}", "chosen": "yes", "rejected": "no"} for number in range(20)]
    assert (len(load_preferences(rows).train), load_preferences(rows).test) == (20, [])
    held = load_preferences(rows, eval_fraction=0.25)
    assert (len(held.train), len(held.test)) == (15, 5)


# --- optimizer steps -----------------------------------------------------------------------------------------------


def sampler(prompts: list[int], batch_size: int, order: Any = "shuffled", group_by: Any = None, seed: int = 0) -> Any:
    keys = [bytes([prompt]) for prompt in prompts]
    return StepSampler(keys, batch_size=batch_size, order=order, group_by=group_by, seed=seed)


some_prompts = st.lists(st.integers(0, 8), min_size=1, max_size=40)
grouping = st.sampled_from([None, "prompt"])
ordering = st.sampled_from(["shuffled", "file"])


@given(prompts=some_prompts, size=st.integers(1, 12), order=ordering, group_by=grouping, epoch=st.integers(0, 3))
def test_every_group_comes_once_an_epoch_in_the_announced_number_of_steps(
    prompts: list[int], size: int, order: Any, group_by: Any, epoch: int
) -> None:
    plan = sampler(prompts, size, order, group_by)
    plan.set_epoch(epoch)
    steps = list(plan)
    assert sorted(number for step in steps for number in step) == list(range(len(prompts)))
    assert all(steps)
    assert len(steps) == len(plan) <= ceil(len(prompts) / size)


@given(prompts=some_prompts, size=st.integers(1, 12), order=ordering)
def test_a_partial_last_step_is_kept(prompts: list[int], size: int, order: Any) -> None:
    lengths = [len(step) for step in sampler(prompts, size, order)]
    assert lengths == [size] * (len(prompts) // size) + ([len(prompts) % size] if len(prompts) % size else [])


@given(prompts=some_prompts, size=st.integers(1, 12), order=ordering, epoch=st.integers(0, 3))
def test_grouping_by_prompt_never_parts_a_prompt(prompts: list[int], size: int, order: Any, epoch: int) -> None:
    plan = sampler(prompts, size, order, "prompt")
    plan.set_epoch(epoch)
    homes: dict[int, set[int]] = {}
    for number, step in enumerate(plan):
        for row in step:
            homes.setdefault(prompts[row], set()).add(number)
    assert all(len(home) == 1 for home in homes.values())


def test_steps_of_whole_prompts_are_about_as_large_as_asked() -> None:
    prompts = [number // 4 for number in range(200)]
    plan = sampler(prompts, 16, group_by="prompt")
    assert [len(step) for step in plan] == [16] * 12 + [8]


def test_file_order_is_the_files_order_in_every_epoch() -> None:
    plan = sampler(list(range(7)), 3, "file")
    for epoch in range(3):
        plan.set_epoch(epoch)
        assert list(plan) == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_shuffle_is_fixed_by_seed_and_epoch() -> None:
    def steps(seed: int, epoch: int) -> list[list[int]]:
        plan = sampler(list(range(40)), 8, seed=seed)
        plan.set_epoch(epoch)
        return list(plan)

    assert steps(1, 0) == steps(1, 0)
    assert steps(1, 0) != steps(1, 1)
    assert steps(1, 0) != steps(2, 0)
    assert steps(1, 0) != [list(range(start, start + 8)) for start in range(0, 40, 8)]


def test_asking_twice_in_an_epoch_gives_the_same_steps() -> None:
    plan = sampler(list(range(40)), 8)
    assert list(plan) == list(plan)


def test_shuffling_mixes_labels_that_lie_in_blocks() -> None:
    """2,500 rows up, then 2,500 down, as unpaired files often are: no step of 32 is of one kind."""
    plan = sampler([0] * 5000, 32)
    steps = list(plan)[:100]
    assert all(0 < sum(row < 2500 for row in step) < len(step) for step in steps)


# --- micro-batches -------------------------------------------------------------------------------------------------


def contiguous_optimum(costs: list[int], answers: int, budget: int) -> tuple[int, int]:
    """(fewest runs, least possible largest run) over all cuts of longest-first groups, none of them over the budget."""
    ordered = sorted(costs, reverse=True)
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(ordered) + 1):
        options = []
        for start in range(end):
            cost = answers * (end - start) * ordered[start]
            if cost <= budget:
                options.append((best[start][0] + 1, max(best[start][1], cost)))
        best.append(min(options))
    return best[-1]


lengths_of_groups = st.lists(st.integers(2, 40), min_size=1, max_size=14)


@settings(max_examples=200)
@given(lengths=lengths_of_groups, answers=st.sampled_from([1, 2]), budget=st.integers(1, 400))
def test_a_step_is_cut_without_loss_and_within_the_budget(lengths: list[int], answers: int, budget: int) -> None:
    groups = [sized(length, number, answers) for number, length in enumerate(lengths)]
    parts = padded_micro_batches(groups, budget)
    assert sorted(item.source.number for part in parts for item in part) == list(range(len(groups)))
    for part in parts:
        assert part and (len(part) == 1 or padded_tokens(part) <= budget)


@settings(max_examples=200)
@given(lengths=lengths_of_groups, answers=st.sampled_from([1, 2]), room=st.integers(0, 300))
def test_micro_batches_are_the_fewest_and_balanced(lengths: list[int], answers: int, room: int) -> None:
    budget = answers * max(lengths) + room
    groups = [sized(length, number, answers) for number, length in enumerate(lengths)]
    parts = padded_micro_batches(groups, budget)
    assert (len(parts), max(padded_tokens(part) for part in parts)) == contiguous_optimum(lengths, answers, budget)


@settings(max_examples=200)
@given(lengths=lengths_of_groups, budget=st.integers(1, 400))
def test_micro_batches_are_never_more_than_filling_in_file_order(lengths: list[int], budget: int) -> None:
    groups = [sized(length, number) for number, length in enumerate(lengths)]
    filled: list[list[Group]] = [[]]
    for item in groups:
        if filled[-1] and padded_tokens([*filled[-1], item]) > budget:
            filled.append([])
        filled[-1].append(item)
    assert len(padded_micro_batches(groups, budget)) <= len(filled)


def test_a_group_over_the_budget_runs_alone() -> None:
    groups = [sized(length, number) for number, length in enumerate([3, 100, 3, 3])]
    assert sorted(len(part) for part in padded_micro_batches(groups, 20)) == [1, 3]


def test_equal_groups_are_shared_out_evenly() -> None:
    groups = [sized(10, number) for number in range(9)]
    assert [len(part) for part in padded_micro_batches(groups, 20 * 8)] == [5, 4]


def test_cutting_a_step_is_deterministic() -> None:
    groups = [sized(length, number) for number, length in enumerate([5, 9, 5, 30, 2, 9])]
    assert padded_micro_batches(groups, 60) == padded_micro_batches(list(groups), 60)


# --- KTO's partners ------------------------------------------------------------------------------------------------


def labelled_groups(count: int, seed: int = 0) -> list[Group]:
    return tokenize_records(labelled_rows(count, seed), tiny_tokenizer(), max_length=512).groups


def assert_derangement(groups: list[Group], partner: list[int]) -> None:
    assert sorted(partner) == list(range(len(groups)))
    for row, other in enumerate(partner):
        assert groups[row].prompt.tobytes() != groups[other].prompt.tobytes()
        assert groups[row].answers[0].tobytes() != groups[other].answers[0].tobytes()


def possible(groups: list[Group]) -> bool:
    """Whether any arrangement fits, by trying all."""

    def fits(row: int, other: int) -> bool:
        prompts = groups[row].prompt.tobytes() != groups[other].prompt.tobytes()
        return prompts and groups[row].answers[0].tobytes() != groups[other].answers[0].tobytes()

    return any(all(map(fits, range(len(groups)), order)) for order in permutations(range(len(groups))))


@given(count=st.integers(2, 60), seed=st.integers(0, 1000))
def test_different_rows_always_find_partners(count: int, seed: int) -> None:
    groups = [group(number, 1000 + number) for number in range(count)]
    assert_derangement(groups, derangement(groups, str(seed)))


def test_partners_are_found_wherever_there_are_any() -> None:
    found = refused = 0
    for seed in range(300):
        rng = random.Random(seed)
        count = rng.randint(2, 6)
        groups = [group(rng.randint(1, 4), rng.randint(1, 4)) for _ in range(count)]
        if possible(groups):
            assert_derangement(groups, derangement(groups, str(seed)))
            found += 1
        else:
            with pytest.raises(DataError, match="too few different prompts or answers"):
                derangement(groups, str(seed))
            refused += 1
    assert found > 50 and refused > 50


def test_rows_that_share_prompts_and_answers_find_partners() -> None:
    groups = [group(number // 2, 100 + number % 5) for number in range(200)]
    assert_derangement(groups, derangement(groups, "seed"))


@pytest.mark.parametrize("rows", [[(1, 2)], [(1, 2), (1, 3), (1, 4)], [(1, 9), (2, 9), (3, 9)]])
def test_a_single_prompt_or_answer_is_refused_with_the_mend(rows: list[tuple[int, int]]) -> None:
    with pytest.raises(DataError, match="Add rows with other prompts, or use pairs with DPO"):
        derangement([group(*row) for row in rows], "seed")


def test_partners_are_fixed_by_the_data_and_by_nothing_else() -> None:
    first, again = (with_partners(labelled_groups(30), 512) for _ in range(2))
    assert [item.answers[1].tolist() for item in first] == [item.answers[1].tolist() for item in again]
    other = with_partners(labelled_groups(30)[:-1], 512)
    assert [item.answers[1].tolist() for item in first[:-1]] != [item.answers[1].tolist() for item in other]


def test_a_mismatched_answer_brings_its_own_mask() -> None:
    groups = [
        replace(one, masks=(np.arange(len(one.answers[0])) % (2 + number % 3) == 0,))
        for number, one in enumerate(labelled_groups(8))
    ]
    own = {one.answers[0].tobytes(): one.masks[0].tolist() for one in groups if one.masks}
    for one in with_partners(groups, 512):
        assert one.masks is not None
        for answer, mask in zip(one.answers, one.masks, strict=True):
            assert mask is not None and mask.tolist() == own[answer.tobytes()]


def test_the_data_hash_tells_data_sets_apart() -> None:
    groups = labelled_groups(4)
    flipped = [replace(groups[0], desirable=not groups[0].desirable), *groups[1:]]
    variants = [groups, groups[:-1], groups[::-1], flipped, [group(1, 2, 3)], [group(1, 2), group(1, 3)]]
    hashes = [data_hash(variant) for variant in variants]
    assert len(set(hashes)) == len(variants)
    assert data_hash(labelled_groups(4)) == hashes[0]


def test_partners_do_not_depend_on_batch_size_order_or_seed(tmp_path: Path) -> None:
    from likelier import KTO, PreferenceTrainer

    def partners(name: str, **more: Any) -> list[list[int]]:
        trainer = PreferenceTrainer(tiny_policy(), KTO(), labelled_rows(20), output_dir=tmp_path / name, **more)
        trainer.folder.close()
        return [item.answers[1].tolist() for item in trainer.train_groups]

    expected = partners("a", batch_size=8)
    assert partners("b", batch_size=16) == expected
    assert partners("c", batch_size=8, seed=7, order="file") == expected


def test_a_partner_is_cut_to_the_limit_and_the_own_answer_never() -> None:
    groups = labelled_groups(40)
    limit = sorted(item.longest for item in groups)[-1]
    joined = with_partners(groups, limit)
    assert all(item.longest <= limit for item in joined)
    for before, after in zip(groups, joined, strict=True):
        assert after.answers[0].tolist() == before.answers[0].tolist()
        assert len(after.answers) == 2 and after.own_answers == after.answers[:1] and len(after.answers[1]) >= 1
    whole = {item.answers[0].tobytes() for item in groups}
    cut = [item for item in joined if item.answers[1].tobytes() not in whole]
    assert cut and all(item.longest == limit for item in cut)


def test_every_answer_serves_one_row() -> None:
    groups = labelled_groups(40)
    joined = with_partners(groups, 4096)
    own = Counter(item.answers[0].tobytes() for item in groups)
    assert Counter(item.answers[1].tobytes() for item in joined) == own
