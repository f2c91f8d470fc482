"""Answers drawn from a policy: what every sampler gives, and those there are."""

from pathlib import Path
from typing import Literal

from likelier.models.policy import Policy
from likelier.online.sampling.generated import GeneratingSampler
from likelier.online.sampling.local import LocalSampler
from likelier.online.sampling.protocol import Sampled, Sampler, Sampling, StopReason
from likelier.online.sampling.server import VllmServer, check_seconds
from likelier.online.sampling.vllm import ServedPolicy, VllmSampler
from likelier.scoring.attach import scorer_of
from likelier.utils.distributed import ALONE, Ranks
from likelier.utils.errors import ConfigError
from likelier.utils.service import check_url

__all__ = [
    "GeneratingSampler",
    "LocalSampler",
    "Sampled",
    "Sampler",
    "SamplerName",
    "Sampling",
    "ServedPolicy",
    "StopReason",
    "VllmSampler",
    "VllmServer",
    "check_sampler",
    "sampler_for",
    "server_of",
]


SamplerName = Literal["local", "vllm"]


def check_sampler(sampler: str, url: str | None, seconds: float | None) -> None:
    """Raises `ConfigError` for options that do not go together, before anything is asked."""
    if sampler == "vllm":
        if url is None:
            raise ConfigError("sampler=vllm needs a server; give sampler_url=http://HOST:PORT")
        check_url(url)
        check_seconds(seconds)
        return
    for name, value in (("sampler_url", url), ("sampler_timeout", seconds)):
        if value is not None:
            raise ConfigError(f"{name} has no effect with sampler={sampler}; give sampler=vllm, or drop it")


def server_of(sampler: str, url: str | None, seconds: float | None) -> VllmServer | None:
    """The server that answers come from; None where this process draws them. Raises what `check_sampler` does, and
    `ServiceError`.
    """
    check_sampler(sampler, url, seconds)
    return None if url is None else VllmServer(url, seconds)


def sampler_for(
    policy: Policy,
    sampling: Sampling,
    server: VllmServer | None = None,
    folder: Path | None = None,
    ranks: Ranks = ALONE,
) -> Sampler:
    """The sampler that serves a policy, whose scorer has been attached: in this process, or on a server, which reads
    its adapter below `folder`. Of several `ranks` all must sample at the same time.
    """
    if server is not None:
        assert folder is not None
        return VllmSampler(ServedPolicy(policy, server, folder, ranks), sampling)
    shares = scorer_of(policy.model).name == "shared-prefix"
    return LocalSampler(policy, sampling) if shares else GeneratingSampler(policy, sampling)
