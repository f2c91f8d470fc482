"""From evidence and memory to a recommendation: a method with reasons, doubts, alternatives, and a run that trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from likelier.advice.choice import Choice, batch_size, choose, learn_from_labels, lora_rank, settings_of
from likelier.advice.estimate import plan_json
from likelier.advice.evidence import Evidence
from likelier.advice.fit import Fitted, fit, ways_of
from likelier.advice.memory import Device, MemoryPlan, own_memory
from likelier.advice.online import ALTERNATIVE, online_needs
from likelier.advice.rundata import RowPlan, proposed_length
from likelier.advice.runfile import StagePlan, run_file, run_options
from likelier.advice.speed import speed_for
from likelier.advice.tables import size
from likelier.advice.timing import SpeedOf, rows_of_run, times_of
from likelier.advice.weights import find_model
from likelier.data.load import PreferenceData, load_preferences
from likelier.data.options import ChatOptions
from likelier.data.split import split_by_prompt
from likelier.data.views import as_view, joined
from likelier.models.options import LoraOptions
from likelier.objectives import METHODS
from likelier.objectives.advice import Goal, Setting, Situation, Subject
from likelier.training.config import RIVALS
from likelier.training.duration import Duration
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError

_QUICK_STEPS = 100
_HELD_OUT = 0.1
_ENOUGH_TO_HOLD_OUT = 50  # rows


@dataclass(frozen=True)
class Recommendation:
    """Everything that `likelier recommend` says."""

    model: str
    choice: Choice
    evidence: Evidence
    fitted: Fitted
    doubts: tuple[str, ...]
    alternatives: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    shared: tuple[Setting, ...]
    online_needs: tuple[str, ...] = ()
    rows: tuple[RowPlan, ...] = ()
    times: tuple[Duration, ...] = ()
    untimed: str = ""

    @property
    def evidence_lines(self) -> list[str]:
        """What is known of the data."""
        return self.evidence.lines()

    @property
    def plans(self) -> dict[str, MemoryPlan]:
        """The memory of each way of training that was tried."""
        return self.fitted.tried

    @property
    def gpus(self) -> int:
        """Over how many GPUs the run goes."""
        return self.fitted.plan.spread.gpus

    def start(self, file: str) -> str:
        """The command that trains with this run file."""
        several = f"torchrun --standalone --nproc-per-node {self.gpus} -m "
        return f"{several if self.gpus > 1 else ''}likelier train {file}"

    @property
    def output(self) -> str:
        """The run folder that the run file names."""
        return "runs/" + "-then-".join(stage.method for stage in self.stages)

    @property
    def options(self) -> dict[str, Any]:
        """The run file's values."""
        return run_options(self.model, self.output, self.stages, self.shared)

    @property
    def run_file(self) -> str:
        """The run file."""
        heading = [f"recommended by likelier: {self.choice.row}", *self.choice.reasons]
        heading += [f"for {self.gpus} GPUs: {self.start('FILE')}"] if self.gpus > 1 else []
        return run_file(heading, self.model, self.output, self.stages, self.shared)

    def as_json(self) -> dict[str, Any]:
        """With stable names; sizes in bytes."""
        return {
            "row": self.choice.row,
            "methods": list(self.choice.methods),
            "online": self.choice.online,
            "reasons": list(self.choice.reasons),
            "evidence": {
                "pairs": self.evidence.pairs,
                "desirable": self.evidence.desirable,
                "undesirable": self.evidence.undesirable,
                "flip_rate": self.evidence.flip_rate,
                "lines": self.evidence.lines(),
            },
            "way": self.fitted.way.words,
            "memory": plan_json(self.fitted.plan) | {"fits": self.fitted.fits},
            "doubts": list(self.doubts),
            "alternatives": list(self.alternatives),
            "online_needs": list(self.online_needs),
            "hyperparameters": [
                {"stage": number, "name": one.name, "value": one.value, "source": one.source}
                for number, settings in enumerate([self.shared, *(stage.settings for stage in self.stages)])
                for one in settings
            ],
            "data": [plan.as_json() for plan in self.rows],
            "time": [found.as_json() for found in self.times],
            "time_unknown_because": self.untimed or None,
            "run": self.options,
        }

    def run_lines(self) -> list[str]:
        """What will happen: of each stage the rows, the steps and the time."""
        found = []
        for number, (stage, plan) in enumerate(zip(self.stages, self.rows, strict=True)):
            name = f"{stage.method}: " if len(self.stages) > 1 else ""
            found += [f"{name}{line}" for line in plan.words()]
            found += [f"{name}{self.times[number].line()}"] if number < len(self.times) else []
        return [*found, f"time: not known, since {self.untimed}"] if self.untimed else found


def recommend(
    evidence: Evidence,
    model: str,
    *,
    memory: int | None = None,
    device: Device | None = None,
    gpus: int = 1,
    goal: Goal | None = None,
    has_reference: bool = True,
    given: Mapping[str, Any] | None = None,
    chat: ChatOptions | None = None,
    speed_of: SpeedOf | None = None,
) -> Recommendation:
    """Choose method, way of training and hyperparameters.

    Args:
        evidence: of `evidence.gather`.
        model: a model's name as `load_policy` takes it.
        memory: bytes of the device (default: this machine's).
        device, gpus: what it will run on (default: CUDA where this machine has it), and how many of them.
        goal: `quick`, `robust` or `ceiling`; None for the best offline run.
        has_reference: False where no reference can be scored, not even beforehand.
        given: options of a run that are decided already; they stand in the run file as they are.
        chat: how conversations become text, as in a run.
        speed_of: what tells how fast the device is (default: a measurement of this machine).
    """
    given, device = given or {}, device or ("cuda" if torch.cuda.is_available() else "cpu")
    memory = memory or own_memory(device)
    if evidence.pairs + evidence.labels == 0:
        raise ConfigError("no pair is decided and no row has a label: there is nothing to learn from")
    known = Situation(evidence.pairs, evidence.labels, evidence.flip_rate, goal, has_reference)
    methods = (choice := choose(known)).methods
    used = [_paths(evidence, method) for method in methods]
    counts = [sum(len(file.records) for file in evidence.files if file.path in paths) for paths in used]
    batch = batch_size(min(counts))
    plans = [_rows(evidence, paths, method, model, given, chat) for method, paths in zip(methods, used, strict=True)]
    fitted = _fit(model, methods, plans, device, memory, int(batch.value), goal, gpus)
    found = (*_subject(model), min(counts), fitted.plan.training.lora.lora_r is not None, evidence.flip_rate)
    subject = Subject(*found, (evidence.desirable, evidence.undesirable), fitted.plan.weights.count)
    stages = [
        StagePlan(method, paths, (*settings_of(method, replace(subject, rows=rows)), *_soft(method, evidence, given)))
        for method, paths, rows in zip(methods, used, counts, strict=True)
    ]
    shared = _with_given([*_shared(evidence, fitted, batch, min(counts), goal), _length(plans)], given)
    times, untimed = _times(fitted, methods, plans, shared, speed_of or speed_for(None))
    return Recommendation(
        model=model,
        choice=choice,
        evidence=evidence,
        fitted=fitted,
        doubts=(*_data_doubts(evidence, fitted, has_reference), *choice.doubts),
        alternatives=tuple(_alternatives(known, methods, fitted)),
        stages=tuple(stages),
        shared=tuple(shared),
        online_needs=_online(evidence, model, plans, device, memory, goal) if choice.online else (),
        rows=tuple(plans),
        times=tuple(times),
        untimed=untimed,
    )


def _online(
    evidence: Evidence, model: str, plans: Sequence[RowPlan], device: Device, memory: int | None, goal: Goal | None
) -> tuple[str, ...]:
    prompts = [row.prompt for plan in plans for row in plan.rows]
    ways = [way for way in ways_of(model, device, adapter_first=goal == "quick") if not way.shard]
    return tuple(online_needs(model, [file.path for file in evidence.files], prompts, ways, device, memory))


def _paths(evidence: Evidence, method: str) -> tuple[str, ...]:
    return tuple(file.path for file in evidence.of_kind(METHODS[method].data))


def _rows(
    evidence: Evidence,
    paths: Sequence[str],
    method: str,
    model: str,
    given: Mapping[str, Any],
    chat: ChatOptions | None,
) -> RowPlan:
    """The rows of a stage at the length that is given, or at the one that they propose."""
    files = [file for file in evidence.files if file.path in paths]
    records, held_out = joined(*(file.records for file in files)), as_view([])
    merge = bool(given.get("merge_votes"))
    if "eval_data" in given:
        held_out = load_preferences(given["eval_data"], columns=evidence.columns, merge_votes=merge).train
    elif (share := given.get("eval_fraction", _HELD_OUT if len(records) >= _ENOUGH_TO_HOLD_OUT else None)) is not None:
        records, held_out = split_by_prompt(records, share, given.get("seed", TrainingOptions.seed))
    data = PreferenceData(records, held_out)
    decided = {one.name: one.value for one in _soft(method, evidence, given)} | dict(given)
    options = TrainingOptions(**{name: value for name, value in decided.items() if name in _OF_TRAINING})
    plan = rows_of_run(data, model, method, options=options, chat=chat)
    if options.max_length is None and (length := proposed_length(plan)) != plan.max_length:
        plan = rows_of_run(data, model, method, options=replace(options, max_length=length), chat=chat)
    left_out = Counter(plan.left_out) + sum((Counter(file.left_out) for file in files), Counter[str]())
    read = plan.read + sum(sum(file.left_out.values()) for file in files)
    return replace(plan, left_out=left_out, read=read)


_OF_TRAINING = {item.name for item in fields(TrainingOptions)}


def _fit(
    model: str,
    methods: Sequence[str],
    plans: Sequence[RowPlan],
    device: Device,
    memory: int | None,
    batch: int,
    goal: Goal | None,
    gpus: int,
) -> Fitted:
    """What fits for every stage: the plan of the one that takes the least budget."""
    found = [
        fit(
            model,
            method,
            device=device,
            memory=memory,
            rows=plan.rows,
            batch_size=batch,
            adapter_first=goal == "quick",
            max_length=plan.max_length,
            rank=lora_rank(min(one.train_count for one in plans)),
            gpus=gpus,
        )
        for method, plan in zip(methods, plans, strict=True)
    ]
    return max(found, key=lambda one: (len(one.tried), one.plan.peak))


def _times(
    fitted: Fitted, methods: Sequence[str], plans: Sequence[RowPlan], shared: Sequence[Setting], speed_of: SpeedOf
) -> tuple[list[Duration], str]:
    """How long each stage takes, or why that is not known."""
    known = {one.name: one.value for one in shared if one.name in _OF_TRAINING}
    runs = {method: (fitted.planner.for_method(method), plan) for method, plan in zip(methods, plans, strict=True)}
    times, untimed = times_of(runs, TrainingOptions(**known), fitted.token_budget, speed_of)
    return list(times.values()), untimed


def _length(plans: Sequence[RowPlan]) -> Setting:
    """The length that keeps the rows of every stage."""
    longest = max(plans, key=lambda plan: plan.max_length)
    kept = longest.kept_at(longest.max_length)
    return Setting("max_length", longest.max_length, f"from the data: it keeps {kept:.1%} of the rows")


def _with_given(settings: Sequence[Setting], given: Mapping[str, Any]) -> list[Setting]:
    """The settings, but for those that are given, or whose rival is."""
    kept = [one for one in settings if one.name not in given and RIVALS.get(one.name) not in given]
    return kept + [Setting(name, value, "as it was given") for name, value in given.items()]


_TIES = 0.02  # of the pairs: from here on soft labels are worth it


def _soft(method: str, evidence: Evidence, given: Mapping[str, Any]) -> list[Setting]:
    """Soft labels, where pairs are ties that only they train on."""
    pairs = evidence.pairs + evidence.undecided
    takes = METHODS[method].takes_soft_labels and "use_votes" not in given
    if not takes or evidence.undecided < max(1, _TIES * pairs):
        return []
    source = f"{evidence.undecided:,} of {pairs:,} pairs are ties, which only soft labels train on"
    return [Setting("use_votes", "soft", source)]


def _subject(model: str) -> tuple[str, bool]:
    """The architecture, and whether its name says that it was instructed."""
    words = model.lower()
    instructed = model == "demo" or any(mark in words for mark in ("instruct", "-it", "chat"))
    return str(find_model(model, LoraOptions()).config.get_text_config().model_type), instructed


def _shared(evidence: Evidence, fitted: Fitted, batch: Setting, rows: int, goal: Goal | None) -> list[Setting]:
    """What holds for every stage."""
    given = evidence.columns.given if evidence.columns else {}
    named = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    found = [Setting("columns", named, "as they were named")] if named else []
    found += [Setting(name, value, _WAY_SOURCES[name]) for name, value in fitted.way.options().items()]
    found.append(batch)
    found.append(
        Setting("max_steps", _QUICK_STEPS, "ours: enough to see whether accuracy rises")
        if goal == "quick" and rows > _QUICK_STEPS * batch.value
        else Setting("epochs", 1, "the usual recipe of the papers; more epochs fit the labels, and their noise")
    )
    if fitted.token_budget:
        found.append(Setting("token_budget", fitted.token_budget, "the largest that the memory plan fits"))
    if rows >= _ENOUGH_TO_HOLD_OUT:
        found.append(Setting("eval_fraction", _HELD_OUT, "ours: held out by prompt, for accuracy with an interval"))
    return found


_WAY_SOURCES = {
    "lora_r": "ours: 16 up to 10,000 rows, 32 up to 50,000, then 64; the rank mattered little in 2305.14314",
    "dtype": "the memory allows no less: weights, gradients and moments in 16 bits (needs likelier[bf16])",
    "load_in_4bit": "the memory allows no more (QLoRA)",
    "activation_checkpointing": "the memory allows no less; about a third more time",
    "shard": "the memory of one GPU holds no less: weights, gradients and moments are split between all (FSDP2)",
}


def _data_doubts(evidence: Evidence, fitted: Fitted, has_reference: bool) -> list[str]:
    found = [
        f"the audit is not content with {file.path}: {file.audit.verdict} Run likelier audit on it first"
        for file in evidence.files
        if file.audit.severity == "error"
    ]
    if not fitted.fits:
        least = size(fitted.plan.needed)
        found.append(
            f"no way of training fits into {size(fitted.plan.memory or 0)}: {fitted.way.words} takes the least, and "
            f"its plan is {least}. Take a smaller model, shorter rows (--max-length) or more memory"
        )
    if fitted.tight:
        found.append(
            f"the plan takes {size(fitted.planner.needed(fitted.token_budget or fitted.plan.token_budget))} of "
            f"{size(fitted.planner.memory)}: less than a tenth is to spare, and plans are not that exact"
        )
    if not has_reference and not evidence.pairs:
        found.append("KTO needs a reference, and none can be scored: turn the labels into pairs, or train with sft")
    if evidence.finding("length-bias"):
        found.append("length alone guesses the preferences: compare with sigmoid_norm or simpo, which divide by length")
    return found


def _rivals(known: Situation, methods: tuple[str, ...]) -> list[str]:
    """The methods to weigh against the recommended ones."""
    for_labels = [name for name, one in METHODS.items() if one.data == "labels" and one.advice.gains]
    rivals = [
        name
        for method in methods
        for name, one in METHODS.items()
        if method in one.advice.instead_of and name not in methods
    ]
    if known.pairs if learn_from_labels(methods) else known.labels and not set(methods) & set(for_labels):
        rivals += for_labels
    if len(methods) > 1:  # one of labels alone takes the place of both stages
        rivals = [*for_labels, *rivals]
    return [name for name in dict.fromkeys(rivals) if known.has_reference or not METHODS[name].needs_reference]


def _alternatives(known: Situation, methods: tuple[str, ...], fitted: Fitted) -> list[str]:
    found = [f"{rival}: {METHODS[rival].advice.gains}" for rival in _rivals(known, methods)]
    for words, plan in fitted.tried.items():
        if words != fitted.way.words:
            found.append(f"{words}: would take {size(plan.needed)} of {size(plan.memory or 0)}")
    if fitted.way.words == "full":
        found.append("LoRA (--lora-r 16): far less memory, a small file; learns less from many rows")
    if fitted.way.words.startswith("LoRA") and len(fitted.tried) == 1:
        found.append("all weights (without lora_r): for the real run, where memory allows; likelier estimate tells")
    return [*found, ALTERNATIVE]
