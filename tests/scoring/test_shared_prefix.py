"""The shared-prefix scorer gives the plain one's numbers, gradients included, and these tests would see it if not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import likelier.scoring.attention as attention_room
import likelier.scoring.shared_prefix as scorer_room
from likelier.data.groups import Group
from likelier.data.packing import packed_micro_batches
from likelier.models.policy import disable_dropout
from likelier.scoring import SequenceScores, attach_scorer, collate, score_plain, score_shared_prefix
from likelier.scoring.attention import install_attention
from likelier.scoring.layout import Layout, Segment, Segments, shared_prefix_layout
from likelier.scoring.logprobs import HeadTransform
from tests.helpers.architectures import (
    IN_FLOAT64,
    SHARING,
    WINDOW,
    gradient_gap,
    hard_pairs,
    hard_rows,
    tiny,
    weighted_gradients,
)

PER_TOKEN, OF_THE_NORM = 1e-5, 1e-5  # float32
EXACT = 1e-10  # float64
BATCHES: dict[str, Callable[[], tuple[Group, ...]]] = {"pairs": hard_pairs, "rows": hard_rows}


def both(model: Any, groups: tuple[Group, ...], chunk: int | None = None) -> tuple[SequenceScores, SequenceScores]:
    """The plain scores, from before our attention is there, and the shared-prefix ones."""
    batch = collate(groups)
    plain = score_plain(model, batch)
    install_attention(model)
    return plain, score_shared_prefix(model, batch, chunk)


def token_gap(found: SequenceScores, expected: SequenceScores) -> float:
    return float((found.token_logps - expected.token_logps).detach().abs().max())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", SHARING)
def test_every_architecture_scores_and_learns_as_with_padded_rows(name: str, batch: str) -> None:
    model = tiny(name)
    plain, shared = both(model, BATCHES[batch]())
    assert token_gap(shared, plain) < PER_TOKEN
    assert shared.lengths.tolist() == plain.lengths.tolist()
    assert shared.answer_of.tolist() == plain.answer_of.tolist()
    expected = weighted_gradients(model, plain)
    assert gradient_gap(weighted_gradients(model, shared), expected) < OF_THE_NORM


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", IN_FLOAT64)
def test_in_float64_nothing_but_the_last_digits_differs(name: str, batch: str) -> None:
    with torch.no_grad():
        plain, shared = both(tiny(name, torch.float64), BATCHES[batch]())
    assert token_gap(shared, plain) < EXACT
    torch.testing.assert_close(shared.logps, plain.logps, atol=EXACT, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "opt"])  # the others' norms compute in float32, whatever comes
def test_in_float64_the_gradients_are_exact_too(name: str) -> None:
    model = tiny(name, torch.float64)
    plain, shared = both(model, hard_pairs())
    assert gradient_gap(weighted_gradients(model, shared), weighted_gradients(model, plain)) < EXACT


@pytest.mark.parametrize("number", range(len(hard_pairs())))
def test_each_hard_group_alone(number: int) -> None:
    with torch.no_grad():
        plain, shared = both(tiny("mistral", torch.float64), hard_pairs()[number : number + 1])
    assert token_gap(shared, plain) < EXACT


# --- how a step is laid out changes nothing ---


def by_answer(groups: tuple[Group, ...], scores: SequenceScores) -> dict[tuple[bytes, bytes], float]:
    numbers = collate(groups).answers_of_groups()
    return {
        (group.prompt.tobytes(), group.answers[k].tobytes()): float(scores.logps[number])
        for group, row in zip(groups, numbers, strict=True)
        for k, number in enumerate(row)
    }


@pytest.mark.parametrize("name", ["llama, tied", "mistral", "gpt2"])
def test_order_cut_and_chunks_change_no_number(name: str) -> None:
    model = tiny(name, torch.float64)
    install_attention(model)

    @torch.no_grad()
    def scored(parts: list[tuple[Group, ...]], chunk: int | None = None) -> dict[tuple[bytes, bytes], float]:
        found: dict[tuple[bytes, bytes], float] = {}
        for part in parts:
            found |= by_answer(part, score_shared_prefix(model, collate(part), chunk))
        return found

    groups = hard_pairs()
    expected = scored([groups])
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(1)).tolist()
    others = [scored([groups[::-1]]), scored([tuple(groups[number] for number in order)])]
    others += [
        scored([tuple(part) for part in packed_micro_batches(groups, budget)]) for budget in (1, 40, 70, 100, 1000)
    ]
    others += [scored([groups], chunk) for chunk in (1, 2, 7, 64)]
    for other in others:
        assert other == pytest.approx(expected, abs=EXACT, rel=0)


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_gradients_do_not_depend_on_the_chunks_of_the_head(chunk: int) -> None:
    model = tiny("gpt2", torch.float64)
    _, whole = both(model, hard_pairs())
    _, cut = both(model, hard_pairs(), chunk)
    assert gradient_gap(weighted_gradients(model, cut), weighted_gradients(model, whole)) < EXACT


@pytest.mark.parametrize("name", ["llama, untied", "mistral", "gemma2", "gpt2", "qwen3-moe"])
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    model = tiny(name)
    disable_dropout(model)
    model.train()
    _, shared = both(model, hard_pairs())
    expected = weighted_gradients(model, shared)
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:  # transformers before it was renamed
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing
    found = weighted_gradients(model, score_shared_prefix(model, collate(hard_pairs())))
    assert gradient_gap(found, expected) < 1e-6


# --- the tests above have teeth: a scorer with a mistake does not pass them ---

Patch = pytest.MonkeyPatch


def with_mask(change: Callable[[Tensor, Segment, int | None], Tensor]) -> Callable[[Patch], None]:
    """A scorer whose masks are changed; a trunk that needs none gets one."""
    original = Segments.mask

    def apply(patch: Patch) -> None:
        patch.setattr(
            Segments, "mask", lambda self, segment, window: change(original(self, segment, window), segment, window)
        )

    return apply


def with_layout(change: Callable[[Layout], Layout]) -> Callable[[Patch], None]:
    """A scorer whose layout is changed."""

    def apply(patch: Patch) -> None:
        patch.setattr(scorer_room, "shared_prefix_layout", lambda batch: change(shared_prefix_layout(batch)))

    return apply


def looks_ahead(mask: Tensor, segment: Segment, window: int | None) -> Tensor:
    return mask | mask.roll(1, 1).tril(segment.trunk_length + 1)


def forgets_the_prompt(mask: Tensor, segment: Segment, window: int | None) -> Tensor:
    kept = torch.arange(mask.shape[1]) >= segment.trunk_length
    return mask & kept


def forgets_the_prompts_end(mask: Tensor, segment: Segment, window: int | None) -> Tensor:
    return mask & (torch.arange(mask.shape[1]) != segment.trunk_length - 1)


def positions_start_anew(layout: Layout) -> Layout:
    own = [torch.arange(segment.length) for segment in layout.segments.segments]
    return replace(layout, positions=torch.cat(own)[None])


def positions_skip_one(layout: Layout) -> Layout:
    skips = [torch.full((segment.length,), int(segment.trunk_length > 0)) for segment in layout.segments.segments]
    return replace(layout, positions=layout.positions + torch.cat(skips)[None])


def answers_see_their_neighbour(layout: Layout) -> Layout:
    """Joins every branch with the next one of the same trunk."""
    joined: list[Segment] = []
    for segment in layout.segments.segments:
        last = joined[-1] if joined else None
        if (
            last
            and segment.trunk_length
            and (last.trunk_start, last.trunk_length)
            == (
                segment.trunk_start,
                segment.trunk_length,
            )
        ):
            joined[-1] = replace(last, length=last.length + segment.length)
        else:
            joined.append(segment)
    return replace(layout, segments=Segments(tuple(joined), layout.segments.device))


def another_token_predicts(layout: Layout) -> Layout:
    return replace(layout, sources=(layout.sources - 1).clamp(min=0))


def another_token_is_predicted(layout: Layout) -> Layout:
    return replace(layout, targets=layout.targets.roll(1))


def answers_change_places(layout: Layout) -> Layout:
    return replace(layout, token_of=layout.token_of.flip(0))


MISTAKES: dict[str, Callable[[Patch], None]] = {
    "looks ahead": with_mask(looks_ahead),
    "forgets the prompt": with_mask(forgets_the_prompt),
    "forgets the prompt's end": with_mask(forgets_the_prompts_end),
    "positions start anew": with_layout(positions_start_anew),
    "positions skip one": with_layout(positions_skip_one),
    "answers see their neighbour": with_layout(answers_see_their_neighbour),
    "another token predicts": with_layout(another_token_predicts),
    "another token is predicted": with_layout(another_token_is_predicted),
    "answers change places": with_layout(answers_change_places),
}


def window_moved(by: int) -> Callable[[Patch], None]:
    original = Segments.mask

    def mask(self: Segments, segment: Segment, window: int | None) -> Tensor:
        return original(self, segment, None if window is None else window + by)

    return lambda patch: patch.setattr(Segments, "mask", mask)


WINDOWED = ["mistral", "gemma2", "gemma3", "gpt-oss", "cohere2"]
WINDOW_MISTAKES = {
    "window too wide": window_moved(1),
    "window too narrow": window_moved(-1),
    "no window": window_moved(1000),
}
CAUGHT = [(name, mistake) for name in SHARING for mistake in MISTAKES]
CAUGHT += [(name, mistake) for name in WINDOWED for mistake in WINDOW_MISTAKES]


@pytest.mark.parametrize(("name", "mistake"), CAUGHT)
def test_a_mistake_is_seen_by_these_tests_and_by_the_trial(monkeypatch: Patch, name: str, mistake: str) -> None:
    model = tiny(name)
    (MISTAKES | WINDOW_MISTAKES)[mistake](monkeypatch)
    with torch.no_grad():
        plain, shared = both(model, hard_pairs())
    assert token_gap(shared, plain) > 3 * PER_TOKEN
    chosen = attach_scorer(model, groups=hard_pairs())
    assert chosen.name == "plain"
    assert type(model).__name__ in chosen.reason and "nats a token" in chosen.reason


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", ["llama, untied", "gpt2"])
def test_the_trial_sees_it_too_where_the_model_hardly_looks_at_its_prompt(
    monkeypatch: Patch, name: str, mistake: str
) -> None:
    """As a fresh model does; and without the groups that will be scored."""
    model = tiny(name)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.div_(4)
    assert attach_scorer(model).name == "shared-prefix"
    MISTAKES[mistake](monkeypatch)
    assert attach_scorer(model).name == "plain"


def test_without_a_mistake_the_trial_takes_the_shared_prefix() -> None:
    for name in SHARING:
        assert attach_scorer(tiny(name), groups=hard_pairs()).name == "shared-prefix", name


def test_a_lost_gradient_is_seen(monkeypatch: Patch) -> None:
    """The prompt's keys cut off from the answers' gradient: the same log-probabilities, another gradient."""
    original = attention_room._attend

    def detached(q: Tensor, k: Tensor, v: Tensor, segments: Segments, segment: Segment, *more: Any) -> Tensor:
        k = torch.cat([k[:, :, : segment.trunk_length].detach(), k[:, :, segment.trunk_length :]], dim=2)
        return original(q, k, v, segments, segment, *more)

    monkeypatch.setattr(attention_room, "_attend", detached)
    model = tiny("llama, untied")
    plain, shared = both(model, hard_pairs())
    assert token_gap(shared, plain) < PER_TOKEN
    assert gradient_gap(weighted_gradients(model, shared), weighted_gradients(model, plain)) > 10 * OF_THE_NORM


@pytest.mark.parametrize("name", ["gemma2", "granite"])
def test_a_gradient_without_the_heads_transform_is_seen(monkeypatch: Patch, name: str) -> None:
    monkeypatch.setattr(HeadTransform, "scale_gradient_", lambda *arguments: None)
    model = tiny(name)
    plain, shared = both(model, hard_pairs())
    assert token_gap(shared, plain) < PER_TOKEN
    assert gradient_gap(weighted_gradients(model, shared), weighted_gradients(model, plain)) > 10 * OF_THE_NORM


def test_the_hard_groups_are_as_hard_as_they_say() -> None:
    segments = shared_prefix_layout(collate(hard_pairs())).segments.segments
    branches = [segment for segment in segments if segment.trunk_length]
    assert max(segment.length for segment in branches) > WINDOW
    assert max(segment.trunk_length for segment in branches) > WINDOW
    assert any(after.trunk_start == before.trunk_start for before, after in pairwise(branches))
    assert max(list(collate(hard_pairs()).prompt_of).count(number) for number in range(8)) == 5
