"""Whether a server's answers are the policy's: what it says of some tokens, against the scorer of this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.models.layers import frozen
from likelier.models.policy import Policy
from likelier.online.sampling.protocol import Sampled
from likelier.online.sampling.vllm import VllmSampler
from likelier.scoring.batch import collate
from likelier.utils.console import say
from likelier.utils.errors import ModelError
from likelier.utils.terminal import busy

TOLERANCE = 0.1  # nats a token in the mean: more than 16 bits explain
_ANSWERS, _TOKENS = 4, 16


def prove(sampler: VllmSampler, prompt: np.ndarray) -> None:
    """Have a few short answers to a prompt written, from the whole distribution at the sampler's temperature, and score
    them here. Raises `ModelError` where the server's log-probabilities are another policy's, or at another temperature.
    """
    policy, server, wanted = sampler.served.policy, sampler.served.server, sampler.sampling
    sampling = replace(
        wanted,
        max_new_tokens=min(_TOKENS, wanted.max_new_tokens),
        temperature=wanted.temperature or 1.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        stop=(),
    )
    with busy(f"comparing what {server.url} serves with the model"):
        answers = sampler.at(sampling).sample([prompt], _ANSWERS, ["proof"])[0]
        own = token_logps(policy, prompt, answers, sampling.temperature)
    apart = np.abs(np.concatenate([one.logps for one in answers]) - own)
    if not apart.mean() <= TOLERANCE:
        raise ModelError(
            f"{policy.name} and what {server.url} serves differ by {apart.mean():.2g} nats a token in the mean "
            f"({TOLERANCE:g} is allowed): the answers would not be those of {policy.name}{server.mend}"
        )
    say(f"sampler: its log-probabilities are the model's within {apart.mean():.1e} nats a token")


def token_logps(policy: Policy, prompt: np.ndarray, answers: Sequence[Sampled], temperature: float) -> np.ndarray:
    """(tokens,) of all answers to a prompt, one after the other, under the policy."""
    rows = [Group(prompt, (one.ids,), Source("the sampler's proof", 1), desirable=True) for one in answers]
    batch = replace(collate(rows, device=policy.model.device), temperature=temperature)
    with frozen(policy.model):
        return policy.model(batch=batch).of_answers(batch.items.rows).token_logps.double().cpu().numpy()
