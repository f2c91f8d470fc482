"""An answer as a row of JSON lines: a `prompt, completion` row that training and audit read, and all else beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from likelier.data.prompts import Prompt
from likelier.data.records import TokenIds
from likelier.online.rewards.reward import Answered
from likelier.online.sampling.protocol import Sampled, Sampling

_DIGITS = 6  # of a log-probability: finer than what two scorers agree on


@dataclass(frozen=True)
class Made:
    """How answers were made: what two rows must have in common to be of one file.

    `weights` is a hash of the weights in memory, `data` one of the prompts and their columns; `rewards` holds the
    typed name and the weight of each reward, by what it is called.
    """

    model: str
    weights: str
    precision: str
    sampler: str
    data: str
    answers: int
    sampling: Sampling
    rewards: Mapping[str, Mapping[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """For a row of the file."""
        own = {name: value for name, value in vars(self).items() if name not in ("sampling", "rewards")}
        options = asdict(self.sampling)
        return (
            own
            | options
            | {"stop": list(options["stop"]), "rewards": {name: dict(one) for name, one in self.rewards.items()}}
        )


def answered(prompt: Prompt, sampled: Sequence[Sampled], tokenizer: Any) -> list[Answered]:
    """The answers to a prompt as rewards see them. A prompt that came as token ids is decoded."""
    asked = prompt.prompt
    text = tokenizer.decode(list(asked.ids)) if isinstance(asked, TokenIds) else asked
    return [
        Answered(
            text,
            tokenizer.decode(one.ids.tolist(), skip_special_tokens=True),
            tuple(one.ids.tolist()),
            prompt.source,
            number,
            one.stop,
            prompt.columns,
        )
        for number, one in enumerate(sampled, 1)
    ]


def row_of(prompt: Prompt, number: int, answer: Answered, sampled: Sampled, made: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one answer to prompt `number` (from 1), without rewards."""
    asked, completion = answer.as_given()
    row: dict[str, Any] = {"prompt": asked, "completion": completion}
    if isinstance(prompt.prompt, TokenIds):
        row["prompt_ids"] = list(prompt.prompt.ids)
    if prompt.tools:
        row["tools"] = prompt.tools
    return row | {
        "prompt_number": number,
        "answer_number": answer.number,
        "source": str(prompt.source),
        "stop_reason": sampled.stop,
        "tokens": len(sampled.ids),
        "logp": _rounded(sampled.logps.sum()),
        "completion_ids": sampled.ids.tolist(),
        "logps": [_rounded(one) for one in sampled.logps],
        "columns": dict(prompt.columns),
        "sampled": made,
    }


def _rounded(logp: Any) -> float | None:
    return round(float(logp), _DIGITS) if isfinite(logp) else None


def with_rewards(
    row: Mapping[str, Any], names: Sequence[str], parts: Sequence[float], total: float, spread: float | None = None
) -> dict[str, Any]:
    """The row with each reward by its name and their sum, and how far reward models are apart on the answer where there
    are several; null where there is no verdict.
    """
    found = {name: _verdict(one) for name, one in zip(names, parts, strict=True)}
    apart = {} if spread is None else {"reward_spread": _verdict(spread)}
    return {**row, "rewards": found, "reward": _verdict(total), **apart}


def _verdict(value: float) -> float | None:
    return value if isfinite(value) else None
