"""A run's card, run.json, as its readers see it.

Any field may be absent or null, as in cards of older versions, unless it has no default (see `shape_of`); what nobody
reads by name is in `RunCard.raw` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, TypeVar

from likelier.runs.method import MethodFacts, facts_by_name
from likelier.runs.shapes import ANYTHING, FLAG, NUMBER, TEXT, WHOLE, Every, Kind, Shape, checked, made, shape_of
from likelier.utils.errors import RunFolderError
from likelier.utils.files import base_names

T = TypeVar("T")


def _are_data_sets(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) and isinstance(one.get("path"), str) for one in value)


_SOURCES = Kind("a path or a list of data sets", lambda value: isinstance(value, str) or _are_data_sets(value))
_PLAIN = Kind("text, a number, true or false", lambda value: isinstance(value, (str, bool)) or NUMBER.fits(value))
_CHAT: Shape = {
    **dict.fromkeys(("system_prompt", "chat_template", "reasoning", "train_on", "date"), TEXT),
    "chat_template_kwargs": Every(ANYTHING),
    "fold_system": FLAG,
}
_SCALES = dict.fromkeys(("lora_alpha", "lora_dropout"), NUMBER)
_LORA: Shape = {"lora_r": WHOLE, "lora_targets": TEXT, "load_in_4bit": FLAG, **_SCALES}
_FINGERPRINT: Shape = {"adapter": {"dropout": NUMBER}, "token_budget": WHOLE}


@dataclass(frozen=True)
class Parameters:
    """How many weights the model has, and how many of them are trained."""

    all: int
    trainable: int


@dataclass(frozen=True)
class Scorer:
    """What computes log-probabilities, and why it was chosen."""

    name: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class LearningRate:
    """The highest learning rate, and where it comes from."""

    value: float
    source: str | None = None

    def __str__(self) -> str:
        return f"{self.value:g} ({self.source})"


@dataclass(frozen=True)
class Given:
    """What the command was given: model, data, reference (see `RunOptions`); nothing of a run that began in Python."""

    model: str | None = None
    reference: str | None = None
    dtype: str | None = None
    data: Annotated[Any, _SOURCES] = None
    eval_data: Annotated[Any, _SOURCES] = None
    eval_fraction: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    merge_votes: bool = False


@dataclass(frozen=True)
class Options:
    """The training options (see `TrainingOptions`) that readers ask for by name."""

    batch_size: int | None = None
    seed: int | None = None
    max_steps: int | None = None
    logging_steps: int | None = None
    eval_prompts: int | None = None
    truncation: str = "drop"
    use_votes: Annotated[Any, TEXT] = "majority"
    use_weights: Annotated[Any, TEXT] = None
    use_margins: Annotated[Any, TEXT] = None
    min_score_gap: float | None = None
    trainer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """Rows of one part of the data, after tokenization: groups, or prompts where answers are written to them.
    `undecided` ones are among the unusable.
    """

    groups: int = 0
    unusable: int = 0
    undecided: int = 0
    cut_prompts: int = 0
    cut_answers: int = 0
    answers_without_eos: int = 0
    prompts: int = 0

    @property
    def used(self) -> int:
        """How many are learnt from, or measured on."""
        return self.groups or self.prompts


@dataclass(frozen=True)
class Data:
    """The data as tokens."""

    hash: str | None = None
    median_answer_length: float | None = None
    max_length: int | None = None
    train: Counts | None = None
    eval: Counts | None = None

    @property
    def held_out(self) -> int:
        """How many pairs, rows or prompts are held out."""
        return self.eval.used if self.eval else 0


@dataclass(frozen=True)
class Reference:
    """The reference, and what proved it. `weights` is the hash of its weights; a method without one has none. `moves`
    is the rule of one that moved (`how`, `every`, `mix`): the rest is said of where it began.
    """

    words: str | None = None
    identity: str | None = None
    weights: str | None = None
    scores: str | None = None
    step0_loss: float | None = None
    step0_loss_expected: float | None = None
    equals_policy: bool = False
    moves: Mapping[str, Any] | None = None

    @property
    def proof(self) -> str | None:
        """What the check before the first step found, in words; None where there was none."""
        if self.step0_loss is None or self.step0_loss_expected is None:
            return None
        loss, expected = self.step0_loss, self.step0_loss_expected
        return f"before the first step the loss was {loss:.6f}, where {expected:.6f} was expected"


@dataclass(frozen=True)
class Evaluation:
    """What evaluations cost: seconds by when they were, and their share of the training time."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    share_at_intervals: float | None = None


@dataclass(frozen=True)
class Stage:
    """A stage of a run in stages, as the card of the whole tells it. `folder` is below that of the whole."""

    name: str
    folder: str
    method: str | None = None
    status: str | None = None
    reference: Reference = Reference()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """Which rows all runs of a sweep are held to, and the seed that drew them."""

    named: str = ""
    seed: int | None = None
    from_own_data: bool | None = None


@dataclass(frozen=True)
class Sweep:
    """The sweep that a run is one of."""

    held_out: HeldOut = HeldOut()


@dataclass(frozen=True)
class RunCard:
    """What run.json says. `raw` is its whole content, without what is null."""

    status: str | None = None
    began: str | None = None
    started: str | None = None
    error: str | None = None
    method: str | None = None
    hyperparameters: Annotated[Mapping[str, Any], Every(_PLAIN)] = field(default_factory=dict)
    objective: MethodFacts | None = None
    reward_scale: float | None = None
    reward_offset: float | None = None  # the mean score that a reward model gives to training answers
    objective_state: Mapping[str, Any] = field(default_factory=dict)  # what its method carried from step to step
    explained: str | None = None
    policy: str | None = None
    parameters: Parameters | None = None
    precision: str | None = None
    device: str | None = None
    scorer: Scorer | None = None
    learning_rate: LearningRate | None = None
    run: Given = Given()
    lora: Annotated[Mapping[str, Any], _LORA] = field(default_factory=dict)
    chat: Annotated[Mapping[str, Any], _CHAT] = field(default_factory=dict)
    options: Options = Options()
    data: Data = Data()
    data_format: str | None = None
    unusable_rows: Mapping[str, int] = field(default_factory=dict)
    reference: Reference = Reference()
    fingerprint: Annotated[Mapping[str, Any], _FINGERPRINT] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    total_steps: int | None = None
    steps: int | None = None
    training_seconds: float | None = None
    peak_memory_gib: float | None = None
    evaluation: Evaluation = Evaluation()
    evaluation_start: Mapping[str, float] = field(default_factory=dict)
    evaluation_end: Mapping[str, float] = field(default_factory=dict)
    files: Annotated[Mapping[str, Any] | None, Every({"bytes!": WHOLE, "hash!": TEXT})] = None
    stages: tuple[Stage, ...] = ()
    sweep: Sweep | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> RunCard:
        """The card with this content, which has the shape of one (see `checked_card`)."""
        content = {name: value for name, value in content.items() if value is not None}
        return replace(made(cls, content), raw=content)

    def block(self, name: str) -> Mapping[str, Any]:
        """A part with everything that it holds; empty where an older run does not have it."""
        return self.raw.get(name) or {}

    @property
    def facts(self) -> MethodFacts:
        """The facts of the method. A card from before they were recorded has those that its method has today."""
        return self.objective or facts_by_name(self.method, self.reward_scale, self.hyperparameters)

    @property
    def adapter(self) -> Mapping[str, Any]:
        """The settings of the adapter that is trained; empty where it is the whole model."""
        return self.fingerprint.get("adapter") or {}

    @property
    def held_out(self) -> HeldOut:
        """What all runs of its sweep are held to; nothing of a run of its own."""
        return self.sweep.held_out if self.sweep else HeldOut()

    @property
    def arithmetic(self) -> str | None:
        """Precision and device, in words."""
        return f"{self.precision} on {self.device or '?'}" if self.precision else None

    @cached_property
    def with_base_names(self) -> RunCard:
        """The card with local paths cut down to their last part, for what may leave this machine."""
        return RunCard.of(base_names(dict(self.raw)))


def checked_card(content: Any, file: object) -> RunCard:
    """The content of run.json. Raises `RunFolderError` with the place and the value that do not have its shape."""
    return RunCard.of(checked(content, CARD, file))


def required(value: T | None, run: object, name: str) -> T:
    """What the card of a run says under this name. Raises `RunFolderError` if it does not."""
    if value is None:
        raise RunFolderError(f"{run}/run.json does not tell {name}, which this needs; restore the file")
    return value


CARD = shape_of(RunCard)
