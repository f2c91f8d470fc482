"""Checkpoints that are whole or not there, and model folders that hold the policy and no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from likelier.models.adapter_parts import has_adapter, how_to_save
from likelier.models.loading import quiet, save_whole
from likelier.models.policy import Policy
from likelier.models.safe_loading import read_config
from likelier.models.sharding import SHARDS, ShardedCheckpoint, gathered_state, is_sharded, save_shards
from likelier.runs.checkpoints import PROGRESS
from likelier.runs.folder import RunFolder
from likelier.utils.distributed import Ranks
from likelier.utils.errors import LikelierError, RunFolderError, TrainingError, whole_reason
from likelier.utils.files import read_object

_SCHEDULER = "scheduler.pt"  # as transformers calls it


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """How far a run had come (see `Checkpointer.writing`). Raises `RunFolderError` if that cannot be read."""
    with undamaged(checkpoint):
        return read_object(checkpoint / PROGRESS)


@contextmanager
def undamaged(checkpoint: object) -> Iterator[None]:
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


class Checkpointer:
    """Writes a run's checkpoints and model folders whole, and reads them again: staged, then moved to their place.

    It knows policy, folder and ranks, and no trainer: whoever trains hands it optimizer and scheduler, and says how far
    it has come. `saved_step` is the step of the newest checkpoint, -1 without one.
    """

    def __init__(self, policy: Policy, folder: RunFolder, ranks: Ranks, *, keep: int | None = None) -> None:
        self.policy, self.folder, self.ranks, self.keep = policy, folder, ranks, keep
        self.saved_step = -1

    @property
    def staging(self) -> Path:
        """Where a checkpoint is written before it is moved to checkpoints/step-N."""
        return self.folder.checkpoints.staging

    @contextmanager
    def writing(
        self, step: int, progress: Callable[[], dict[str, Any]], fingerprint: Callable[[], dict[str, Any]]
    ) -> Iterator[None]:
        """Around the writing of `staging`/checkpoint-`step` by all ranks together; the first moves it to its place.

        `progress` says how far the run has come, `fingerprint` what a resumed run must have in common with this one.
        """
        with self.folder.staged(step):
            yield
            come = progress()
            self.ranks.wait()
            if self.ranks.is_first:
                staged = self.staging / f"checkpoint-{step}"
                (staged / PROGRESS).write_text(json.dumps(come), encoding="utf-8")
                self.folder.publish_checkpoint(staged, step, self.keep, fingerprint())
            self.ranks.wait()
        self.saved_step = step

    # --- weights, optimizer, scheduler -----------------------------------------------------------------------------

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds a part of every weight."""
        return is_sharded(self.policy.model)

    def gathered(self) -> dict[str, Any]:
        """All weights of a sharded model, on the first rank."""
        return gathered_state(self.policy.model, keep=self.ranks.is_first)

    def save_shards(self, folder: Path, optimizer: Any, scheduler: Any) -> None:
        """Weights and optimizer of a sharded model as each rank's slices, the scheduler once."""
        save_shards(folder / SHARDS, self.policy.model, _bare(optimizer), self.ranks)
        if self.ranks.is_first:
            torch.save(scheduler.state_dict(), folder / _SCHEDULER)

    def load_weights(self, checkpoint: Path, ordinary: Callable[[], None]) -> None:
        """Read the weights of a checkpoint into the model; `ordinary` is how they are read from an ordinary folder.
        Raises `RunFolderError` for one that is damaged or does not fit.
        """
        slices = _slices(checkpoint)
        if slices is None and self.is_sharded:
            raise RunFolderError(
                f"{checkpoint} was written without shard, and a sharded run cannot go on from it; resume without shard"
            )
        with undamaged(checkpoint):
            if slices is not None:
                slices.load_weights(self.policy.model)
            elif self._has_other_names(checkpoint):
                self._load_renamed(checkpoint)
            else:
                ordinary()

    def load_optimizer(self, checkpoint: Path, optimizer: Any, scheduler: Any, ordinary: Callable[[], None]) -> None:
        """Read optimizer and scheduler; `ordinary` is how they are read where nothing is sharded."""
        slices = _slices(checkpoint)
        with undamaged(checkpoint):
            if slices is None:
                ordinary()
                return
            slices.load_optimizer(self.policy.model, _bare(optimizer))
            scheduler.load_state_dict(torch.load(checkpoint / _SCHEDULER, weights_only=True))

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

    def _load_renamed(self, checkpoint: Path) -> None:
        """Let transformers give the weights the names that they have in memory."""
        model: Any = self.policy.model
        with quiet():
            saved, found = type(model).from_pretrained(
                str(checkpoint),
                config=read_config(str(checkpoint), str(checkpoint)),
                dtype=model.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        lacking, unknown = list(found["missing_keys"]), list(found["unexpected_keys"])
        result = model.load_state_dict(saved.state_dict(), strict=False)
        self.require_all([*result.missing_keys, *lacking], [*result.unexpected_keys, *unknown])

    def require_all(self, missing: Sequence[str], unexpected: Sequence[str]) -> None:
        """A checkpoint holds every weight; a tied one only under its other name. Raises `RunFolderError`."""
        tied = getattr(self.policy.model, "_tied_weights_keys", None) or ()
        missing = [name for name in missing if name not in tied]
        if missing or unexpected:
            raise RunFolderError(
                f"the checkpoint does not fit the model: missing {missing[:3]}, unexpected {list(unexpected[:3])}; "
                "resume with the model that the run began with"
            )

    # --- model folders ---------------------------------------------------------------------------------------------

    def write_model(self, where: Path | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """An ordinary Hugging Face folder (or adapter), and nothing else; by default, and whole, the run's own folder.
        The first rank writes it.
        """
        if not self.ranks.is_first:
            return
        if where is None or where == self.folder.path:
            with self.folder.whole_files() as staging:
                self._write_model(staging, state_dict)
        else:
            self._write_model(where, state_dict)

    def _write_model(self, where: Path, state_dict: dict[str, Any] | None) -> None:
        model = self.policy.model
        how = how_to_save(model) if has_adapter(model) else {}
        save_whole(model, self.policy.tokenizer, where, state_dict=state_dict, **how)
        if has_adapter(model):
            _require_adapter(where)


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer beneath accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def _slices(checkpoint: Path) -> ShardedCheckpoint | None:
    """What a sharded run wrote, whether or not this one is sharded."""
    folder = checkpoint / SHARDS
    return ShardedCheckpoint(folder) if folder.is_dir() else None
