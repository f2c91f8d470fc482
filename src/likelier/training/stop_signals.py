"""Signals that ask a run to end: SIGTERM of a cluster that takes the machine back, SIGINT of a Ctrl-C, SIGHUP of a
terminal or connection that is gone (`nohup` has it ignored).

The first one while steps are made lets the step end, has a checkpoint written and then ends the run; a second one, or
one before the first step or after the last, ends it at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from likelier.utils.console import say

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked a run to end. `exit_code` is the one that shells expect: 129 for SIGHUP, 130 for SIGINT, 143
    for SIGTERM."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(words or f"{signal.Signals(number).name}: ended at once")
        self.exit_code = 128 + number


class Interruption:
    """The signals that reached this process while it trains. A context: the handlers before are put back at its end.

    Outside the main thread, where Python has no handlers, nothing is caught, nor is a signal that is ignored already.

    `agree` makes one number of those of all processes (of one that was asked, its signal; else 0): each process calls
    it at the same places, after every step, evaluation and checkpoint.
    """

    def __init__(self, agree: Callable[[int], int] = int) -> None:
        self.agree = agree
        self.asked: int | None = None  # the signal that reached this process
        self.agreed: int | None = None  # the signal for which all processes end
        self.is_patient = False  # whether a step is being made, whose end is worth waiting for
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if not self.is_patient or self.asked is not None:
            raise Interrupted(number)
        self.asked = number
        words = f"{signal.Signals(number).name}: the step ends, a checkpoint is written, then the run ends; "
        with suppress(OSError):  # not print: the signal may have come in the midst of one
            os.write(2, f"{words}a second signal ends it at once\n".encode())

    def settle(self) -> bool:
        """Whether the processes have agreed to end. Waits for all of them."""
        if self.agreed is None:
            self.agreed = self.agree(self.asked or 0) or None
        return self.agreed is not None

    def end_if_asked(self, step: int, save: Callable[[], None]) -> None:
        """After the steps: raises `Interrupted` where a signal has ended them, or came after the last one's end. `save`
        sees to a checkpoint of this last `step`.
        """
        self.is_patient = False
        if not self.settle():
            return
        save()
        words = f"ended after step {step}, with a checkpoint"
        say(f"the run {words}; the same command with --resume goes on from there")
        raise Interrupted(self.agreed or 0, words)


class EndWhenAsked(TrainerCallback):
    """Ends training where an `Interruption` says so: after a step or an evaluation with a checkpoint, after a
    checkpoint without another one.
    """

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._interruption.is_patient = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._end(control, save=True)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._interruption.is_patient:
            self._end(control, save=True)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._end(control, save=False)

    def _end(self, control: TrainerControl, *, save: bool) -> None:
        if self._interruption.settle():
            control.should_training_stop = True
            control.should_save = control.should_save or save
