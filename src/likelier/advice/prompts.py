"""A run's prompts, as it would ask them: what is kept, what is left out and why, and how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from likelier.advice.rundata import some_of
from likelier.data.options import ChatOptions
from likelier.data.prompts import Prompt, PromptData, load_prompts, prepare_prompts
from likelier.models.policy import set_template
from likelier.models.tokenizer import tokenizer_of
from likelier.online.config import OnlineConfig
from likelier.online.options import OnlineOptions
from likelier.online.prepared import prompt_limit

_TOO_LONG = "over-max-prompt-length"


@dataclass(frozen=True)
class PromptPlan:
    """The prompts of a run: `read` are all that the files hold, `train` and `held_out` the lengths in tokens of those
    that are asked, a `share` of all; `over` counts those over `max_prompt_length`, `left_out` the others by reason.
    """

    read: int
    train: tuple[int, ...]
    held_out: tuple[int, ...]
    over: int
    left_out: Mapping[str, int]
    max_prompt_length: int
    cut: int = 0
    share: float = 1.0

    @property
    def held_count(self) -> int:
        """Prompts that are held out."""
        return round(len(self.held_out) / self.share)

    @property
    def kept(self) -> int:
        """Prompts that are learnt from or held out."""
        return round((len(self.train) + len(self.held_out)) / self.share)

    def words(self) -> list[str]:
        """The account in words: every row is in it once."""
        sample = "" if self.share == 1 else f" (from {self.share:.0%} of them, evenly spaced)"
        held = f", {self.held_count:,} of them held out" if self.held_out else ""
        found = [
            f"{self.read:,} prompts: {self.kept:,} kept{held}; {self.over:,} are over max_prompt_length "
            f"{self.max_prompt_length:,}{sample}"
        ]
        if self.cut:
            found.append(f"{self.cut:,} prompts lose their beginning (prompt_truncation=cut-prompt-left)")
        if self.left_out:
            found.append(
                "left out besides: " + ", ".join(f"{count:,} x {name}" for name, count in self.left_out.items())
            )
        if self.train:
            ordered = sorted(self.train)
            found.append(f"tokens of a prompt: {ordered[len(ordered) // 2]:,} in the middle, {ordered[-1]:,} at most")
        return found

    def as_json(self) -> dict[str, Any]:
        """With stable names."""
        return {
            "read": self.read,
            "kept": self.kept,
            "train": round(len(self.train) / self.share),
            "held_out": self.held_count,
            "over_max_prompt_length": self.over,
            "cut_prompts": self.cut,
            "left_out": dict(self.left_out),
            "max_prompt_length": self.max_prompt_length,
            "longest": max(self.train, default=0),
            "tokenized_share": self.share,
        }


def prompts_of_run(config: OnlineConfig, context: int | None) -> PromptPlan:
    """The prompts of a run, by the model's tokenizer. Raises what the run would raise on them."""
    run = config.run
    held_out: dict[str, Any] = {"eval_data": run.eval_data, "eval_fraction": run.eval_fraction}
    data = load_prompts(run.data, **held_out, seed=config.training.seed, columns=run.columns)
    return prompt_plan(data, run.model, config.online, config.chat, context)


def prompt_plan(
    data: PromptData, model: str, online: OnlineOptions, chat: ChatOptions, context: int | None
) -> PromptPlan:
    """The same of prompts that are loaded; of more than 20,000 so many are tokenized, evenly spaced."""
    tokenizer, _ = tokenizer_of(model)
    set_template(tokenizer, chat)
    limit = prompt_limit(online, context)

    def tokenized(prompts: Sequence[Prompt]) -> Any:
        how: dict[str, Any] = {"max_prompt_length": limit, "truncation": online.prompt_truncation, "chat": chat}
        return prepare_prompts(prompts, tokenizer, **how)

    some, share = some_of(data.train)
    train = tokenized(some)
    held = tokenized(some_of(data.test, share)[0]) if data.test else None
    lost = Counter(train.unusable.counts()) + Counter(held.unusable.counts() if held else {})
    left_out = Counter({reason: round(count / share) for reason, count in lost.items()})
    over = left_out.pop(_TOO_LONG, 0)
    return PromptPlan(
        read=len(data.train) + len(data.test) + len(data.unusable),
        train=tuple(map(len, train.ids)),
        held_out=tuple(map(len, held.ids)) if held else (),
        over=over,
        left_out=left_out + Counter(data.unusable.counts()),
        max_prompt_length=limit,
        cut=round((train.cut_prompts + (held.cut_prompts if held else 0)) / share),
        share=share,
    )


def made_up_prompts(count: int, limit: int) -> PromptPlan:
    """So many prompts of a run that has none yet, all as long as `limit`."""
    made = min(count, _MADE_UP)
    return PromptPlan(count, (limit,) * made, (), 0, {}, limit, share=made / count)


_MADE_UP = 2048  # prompts that are made; more are like them
