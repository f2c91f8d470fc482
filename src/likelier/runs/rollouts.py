"""What an online run wrote to learn a step from, rollouts/step-N.jsonl, as its readers see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from likelier.runs.checkpoints import step_of
from likelier.runs.shapes import NUMBER, TEXT, WHOLE, checked, made, shape_of
from likelier.utils.errors import RunFolderError
from likelier.utils.redaction import without_secrets
from likelier.utils.strict_json import BrokenJson, parse_json


@dataclass(frozen=True)
class RolledOut:
    """An answer: its reward in all and by part, and how it compares with the others of its prompt. None is no verdict;
    `counts` says whether it belongs to the loss, and `side` which answer of a pair it is, where the method makes pairs.
    Where there was a critic, `token_texts` are its tokens one by one with their `token_advantages` and the `values` of
    the states before them.
    """

    text: str
    ids: Annotated[Sequence[int], [WHOLE]] = ()
    tokens: int = 0
    stop_reason: str = ""
    reward: float | None = None
    rewards: Mapping[str, float] = field(default_factory=dict)
    advantage: float | None = None
    counts: bool = True
    side: str | None = None
    token_texts: Annotated[Sequence[str], [TEXT]] = ()
    token_advantages: Annotated[Sequence[float], [NUMBER]] = ()
    values: Annotated[Sequence[float], [NUMBER]] = ()

    @property
    def as_tokens(self) -> dict[str, list[dict[str, Any]]]:
        """The answer as what is coloured token by token; without tokens where there was no critic."""
        rows = zip(self.token_texts, self.token_advantages, self.values, strict=False)
        return {"tokens": [{"text": text, "advantage": one, "value": value} for text, one, value in rows]}

    @property
    def is_cut(self) -> bool:
        """Whether it reached the limit."""
        return self.stop_reason == "length"


@dataclass(frozen=True)
class Group:
    """A prompt and its answers."""

    prompt: str
    answers: tuple[RolledOut, ...]
    source: str = ""
    prompt_ids: Annotated[Sequence[int], [WHOLE]] = ()

    @property
    def judged(self) -> list[RolledOut]:
        """The answers that have a reward, the best first."""
        known = [one for one in self.answers if one.reward is not None]
        return sorted(known, key=lambda one: -(one.reward or 0.0))


@dataclass(frozen=True)
class WrittenStep:
    """The groups of a step that are kept."""

    step: int
    groups: tuple[Group, ...]


_SHAPE = shape_of(Group)


def read_rollouts(folder: Path) -> list[WrittenStep]:
    """Every step that is kept, in order. Raises `RunFolderError` for a file that is damaged."""
    paths = sorted((folder / "rollouts").glob("step-*.jsonl"), key=step_of)
    return [WrittenStep(step_of(path), tuple(_groups(path))) for path in paths]


def _groups(path: Path) -> list[Group]:
    try:
        lines = path.read_bytes().split(b"\n")
        parsed = [without_secrets(parse_json(line)) for line in lines if line]
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error
    except BrokenJson as error:
        raise RunFolderError(f"{path} is damaged: {error}; restore the file") from error
    return [made(Group, checked(one, _SHAPE, f"{path}:{number}")) for number, one in enumerate(parsed, 1)]
