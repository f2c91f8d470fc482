"""A `transformers.Trainer` whose checkpoints are written whole, and whose model folders hold the policy and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer

from likelier.errors import RunFolderError
from likelier.models import Policy, quiet
from likelier.options import TrainingOptions
from likelier.runs import RunFolder

_PROGRESS = "progress.json"


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What `SavingTrainer.progress` was at a checkpoint; empty for one of an earlier version."""
    path = checkpoint / _PROGRESS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


class SavingTrainer(Trainer):
    """What `PreferenceTrainer` does with files: everything is staged, then moved to its place."""

    policy: Policy
    options: TrainingOptions
    folder: RunFolder

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        raise NotImplementedError

    def progress(self) -> dict[str, Any]:
        """How far it has come, in seconds and items."""
        raise NotImplementedError

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.folder.staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written whole in a staging folder, then moved to checkpoints/step-N."""
        super()._save_checkpoint(model, trial)
        staged = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        (staged / _PROGRESS).write_text(json.dumps(self.progress()), encoding="utf-8")
        keep = self.options.save_total_limit
        self.folder.publish_checkpoint(staged, self.state.global_step, keep, self.fingerprint())

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A checkpoint holds every weight; a tied one only under its other name."""
        tied = getattr(self.policy.model, "_tied_weights_keys", None) or ()
        missing = [name for name in load_result.missing_keys if name not in tied]
        if missing or load_result.unexpected_keys:
            raise RunFolderError(
                f"the checkpoint does not fit the model: missing {missing[:3]}, unexpected "
                f"{load_result.unexpected_keys[:3]}; resume with the model that the run began with"
            )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """An ordinary Hugging Face folder (or adapter), and nothing else."""
        where = output_dir or str(self.args.output_dir)
        only_policy = {"selected_adapters": ["default"]} if hasattr(self.policy.model, "peft_config") else {}
        with quiet():
            self.policy.model.save_pretrained(where, state_dict=state_dict, **only_policy)
        self.policy.tokenizer.save_pretrained(where)
        for weights in Path(where).glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors writes for the owner alone; the other files follow the umask
