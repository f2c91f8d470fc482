"""The live display of a training run, as a transformers callback that only looks."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from likelier.console import progress, say


class ProgressDisplay(TrainerCallback):
    """A bar with loss, margin, accuracy and time left; plain lines now and then where there is no terminal."""

    def __init__(self, lines: int = 10) -> None:
        self._lines = lines
        self._bar: Any = None
        self._task: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        from rich.progress import TextColumn

        self._bar = progress(TextColumn("{task.fields[figures]}"))
        self._bar.start()
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, figures="")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if self._bar is None or not logs or "loss" not in logs:
            return
        figures = figures_of(logs)
        self._bar.update(self._task, completed=state.global_step, figures=figures)
        every = max(1, state.max_steps // self._lines)
        if self._bar.disable and (state.global_step % every == 0 or state.global_step == state.max_steps):
            say(f"step {state.global_step}/{state.max_steps}  {figures}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the screen, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def figures_of(logs: dict[str, Any]) -> str:
    """The few figures worth a line."""
    named = (("loss", "loss"), ("rewards/margins", "margin"), ("rewards/accuracies", "accuracy"), ("kl", "kl"))
    return "  ".join(f"{short} {logs[name]:.3f}" for name, short in named if name in logs)
