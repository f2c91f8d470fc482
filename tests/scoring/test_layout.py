"""The shared-prefix layout: every prompt once, and every answer token predicted from exactly what stands before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from likelier.data.groups import Group
from likelier.scoring import Batch, attention, collate
from likelier.scoring.attention import shared_prefix_attention
from likelier.scoring.layout import Layout, Segment, Segments, common_beginning, shared_prefix_layout
from tests.helpers.architectures import group, hard_pairs
from tests.helpers.pretend_cuda import attended_by_segments
from tests.helpers.support import shared_tokens

TOKENS = st.integers(0, 3)  # few, so that answers begin alike
ANSWER = st.lists(TOKENS, min_size=1, max_size=7)


@st.composite
def pairs(draw: Any) -> list[Group]:
    """Pairs, some with one prompt, one answer or one beginning in common."""
    prompts = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=5), min_size=1, max_size=4))
    choices = st.tuples(st.sampled_from(prompts), ANSWER, ANSWER)
    return [group(*choice) for choice in draw(st.lists(choices, min_size=1, max_size=7))]


def segment_at(layout: Layout, place: int) -> Segment:
    """The segment that holds a place of the row."""
    return next(s for s in layout.segments.segments if s.start <= place < s.start + s.length)


def seen_from(layout: Layout, place: int) -> Tensor:
    """The places that a place sees: its trunk, and its own segment up to itself."""
    segment = segment_at(layout, place)
    trunk = torch.arange(segment.trunk_start, segment.trunk_start + segment.trunk_length)
    return torch.cat([trunk, torch.arange(segment.start, place + 1)])


def answers_of(batch: Batch) -> list[tuple[list[int], list[int]]]:
    return [(batch.prompts[p].tolist(), a.tolist()) for p, a in zip(batch.prompt_of, batch.answers, strict=True)]


@settings(max_examples=150)
@given(groups=pairs())
def test_every_answer_token_is_predicted_once_from_what_stands_before_it(groups: list[Group]) -> None:
    batch = collate(groups)
    layout = shared_prefix_layout(batch)
    predictions = iter(layout.token_of.split([len(answer) for answer in batch.answers]))
    for prompt, answer in answers_of(batch):
        numbers = next(predictions)
        assert layout.targets[numbers].tolist() == answer
        assert len(set(numbers.tolist())) == len(answer)
        for already, number in enumerate(numbers.tolist()):
            seen = seen_from(layout, int(layout.sources[number]))
            assert layout.tokens[0, seen].tolist() == prompt + answer[:already]
            assert layout.positions[0, seen].tolist() == list(range(len(seen)))
    assert next(predictions, None) is None
    assert set(layout.token_of.tolist()) == set(range(len(layout.targets)))  # and nothing is predicted for nobody


@settings(max_examples=150)
@given(groups=pairs())
def test_every_prompt_and_every_answer_stands_once(groups: list[Group]) -> None:
    batch = collate(groups)
    layout = shared_prefix_layout(batch)
    expected = 0
    for number, prompt in enumerate(batch.prompts):
        own = [answer for answer, of in zip(batch.answers, batch.prompt_of, strict=True) if of == number]
        common = common_beginning(own)
        expected += len(prompt) + common + sum(len(answer) - common - 1 for answer in own)
    assert layout.tokens.shape == layout.positions.shape == (1, expected)
    assert expected <= shared_tokens(groups)  # which cuts the micro-batches, and knows of no common beginnings


@settings(max_examples=100)
@given(groups=pairs())
def test_the_segments_fill_the_row_and_trunks_stand_before_their_branches(groups: list[Group]) -> None:
    layout = shared_prefix_layout(collate(groups))
    end = 0
    trunks: dict[int, int] = {}
    for segment in layout.segments.segments:
        assert segment.start == end and segment.length > 0
        end += segment.length
        if segment.trunk_length:
            assert trunks[segment.trunk_start] == segment.trunk_length
        else:
            trunks[segment.start] = segment.length
    assert end == layout.tokens.shape[1]


@given(answers=st.lists(ANSWER, min_size=1, max_size=5))
def test_a_common_beginning_is_the_longest_that_leaves_a_token_to_each(answers: list[list[int]]) -> None:
    length = common_beginning([torch.tensor(answer) for answer in answers])
    assert all(len(answer) > length for answer in answers)
    assert len({tuple(answer[:length]) for answer in answers}) == 1
    ends_there = min(len(answer) for answer in answers) == length + 1
    assert ends_there or len({tuple(answer[: length + 1]) for answer in answers}) > 1


@pytest.mark.parametrize(
    ("answers", "common"),
    [
        ([[5, 6, 7]], 2),
        ([[5], [6]], 0),
        ([[5, 6], [5, 7]], 1),
        ([[5, 6, 7], [5, 6]], 1),
        ([[5, 6, 7, 8], [5, 6, 9], [5, 1]], 1),
        ([[5, 5], [5, 5, 5]], 1),
    ],
)
def test_common_beginnings_by_hand(answers: list[list[int]], common: int) -> None:
    assert common_beginning([torch.tensor(answer) for answer in answers]) == common


def test_a_layout_by_hand() -> None:
    """Prompt 1 2 with the answers 5 6 7 and 5 8: the row is 1 2 5 | 6, and the place of 5 predicts 6 and 8."""
    layout = shared_prefix_layout(collate([group([1, 2], [5, 6, 7], [5, 8])]))
    assert layout.tokens.tolist() == [[1, 2, 5, 6]]
    assert layout.positions.tolist() == [[0, 1, 2, 3]]
    assert layout.segments.segments == (Segment(0, 3), Segment(3, 1, 0, 3))
    assert layout.sources.tolist() == [1, 2, 3, 2]
    assert layout.targets.tolist() == [5, 6, 7, 8]
    assert layout.token_of.tolist() == [0, 1, 2, 0, 3]


def test_the_layout_lies_on_the_batchs_device() -> None:
    batch = replace(collate(hard_pairs()), device=torch.device("meta"))
    layout = shared_prefix_layout(batch)
    for name in ("tokens", "positions", "sources", "targets", "token_of"):
        assert getattr(layout, name).device.type == "meta", name
    assert layout.segments.device.type == "meta"


# --- what a segment sees ---


@given(
    trunk=st.integers(0, 6),
    length=st.integers(1, 6),
    window=st.none() | st.integers(1, 9),
)
def test_a_mask_is_causal_by_position_and_within_the_window(trunk: int, length: int, window: int | None) -> None:
    segments = Segments((Segment(0, 6), Segment(6, length, 0, trunk)), torch.device("cpu"))
    mask = segments.mask(segments.segments[1], window)
    assert mask.shape == (length, trunk + length)
    for query in range(length):
        for key in range(trunk + length):
            distance = trunk + query - key
            assert bool(mask[query, key]) == (distance >= 0 and (window is None or distance < window))


def varlen_by_hand(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_queries: Tensor,
    cu_keys: Tensor,
    longest_query: int,
    longest_keys: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    assert int((cu_queries.diff()).max()) == longest_query and int(cu_keys.diff().max()) == longest_keys
    assert cu_queries.dtype == cu_keys.dtype == torch.int32 and enable_gqa == (query.shape[1] != key.shape[1])
    return attended_by_segments(query, key, value, cu_queries, cu_keys, scale, window_size)


@pytest.mark.parametrize("window", [None, 1, 3, 8, 1000])
@pytest.mark.parametrize("heads_of_keys", [1, 2, 4])
def test_the_varlen_call_is_the_attention_by_segments(
    monkeypatch: pytest.MonkeyPatch, window: int | None, heads_of_keys: int
) -> None:
    """The kernel runs on CUDA only; here it is stood in for, so that what it is called with is held to the rest."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_hand)
    layout = shared_prefix_layout(collate(hard_pairs()))
    generator = torch.Generator().manual_seed(0)
    length = layout.tokens.shape[1]
    query = torch.randn(1, 4, length, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 1, heads_of_keys, length, 8, generator=generator, dtype=torch.float64)
    found = attention._varlen(query, key, value, layout.segments, 0.25, window)
    expected = shared_prefix_attention(query, key, value, layout.segments, scaling=0.25, sliding_window=window)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [None, 3])
def test_the_attention_with_a_matrix_is_the_other_where_nothing_is_capped(window: int | None) -> None:
    layout = shared_prefix_layout(collate(hard_pairs()))
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, layout.tokens.shape[1], 8, generator=generator, dtype=torch.float64)
    arguments = (query, query[:, :2], query[:, 2:], layout.segments)
    by_matrix = shared_prefix_attention(*arguments, sliding_window=window, s_aux=torch.full((4,), float("-inf")))
    torch.testing.assert_close(
        by_matrix, shared_prefix_attention(*arguments, sliding_window=window), atol=1e-12, rtol=0
    )
