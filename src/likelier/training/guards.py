"""What stands between a computed step and the weights, and around a run as a whole. Neither knows a trainer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from likelier.runs.folder import RunFolder
from likelier.training.heartbeat import PATIENCE, Heartbeat, speaks_of
from likelier.training.log_window import MetricWindow
from likelier.training.movement import Movement
from likelier.training.nonfinite import StepJudge
from likelier.training.step import StepResult
from likelier.training.stop_signals import Interrupted, Interruption
from likelier.utils.console import say_error, warn
from likelier.utils.distributed import Ranks
from likelier.utils.errors import OTHER_RANK_ENDED, OtherRankEndedError, RunFolderError

_GO_ON = "the run ends; start it again with --resume, and it goes on from its last checkpoint"

NO_GRADIENT = "no trainable weight reaches the loss; look at what is frozen"


class StepGuard:
    """Lets a step reach the weights only if its numbers are finite; the window, and `learnt`, get those that do.

    Called twice a step, in this order: `accepts` when losses are computed, `accepts_gradient` before the optimizer. Who
    is told no leaves the optimizer nothing: without gradients it changes neither weights nor moments.
    """

    def __init__(
        self,
        judge: StepJudge,
        window: MetricWindow,
        movement: Movement,
        without_gradient: str = NO_GRADIENT,
        learnt: Callable[[StepResult], None] = lambda done: None,
    ) -> None:
        self.judge, self.window, self.movement, self._learnt = judge, window, movement, learnt
        self._without_gradient = without_gradient  # the likely cause where the first step has none
        self._made: StepResult | None = None  # the step on its way to the weights; None if it is skipped
        self._rows = 0  # of all ranks

    def accepts(self, step: int, done: StepResult, rows: int) -> bool:
        """Whether the losses and scores of step number `step` are finite on every rank; it has `rows` in all."""
        self._rows = rows
        accepted = self.judge.accepts_loss(step, done)
        self._made = done if accepted else None
        if not accepted:
            self.window.skip(rows)
        return accepted

    def accepts_gradient(self, step: int, norm: float) -> bool:
        """Whether its gradient's norm is finite on every rank; False too where the step was not accepted before."""
        done, self._made = self._made, None
        if done is None:
            return False
        if step == 1 and norm == 0.0:
            warn(f"the first step's gradient is 0: {self._without_gradient}")
        if not self.judge.accepts_gradient(step, done, norm):
            self.window.skip(self._rows)
            return False
        self.movement.saw_gradient(norm)
        for part in done.parts:
            self.window.add(part)
        self.window.end_step(done.statistics)
        self._learnt(done)
        return True


class RunGuard:
    """Around a run: its end is written into its card, and ranks watch over one another (see `Heartbeat`).

    `begun` says whether the card in the folder is this run's, and no earlier one's.
    """

    def __init__(self, folder: RunFolder, ranks: Ranks, patience: float | None) -> None:
        self.folder, self.ranks, self.begun = folder, ranks, False
        self._patience = patience or PATIENCE

    @contextmanager
    def watching(self) -> Iterator[Heartbeat]:
        """In here the other ranks are watched over. They learn of an error that leaves it, and the folder is let go."""
        heartbeat = Heartbeat(self.ranks, self._patience, self._end_with_another)
        heartbeat.start()
        try:
            yield heartbeat
        except BaseException as error:
            heartbeat.failed(error)
            self.folder.close()
            raise
        finally:
            heartbeat.close()

    @contextmanager
    def running(self, interruption: Interruption, at_error: Callable[[], None]) -> Iterator[None]:
        """Around all of training, with the folder open: how it ends stands in the card, and the folder is let go.
        `at_error` is called where it ends before its time; what it raises is not told, the error itself is.
        """
        with self.watching() as heartbeat:
            try:
                yield
            except BaseException as ended:
                together = isinstance(ended, Interrupted) and interruption.agreed is not None
                other = None if together else heartbeat.failed(ended)
                error = ended if other is None else OtherRankEndedError(f"{other or 'another rank is gone'}: {_GO_ON}")
                self._write_end(error)
                with suppress(Exception):  # a tracker that is out of reach, say: the error to tell is the first one
                    at_error()
                if other is None:
                    raise
                raise error from ended
            finally:
                heartbeat.close()
                self.folder.close()

    def _end_with_another(self, told: str) -> None:
        """End this process, whose main thread may wait for another one for good."""
        self._write_end(OtherRankEndedError(told))
        if speaks_of(told, self.ranks):
            say_error(f"error: {told}: {_GO_ON}")
        os._exit(OTHER_RANK_ENDED)

    def _write_end(self, error: BaseException) -> None:
        if self.begun:  # else the card is that of a run before, which a refused resume leaves alone
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(RunFolderError):  # the error to tell is the first one, also where nothing can be written
                self.folder.end_card({"status": status, "error": f"{type(error).__name__}: {error}"})
