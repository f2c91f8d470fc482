"""Answers from a vLLM server that follows the policy: its adapter is loaded there anew whenever it has changed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
from torch import Tensor

from likelier.models.adapter_parts import has_adapter, how_to_save
from likelier.models.generation import end_tokens
from likelier.models.loading import save_weights
from likelier.models.policy import Policy
from likelier.models.sharding import gathered_state, is_sharded
from likelier.online.sampling.protocol import Report, Sampled, Sampling, seed_of
from likelier.online.sampling.server import VllmServer
from likelier.online.sampling.writing import require_known_tokens
from likelier.utils.distributed import ALONE, Ranks
from likelier.utils.errors import ConfigError, writing
from likelier.utils.service import ServiceError
from likelier.utils.threads import in_threads

_AT_ONCE = 64  # prompts that the server is asked for at the same time


def most_tokens(policy: Policy, server: VllmServer | None) -> int | None:
    """Tokens of a prompt with its answer, at most, by the model and the server; None where neither says."""
    known = [one for one in (policy.context, server and server.base.context) if one is not None]
    return min(known, default=None)


@dataclass
class ServedPolicy:
    """A policy on a server: the model that it was started with, with the adapter as it is now where there is one.

    Each version of the adapter is written below `folder`, which the server must be able to read, and is known there by
    a name of its own, from the hash of its file: the server cannot mistake an older one for it.
    """

    policy: Policy
    server: VllmServer
    folder: Path
    ranks: Ranks = ALONE
    version: str | None = field(default=None, init=False)

    def name(self) -> str:
        """What the policy as it is now is called on the server. Of several ranks the first has it loaded."""
        if not has_adapter(self.policy.model):
            return self.server.base.name
        is_first = self.ranks.is_first
        state = gathered_state(self.policy.model, keep=is_first) if is_sharded(self.policy.model) else None
        return self.ranks.text_of_first(self._loaded(state) if is_first else "")

    def _loaded(self, state: dict[str, Tensor] | None) -> str:
        """The name of the adapter as it is now, once the server has it; its weights are `state` where it is split."""
        with writing(str(self.folder)):
            written, version = self._written(state)
        if version == self.version:
            shutil.rmtree(written)
            return version
        place = self.folder / version
        with writing(str(self.folder)):
            shutil.rmtree(place, ignore_errors=True)
            written.rename(place)
        self.server.load_adapter(version, place)
        self._take_away()
        self.version = version
        return version

    def _written(self, state: dict[str, Tensor] | None) -> tuple[Path, str]:
        """The adapter in a folder, and the name of this version."""
        place = self.folder / "next"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        model = self.policy.model
        save_weights(model, place, state_dict=state, **how_to_save(model))
        digest = blake2b(str(self.folder.resolve()).encode(), digest_size=12)
        for file in sorted(place.glob("adapter_*")):
            digest.update(file.read_bytes())
        return place, f"likelier-{digest.hexdigest()}"

    def _take_away(self) -> None:
        """Have the last version served no more; a server that is gone, or that lost it, need not be told."""
        if self.version is not None:
            with suppress(ServiceError):
                self.server.unload_adapter(self.version)
            shutil.rmtree(self.folder / self.version, ignore_errors=True)
            self.version = None

    def close(self) -> None:
        """Leave nothing on the server, nor in the folder."""
        if self.ranks.is_first:
            self._take_away()
            shutil.rmtree(self.folder, ignore_errors=True)


class VllmSampler:
    """Draws answers of `served` on its server. The same seed gives the same answers as far as the server does.

    `logps` are what the server says of its tokens, which is at the temperature where it was started with
    `--logprobs-mode processed_logprobs`; NaN where `top_p` and the like cut the distribution that they are of.

    Raises `ConfigError` where the server reads fewer tokens than an answer may have.
    """

    def __init__(self, served: ServedPolicy, sampling: Sampling) -> None:
        self.served, self.sampling = served, sampling
        policy = served.policy
        self._ends = end_tokens(policy.model, policy.tokenizer)

    def at(self, sampling: Sampling) -> VllmSampler:
        """See `Sampler.at`."""
        return VllmSampler(self.served, sampling)

    def close(self) -> None:
        """See `Sampler.close`."""
        self.served.close()

    def sample(
        self, prompts: Sequence[np.ndarray], answers: int, keys: Sequence[str], report: Report | None = None
    ) -> list[list[Sampled]]:
        """See `Sampler.sample`. Raises `ServiceError`."""
        if prompts:
            require_known_tokens(self.served.policy, prompts)
            self._require_room(prompts)
        name, asked = self.served.name(), list(zip(prompts, keys, strict=True))

        def written(number: int) -> list[Sampled]:
            prompt, key = asked[number]
            seed = seed_of(self.sampling.seed, key)
            return self.served.server.complete(name, prompt, answers, seed, self.sampling, self._ends)

        found: list[list[Sampled]] = [[] for _ in asked]
        for number, own in in_threads(written, range(len(asked)), most=_AT_ONCE):
            found[number] = [_uncut(one) for one in own] if self.sampling.changed else own
            if report is not None:
                report(len(own), sum(len(one.ids) for one in own))
        return found

    def _require_room(self, prompts: Sequence[np.ndarray]) -> None:
        server, most = self.served.server, self.sampling.max_new_tokens
        longest = max(len(prompt) for prompt in prompts)
        if server.base.context is not None and longest + most > server.base.context:
            raise ConfigError(
                f"{server.url} reads {server.base.context} tokens, and a prompt has {longest} with answers of "
                f"max_new_tokens={most}; start it with a larger --max-model-len, or lower max_prompt_length"
            )


def _uncut(answer: Sampled) -> Sampled:
    """The answer without the log-probabilities of a distribution that is not the policy's."""
    return Sampled(answer.ids, np.full(len(answer.ids), np.nan), answer.stop)
