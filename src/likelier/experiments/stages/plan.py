"""Which stages a file asks for: its blocks, repeated where they are to be, with the model that each begins with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from likelier.data.options import ChatOptions
from likelier.experiments.stages.options import SampleOptions
from likelier.experiments.stages.sample_step import SampleStage
from likelier.models.options import LoraOptions
from likelier.objectives import METHODS
from likelier.online.config import ELSEWHERE, ONLINE_NAMES, OnlineConfig, parse_run
from likelier.training.config import (
    RIVALS,
    RunConfig,
    data_sets,
    hyperparameter_fields,
    is_hyperparameter,
    named_values,
    section,
)
from likelier.training.options import OF_REFERENCE
from likelier.utils.errors import ConfigError, nearest

Values = Mapping[str, Any]

# The model, its precision and where everything goes belong to the whole; a stage cannot have its own.
_OF_THE_WHOLE = ["model", "output", "dtype", "resume", "push_to_hub", *(item.name for item in fields(LoraOptions))]
_LEFT_BY = "stage:"  # before a stage's name, where the pairs or the model that it left are meant


@dataclass(frozen=True)
class Stage:
    """A named run. `folder` lies below the output of the whole; `reference` is what the file says; `round` counts from
    1 where the stage is repeated.
    """

    name: str
    folder: str
    reference: str
    config: RunConfig | OnlineConfig
    round: int | None = None

    @property
    def method(self) -> str:
        """What it learns by."""
        return self.config.run.method

    @property
    def begins_with(self) -> str:
        """The model that it goes on from."""
        return self.config.run.model

    @property
    def output(self) -> str:
        """Its run folder."""
        return self.config.run.output

    @property
    def leaves_policy(self) -> bool:
        """Whether the next stage goes on from its model: not from a reward model, which judges."""
        return isinstance(self.config, OnlineConfig) or not self.config.objective.reads_values

    def as_json(self) -> dict[str, Any]:
        """Everything that was given, as JSON holds it, without secrets."""
        return self.config.as_json()


@dataclass(frozen=True)
class StagedConfig:
    """All stages of a run, in order."""

    model: str
    output: str
    resume: bool
    stages: tuple[Stage | SampleStage, ...]

    @property
    def runs(self) -> list[Stage]:
        """Those that learn."""
        return [stage for stage in self.stages if isinstance(stage, Stage)]


@dataclass(frozen=True)
class _Block:
    """A stage as it is written, by underscored names, and the round that it is done in."""

    name: str
    own: dict[str, Any]
    round: int | None


def parse_stages(values: Values) -> StagedConfig:
    """Make the stages of a run from named values with a list `stages`.

    A stage's `reference` is `start` (the stage before, the default), `original` (the model that the first stage began
    with), `base`, `stage:NAME` or another model. Raises `ConfigError` naming the stage, the option and the mend.
    """
    shared = _underscored(values)
    written, repeat = shared.pop("stages"), shared.pop("repeat", None)
    blocks = list(_expanded(written if repeat is None else [{"repeat": repeat, "stages": written}]))
    for name in ("model", "output"):
        if not isinstance(shared.get(name), str) or not shared[name]:
            raise ConfigError(f"{name} is missing; it stands outside stages")
    of_a_stage = {item.name for item in fields(SampleOptions)} - {"seed", "columns", "eval_data", "eval_fraction"}
    of_a_stage -= {"eval_reward"}
    dotted = [name for name in shared if is_hyperparameter(name)]
    for name in ("method", "reference", *hyperparameter_fields(), *dotted, *sorted(ONLINE_NAMES | of_a_stage)):
        if name in shared:
            raise ConfigError(f"{name} belongs to a single stage: move it into that block of stages")
    _refuse_twice([block.name for block in blocks if block.round in (None, 1)])
    plan = _Plan(shared, tuple(block.name for block in blocks), [])
    last = max((number for number, block in enumerate(blocks, 1) if "sample" not in block.own), default=0)
    for number, block in enumerate(blocks, 1):
        try:
            plan.add(number, block, last=number == last)
        except ConfigError as error:
            raise ConfigError(f"stage {number} ({block.name}): {error}") from error
    plan.require_use()
    plan.hold_out_at_the_end()
    return StagedConfig(shared["model"], shared["output"], bool(shared.get("resume", False)), tuple(plan.stages))


def written_blocks(stages: Any) -> list[Values]:
    """Every stage that stands in a file, those that are repeated once."""
    found: list[Values] = []
    for block in stages if isinstance(stages, list) else []:
        inner = block.get("stages") if isinstance(block, Mapping) else None
        found += [block] if inner is None and isinstance(block, Mapping) else written_blocks(inner)
    return found


def _underscored(values: Values) -> dict[str, Any]:
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def _blocks_of(value: Any, where: str = "stages") -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(block, Mapping) for block in value):
        raise ConfigError(f"{where}: must be a list of blocks, each with a method and its options, or with sample")
    return value


def _expanded(written: Any) -> Iterator[_Block]:
    """Every stage in its turn, as often as it is repeated."""
    for block in _blocks_of(written):
        own = _underscored(block)
        if "repeat" not in own and "stages" not in own:
            yield _block(own, None)
            continue
        others = [name for name in own if name not in ("repeat", "stages")]
        if others or "repeat" not in own or "stages" not in own:
            told = f"{others[0]} has no effect beside them; move it into a stage" if others else "one is missing"
            raise ConfigError(f"a block that is repeated has repeat and stages: {told}")
        times = own["repeat"]
        if type(times) is not int or times < 1:
            raise ConfigError(f"repeat={times!r} is no whole number from 1 on; say how many rounds there are")
        inner = [_underscored(one) for one in _blocks_of(own["stages"], "stages that are repeated")]
        if any({"repeat", "stages"} & one.keys() for one in inner):
            raise ConfigError("repeat stands within repeat; keep one of them")
        for number in range(1, times + 1):
            yield from (_block(one, number) for one in inner)


def _block(own: dict[str, Any], number: int | None) -> _Block:
    own = dict(own)
    default = "sample" if "sample" in own else own.get("method", "dpo")
    return _Block(str(own.pop("name", default)), own, number)


def _refuse_twice(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two stages are called {twice!r}; give each a name of its own")


@dataclass
class _Plan:
    """The stages so far. `names` are those of all that there will be."""

    shared: dict[str, Any]
    names: tuple[str, ...]
    stages: list[Stage | SampleStage]
    used: set[str] = field(default_factory=set)  # folders of samples that a stage learns from

    @property
    def policy(self) -> str | None:
        """The model that goes on; None before the first was trained."""
        runs = [stage for stage in self.stages if isinstance(stage, Stage) and stage.leaves_policy]
        return runs[-1].output if runs else None

    def add(self, number: int, block: _Block, *, last: bool) -> None:
        """Add what a block asks for. Raises `ConfigError`."""
        if not re.fullmatch(r"[\w.-]+", block.name):
            raise ConfigError(f"name={block.name!r} becomes a folder's name; use letters, digits, '-', '_' and '.'")
        for option in _OF_THE_WHOLE:
            if option in block.own:
                raise ConfigError(f"{option} belongs to the whole run; move it out of stages")
        own = self._with_what_is_left(block.own)
        folder = f"{number}-{block.name}"
        if "sample" in own:
            self.stages.append(self._sample(block.name, folder, own, block.round))
        else:
            self.stages.append(self._run(block.name, folder, own, block.round, last=last))

    def _sample(self, name: str, folder: str, own: dict[str, Any], number: int | None) -> SampleStage:
        chat_names = [item.name for item in fields(ChatOptions)]
        taken = {"seed", *chat_names} - {"train_on"}
        named = named_values({option: self.shared[option] for option in taken if option in self.shared} | own)
        if isinstance(named["sample"], (list, tuple, Mapping)):
            named["sample"] = data_sets("sample", named["sample"])
        if number is None and "prompts_per_round" in named:
            raise ConfigError("prompts_per_round has no effect on a step that is not repeated; drop it, or give repeat")
        chat, options = section(ChatOptions, named), section(SampleOptions, named)
        if named:
            _refuse(next(iter(named)))
        output, model = str(Path(self.shared["output"]) / folder), self.policy or self.shared["model"]
        return SampleStage(name, folder, output, model, options, chat, self.shared.get("dtype", "auto"), number)

    def _run(self, name: str, folder: str, own: dict[str, Any], number: int | None, *, last: bool) -> Stage:
        reference = str(own.pop("reference", "start"))
        merged = {**self.shared, **own, "output": str(Path(self.shared["output"]) / folder), "resume": False}
        for one, other in RIVALS.items():
            if one in own and other not in own:
                merged.pop(other, None)  # a stage's own choice takes the place of what all share
        kind = METHODS.get(str(merged.get("method", "dpo")))
        if kind is None or not kind.needs_reference:
            for option in OF_REFERENCE:
                if option not in own:
                    merged.pop(option, None)
        if not last:
            merged.pop("push_to_hub", None)
        own_adapter = kind is not None and kind.reads_values and self.shared.get("lora_r") is not None
        if self.policy is not None and not own_adapter:  # a classifier cannot go on from a policy's adapter
            merged["model"] = self.policy
            for item in fields(LoraOptions):
                merged.pop(item.name, None)  # the adapter of the first stage goes on
        merged["reference"] = self._resolved(reference)
        return Stage(name, folder, reference, parse_run(merged), number)

    def _resolved(self, reference: str) -> str:
        """The reference in a single run's words."""
        if reference.startswith(_LEFT_BY):
            return self._model_left(reference, "reference", judges=False)
        if reference != "original":
            return reference
        if self.policy is None:
            return "start"
        return "base" if self.shared.get("lora_r") is not None else self.shared["model"]

    # --- what earlier stages left --------------------------------------------------------------------------------

    def _with_what_is_left(self, own: dict[str, Any]) -> dict[str, Any]:
        """The options with files and folders where they name stages."""
        found = dict(own)
        for option in ("data", "eval_data", "sample"):
            if option in found:
                found[option] = self._data(option, found[option])
        for option in ("reward", "eval_reward"):
            if isinstance(value := found.get(option), (str, list, tuple)):
                several = [self._reward(option, one) for one in ([value] if isinstance(value, str) else value)]
                found[option] = several[0] if isinstance(value, str) else several
        return found

    def _data(self, option: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._data(option, one) for one in value]
        if isinstance(value, Mapping) and isinstance(value.get("path"), str):
            return {**value, "path": self._data(option, value["path"])}
        if not isinstance(value, str) or not value.startswith(_LEFT_BY):
            return value
        stage = self._left_by(value, option)
        if isinstance(stage, Stage):
            raise ConfigError(f"{option}={value}: {stage.name} is a run, which leaves a model and no pairs")
        self.used.add(stage.folder)
        return stage.pairs_file

    def _reward(self, option: str, value: Any) -> Any:
        kind, _, named = value.partition(":") if isinstance(value, str) else ("", "", "")
        if kind == "stage":
            raise ConfigError(f"{option}={value}: say what its model is: model:{value}, or implicit:{value}")
        if kind not in ("model", "implicit") or not named.startswith(_LEFT_BY):
            return value
        return f"{kind}:{self._model_left(named, option, judges=kind == 'model')}"

    def _model_left(self, value: str, option: str, *, judges: bool) -> str:
        """The folder of the run that is named; `judges`: of a reward model, else of a policy."""
        stage = self._left_by(value, option)
        if isinstance(stage, SampleStage):
            raise ConfigError(f"{option}={value}: {stage.name} is a sample, which leaves pairs and no model")
        if stage.leaves_policy == judges:
            leaves, wanted = ("a policy", "a reward model") if judges else ("a reward model", "a policy")
            raise ConfigError(f"{option}={value}: {stage.name} ({stage.method}) leaves {leaves}, not {wanted}")
        return stage.output

    def _left_by(self, value: str, option: str) -> Stage | SampleStage:
        """The newest stage before this one that is called so."""
        name = value.removeprefix(_LEFT_BY)
        found = next((stage for stage in reversed(self.stages) if stage.name == name), None)
        if found is not None:
            return found
        if name in self.names:
            raise ConfigError(f"{option}={value}: {name} comes later; name a stage that is done before this one")
        known = f"known: {', '.join(dict.fromkeys(self.names))}"
        raise ConfigError(f"{option}={value}: no stage is called so{nearest(name, self.names)}; {known}")

    def require_use(self) -> None:
        """Raises `ConfigError` for a sample from which no stage learns."""
        for number, stage in enumerate(self.stages, 1):
            if isinstance(stage, SampleStage) and stage.folder not in self.used:
                raise ConfigError(
                    f"stage {number} ({stage.name}): no stage learns from it; give a later one data: "
                    f"{_LEFT_BY}{stage.name}, or take likelier sample to look at answers"
                )

    def hold_out_at_the_end(self) -> None:
        """Add what answers the held-out prompts when all is done, once for each step that holds some out."""
        samples = {stage.name: stage for stage in self.stages if isinstance(stage, SampleStage)}
        for before in [stage for stage in samples.values() if stage.options.holds_out]:
            folder = f"{len(self.stages) + 1}-{before.name}-held-out"
            output, model = str(Path(self.shared["output"]) / folder), self.policy or self.shared["model"]
            how = {"chat": before.chat, "dtype": before.dtype, "only_held_out": True}
            self.stages.append(SampleStage(f"{before.name}-held-out", folder, output, model, before.options, **how))


_COMMAND = {"answers": "answers_per_prompt", "data": "sample", "pairs_output": "", "overwrite": ""}


def _refuse(name: str) -> None:
    """Raises `ConfigError` for an option that no sample has."""
    if name in _COMMAND:
        told = f"here it is called {_COMMAND[name]}" if _COMMAND[name] else "a step's files lie in its own folder"
        raise ConfigError(f"unknown option {name!r} of a sample; {told}")
    known = [item.name for kind in (SampleOptions, ChatOptions) for item in fields(kind)]
    if (elsewhere := ELSEWHERE.get(name)) in known:
        raise ConfigError(f"unknown option {name!r} of a sample; here it is called {elsewhere}")
    raise ConfigError(f"unknown option {name!r} of a sample{nearest(name, known)}")
