"""A `transformers.Trainer` whose checkpoints are written whole, and whose model folders hold the policy and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import Trainer

from likelier.models.adapter_parts import has_adapter, how_to_save
from likelier.models.architectures import copy_processors
from likelier.models.loading import quiet
from likelier.models.policy import Policy
from likelier.models.safe_loading import read_config
from likelier.models.sharding import SHARDS, Gathering, ShardedCheckpoint, gathered_state, is_sharded, save_shards
from likelier.runs.folder import RunFolder
from likelier.training.options import TrainingOptions
from likelier.utils.distributed import Ranks
from likelier.utils.errors import LikelierError, RunFolderError, TrainingError, whole_reason
from likelier.utils.files import read_object

_PROGRESS = "progress.json"
_SCHEDULER = "scheduler.pt"  # as transformers calls it


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What `SavingTrainer.progress` was at a checkpoint. Raises `RunFolderError` if that cannot be read."""
    with _undamaged(checkpoint):
        return read_object(checkpoint / _PROGRESS)


@contextmanager
def _undamaged(checkpoint: object) -> Iterator[None]:
    """Around the reading of a checkpoint: torch, pickle and safetensors raise errors of every kind for a file whose
    size is right and whose bytes are not. Raises `RunFolderError`.
    """
    try:
        yield
    except (LikelierError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise RunFolderError(
            f"{checkpoint} is damaged: {whole_reason(error)}. Remove that folder; --resume then goes on from the one "
            "before it"
        ) from error


def _require_adapter(folder: Path) -> None:
    """What is wrapped around a model can change the names of its weights, and peft then writes an adapter without any.
    Raises `TrainingError`.
    """
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        if not file.keys():
            raise TrainingError(
                f"the adapter in {folder} was written without weights, because something changed their names in the "
                "model (activation checkpointing of another tool, for example); it would be lost"
            )


class SavingTrainer(Trainer):
    """What `PreferenceTrainer` does with files: everything is staged, then moved to its place."""

    policy: Policy
    options: TrainingOptions
    folder: RunFolder
    ranks: Ranks
    _saved_step = -1  # of the newest checkpoint

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        raise NotImplementedError

    def progress(self) -> dict[str, Any]:
        """How far it has come, in seconds and items."""
        raise NotImplementedError

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing in a run that was cut after its last step: transformers would make one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.folder.checkpoints.staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written whole in a staging folder by all ranks together, then moved to checkpoints/step-N by the first."""
        with self.folder.staged(self.state.global_step):
            super()._save_checkpoint(model, trial)
            progress = self.progress()
            self.ranks.wait()
            if self.ranks.is_first:
                self._publish(trial, progress)
            self.ranks.wait()
        self._saved_step = self.state.global_step

    def _publish(self, trial: Any, progress: dict[str, Any]) -> None:
        staged = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        (staged / _PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
        keep = self.options.save_total_limit
        self.folder.publish_checkpoint(staged, self.state.global_step, keep, self.fingerprint())

    # --- several processes -----------------------------------------------------------------------------------------

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        """A sharded model is not to be wrapped, moved or sharded again."""
        if is_sharded(model) and not isinstance(model, Gathering):
            return Gathering(model)
        return super()._wrap_model(model, training, dataloader)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not is_sharded(model):
            super()._move_model_to_device(model, device)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model as one ordinary folder, written by the first rank. In a checkpoint of a sharded run the weights lie
        in its slices instead.
        """
        if not is_sharded(self.policy.model):
            super().save_model(output_dir, _internal_call)
        elif not _internal_call:
            self._save(output_dir, gathered_state(self.policy.model, keep=self.ranks.is_first))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.policy.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(Path(output_dir) / SHARDS, self.policy.model, self._bare_optimizer(), self.ranks)
        if self.ranks.is_first:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / _SCHEDULER)  # type: ignore[union-attr]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        slices = self._slices(resume_from_checkpoint)
        if slices is None:
            if is_sharded(self.policy.model):
                raise RunFolderError(
                    f"{resume_from_checkpoint} was written without shard, and a sharded run cannot go on from it; "
                    "resume without shard"
                )
            with _undamaged(resume_from_checkpoint):
                if self._has_other_names(Path(resume_from_checkpoint)):
                    self._load_renamed(resume_from_checkpoint)
                else:
                    super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            with _undamaged(resume_from_checkpoint):
                slices.load_weights(self.policy.model)

    def _has_other_names(self, checkpoint: Path) -> bool:
        """Whether transformers saves this model's weights under other names than they have in memory: those of the
        checkpoints that the model was first published as (vision-language models, mixtures of experts).
        """
        if hasattr(self.policy.model, "peft_config"):
            return False
        known = self.policy.model.state_dict().keys()
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, framework="pt") as weights:
                if not set(weights.keys()) <= known:
                    return True
        return False

    def _load_renamed(self, checkpoint: str) -> None:
        """Let transformers give the weights the names that they have in memory."""
        model: Any = self.policy.model
        with quiet():
            saved, found = type(model).from_pretrained(
                checkpoint,
                config=read_config(checkpoint, checkpoint),
                dtype=model.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        lacking, unknown = list(found["missing_keys"]), list(found["unexpected_keys"])
        result = model.load_state_dict(saved.state_dict(), strict=False)
        result.missing_keys.extend(lacking)
        result.unexpected_keys.extend(unknown)
        self._issue_warnings_after_load(result)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        slices = self._slices(checkpoint)
        with _undamaged(checkpoint):
            if slices is None:
                super()._load_optimizer_and_scheduler(checkpoint)
                return
            slices.load_optimizer(self.policy.model, self._bare_optimizer())
            state = torch.load(Path(str(checkpoint)) / _SCHEDULER, weights_only=True)
            self.lr_scheduler.load_state_dict(state)  # type: ignore[union-attr]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _undamaged(checkpoint):
            super()._load_rng_state(checkpoint)

    @staticmethod
    def _slices(checkpoint: str | None) -> ShardedCheckpoint | None:
        """What a sharded run wrote, whether or not this one is sharded."""
        folder = Path(checkpoint) / SHARDS if checkpoint else None
        return ShardedCheckpoint(folder) if folder is not None and folder.is_dir() else None

    def _bare_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer beneath accelerate's."""
        return getattr(self.optimizer, "optimizer", self.optimizer)  # type: ignore[return-value]

    # --- model folders ---------------------------------------------------------------------------------------------

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
        if not self.ranks.is_first:
            return
        if output_dir is None or Path(output_dir) == self.folder.path:
            with self.folder.whole_files() as staging:
                self._write_model(staging, state_dict)
        else:
            self._write_model(Path(output_dir), state_dict)

    def _write_model(self, where: Path, state_dict: dict[str, Any] | None) -> None:
        model = self.policy.model
        how = how_to_save(model) if has_adapter(model) else {}
        with quiet():
            model.save_pretrained(where, state_dict=state_dict, **how)
        if has_adapter(model):
            _require_adapter(where)
        else:
            copy_processors(model, where)
        self.policy.tokenizer.save_pretrained(where)
        for weights in where.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors writes for the owner alone; the other files follow the umask
