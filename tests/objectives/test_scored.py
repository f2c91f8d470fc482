"""What is joined over micro-batches, and what one precision does to it."""

import torch

from likelier.objectives.scored import Items, Scored, SequenceScores, join


def part(seed: int, answers: int) -> Scored:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (answers,), generator=generator)
    tokens = -torch.rand(int(lengths.sum()), generator=generator, dtype=torch.double)
    pairs = torch.randperm(answers, generator=generator)[: 2 * (answers // 2)].view(-1, 2)
    items = Items(pairs=pairs, ref_logps=-torch.rand(answers, dtype=torch.double), margins=torch.rand(len(pairs)))
    return Scored(SequenceScores.of(tokens, lengths), items)


def test_sums_are_those_of_each_answers_own_tokens() -> None:
    scores = part(0, 5).scores
    for answer, (total, length) in enumerate(zip(scores.logps, scores.lengths, strict=True)):
        own = scores.token_logps[scores.answer_of == answer]
        assert torch.isclose(own.sum(), total) and len(own) == length


def test_joined_items_point_at_the_answers_that_they_pointed_at() -> None:
    parts = [part(seed, answers) for seed, answers in enumerate((4, 7, 2))]
    whole = join(parts)
    for values in (whole.logps, whole.lengths, whole.logratios):
        assert len(values) == 13
    for side in (0, 1):
        apart = torch.cat([one.chosen_rejected(one.logratios)[side] for one in parts])
        assert torch.equal(whole.chosen_rejected(whole.logratios)[side], apart)
    again = SequenceScores.of(whole.scores.token_logps, whole.lengths)
    assert torch.allclose(again.logps, whole.logps) and torch.equal(again.answer_of, whole.scores.answer_of)
    assert whole.items.rows is None and whole.items.margins is not None and len(whole.items.margins) == 6


def test_real_values_take_the_precision_of_the_scores_and_numbers_stay() -> None:
    items = Items(pairs=torch.tensor([[0, 1]]), weights=torch.tensor([0.5], dtype=torch.double))
    like = items.like(torch.zeros(2))
    assert like.pairs is not None and like.pairs.dtype == torch.long
    assert like.weights is not None and like.weights.dtype == torch.float32 and like.margins is None
