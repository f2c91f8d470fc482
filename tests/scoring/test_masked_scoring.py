"""Answers of which some tokens are fed and not trained on: scorers, packing, partners and the store agree on them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from likelier.data.groups import Group
from likelier.data.masks import answer_bytes, cut_right, each_mask, together, trained_runs
from likelier.data.mismatched import data_hash, token_hash, with_partners
from likelier.data.packing import packed_micro_batches
from likelier.data.records import Source
from likelier.data.tokenize import Tokenized
from likelier.objectives import METHODS
from likelier.scoring import Batch, SequenceScores, attach_scorer, collate, score_plain, score_shared_prefix
from likelier.scoring.attention import install_attention
from likelier.scoring.engine import score_everywhere, score_groups
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.scoring.reference.store import ReferenceStore, answer_key, attach_reference
from likelier.utils.distributed import ALONE
from tests.helpers.support import shared_tokens, tiny_model

EXACT = 1e-10


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def masked_group(seed: int, answers: int, *, desirable: bool | None = None, alike: int = 0) -> Group:
    """A prompt with answers of random length, the first `alike` tokens common, and random masks; every third answer has
    none.
    """
    rng = np.random.default_rng(seed)
    common = rng.integers(3, 300, alike)
    own, masks = [], []
    for number in range(answers):
        tokens = np.concatenate([common, rng.integers(3, 300, rng.integers(2, 14))]).astype(np.int32)
        mask = rng.random(len(tokens)) < 0.5
        mask[rng.integers(len(tokens))] = True
        own.append(tokens)
        masks.append(None if number % 3 == 2 else mask)
    prompt = rng.integers(3, 300, rng.integers(1, 9)).astype(np.int32)
    return Group(prompt, tuple(own), Source("made up", seed), desirable, masks=together(masks))


def naive(model: Any, batch: Batch) -> tuple[Tensor, list[int]]:
    """Each answer alone through the model's own logits: the sum over its trained tokens, and how many they are."""
    sums, counts = [], []
    for number, answer in enumerate(batch.answers):
        prompt = batch.prompts[batch.prompt_of[number]]
        logits = model(input_ids=torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
        mask = batch.masks[number] if batch.masks else None
        kept = logps if mask is None else logps[mask]
        sums.append(kept.sum())
        counts.append(len(kept))
    return torch.stack(sums), counts


def gradients(model: Any, logps: Tensor) -> list[Tensor]:
    weights = torch.arange(1, len(logps) + 1, dtype=logps.dtype)
    return list(torch.autograd.grad((weights * logps).sum(), list(model.parameters())))


CASES = {
    "one answer": [masked_group(1, 1, desirable=True)],
    "a pair": [masked_group(2, 2)],
    "a pair that begins alike": [masked_group(3, 2, alike=7)],
    "five answers": [masked_group(4, 5, desirable=True)],
    "five that begin alike": [masked_group(5, 5, desirable=True, alike=9)],
    "several prompts": [masked_group(seed, 2, alike=seed % 4) for seed in range(10, 16)],
    "masks in some rows only": [masked_group(20, 2), replace(masked_group(21, 2), masks=None)],
}


@pytest.mark.parametrize("case", CASES)
def test_both_scorers_sum_and_count_the_trained_tokens_only(case: str) -> None:
    model, batch = tiny_model(), collate(CASES[case])
    expected, counts = naive(model, batch)
    slopes = gradients(model, expected)
    found: list[SequenceScores] = [score_plain(model, batch)]
    install_attention(model)
    found += [score_shared_prefix(model, batch), score_shared_prefix(model, batch, chunk=3)]
    for scores in found:
        assert scores.lengths.tolist() == counts
        torch.testing.assert_close(scores.logps, expected, atol=EXACT, rtol=0)
        assert len(scores.token_logps) == len(scores.answer_of) == sum(counts)
        torch.testing.assert_close(scores.token_logps, found[0].token_logps, atol=EXACT, rtol=0)
        for mine, theirs in zip(gradients(model, scores.logps), slopes, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=0)


def test_a_mask_of_all_tokens_is_no_mask() -> None:
    group = masked_group(2, 2)
    whole = replace(group, masks=together([np.ones(len(answer), dtype=bool) for answer in group.answers]))
    assert whole.masks is None
    assert whole.answer_keys == tuple(answer.tobytes() for answer in group.answers)
    assert collate([whole]).masks is None


def twins() -> Group:
    """A prompt with the same ids twice, trained on in other places."""
    answer = ids(5, 6, 7, 8)
    masks = (np.array([True, False, False, True]), np.array([True, True, False, False]))
    return Group(ids(3, 4), (answer, answer), Source("made up", 1), masks=masks)


def test_answers_are_the_same_by_ids_and_mask() -> None:
    group, model = twins(), tiny_model()
    batch = collate([group, group, replace(group, masks=(group.masks[0], None))])  # type: ignore[index]
    assert len(batch.answers) == 3
    assert batch.items.pairs is not None and batch.items.pairs.tolist() == [[0, 1], [0, 1], [0, 2]]
    expected, counts = naive(model, batch)
    assert counts == [2, 2, 4]
    install_attention(model)
    torch.testing.assert_close(score_shared_prefix(model, batch).logps, expected, atol=EXACT, rtol=0)
    assert shared_tokens([group]) == 2 + 3 + 3
    assert shared_tokens([replace(group, masks=None)]) == 2 + 3


def test_an_answer_without_a_trained_token_is_refused() -> None:
    group = replace(twins(), masks=(np.zeros(4, dtype=bool), None))
    with pytest.raises(ValueError, match="at least one token"):
        collate([group])
    with pytest.raises(ValueError, match="1 masks for 2 answers"):
        collate([replace(group, masks=(None,))])


@pytest.mark.parametrize("scorer", ["plain", "shared-prefix"])
def test_no_cut_into_micro_batches_changes_a_number(scorer: Any) -> None:
    model, groups = tiny_model(), CASES["several prompts"]
    attach_scorer(model, scorer=scorer)
    expected, counts = naive(model, collate(groups))
    for budget in (1, 30, 60, 1000):
        for part in score_groups(model, groups, token_budget=budget, device="cpu"):
            for group, numbers in zip(part.groups, part.batch.answers_of_groups(), strict=True):
                place = next(at for at, one in enumerate(groups) if one is group)
                own = [2 * place, 2 * place + 1]
                torch.testing.assert_close(part.scores.logps[numbers], expected[own], atol=EXACT, rtol=0)
                assert part.scores.lengths[numbers].tolist() == [counts[number] for number in own]
    assert len(packed_micro_batches(groups, 30)) > 1
    found = score_everywhere(model, groups, token_budget=1000, device="cpu", ranks=ALONE)
    assert sum(len(part.groups) for part in found) == len(groups)


# --- the store -------------------------------------------------------------------------------------------------------


def test_keys_of_the_store_cover_the_mask_and_are_what_they_were_without() -> None:
    prompt, answer = ids(1, 2), ids(3, 4, 5)
    assert answer_key(prompt, answer).hex() == "ac6e28a5d1a9f0915bbb57e24e8675e0"
    first, second = np.array([True, False, True]), np.array([True, True, False])
    keys = {answer_key(prompt, answer), *(answer_key(prompt, answer, mask) for mask in (first, second))}
    assert len(keys) == 3
    assert len({answer_bytes(answer, mask) for mask in (None, first, second)}) == 3
    padded = np.concatenate([answer, np.frombuffer(b"\1\0\1\0", dtype=np.int32)])
    assert answer_key(prompt, padded) != answer_key(prompt, answer, np.array([True, False, True, False])[:3])


def test_stored_scores_are_of_the_trained_tokens(tmp_path: Path) -> None:
    model, groups = tiny_model(), [twins(), *CASES["several prompts"]]
    attach_scorer(model)
    reference = Reference("itself", "abc", "abc", False, lambda: nullcontext(model))
    how = ReferenceScoring(tmp_path, 1000, "cpu")
    attached = attach_reference(groups, reference, how)
    assert attached.computed == 14
    for group in attached.groups:
        expected, _ = naive(model, collate([group]))
        assert group.ref_logps == pytest.approx(expected.tolist(), abs=EXACT)
    again = attach_reference(groups, reference, how)
    assert (again.computed, again.found) == (0, 14)
    assert len(ReferenceStore(tmp_path, "abc")) == 14


# --- what else reads answers -----------------------------------------------------------------------------------------


def test_the_data_hash_knows_masks_and_partners_bring_theirs() -> None:
    groups = [masked_group(seed, 1, desirable=seed % 2 == 0) for seed in range(30, 36)]
    bare = [replace(group, masks=None) for group in groups]
    assert data_hash(groups) != data_hash(bare)
    assert token_hash(bare) == token_hash([replace(group, masks=None) for group in groups])
    joined = with_partners(groups, 10_000)
    own = {answer_bytes(group.answers[0], each_mask(group.masks, 1)[0]) for group in groups}
    for group, before in zip(joined, groups, strict=True):
        assert group.answer_keys[0] == before.answer_keys[0]
        assert group.answer_keys[1] in own - {before.answer_keys[0]}
        assert len(group.own_masks) == 1
    assert all(group.masks is None for group in with_partners(bare, 10_000))


def test_a_cut_on_the_right_leaves_nothing_behind_the_last_trained_token() -> None:
    answer, mask = ids(1, 2, 3, 4, 5, 6), np.array([True, True, False, False, True, True])
    for room, kept in ((6, 6), (5, 5), (4, 2), (3, 2), (2, 2), (1, 1)):
        cut, left = cut_right(answer, mask, room)
        assert len(cut) == kept and left is not None and left.tolist() == mask[:kept].tolist()
    assert cut_right(answer, None, 4)[0].tolist() == [1, 2, 3, 4]
    assert together([cut_right(answer, mask, 3)[1]]) is None  # what is left is one turn
    assert [run.tolist() for run in trained_runs(answer, mask)] == [[1, 2], [5, 6]]
    assert [run.tolist() for run in trained_runs(answer, None)] == [answer.tolist()]


def test_lengths_are_of_trained_tokens(tmp_path: Path) -> None:
    assert Tokenized([twins(), masked_group(2, 2)]).answer_lengths()[:2].tolist() == [2, 2]


@pytest.mark.parametrize("method", ["ipo", "simpo"])
def test_methods_that_divide_by_length_divide_by_trained_tokens(method: str) -> None:
    from likelier.scoring.engine import as_scored

    model, group = tiny_model(), masked_group(2, 2)
    batch = collate([replace(group, ref_logps=(-3.0, -4.0))])
    scored = as_scored(batch, score_plain(model, batch))
    expected, counts = naive(model, batch)
    objective = METHODS[method](tau=0.1) if method == "ipo" else METHODS[method]()
    per_token = expected / torch.tensor(counts)
    if method == "simpo":
        torch.testing.assert_close(objective.rewards(scored), objective.beta * per_token, atol=EXACT, rtol=0)
        return
    ratios = (expected - torch.tensor([-3.0, -4.0], dtype=torch.double)) / torch.tensor(counts)
    loss = (ratios[0] - ratios[1] - 1 / (2 * 0.1)) ** 2
    torch.testing.assert_close(objective.losses(scored, None), loss[None], atol=EXACT, rtol=0)
