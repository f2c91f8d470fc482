"""From evidence and memory to a recommendation: a method with reasons, doubts, alternatives, and a run that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from likelier.advice.choice import Choice, batch_size, choose, learn_from_labels, settings_of
from likelier.advice.estimate import models_in_memory, plan_json, rows_of_records
from likelier.advice.evidence import Evidence
from likelier.advice.fit import Fitted, fit, sample
from likelier.advice.memory import Device, own_memory, planner_for
from likelier.advice.runfile import StagePlan, run_file, run_options
from likelier.advice.tables import size
from likelier.advice.weights import find_model
from likelier.models.options import LoraOptions
from likelier.objectives import METHODS
from likelier.objectives.advice import Goal, Setting, Situation, Subject
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
    remarks: tuple[str, ...]
    online_needs: tuple[str, ...] = ()

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
            "run": self.options,
        }


def recommend(
    evidence: Evidence,
    model: str,
    *,
    memory: int | None = None,
    device: Device | None = None,
    goal: Goal | None = None,
    has_reference: bool = True,
) -> Recommendation:
    """Choose method, way of training and hyperparameters.

    Args:
        evidence: of `evidence.gather`.
        model: a model's name as `load_policy` takes it.
        memory: bytes of the device (default: this machine's).
        device: what it will run on (default: CUDA where this machine has it).
        goal: `quick`, `robust` or `ceiling`; None for the best offline run.
        has_reference: False where no reference can be scored, not even beforehand.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    memory = memory or own_memory(device)
    if evidence.pairs + evidence.labels == 0:
        raise ConfigError("no pair is decided and no row has a label: there is nothing to learn from")
    known = Situation(evidence.pairs, evidence.labels, evidence.flip_rate, goal, has_reference)
    choice = choose(known)
    methods = choice.methods
    used = [_paths(evidence, method) for method in methods]
    counts = [sum(len(file.records) for file in evidence.files if file.path in paths) for paths in used]
    batch = batch_size(min(counts))
    fitted = _fit(evidence, model, methods, used, device, memory, int(batch.value), goal)
    found = (*_subject(model), min(counts), fitted.plan.training.lora.lora_r is not None, evidence.flip_rate)
    subject = Subject(*found, (evidence.desirable, evidence.undesirable))
    stages = [
        StagePlan(method, paths, tuple(settings_of(method, replace(subject, rows=rows))))
        for method, paths, rows in zip(methods, used, counts, strict=True)
    ]
    return Recommendation(
        model=model,
        choice=choice,
        evidence=evidence,
        fitted=fitted,
        doubts=(*_data_doubts(evidence, fitted, has_reference), *choice.doubts),
        alternatives=tuple(_alternatives(known, methods, fitted)),
        stages=tuple(stages),
        shared=tuple(_shared(evidence, fitted, batch, min(counts), goal)),
        remarks=tuple(words for method in methods for words in METHODS[method].advice.remarks),
        online_needs=tuple(_online_needs(model, fitted, device, memory)) if choice.online else (),
    )


def _paths(evidence: Evidence, method: str) -> tuple[str, ...]:
    return tuple(file.path for file in evidence.of_kind(METHODS[method].data))


def _fit(
    evidence: Evidence,
    model: str,
    methods: Sequence[str],
    used: Sequence[tuple[str, ...]],
    device: Device,
    memory: int | None,
    batch: int,
    goal: Goal | None,
) -> Fitted:
    """What fits for every stage: the plan of the one that takes the least budget."""
    found = []
    for method, paths in zip(methods, used, strict=True):
        records = [record for file in evidence.files if file.path in paths for record in file.records]
        rows = rows_of_records(sample(records), model, method, None)
        found.append(
            fit(
                model,
                method,
                device=device,
                memory=memory,
                rows=rows,
                batch_size=batch,
                adapter_first=goal == "quick",
            )
        )
    return max(found, key=lambda one: (len(one.tried), one.plan.peak))


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
    "lora_r": "QLoRA paper (2305.14314): all linear layers; the rank mattered little",
    "load_in_4bit": "the memory allows no more (QLoRA)",
    "activation_checkpointing": "the memory allows no less; about a third more time",
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
    return [*found, "online (GRPO, PPO): the highest ceiling, for a reward model and much more time and memory"]


def _online_needs(model: str, fitted: Fitted, device: Device, memory: int | None) -> list[str]:
    planner = planner_for(
        model,
        method="dpo",
        lora=fitted.way.lora,
        device=device,
        memory=memory,
        activation_checkpointing=fitted.way.checkpointing,
    )
    held = models_in_memory(planner, None)
    four, one = list(held.values())[-1], next(iter(held.values()))
    return [
        "prompts alone, as many as possible and like those of the later use",
        "a reward: a model trained on these pairs, or a program that checks answers (better, where there is one)",
        f"PPO: four models, about {size(four)} by the memory plan where DPO takes {size(one)}, and the cache of "
        "generation; GRPO drops the value model and samples a group of answers to every prompt instead",
        "a sampler: most of the time goes into writing answers. TRL and OpenRLHF have both methods",
    ]
