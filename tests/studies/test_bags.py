"""The small language of S19: what is exact there is held against draws."""

from __future__ import annotations

import pytest
import torch

from studies import bags


def test_what_is_exact_of_bags_of_tokens_is_that_of_draws() -> None:
    generator = torch.Generator().manual_seed(1)
    language = bags.Language.made(generator)
    policy = torch.randn(8, 1 + bags.CONTEXT, dtype=torch.double, generator=generator) / 8
    prompts = torch.randn(3, bags.CONTEXT, dtype=torch.double, generator=generator)
    logps = language.token_logps(policy, prompts)
    rows, many = logps.repeat_interleave(4000, 0), prompts.repeat_interleave(4000, 0)
    drawn = bags.drawn_answers(rows, generator)
    gold = language.gold(language.features(drawn), many).reshape(3, -1)
    error = 4 * gold.std(1) / 4000**0.5
    assert bool(((gold.mean(1) - language.expected_gold(logps, prompts)).abs() < error).all())
    ratios = (rows - language.ref).gather(1, drawn).sum(1).reshape(3, -1)
    assert bool(((ratios.mean(1) - language.divergence(logps)).abs() < 4 * ratios.std(1) / 4000**0.5).all())
    start = language.token_logps(torch.zeros_like(policy), prompts)
    assert torch.allclose(start, language.ref.expand(3, -1)) and float(language.divergence(start).abs().max()) < 1e-12


@pytest.mark.slow
def test_a_reward_model_of_many_labels_orders_as_the_gold_reward_does() -> None:
    generator = torch.Generator().manual_seed(2)
    language = bags.Language.made(generator)
    weights = bags.reward_model(language, 10_000, generator)
    prompts = torch.randn(500, bags.CONTEXT, dtype=torch.double, generator=generator)
    features = language.features(bags.drawn_answers(language.ref.expand(500, -1), generator))
    both = torch.stack([bags.described(features, prompts) @ weights, language.gold(features, prompts)])
    assert float(torch.corrcoef(both)[0, 1]) > 0.95
