"""What a run says of itself: in words at the start, in run.json, and as the fingerprint that a resume must match."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any, Protocol, TypeVar

import torch

from likelier.data.options import ChatOptions
from likelier.models.options import LoraOptions
from likelier.models.policy import precision_of
from likelier.runs.card import RunCard
from likelier.runs.checkpoints import ORIGIN
from likelier.runs.folder import RunFolder
from likelier.scoring import ScorerChoice
from likelier.training.arguments import learning_rate
from likelier.training.config import RunOptions
from likelier.training.options import TrainingOptions
from likelier.training.prepared import PreparedRun, ReadyRun
from likelier.training.reference import MEASURED, rule_of
from likelier.training.trainer_block import DDP_ARGUMENTS
from likelier.utils.versions import versions

_Options = TypeVar("_Options", ChatOptions, LoraOptions)
_KEPT_OPTIONS = (
    *("batch_size", "order", "group_by", "seed", "scheduler", "max_steps", "epochs"),
    *("reference_moves", "reference_mix", "reference_every"),
)


class Configured(Protocol):
    """The options that every run has, whatever it learns from."""

    @property
    def run(self) -> RunOptions: ...

    @property
    def objective(self) -> Any: ...

    @property
    def lora(self) -> LoraOptions: ...

    @property
    def training(self) -> TrainingOptions: ...

    @property
    def chat(self) -> ChatOptions: ...


def refuse_other_options(folder: RunFolder, config: Configured, more: Mapping[str, Any] | None = None) -> None:
    """Raises `RunFolderError` where options alone, before data and model are loaded, show that the run in `folder`
    cannot go on with them. What is not given and follows from data, model or device is compared later. `more` are
    options that only this kind of run has, as its `more_facts` name them.
    """
    before, objective, options = folder.read_fingerprint(), config.objective, config.training
    own = {name: value for name, value in objective.hyperparameters().items() if value is not None}
    given = {"learning_rate": options.learning_rate, "token_budget": options.token_budget}
    now = {
        "method": objective.method,
        "hyperparameters": {**(before.get("hyperparameters") or {}), **own},
        **{name: getattr(options, name) for name in _KEPT_OPTIONS},
        **{name: value for name, value in given.items() if value is not None},
        "warmup": options.warmup_share,
        "trainer": {name: value for name, value in options.trainer.items() if name not in DDP_ARGUMENTS},
        "precision": precision_of(config.run.dtype),
        **(more or {}),
    }
    if objective.method != before.get("method"):
        now["hyperparameters"] = objective.hyperparameters()
    begun = before and folder.card_file.exists()
    recorded, given = _of_policy(folder.card(), config) if begun else ({}, {})
    folder.check_fingerprint(before | recorded, {name: now[name] for name in now if name in before} | given)


def _of_policy(card: RunCard, config: Configured) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the card and the options say of the adapter and of conversations, by the options' names. A template is known
    by its text, which is compared later, and a date that is not given is the run's own.
    """
    recorded, given = _recorded(ChatOptions, card.chat).filled, config.chat.filled
    if recorded["chat_template"] and given["chat_template"]:
        del given["chat_template"]
    if given["date"] is None:
        del given["date"]
    if "lora" in card.raw:  # it began with the command, which records all of it
        recorded, given = recorded | _recorded(LoraOptions, card.lora).filled, given | config.lora.filled
    return recorded, given


def _recorded(kind: type[_Options], block: Mapping[str, Any]) -> _Options:
    return kind(**{item.name: block[item.name] for item in fields(kind) if item.name in block})


@dataclass(frozen=True)
class CardFacts(ABC):
    """Everything that decides what a run computes. `reference` is the reference's identity, once it is known, `origin`
    what the run begins with (see `origin.origin_of`).
    """

    run: ReadyRun
    reference: str | None
    scorer: ScorerChoice
    token_budget: int
    device: torch.device
    origin: Mapping[str, str]

    @property
    @abstractmethod
    def explained(self) -> str:
        """The method in words."""

    @property
    @abstractmethod
    def a_step(self) -> str:
        """What one optimizer step takes up."""

    @abstractmethod
    def data_card(self) -> dict[str, object]:
        """What the card says of the data."""

    @abstractmethod
    def more_facts(self) -> dict[str, Any]:
        """What else a resumed run must have in common with this one."""

    def words(self) -> list[str]:
        """The lines for the person at the terminal."""
        run = self.run
        rate, source = learning_rate(run.options, run.objective, run.policy)
        how = "weights split between them (FSDP2)" if run.options.shard else "each with all weights (DDP)"
        several = [f"{run.ranks.size} processes, {how}; a step, its loss and its metrics are those of one process"]
        return [
            *(several if run.ranks.size > 1 else []),
            f"scorer: {self.scorer.name} ({self.scorer.reason})",
            f"objective: {run.objective.method}: {self.explained}",
            f"learning rate: {rate:g} ({source}); {self.a_step}",
        ]

    def card(self) -> dict[str, Any]:
        """The entries of run.json."""
        run = self.run
        rate, source = learning_rate(run.options, run.objective, run.policy)
        return {
            "status": "training",
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "error": None,
            "method": run.objective.method,
            "hyperparameters": run.objective.hyperparameters(),
            "explained": self.explained,
            "objective": run.objective.facts(),
            "policy": run.policy.words,
            "chat": {name: getattr(run.policy.chat, name) for name in run.policy.chat.given},
            "precision": run.policy.precision,
            "parameters": run.policy.parameters,
            "device": str(self.device),
            "processes": run.ranks.size,
            "scorer": {"name": self.scorer.name, "reason": self.scorer.reason},
            "learning_rate": {"value": rate, "source": source},
            "options": {name: value for name, value in vars(run.options).items() if value is not None},
            "data": self.data_card(),
            "fingerprint": self.fingerprint(),
            "versions": versions(),
        }

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a resumed run to be the same run."""
        run, options = self.run, self.run.options
        return {
            **{name: self.origin.get(name) for name in ORIGIN},
            "date": run.policy.chat.date,
            "method": run.objective.method,
            "hyperparameters": run.objective.hyperparameters(),
            "reference": self.reference,
            "precision": run.policy.precision,
            "scorer": self.scorer.version,
            "token_budget": self.token_budget,
            **{name: getattr(options, name) for name in _KEPT_OPTIONS},
            "learning_rate": learning_rate(options, run.objective, run.policy)[0],
            "warmup": options.warmup_share,
            "trainer": {name: value for name, value in options.trainer.items() if name not in DDP_ARGUMENTS},
            "adapter": run.policy.adapter_settings,
            **self.more_facts(),
        }


@dataclass(frozen=True)
class RunFacts(CardFacts):
    """Those of a run that learns from preferences."""

    run: PreparedRun

    @property
    def explained(self) -> str:
        """The hyperparameters' consequence in nats, and what they are measured against where that moves."""
        explained, rule = self.run.objective.explain(self.run.data.median_length), rule_of(self.run.options)
        if rule is None:
            return explained
        return (
            f"{explained}; in training log-ratios are those to a reference that moves ({rule.words}), while {MEASURED}"
        )

    @property
    def a_step(self) -> str:
        unit = "pairs" if self.run.objective.data == "pairs" else "rows"
        return f"{self.run.options.batch_size} {unit} a step"

    def data_card(self) -> dict[str, object]:
        return self.run.data.card()

    def card(self) -> dict[str, Any]:
        return super().card() | {"reward_scale": self.run.objective.reward_scale()}

    def more_facts(self) -> dict[str, Any]:
        return {"data_hash": self.run.data.hash, "eval_hash": self.run.data.held_out_hash}
