"""What a run says of itself: in words at the start, in run.json, and as the fingerprint that a resume must match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from likelier.data.prepare import PreparedData
from likelier.data.tokenize import Group
from likelier.models.policy import Policy
from likelier.objectives import Objective
from likelier.runs.checkpoints import ORIGIN
from likelier.scoring import ScorerChoice
from likelier.training.arguments import learning_rate
from likelier.training.options import TrainingOptions
from likelier.training.trainer_block import DDP_ARGUMENTS
from likelier.utils.console import say, warn
from likelier.utils.versions import versions


@dataclass(frozen=True)
class RunFacts:
    """Everything that decides what a run computes. `reference` is the reference's identity, `origin` what it begins
    with (see `origin.origin_of`).
    """

    options: TrainingOptions
    objective: Objective
    policy: Policy
    data: PreparedData
    reference: str | None
    scorer: ScorerChoice
    token_budget: int
    device: str
    processes: int = 1
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def explained(self) -> str:
        """The hyperparameters' consequence in nats."""
        return self.objective.explain(self.data.median_length)

    def words(self) -> list[str]:
        """The lines for the person at the terminal."""
        rate, source = learning_rate(self.options, self.objective, self.policy)
        unit = "pairs" if self.objective.data == "pairs" else "rows"
        how = "weights split between them (FSDP2)" if self.options.shard else "each with all weights (DDP)"
        several = [f"{self.processes} processes, {how}; a step, its loss and its metrics are those of one process"]
        return [
            *(several if self.processes > 1 else []),
            f"scorer: {self.scorer.name} ({self.scorer.reason})",
            f"objective: {self.objective.method}: {self.explained}",
            f"learning rate: {rate:g} ({source}); {self.options.batch_size} {unit} a step",
        ]

    def card(self) -> dict[str, Any]:
        """The entries of run.json."""
        rate, source = learning_rate(self.options, self.objective, self.policy)
        return {
            "status": "training",
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "error": None,
            "method": self.objective.method,
            "hyperparameters": self.objective.hyperparameters(),
            "explained": self.explained,
            "reward_scale": self.objective.reward_scale(),
            "objective": self.objective.facts(),
            "policy": self.policy.words,
            "chat": {name: getattr(self.policy.chat, name) for name in self.policy.chat.given},
            "precision": self.policy.precision,
            "parameters": self.policy.parameters,
            "device": self.device,
            "processes": self.processes,
            "scorer": {"name": self.scorer.name, "reason": self.scorer.reason},
            "learning_rate": {"value": rate, "source": source},
            "options": {name: value for name, value in vars(self.options).items() if value is not None},
            "data": self.data.card(),
            "fingerprint": self.fingerprint(),
            "versions": versions(),
        }

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a resumed run to be the same run."""
        options = self.options
        return {
            **{name: self.origin.get(name) for name in ORIGIN},
            "date": self.policy.chat.date,
            "data_hash": self.data.hash,
            "method": self.objective.method,
            "hyperparameters": self.objective.hyperparameters(),
            "reference": self.reference,
            "precision": self.policy.precision,
            "scorer": self.scorer.version,
            "token_budget": self.token_budget,
            "batch_size": options.batch_size,
            "order": options.order,
            "group_by": options.group_by,
            "seed": options.seed,
            "learning_rate": learning_rate(options, self.objective, self.policy)[0],
            "scheduler": options.scheduler,
            "warmup": options.warmup_share,
            "max_steps": options.max_steps,
            "epochs": options.epochs,
            "trainer": {name: value for name, value in options.trainer.items() if name not in DDP_ARGUMENTS},
            "adapter": self.policy.adapter_settings,
            "eval_hash": self.data.held_out_hash,
        }


def say_what_does_not_fit(objective: Objective, groups: Sequence[Group], batch_size: int) -> None:
    """Warn of what is wrong with an objective on these groups, and propose hyperparameters that suit them better."""
    labels = [group.desirable for group in groups if group.desirable is not None]
    desirable = sum(labels)
    for warning in objective.warnings(batch_size, desirable, len(labels) - desirable):
        warn(warning)
    for proposal in objective.proposals(desirable, len(labels) - desirable):
        say(proposal)
