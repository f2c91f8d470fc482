"""A run that is killed goes on as if nothing had happened. Twenty random moments of real commands: `make soak`."""

import multiprocessing
import signal
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from likelier.runs.folder import RunFolder
from tests.helpers.killed_runs import POINTS, SAVE_STEPS, STEPS, Given, Left, can_go_on, results, run_command

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_network() -> None:
    """Processes are started through a socket of this machine."""


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["likelier.training.run", "tests.helpers.killed_runs"])
    return context


def run(processes: ForkServerContext, words: list[str], log: Path, die_at: tuple[str, int] | None = None) -> str:
    """Run a command; gives what it says, after it ended well or was killed as it should be."""
    process = processes.Process(target=run_command, args=(words, die_at, log))
    process.start()
    process.join(timeout=120)
    said = log.read_text(encoding="utf-8")
    assert process.exitcode == (0 if die_at is None else -signal.SIGKILL), said
    return said


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """What all runs are made of."""
    return Given.made_in(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def whole(given: Given, processes: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is not killed."""
    root = tmp_path_factory.mktemp("whole")
    run(processes, given.words(root / "run"), root / "log")
    return root / "run"


@pytest.mark.parametrize(
    ("doing", "call"),
    [("step", 8), ("checkpoint, sealed", 2), ("checkpoint, moved", 2), ("store", 1), ("evaluation", 2)],
)
def test_a_killed_run_goes_on(
    given: Given, whole: Path, processes: ForkServerContext, tmp_path: Path, doing: str, call: int
) -> None:
    output = tmp_path / "run"
    run(processes, given.words(output), tmp_path / "log", (POINTS[doing], call))
    left = Left.by(output)
    assert left.logged - left.saved <= SAVE_STEPS
    assert can_go_on(output)
    said = run(processes, given.words(output, "--resume"), tmp_path / "log")
    assert (f"going on from step {left.saved}" if left.saved else "the run begins again") in said
    assert results(output) == results(whole) and results(output)[1][-1]["step"] == STEPS


@pytest.mark.parametrize(("more", "doing", "call"), [((), "step", 8), (("--lora-r", "4"), "checkpoint, sealed", 2)])
def test_a_killed_reward_run_goes_on(
    given: Given, processes: ForkServerContext, tmp_path: Path, more: tuple[str, ...], doing: str, call: int
) -> None:
    """Bit for bit: the weights, an adapter's head among them, all metrics, and the mean score of training answers."""
    kept, output = tmp_path / "kept", tmp_path / "run"
    run(processes, given.words_of_reward(kept, *more), tmp_path / "log")
    run(processes, given.words_of_reward(output, *more), tmp_path / "log", (POINTS[doing], call))
    run(processes, given.words_of_reward(output, *more, "--resume"), tmp_path / "log")
    assert results(output) == results(kept) and results(output)[1][-1]["step"] == STEPS
    offsets = [RunFolder(one).card().reward_offset for one in (output, kept)]
    assert offsets[0] is not None and offsets[0] == offsets[1]


def test_a_killed_run_goes_on_with_what_its_objective_carried(
    given: Given, processes: ForkServerContext, tmp_path: Path
) -> None:
    """Bit for bit: the running mean of BCO's rewards, and all that follows from it."""
    kept, output = tmp_path / "kept", tmp_path / "run"
    run(processes, given.words_of_bco(kept), tmp_path / "log")
    run(processes, given.words_of_bco(output), tmp_path / "log", (POINTS["step"], 8))
    run(processes, given.words_of_bco(output, "--resume"), tmp_path / "log")
    assert results(output) == results(kept) and results(output)[1][-1]["step"] == STEPS
    states = [RunFolder(one).card().objective_state for one in (output, kept)]
    assert states[0] == states[1] and states[0]["chosen"][1] == 4 * STEPS
    assert states[0]["chosen"][0] != 0.0 != states[0]["rejected"][0]
