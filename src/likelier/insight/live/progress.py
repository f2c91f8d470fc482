"""The live display of a training run, as a transformers callback that only looks: it reads what the run writes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from likelier.insight.live.view import evaluation_line, pace_of, step_line, view_of, warning_line
from likelier.insight.live.watch import Follower
from likelier.insight.report.account import unit
from likelier.utils.console import say
from likelier.utils.terminal import Display, counting, out_of_order

_PAUSE = 1.0  # seconds between two looks for warnings where there is no display


class ProgressDisplay(TrainerCallback):
    """What `likelier watch` shows, in the terminal of the run itself; plain lines now and then where there is none.

    `lines` is about how many of these there are. A fault of the display does not end the run: it is told, and the
    display goes.
    """

    def __init__(self, lines: int = 10) -> None:
        self._lines = lines
        self._follower: Follower | None = None
        self._display: Display | None = None
        self._is_broken = False
        self._recent: deque[dict[str, Any]] = deque(maxlen=20)
        self._next_look = 0.0
        self._phase = ExitStack()
        self._advance: Callable[[int], None] = lambda done: None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follower = Follower(str(args.output_dir))
        self._safely(lambda: self._begin(state.max_steps, state.global_step))

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._safely(self._tell_warnings if self._display is None else self._display.refresh)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._advance(1)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        row = {"step": state.global_step, **logs}
        self._recent.append(row)
        every = max(1, state.max_steps // self._lines)
        if self._display is None and (state.global_step % every == 0 or state.global_step == state.max_steps):
            self._safely(lambda: self._tell_step(row, state.max_steps))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        if self._display is not None:
            self._safely(self._display.refresh)
        elif metrics:
            row = {name.removeprefix("eval_"): value for name, value in metrics.items()}
            self._safely(lambda: say(evaluation_line(row, state.global_step)))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._safely(self.close)
        self._follower = None

    def close(self) -> None:
        """Leave the last state on the screen, also after an error."""
        self._phase.close()
        if self._display is not None:
            self._display.stop()
            self._display = None
        elif self._follower is not None:
            self._next_look = 0.0
            self._tell_warnings()

    def _begin(self, steps: int, done: int) -> None:
        display = Display(self._view)
        if display.is_possible:
            self._display = display
            display.start()
        else:
            self._advance = self._phase.enter_context(counting("training, in steps", steps - done))

    def _view(self) -> Any:
        assert self._follower is not None and self._display is not None
        run = self._follower.read()
        return view_of(run, self._follower.warnings, ascii_only=self._display.console.options.ascii_only)

    def _tell_step(self, row: dict[str, Any], total: int) -> None:
        assert self._follower is not None
        say(step_line(row, total, pace_of(list(self._recent)), unit(self._follower.read())))

    def _tell_warnings(self) -> None:
        """Each once, as it arises."""
        if self._follower is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _PAUSE
        self._follower.read()
        for verdict in self._follower.new_warnings():
            say(warning_line(verdict))

    def _safely(self, action: Callable[[], None]) -> None:
        """Show, unless the display has had a fault before."""
        if self._is_broken:
            return
        try:
            action()
        except Exception as error:  # whatever it is, hours of training are worth more than the display
            display, self._display, self._is_broken = self._display, None, True
            if display is not None:
                display.abandon(error)
            else:
                say(out_of_order(error))
