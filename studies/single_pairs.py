"""One pair at a time in the language of `letters`: what is known of it before, and how far its chosen answer falls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from likelier.objectives.losses import dpo_loss
from studies import letters
from studies.letters import ALPHABET, ASKED, END, Answers

Logps = Callable[[nn.Module, Answers], Tensor]


def whole(model: nn.Module, answers: Answers) -> Tensor:
    """(n,) log-probabilities of answers."""
    return letters.scored(model, answers).logps


def first(model: nn.Module, answers: Answers) -> Tensor:
    """(n,) of their first letter alone."""
    return letters.token_logps(model, answers)[:, 0].gather(1, answers.tokens[:, :1])[:, 0]


@torch.no_grad()
def drawn(
    model: nn.Module, count: int, generator: torch.Generator, logps: Logps, *, alike: bool
) -> tuple[Answers, Answers]:
    """So many prompts with two answers that are not as likely, so not the same; `alike`: they differ in one letter."""
    prompts = letters.lines(4 * count, generator).prompts
    one, two = (letters.written(model, prompts, generator) for _ in range(2))
    if alike:
        rows = torch.arange(len(prompts))
        places = (torch.rand(len(prompts), generator=generator) * (one.lengths - 1)).long()  # no full stop
        tokens = one.tokens.clone()
        tokens[rows, places] = torch.randint(END + 1, len(ALPHABET), (len(prompts),), generator=generator)
        two = Answers(prompts, tokens)
    usable = (logps(model, one) != logps(model, two)) & ((one.lengths > 1) | torch.tensor(not alike))
    apart = usable.nonzero()[:count, 0]
    return one.at(apart), two.at(apart)


def falls(
    model: nn.Module, pair: tuple[Answers, Answers], logps: Logps, beta: float, rate: float, stations: Sequence[int]
) -> Tensor:
    """(stations,) nats that the chosen answer has lost after so many steps of gradient descent on this pair alone."""
    chosen, rejected = pair
    policy, both, found = deepcopy(model).requires_grad_(True), chosen.and_then(rejected), []
    optimizer = torch.optim.SGD(policy.parameters(), lr=rate)
    with torch.no_grad():
        start = logps(model, both)
    for number in range(1, stations[-1] + 1):
        ratios = logps(policy, both) - start
        optimizer.zero_grad()
        dpo_loss(ratios[:1], ratios[1:], beta=beta).sum().backward()
        optimizer.step()
        if number in stations:
            with torch.no_grad():
                found.append(start[0] - logps(policy, both)[0])
    return torch.stack(found)


@torch.no_grad()
def line_traits(model: nn.Module, chosen: Answers, rejected: Answers) -> dict[str, Tensor]:
    """Of each pair (n,): the CHES score, that of mean states, and how short the chosen answer is."""
    sums = []
    for side in (chosen, rejected):
        states = model.model(input_ids=side.ids[:, :-1]).last_hidden_state[:, ASKED - 1 :]  # type: ignore[operator]
        sums.append((states * side.counts[:, :, None]).sum(1))
    one, two = sums
    means = one / chosen.lengths[:, None], two / rejected.lengths[:, None]
    return {
        "ches": (one * two).sum(1) - one.square().sum(1),
        "mean ches": (means[0] * means[1]).sum(1) - means[0].square().sum(1),
        "short": -chosen.lengths.float(),
    }


@torch.no_grad()
def letter_traits(model: nn.Module, chosen: Answers, rejected: Answers) -> dict[str, Tensor]:
    """Of the first letters of each pair (n,): the product of their vectors in the head, and how little the difference
    of both vectors points where the chosen one lies, as seen from the mean.
    """
    vectors: Tensor = model.lm_head.weight  # type: ignore[assignment]
    one, two = (vectors[side.tokens[:, 0]] for side in (chosen, rejected))
    mean = letters.token_logps(model, chosen)[:, 0].exp() @ vectors
    return {"product": (one * two).sum(1), "lift": -((one - mean) * (one - two)).sum(1)}
