"""What a run says of itself: in words at the start, in run.json, and as the fingerprint that a resume must match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import torch

from likelier.objectives import Objective
from likelier.runs.checkpoints import ORIGIN
from likelier.runs.folder import RunFolder
from likelier.scoring import ScorerChoice
from likelier.training.arguments import learning_rate
from likelier.training.options import TrainingOptions
from likelier.training.prepared import PreparedRun
from likelier.training.trainer_block import DDP_ARGUMENTS
from likelier.utils.versions import versions

_KEPT_OPTIONS = ("batch_size", "order", "group_by", "seed", "scheduler", "max_steps", "epochs")


def refuse_other_options(folder: RunFolder, objective: Objective, options: TrainingOptions) -> None:
    """Raises `RunFolderError` where options alone, before data and model are loaded, show that the run in `folder`
    cannot go on with them. What is not given and follows from data, model or device is compared later.
    """
    before = folder.read_fingerprint()
    own = {name: value for name, value in objective.hyperparameters().items() if value is not None}
    given = {"learning_rate": options.learning_rate, "token_budget": options.token_budget}
    now = {
        "method": objective.method,
        "hyperparameters": {**(before.get("hyperparameters") or {}), **own},
        **{name: getattr(options, name) for name in _KEPT_OPTIONS},
        **{name: value for name, value in given.items() if value is not None},
        "warmup": options.warmup_share,
        "trainer": {name: value for name, value in options.trainer.items() if name not in DDP_ARGUMENTS},
    }
    if objective.method != before.get("method"):
        now["hyperparameters"] = objective.hyperparameters()
    folder.check_fingerprint(before, {name: value for name, value in now.items() if name in before})


@dataclass(frozen=True)
class RunFacts:
    """Everything that decides what a run computes. `reference` is the reference's identity, once it is known, `origin`
    what the run begins with (see `origin.origin_of`).
    """

    run: PreparedRun
    reference: str | None
    scorer: ScorerChoice
    token_budget: int
    device: torch.device
    origin: Mapping[str, str]

    @property
    def explained(self) -> str:
        """The hyperparameters' consequence in nats."""
        return self.run.objective.explain(self.run.data.median_length)

    def words(self) -> list[str]:
        """The lines for the person at the terminal."""
        run = self.run
        rate, source = learning_rate(run.options, run.objective, run.policy)
        unit = "pairs" if run.objective.data == "pairs" else "rows"
        how = "weights split between them (FSDP2)" if run.options.shard else "each with all weights (DDP)"
        several = [f"{run.ranks.size} processes, {how}; a step, its loss and its metrics are those of one process"]
        return [
            *(several if run.ranks.size > 1 else []),
            f"scorer: {self.scorer.name} ({self.scorer.reason})",
            f"objective: {run.objective.method}: {self.explained}",
            f"learning rate: {rate:g} ({source}); {run.options.batch_size} {unit} a step",
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
            "reward_scale": run.objective.reward_scale(),
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
            "data": run.data.card(),
            "fingerprint": self.fingerprint(),
            "versions": versions(),
        }

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a resumed run to be the same run."""
        run, options = self.run, self.run.options
        return {
            **{name: self.origin.get(name) for name in ORIGIN},
            "date": run.policy.chat.date,
            "data_hash": run.data.hash,
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
            "eval_hash": run.data.held_out_hash,
        }
