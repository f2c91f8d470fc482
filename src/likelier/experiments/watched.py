"""One run as commands start it: shown while it trains, diagnosed when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from likelier.data.load import PreferenceData
from likelier.insight.diagnose import diagnose
from likelier.insight.live.progress import ProgressDisplay
from likelier.online.config import OnlineConfig
from likelier.online.run import train_online
from likelier.online.trainer import OnlineTrainer
from likelier.runs.folder import RunFolder
from likelier.runs.ownership import take_away_begun
from likelier.runs.reader import read_run
from likelier.training.config import RunConfig
from likelier.training.run import train
from likelier.training.trainer import PreferenceTrainer
from likelier.utils.console import say, speaks
from likelier.utils.files import refuse_link
from likelier.utils.shell import quoted


def what_there_is(folder: RunFolder, kind: str) -> str:
    """Of one of several runs: `done`, `checkpoints`, or `nothing`; what was begun without one is taken away."""
    refuse_link(folder.path)
    if folder.is_finished():
        return "done"
    if folder.checkpoints.flaws():  # whether it can go on, the run itself tells
        return "checkpoints"
    if folder.path.exists():
        say(f"{folder.path} has no checkpoint: the {kind} begins again")
        take_away_begun(folder.path)
    return "nothing"


def train_watched(
    config: RunConfig, data: PreferenceData | None = None, card: Mapping[str, Any] | None = None
) -> PreferenceTrainer:
    """Train as `training.run.train` does, with the live display, and say what the diagnosis finds."""
    trainer = train(config, data, card, [ProgressDisplay()])
    if speaks():  # of several processes the first one
        _say_what_is_found(config.run.output)
    return trainer


def train_any_watched(config: RunConfig | OnlineConfig) -> None:
    """Train a run of either kind."""
    if isinstance(config, OnlineConfig):
        train_online_watched(config)
    else:
        train_watched(config)


def train_online_watched(config: OnlineConfig) -> OnlineTrainer:
    """The same for a run that learns from answers that it writes."""
    trainer = train_online(config, None, [ProgressDisplay()])
    _say_what_is_found(config.run.output)
    return trainer


def _say_what_is_found(output: str) -> None:
    for verdict in diagnose(read_run(output)):
        say(f"diagnosis: {verdict.severity}: {verdict.title}")
    here = quoted(output)
    say(f"next: likelier report {here} (a page with everything), likelier diagnose {here}")
