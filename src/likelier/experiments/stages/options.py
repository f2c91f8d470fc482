"""The options of a step that samples: how the policy answers prompts, and which pairs are made of its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from likelier.data.columns import COLUMNS_HELP, Columns
from likelier.data.options import DataSet, option
from likelier.data.prompts import PromptTruncation
from likelier.online.answers.pairs import PairsFrom, check_pairing
from likelier.online.sampling import SamplerName, Sampling, check_sampler
from likelier.utils.errors import ConfigError


@dataclass(frozen=True)
class SampleOptions:
    """What is asked and how it is answered, judged and paired. Raises `ConfigError`."""

    sample: str | tuple[DataSet, ...] = option("", "the prompts: a file of them, preferences in any format, gym:TASK")
    reward: tuple[str, ...] = option(
        (), "what an answer earns, as for methods that learn from own answers; several as a list", repeats=True
    )
    reward_weights: tuple[float, ...] | None = option(
        None, "a weight for each reward, in their order (default: 1 each)", many="WEIGHT"
    )
    reward_timeout: float | None = option(None, "seconds that a reward may take for one answer")
    prompts_per_round: int | None = option(
        None, "how many prompts a round takes; each comes once before any comes again (default: all of them)"
    )
    answers_per_prompt: int = option(8, "how many answers are drawn to each")
    max_new_tokens: int = option(256, "most tokens of an answer")
    temperature: float = option(1.0, "at which answers are drawn")
    top_p: float = option(1.0, "draw from the likeliest tokens of this much chance")
    top_k: int = option(0, "draw from so many of the likeliest tokens (0: all)")
    min_p: float = option(0.0, "leave out tokens of less chance than this share of the likeliest one's")
    stop: tuple[str, ...] = option((), "a text that ends an answer", repeats=True)
    seed: int = option(42, "of the draws, of the order of the prompts and of those held out; each round draws others")
    pairs: PairsFrom = option(
        "best-worst",
        "of a prompt's answers the best with the worst, all that differ, or those on two sides of a threshold",
    )
    threshold: float | None = option(None, "with pairs: threshold, the reward from which on an answer is good")
    keep_cut: bool = option(False, "also pair answers that were cut at max_new_tokens")
    eval_data: str | tuple[DataSet, ...] | None = option(
        None, "prompts that each round answers and no round learns from; once more when all is done"
    )
    eval_fraction: float | None = option(None, "hold out this share of the prompts instead")
    eval_reward: str | None = option(None, "what judges held-out answers (default: the rewards)")
    columns: Columns | None = option(None, COLUMNS_HELP, many="ROLE=COLUMN")
    max_prompt_length: int | None = option(None, "tokens of a prompt (default: what the model's context leaves)")
    prompt_truncation: PromptTruncation = option("drop", "what to do with prompts over max_prompt_length")
    sampler: SamplerName = option("local", "what draws answers: this process, or a vLLM server that has the model")
    sampler_url: str | None = option(None, "the server of sampler: vllm, such as http://127.0.0.1:8000")
    sampler_timeout: float | None = option(None, "seconds that it has for the answers to one prompt (default: 600)")

    def __post_init__(self) -> None:
        if not self.sample:
            raise ConfigError("sample names no prompts; give a file")
        if not self.reward:
            raise ConfigError("reward is missing: name what an answer earns")
        if self.reward_weights is not None and len(self.reward) == 1:
            raise ConfigError("reward_weights has no effect on a single reward; drop it")
        for name, least in {"prompts_per_round": 1, "answers_per_prompt": 2, "max_prompt_length": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value} is out of range; it must be at least {least}")
        if self.temperature == 0:
            raise ConfigError("temperature=0 writes the same answer each time, of which no pair can be made")
        check_pairing(self.pairs, self.threshold, "", rewarded=True)
        self._check_held_out()
        check_sampler(self.sampler, self.sampler_url, self.sampler_timeout)
        self.sampling(0)

    def _check_held_out(self) -> None:
        if self.eval_data is not None and self.eval_fraction is not None:
            raise ConfigError("eval_data and eval_fraction were both given; keep one of them")
        if self.eval_fraction is not None and not 0 < self.eval_fraction < 1:
            raise ConfigError(f"eval_fraction={self.eval_fraction} is out of range; it must lie between 0 and 1")
        if self.eval_reward is not None and not self.holds_out:
            raise ConfigError("eval_reward has no effect without held-out prompts; give eval_fraction or eval_data")

    @property
    def holds_out(self) -> bool:
        """Whether prompts are kept apart to see what each round's answers earn."""
        return self.eval_data is not None or self.eval_fraction is not None

    def sampling(self, seed: int) -> Sampling:
        """How answers are drawn."""
        names = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "stop")
        how: dict[str, Any] = {name: getattr(self, name) for name in names}
        return Sampling(seed=seed, **how)
