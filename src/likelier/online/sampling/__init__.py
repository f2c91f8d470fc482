"""Answers drawn from a policy: what every sampler gives, and those there are."""

from likelier.models.policy import Policy
from likelier.online.sampling.generated import GeneratingSampler
from likelier.online.sampling.local import LocalSampler
from likelier.online.sampling.protocol import Sampled, Sampler, Sampling, StopReason
from likelier.scoring.attach import scorer_of

__all__ = ["GeneratingSampler", "LocalSampler", "Sampled", "Sampler", "Sampling", "StopReason", "sampler_for"]


def sampler_for(policy: Policy, sampling: Sampling) -> Sampler:
    """The sampler in this process that serves a policy, whose scorer has been attached."""
    shares = scorer_of(policy.model).name == "shared-prefix"
    return LocalSampler(policy, sampling) if shares else GeneratingSampler(policy, sampling)
