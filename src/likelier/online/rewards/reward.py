"""A reward: what was sampled in, a number an answer out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any, ClassVar

import torch
from torch import Tensor

from likelier.data.records import Message, Source
from likelier.data.rendering import as_dict
from likelier.online.sampling.protocol import StopReason
from likelier.training.reward_function import PROTOCOL, Function, ask, require_given, verdicts
from likelier.utils.errors import ConfigError
from likelier.utils.worker import Overrun, Worker

_PATIENCE = 3  # answers over the time limit, without one in time, after which no more is tried


@dataclass(frozen=True)
class Answered:
    """A sampled answer with its prompt, as rewards see it.

    `number` says which of the prompt's answers it is, from 1; `columns` are those of the prompt's row, without the
    prompt.
    """

    prompt: str | tuple[Message, ...]
    text: str
    ids: tuple[int, ...]
    source: Source
    number: int = 1
    stop_reason: StopReason = "eos"
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where the answer is from, for what is told of it."""
        return f"{self.source}, answer {self.number}"

    def as_given(self) -> tuple[Any, Any]:
        """(prompt, completion) as TRL gives them: messages for a conversation, else texts."""
        if isinstance(self.prompt, str):
            return self.prompt, self.text
        talk = [as_dict(message, self.source) for message in self.prompt]
        return talk, [{"role": "assistant", "content": self.text}]


def given_of(answers: Sequence[Answered]) -> dict[str, list[Any]]:
    """What a function can be given, one value an answer; a column that a row lacks is None there."""
    columns = dict.fromkeys(name for answer in answers for name in answer.columns)
    found: dict[str, list[Any]] = {name: [answer.columns.get(name) for answer in answers] for name in columns}
    talks = [answer.as_given() for answer in answers]
    return found | {
        "prompts": [prompt for prompt, _ in talks],
        "completions": [completion for _, completion in talks],
        "completion_ids": [list(answer.ids) for answer in answers],
        "stop_reasons": [answer.stop_reason for answer in answers],
    }


@dataclass
class Reward:
    """Gives every answer a number, or none where it has no verdict.

    `name` stands in logs (`rewards/NAME/mean`), `spec` is what the user typed. `overruns` counts the answers that got
    no verdict because it took too long. `is_model`: whether it is a reward model, whose scores another one's can be
    held against.
    """

    is_model: ClassVar[bool] = False
    name: str
    spec: str
    overruns: int = field(default=0, init=False)

    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """(n,) float64 rewards, NaN where there is no verdict. Raises `ConfigError` naming the row and the answer."""
        found = self._verdicts(answers) if answers else []
        return torch.tensor([nan if value is None else value for value in found], dtype=torch.float64)

    @property
    def where(self) -> str:
        """What begins whatever is told of a failure."""
        return f"reward={self.spec!r}"

    def require(self, columns: Collection[str]) -> None:
        """Raises `ConfigError` where the reward needs a column that is not among these."""

    def close(self) -> None:
        """Give back what it holds."""

    def _verdicts(self, answers: Sequence[Answered]) -> Sequence[float | None]:
        """One number an answer, or None."""
        raise NotImplementedError


@dataclass
class FunctionReward(Reward):
    """A function of the protocol, called with all answers at once."""

    function: Function

    def require(self, columns: Collection[str]) -> None:
        require_given(self.function, {*columns, *PROTOCOL}, self.where)

    def _verdicts(self, answers: Sequence[Answered]) -> Sequence[float | None]:
        return ask(self.function, given_of(answers), self.where, [answer.place for answer in answers])


@dataclass
class LimitedReward(FunctionReward):
    """A function that is called in a process of its own, with one answer at a time, for `seconds` at most each.

    An answer that takes longer gets no verdict, and is counted. Raises `ConfigError` where the first answers all do.
    """

    worker: Worker
    seconds: float
    _in_time: bool = field(default=False, init=False)

    def _verdicts(self, answers: Sequence[Answered]) -> Sequence[float | None]:
        found: list[float | None] = []
        for answer in answers:
            try:
                given = (given_of([answer]), answer.place)
                found += self.worker.ask(*given, limit=self.seconds)
                self._in_time = True
            except Overrun:
                found.append(None)
                self.overruns += 1
                if not self._in_time and self.overruns >= _PATIENCE:
                    raise ConfigError(
                        f"{self.where}: {answer.place}: none of the first {_PATIENCE} answers had a verdict within "
                        f"{self.seconds:g} seconds; give it more time, or mend it"
                    ) from None
            except ConfigError as error:
                raise error if answer.place in str(error) else ConfigError(f"{error} ({answer.place})") from error
        return found

    def close(self) -> None:
        self.worker.close()


def checked(reward: Reward, found: Any, answers: Sequence[Answered]) -> list[float | None]:
    """What a model gave, held to a finite number an answer."""
    return verdicts(found, reward.where, [answer.place for answer in answers])
