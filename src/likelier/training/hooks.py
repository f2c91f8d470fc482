"""transformers' calls about optimizers, checkpoints and model folders, mended or handed on to a `Checkpointer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from likelier.models.sharding import Gathering
from likelier.training.checkpointing import Checkpointer, undamaged
from likelier.utils.errors import ConfigError, whole_reason
from likelier.utils.terminal import busy


class CheckpointingTrainer(Trainer):
    """A trainer whose checkpoints are a `Checkpointer`'s. Whoever inherits it has the attribute `checkpointer` before
    Trainer's own beginning, and says how far it has come and what it is; whatever it trains on.
    """

    checkpointer: Checkpointer

    def progress(self) -> dict[str, Any]:
        """How far the run has come."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        raise NotImplementedError

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers. Raises `ConfigError` for a block `trainer` whose settings the optimizer does not take."""
        try:
            return super().create_optimizer(*args, **kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise ConfigError(f"transformers refuses the training options: {whole_reason(error)}") from error

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing in a run that was cut after its last step: transformers would make one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpointer.staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with (
            busy("writing a checkpoint"),
            self.checkpointer.writing(self.state.global_step, self.progress, self.fingerprint),
        ):
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.checkpointer.is_sharded:
            self.checkpointer.save_shards(Path(output_dir), self.optimizer, self.lr_scheduler)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        ordinary = super()._load_from_checkpoint
        self.checkpointer.load_weights(Path(resume_from_checkpoint), lambda: ordinary(resume_from_checkpoint, model))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        ordinary = super()._load_optimizer_and_scheduler
        if checkpoint is not None:
            self.checkpointer.load_optimizer(
                Path(checkpoint), self.optimizer, self.lr_scheduler, lambda: ordinary(checkpoint)
            )

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with undamaged(checkpoint):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        self.checkpointer.require_all(load_result.missing_keys, load_result.unexpected_keys)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model as one ordinary folder, written by the first rank. In a checkpoint of a sharded run the weights lie
        in its slices instead.
        """
        with busy("saving the model"):
            if not self.checkpointer.is_sharded:
                super().save_model(output_dir, _internal_call)
            elif not _internal_call:
                self._save(output_dir, self.checkpointer.gathered())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.checkpointer.write_model(None if output_dir is None else Path(output_dir), state_dict)

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        """A sharded model is not to be wrapped, moved or sharded again."""
        if self.checkpointer.is_sharded and not isinstance(model, Gathering):
            return Gathering(model)
        return super()._wrap_model(model, training, dataloader)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self.checkpointer.is_sharded:
            super()._move_model_to_device(model, device)
