"""One run as commands start it: shown while it trains, diagnosed when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from likelier.data.load import PreferenceData
from likelier.insight.diagnose import diagnose
from likelier.insight.live.progress import ProgressDisplay
from likelier.runs.reader import read_run
from likelier.training.config import RunConfig
from likelier.training.run import train
from likelier.training.trainer import PreferenceTrainer
from likelier.utils.console import say, speaks
from likelier.utils.shell import quoted


def train_watched(
    config: RunConfig, data: PreferenceData | None = None, card: Mapping[str, Any] | None = None
) -> PreferenceTrainer:
    """Train as `training.run.train` does, with the live display, and say what the diagnosis finds."""
    trainer = train(config, data, card, [ProgressDisplay()])
    if speaks():  # of several processes the first one
        output = config.run.output
        for verdict in diagnose(read_run(output)):
            say(f"diagnosis: {verdict.severity}: {verdict.title}")
        here = quoted(output)
        say(f"next: likelier report {here} (a page with everything), likelier diagnose {here}")
    return trainer
