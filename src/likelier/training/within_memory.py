"""What happens where memory runs out: a step is tried before it is needed, and done again in smaller micro-batches.

That is tried in one process on CUDA, where running out of memory is an error that one can go on from; elsewhere the
system ends the process or the whole run ends, with advice.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import nlargest
from typing import TypeVar

import torch
from torch import Tensor, nn

from likelier.data.groups import Group
from likelier.scoring import collate
from likelier.scoring.engine import micro_batches
from likelier.utils.console import warn
from likelier.utils.distributed import Ranks
from likelier.utils.errors import TrainingError, whole_reason
from likelier.utils.terminal import busy

Made = TypeVar("Made")
_ON_A_CPU = "DefaultCPUAllocator"  # stands in the RuntimeError that torch raises there
_ADVICE = (
    "Lower --token-budget, shorten --max-length, take --activation-checkpointing or --lora-r 16; likelier estimate "
    "--model M --memory SIZE tells what fits"
)


class WithinMemory:
    """What a walker over steps does about memory: it keeps to `token_budget`, which shrinks where memory runs out."""

    model: nn.Module
    token_budget: int
    device: torch.device
    ranks: Ranks

    def prove_it_fits(self, groups: Sequence[Group], batch_size: int, moments: int) -> None:
        """Run the fullest micro-batch that any step can have forward and backward, beside what the optimizer will hold.

        Nothing is left of it in weights, gradients, optimizer or random numbers. Where it does not fit, the token
        budget shrinks until it does.

        Args:
            groups: all that is trained on, with their reference scores.
            batch_size: groups of a step.
            moments: bytes that the optimizer will hold.
        """
        longest = nlargest(batch_size, groups, key=lambda group: group.tokens)
        mode, state = self.model.training, _random_state(self.device)
        try:
            with busy("trying whether the fullest micro-batch fits"):
                self.retried(lambda: self._try_fullest(longest, moments), longest)
        finally:
            self.model.zero_grad(set_to_none=True)
            self.model.train(mode)
            _set_random_state(self.device, state)

    def _try_fullest(self, longest: Sequence[Group], moments: int) -> None:
        cut = micro_batches(self.model, longest, self.token_budget)
        held = [torch.empty(moments, dtype=torch.uint8, device=self.device)]
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        if len(cut) > 1:  # the last micro-batches of a step have the gradients of the first beside them
            held += [torch.empty_like(weight) for weight in trained]
        self.model.train()
        batch = collate(cut[0], device=self.device, answers="own" if len(cut) > 1 else "all")
        torch.autograd.grad(self.model(batch=batch).logps.sum(), trained, allow_unused=True)

    def retried(self, work: Callable[[], Made], groups: Sequence[Group]) -> Made:
        """Do the work; where memory runs out, do all of it again within half the budget."""
        state = _random_state(self.device)
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                shortage = whole_reason(error)
            # Here the error is gone, and with it the frames that hold the tensors of the attempt.
            if not can_retry(self.device, self.ranks):
                raise TrainingError(f"memory ran out: {shortage}. {_ADVICE}")
            self._shrink(groups, shortage)
            self.model.zero_grad(set_to_none=True)
            _set_random_state(self.device, state)
            gc.collect()
            torch.cuda.empty_cache()

    def _shrink(self, groups: Sequence[Group], shortage: str) -> None:
        cut = micro_batches(self.model, groups, self.token_budget)
        if max(map(len, cut)) == 1:
            raise TrainingError(
                f"memory ran out with a single row in the micro-batch, at the longest {cut[0][0].source}: {shortage}. "
                f"{_ADVICE}"
            )
        fullest = max(sum(group.tokens for group in part) for part in cut)
        self.token_budget = max(1, min(self.token_budget, fullest) // 2)
        warn(
            f"memory ran out ({shortage}); the step is done again with micro-batches of {self.token_budget} tokens, "
            "and so are those to come. No number changes by that"
        )


def can_retry(device: torch.device, ranks: Ranks) -> bool:
    """Whether one can go on after memory ran out."""
    return device.type == "cuda" and not ranks.several


def moments_of(model: nn.Module, optimizer: str) -> int:
    """Bytes of AdamW's state: two moments a weight, and a third value with Kahan's sum for weights in 16 bits; 0 for
    other optimizers, of which nothing is known here.
    """
    if not str(optimizer).startswith(("adamw_torch", "OptimizerNames.ADAMW_TORCH")) or "bit" in str(optimizer):
        return 0
    trained = (weight for weight in model.parameters() if weight.requires_grad)
    return sum(weight.nbytes * (3 if weight.itemsize == 2 else 2) for weight in trained)


@contextmanager
def advice_when_memory_runs_out() -> Iterator[None]:
    """Turn an allocation that failed into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if isinstance(error, torch.OutOfMemoryError) or _ON_A_CPU in str(error):
            raise TrainingError(f"memory ran out: {whole_reason(error)}. {_ADVICE}") from error
        raise


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
