"""Sums over the first tokens of a pair's answers, as many as the shorter one has: the policy's and the reference's."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from likelier.data.groups import Group
from likelier.models.layers import causal_model
from likelier.objectives import LDDPO, SequenceScores
from likelier.objectives.scored import join
from likelier.scoring import attach_scorer, collate, score_plain, score_shared_prefix
from likelier.scoring.attention import install_attention
from likelier.scoring.engine import _exchanged, as_scored, score_groups
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.scoring.reference.proof import check_scores, check_start, prove_reference
from likelier.scoring.reference.store import ReferenceStore, attach_reference, score_live
from likelier.utils.distributed import Ranks
from likelier.utils.errors import WrongReferenceError
from tests.helpers.architectures import hard_pairs
from tests.helpers.support import naive_logp, tiny_model
from tests.scoring.test_masked_scoring import CASES, ids, masked_group, naive

NEAR = 1e-9


def cut(group: Group) -> Group:
    """The heads as a pair of their own."""
    answers, masks = zip(*group.heads, strict=True)
    return replace(group, answers=answers, masks=masks, ref_logps=None, ref_head_logps=None)


def itself(model: Any, *, equals_policy: bool = False) -> Reference:
    return Reference("itself", "abc", "abc", equals_policy, lambda: nullcontext(model))


def how(folder: Path) -> ReferenceScoring:
    return ReferenceScoring(folder, 60, "cpu")


def test_a_head_ends_with_the_shorter_answers_last_trained_token() -> None:
    first, second = hard_pairs()[0], hard_pairs()[6]
    assert [len(answer) for answer, _ in first.heads] == [5, 5]
    assert [answer.tolist() for answer, _ in second.heads] == [[9, 9], [9, 9]]  # the longer one begins with the other
    mask = np.array([False, True, False, True, True])
    group = replace(first, answers=(ids(3, 4, 5, 6, 7), ids(8, 9)), masks=(mask, None))
    (answer, own), (other, none) = group.heads
    assert own is not None and (answer.tolist(), own.tolist()) == ([3, 4, 5, 6], [False, True, False, True])
    assert (other.tolist(), none) == ([8, 9], None)
    (answer, own), _ = replace(group, masks=(np.array([True, True, False, False, True]), None)).heads
    assert (answer.tolist(), own) == ([3, 4], None)  # all that is left is trained on


@pytest.mark.parametrize("groups", [hard_pairs(), CASES["several prompts"]], ids=["hard", "masked"])
def test_both_scorers_sum_the_heads_which_are_answers_of_their_own(groups: Any) -> None:
    model = tiny_model()
    attach_scorer(model)
    batch = collate(groups)
    pairs = batch.items.pairs
    assert pairs is not None
    expected = []
    for alone in (collate([cut(group)]) for group in groups):
        assert alone.items.pairs is not None
        expected.append(naive(model, alone)[0][alone.items.pairs[0]])
    install_attention(causal_model(model))
    for scores in (score_plain(model, batch), score_shared_prefix(model, batch, chunk=3)):
        found = scores.heads(pairs)
        torch.testing.assert_close(found, torch.stack(expected).to(found), rtol=0, atol=NEAR)
        assert found.requires_grad
    bare = SequenceScores.sums_of(scores.logps, scores.lengths)
    with pytest.raises(ValueError, match="needs the log-probabilities of tokens and got sums alone"):
        bare.heads(pairs)


def test_ranks_hand_on_each_others_tokens() -> None:
    model, groups = tiny_model(), hard_pairs()
    attach_scorer(model)
    shares = [list(score_groups(model, groups, token_budget=40, device="cpu", ranks=Ranks(at, 2))) for at in (0, 1)]
    assert all(shares)
    said: list[torch.Tensor] = []
    tells: Any = SimpleNamespace(total=lambda own: said.append(own) or own)
    hears: Any = SimpleNamespace(total=lambda own: own + said.pop(0))
    how: dict[str, Any] = {"collisions": False, "tokens": True}
    _exchanged(shares[1], groups, torch.device("cpu"), tells, **how)
    (joined,) = _exchanged(shares[0], groups, torch.device("cpu"), hears, **how)
    alone, pairs = model(batch=collate(groups)), joined.batch.items.pairs
    assert pairs is not None and not said
    torch.testing.assert_close(joined.scores.token_logps, alone.token_logps, rtol=0, atol=NEAR)
    torch.testing.assert_close(joined.scores.heads(pairs), alone.heads(pairs), rtol=0, atol=NEAR)


@pytest.mark.parametrize("groups", [hard_pairs(), CASES["several prompts"]], ids=["hard", "masked"])
def test_the_references_heads_are_read_off_its_answers_and_stored_as_answers(tmp_path: Path, groups: Any) -> None:
    model = tiny_model()
    attach_scorer(model)
    known = attach_reference(groups, itself(model), how(tmp_path))
    assert all(group.ref_head_logps is None for group in known.groups)
    first = attach_reference(groups, itself(model), how(tmp_path), heads=True)  # of a store that has the answers
    again = attach_reference(groups, itself(model), how(tmp_path), heads=True)
    live = score_live(groups, itself(model), how(tmp_path), heads=True)
    fresh = attach_reference([cut(group) for group in groups], itself(model), how(tmp_path))
    assert first.computed > 0 and first.found == known.computed
    assert again.computed == fresh.computed == 0
    assert len(ReferenceStore(tmp_path, "abc")) == known.computed + first.computed  # nothing twice
    for group, stored, same, alone in zip(groups, first.groups, again.groups, fresh.groups, strict=True):
        expected = [naive_logp(model, cut(group), side) for side in (0, 1)] if group.masks is None else None
        assert stored.ref_head_logps == same.ref_head_logps == alone.ref_logps
        assert expected is None or list(stored.ref_head_logps or ()) == pytest.approx(expected, abs=NEAR)
        assert stored.ref_logps == same.ref_logps
    by_row = {(group.prompt.tobytes(), group.answer_keys): group for group in live}
    for stored in first.groups:
        now = by_row[stored.prompt.tobytes(), stored.answer_keys]
        assert now.ref_head_logps == pytest.approx(stored.ref_head_logps, abs=NEAR)
        assert now.ref_logps == pytest.approx(stored.ref_logps, abs=NEAR)


def test_a_wrong_head_is_found_by_the_proof(tmp_path: Path) -> None:
    model, groups = tiny_model(), [masked_group(seed, 2) for seed in range(4)]
    attach_scorer(model)
    known = attach_reference(groups, itself(model), how(tmp_path), heads=True).groups
    assert check_scores(known, itself(model), how(tmp_path), 1e-8, "the store") < 1e-8
    for value in (-0.01, math.nan):
        both = known[2].ref_head_logps
        assert both is not None
        wrong = [*known[:2], replace(known[2], ref_head_logps=(both[0], both[1] + value)), known[3]]
        with pytest.raises(WrongReferenceError, match=r"from the store are not the reference's"):
            check_scores(wrong, itself(model), how(tmp_path), 1e-8, "the store")
        with pytest.raises(WrongReferenceError, match="does not start as its reference"):
            check_start(model, wrong, itself(model), LDDPO(), how(tmp_path), 1e-8)


@pytest.mark.parametrize("live", [False, True])
def test_ld_dpo_is_proved_with_heads_and_takes_none_from_the_data_file(
    tmp_path: Path, live: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    attach_scorer(model)
    groups = [replace(group, given_ref_logps=(-1.0, -1.0)) for group in hard_pairs()[:5]]
    proved = prove_reference(
        model,
        itself(model, equals_policy=True),
        LDDPO(ld_alpha=0.2),
        groups,
        [],
        [0],
        how(tmp_path),
        live=live,
        dtype=torch.float64,
    )
    assert proved.card["step0_loss"] == pytest.approx(math.log(2), abs=1e-8)
    assert "5 rows in the data file are not used: ld_dpo needs those of the answers' first tokens" in (
        capsys.readouterr().err
    )
    train = score_live(proved.train, itself(model), how(tmp_path), heads=True) if live else proved.train
    batch = collate(train)
    scored = as_scored(batch, model(batch=batch))
    assert LDDPO().losses(scored).tolist() == pytest.approx([math.log(2)] * 5, abs=1e-8)
    assert join([scored, scored]).head_logratios.abs().max() < 1e-8
