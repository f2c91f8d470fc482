"""The options of a run that learns from answers that it writes, beside those of every run."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from likelier.data.options import option
from likelier.data.prompts import PromptTruncation
from likelier.online.sampling import SamplerName, Sampling, check_sampler
from likelier.utils.errors import ConfigError

Truncated = Literal["keep", "mask", "penalty", "replace"]

SCORE_OF_CUT = -1.0  # as in arXiv 2403.17031


@dataclass(frozen=True)
class OnlineOptions:
    """How answers are written and rewarded. Raises `ConfigError`."""

    reward: tuple[str, ...] = option(
        (),
        "what an answer earns: file.py:function, json, contains:COLUMN, model:FOLDER, http://...; several are given "
        "one by one",
        repeats=True,
    )
    reward_weights: tuple[float, ...] | None = option(
        None, "a weight for each reward, in their order (default: 1 each)", many="WEIGHT"
    )
    combine: Literal["sum", "normalised"] = option(
        "sum", "several rewards: their weighted sum, or each standardised over its prompt's answers before"
    )
    reward_timeout: float | None = option(None, "seconds that a reward may take for one answer")
    max_new_tokens: int = option(256, "most tokens of an answer")
    temperature: float = option(1.0, "at which answers are drawn, and scored")
    stop: tuple[str, ...] = option((), "a text that ends an answer", repeats=True)
    updates_per_rollout: int = option(1, "optimizer steps on the same answers; 1 is strictly on-policy")
    truncated: Truncated = option(
        "keep",
        "an answer that reached --max-new-tokens: keep it, mask it (it leaves the loss), take a penalty off its "
        "reward, or replace the reward",
    )
    missing_eos_penalty: float | None = option(None, "what --truncated penalty takes off the reward")
    missing_eos_reward: float | None = option(
        None, f"what --truncated replace puts in the reward's place (default: {SCORE_OF_CUT:g})"
    )
    max_prompt_length: int | None = option(
        None, "tokens of a prompt (default: what the model's context leaves, at most 2048)"
    )
    prompt_truncation: PromptTruncation = option("drop", "what to do with prompts over --max-prompt-length")
    sampler: SamplerName = option(
        "local", "what draws answers: this process, or a vLLM server that the adapter is loaded on as it learns"
    )
    sampler_url: str | None = option(None, "the server of --sampler vllm, such as http://127.0.0.1:8000")
    sampler_timeout: float | None = option(None, "seconds that it has for the answers to one prompt (default: 600)")
    rollout_steps: int = option(10, "write the answers of every so many steps into rollouts/; 0: none")

    def __post_init__(self) -> None:
        if not self.reward:
            raise ConfigError("--reward is missing: name what an answer earns")
        if self.reward_weights is not None and len(self.reward) == 1:
            raise ConfigError("reward_weights has no effect on a single reward; drop it")
        if self.combine == "normalised" and len(self.reward) == 1:
            raise ConfigError("combine=normalised has no effect with one reward; drop it")
        for name, least in {"updates_per_rollout": 1, "max_prompt_length": 1, "rollout_steps": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value} is out of range; it must be at least {least}")
        if self.temperature == 0:
            raise ConfigError("temperature=0 writes the same answer each time, from which nothing can be learnt")
        if (self.truncated == "penalty") != (self.missing_eos_penalty is not None):
            raise ConfigError("truncated=penalty and missing_eos_penalty go together; give both, or neither")
        if self.missing_eos_penalty is not None and not 0 < self.missing_eos_penalty < float("inf"):
            raise ConfigError(f"missing_eos_penalty={self.missing_eos_penalty} is out of range; it must be above 0")
        if self.missing_eos_reward is not None and self.truncated != "replace":
            raise ConfigError("missing_eos_reward has no effect without truncated=replace; give both, or neither")
        if self.missing_eos_reward is not None and not isfinite(self.missing_eos_reward):
            raise ConfigError(f"missing_eos_reward={self.missing_eos_reward} must be finite")
        check_sampler(self.sampler, self.sampler_url, self.sampler_timeout)
        self.sampling(0)

    @property
    def score_of_cut(self) -> float:
        """The reward of an answer that did not end, where it is replaced."""
        return SCORE_OF_CUT if self.missing_eos_reward is None else self.missing_eos_reward

    @property
    def kept(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that it goes on from."""
        own = ("rollout_steps", "sampler_url", "sampler_timeout")
        return {name: value for name, value in vars(self).items() if name not in own}

    def sampling(self, seed: int) -> Sampling:
        """How answers are drawn: from the policy's whole distribution, or the ratio would be one of other numbers."""
        return Sampling(self.max_new_tokens, self.temperature, seed, stop=self.stop)
