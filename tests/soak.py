"""Long tests, by `make soak`: twenty runs killed at random moments, and a run of 5,000 steps whose memory, open files
and metrics are watched.

    python -m tests.soak [kills|steps] [--seed N] [--count N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback

from tests.helpers.killed_runs import POINTS, SAVE_STEPS, Given, Left, can_go_on, results

Point = tuple[str, int] | None
MOST_GROWTH = 0.02  # of memory, after the warm-up
WARM_UP = 500  # steps


# --- kills -----------------------------------------------------------------------------------------------------------


def start(words: Sequence[str], point: Point, log: Path) -> subprocess.Popen[bytes]:
    """`likelier WORDS` in a process of its own, which kills itself at a point."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.helpers.killed_runs", json.dumps(point), *words]
    with open(log, "wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)


def whole_run(given: Given, root: Path) -> tuple[Path, dict[str, int], float]:
    """A run that is not killed: its folder, how often it reached each point, its seconds from its first card on."""
    process = start(given.words(root / "whole"), None, root / "whole.log")
    wait_for_card(root / "whole", process)
    begun = time.monotonic()
    assert process.wait() == 0, (root / "whole.log").read_text()
    calls = json.loads((root / "whole.log").read_text().splitlines()[-1])
    return root / "whole", calls, time.monotonic() - begun


def wait_for_card(output: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a run has begun: most of its seconds go into imports before."""
    while process.poll() is None and not (output / "run.json").exists():
        time.sleep(0.01)


def moments(calls: dict[str, int], seconds: float, count: int, rng: random.Random) -> list[tuple[str, Point, float]]:
    """Random moments to kill a run at: three of four at a call of a point, each point as often as the others; the rest
    at any time. Names, points, and seconds after the first card.
    """
    found: list[tuple[str, Point, float]] = []
    names = [name for name, function in POINTS.items() if calls.get(function)]
    for number in range(count):
        if number % 4 == 3:
            found.append(("at any time", None, rng.uniform(0.0, 1.0) * seconds))
        else:
            name = names[(number - number // 4) % len(names)]
            found.append((name, (POINTS[name], rng.randint(1, calls[POINTS[name]])), 0.0))
    return found


def kill_one(given: Given, output: Path, point: Point, seconds: float) -> Left:
    """Kill a run and go on with it until it ends; gives what the kill left."""
    log = output.with_suffix(".log")
    process = start(given.words(output), point, log)
    if point is None:
        wait_for_card(output, process)
        time.sleep(seconds)
        process.kill()
    code = process.wait()
    assert code in (-signal.SIGKILL, 0) and (point is None or code), log.read_text()
    left = Left.by(output)
    more = ["--resume"] if can_go_on(output) else []
    if code == 0:  # it was done before it could be killed
        return left
    assert start(given.words(output, *more), None, log).wait() == 0, log.read_text()
    if more:
        said = f"going on from step {left.saved}" if left.saved else "the run begins again"
        assert said in log.read_text(), log.read_text()
    return left


def soak_kills(root: Path, count: int, seed: int) -> None:
    """Each run that was killed must end as the one that was not, and lose no more than a checkpoint's interval."""
    given = Given.made_in(root)
    whole, calls, seconds = whole_run(given, root)
    print(f"a run of {seconds:.1f} s (from its card on) reaches: {calls}", flush=True)
    expected, lost = results(whole), []
    for number, (doing, point, after) in enumerate(moments(calls, seconds, count, random.Random(seed)), 1):
        left = kill_one(given, root / f"run-{number}", point, after)
        where = f"call {point[1]} of {calls[point[0]]}" if point else f"after {after:.1f} s"
        lost.append(left.logged - left.saved)
        assert results(root / f"run-{number}") == expected, f"other results after a kill: {doing}, {where}"
        assert lost[-1] <= SAVE_STEPS
        words = f"{left.logged} steps logged, goes on from {left.saved}"
        print(f"kill {number:2}: {doing}, {where}: {words}: the same weights and metrics", flush=True)
    print(f"{count} kills: all equal bit for bit; at most {max(lost)} of {SAVE_STEPS} steps lost", flush=True)


# --- many steps ------------------------------------------------------------------------------------------------------


class Watcher(TrainerCallback):
    """Memory and open files of this process, every hundred steps."""

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}
        self.files: dict[int, int] = {}

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        step = state.global_step  # type: ignore[attr-defined]
        if step % 100 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.memory[step] = pages * os.sysconf("SC_PAGE_SIZE")
            self.files[step] = sum(1 for _ in Path("/proc/self/fd").iterdir())


class Reader(threading.Thread):
    """Reads metrics.jsonl at random moments: every line must be whole and valid.

    A look in the very midst of a write, which the system shows page by page, can see a line's beginning; it must be
    whole at once.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(daemon=True)
        self.file, self.looks, self.midst, self.fault = file, 0, 0, ""
        self._is_over = threading.Event()

    def run(self) -> None:
        rng = random.Random(0)
        while not self._is_over.wait(rng.uniform(0.0, 0.05)):
            text = self._end_of_file()
            self.looks += 1
            if text and not text.endswith("\n"):
                self.midst += 1
                text = self._end_of_file()
            try:
                assert text == "" or text.endswith("\n"), "the last line is not whole"
                steps = [json.loads(line)["step"] for line in text.splitlines()[1:]]
                assert steps == sorted(steps), "the steps are not in order"
            except (ValueError, KeyError, AssertionError) as error:
                self.fault = f"{error}: ...{text[-200:]!r}"
                return

    def _end_of_file(self) -> str:
        """Its last lines, the first of which is cut: reading all of it would be what grows in this process."""
        if not self.file.exists():
            return ""
        with open(self.file, "rb") as stream:
            stream.seek(max(0, self.file.stat().st_size - 20_000))
            return stream.read().decode()

    def stop(self) -> None:
        """End it. Raises `AssertionError` for what it found."""
        self._is_over.set()
        self.join()
        assert not self.fault, self.fault


def soak_steps(root: Path, steps: int) -> None:
    """A tiny model over many steps: flat memory, no file left open, whole lines at every moment."""
    from likelier import DPO, PreferenceTrainer
    from tests.helpers.support import chat_pairs, tiny_policy

    watcher, reader = Watcher(), Reader(root / "run" / "metrics.jsonl")
    trainer = PreferenceTrainer(
        tiny_policy(dtype=torch.float32),
        DPO(),
        chat_pairs(200),
        eval_data=chat_pairs(20, seed=1),
        output_dir=root / "run",
        batch_size=8,
        max_steps=steps,
        learning_rate=1e-5,
        save_steps=250,
        save_total_limit=2,
        eval_steps=500,
        eval_prompts=0,
        callbacks=[watcher],
    )
    reader.start()
    trainer.train()
    reader.stop()
    assert [row["step"] for row in trainer.folder.read_metrics() if "loss" in row] == list(range(1, steps + 1))
    warm = min(WARM_UP, steps // 2)
    first, last = watcher.memory[warm], watcher.memory[max(watcher.memory)]
    highest = max(size for step, size in watcher.memory.items() if step >= warm)
    files = {count for step, count in watcher.files.items() if step >= warm}
    state = (root / "run" / "checkpoints" / f"step-{steps}" / "trainer_state.json").stat().st_size
    print(f"memory: {first / 2**20:.1f} MiB at step {warm}, {last / 2**20:.1f} at step {steps}", flush=True)
    print(
        f"growth: {last / first - 1:+.2%}, at most {highest / first - 1:+.2%}; open files: {sorted(files)}", flush=True
    )
    looks = f"read {reader.looks} times, {reader.midst} of them in the midst of a write; every line was whole"
    print(f"metrics.jsonl: {looks}; trainer_state.json: {state} bytes", flush=True)
    assert highest / first - 1 <= MOST_GROWTH and len(files) == 1


def main() -> None:
    """Both, or the one that is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=["kills", "steps", "all"], default="all")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--count", type=int, help="kills (20), or steps (5000)")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIKELIER_CACHE"] = f"{folder}/cache"
        if flags.what in ("kills", "all"):
            print(f"seed {flags.seed}", flush=True)
            soak_kills(Path(folder), flags.count or 20, flags.seed)
        if flags.what in ("steps", "all"):
            soak_steps(Path(folder), flags.count or 5000)


if __name__ == "__main__":
    main()
