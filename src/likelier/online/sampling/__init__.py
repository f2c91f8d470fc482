"""Answers drawn from a policy: what every sampler gives, and those there are."""

from likelier.online.sampling.local import LocalSampler
from likelier.online.sampling.protocol import Sampled, Sampler, Sampling, StopReason

__all__ = ["LocalSampler", "Sampled", "Sampler", "Sampling", "StopReason"]
