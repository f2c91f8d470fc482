"""A function in a process of its own: answers, errors, overruns, crashes; nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from likelier.utils.errors import ConfigError
from likelier.utils.user_code import load_function
from likelier.utils.worker import Overrun, Worker

pytestmark = pytest.mark.slow

SOURCE = """
import os, sys, time, subprocess
def double(x): return 2 * x
def pid(): return os.getpid()
def sleep(seconds): time.sleep(seconds)
def lock(): return sum(range(10 ** 12))
def die(): os.kill(os.getpid(), 11)
def leave(): os._exit(7)
def quit(): sys.exit("enough")
def child(): return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
def hang(): print(os.getpid(), flush=True); time.sleep(600)
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    (tmp_path / "functions.py").write_text(SOURCE)
    made = []

    def worker(name: str) -> Worker:
        made.append(Worker(load_function, f"{tmp_path}/functions.py:{name}", "reward", where="reward"))
        return made[-1]

    yield worker
    for one in made:
        one.close()


def ended(process: int, within: float = 20.0) -> bool:
    """Whether a process is gone, or will be; one that nobody asked for its end counts as gone."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_answers_come_from_one_process_that_is_not_ours(make: Callable[[str], Worker]) -> None:
    assert make("double").ask(4, limit=60) == 8
    worker = make("pid")
    first = worker.ask(limit=60)
    assert first == worker.ask(limit=60) != os.getpid()
    worker.close()
    assert ended(first)


def test_what_takes_too_long_is_ended_and_the_next_answer_comes(make: Callable[[str], Worker]) -> None:
    worker = make("sleep")
    worker.ask(0, limit=60)
    with pytest.raises(Overrun):
        worker.ask(600, limit=0.1)
    assert worker.ask(0, limit=60) is None


def test_what_holds_the_lock_of_python_is_ended_too(make: Callable[[str], Worker]) -> None:
    with pytest.raises(Overrun):
        make("lock").ask(limit=0.1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("die", "reward: its process ended by SIGSEGV"),
        ("leave", "reward: its process ended with exit code 7"),
        ("quit", "SystemExit: enough"),
        ("double", r"TypeError: double\(\) missing 1 required positional argument"),
        ("gone", r"functions\.py has no function 'gone'"),
    ],
)
def test_a_failure_is_told(make: Callable[[str], Worker], name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(name).ask(limit=60)


def test_what_it_started_ends_with_it(make: Callable[[str], Worker]) -> None:
    worker = make("child")
    grandchild = worker.ask(limit=60)
    assert Path(f"/proc/{grandchild}").exists()
    worker.close()
    assert ended(grandchild)


SCRIPT = """
import sys
from likelier.utils.user_code import load_function
from likelier.utils.worker import Worker
print("once", flush=True)
Worker(load_function, sys.argv[1], "reward", where="reward").ask(limit=600)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_orphan_is_left_however_we_end(make: Callable[[str], Worker], tmp_path: Path, end: signal.Signals) -> None:
    """A script without a guard, which runs once only though it starts a process."""
    make("hang")
    (tmp_path / "script.py").write_text(SCRIPT)
    run = [sys.executable, str(tmp_path / "script.py"), f"{tmp_path}/functions.py:hang"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "once\n"
        worker = int(process.stdout.readline())
        process.send_signal(end)
        process.wait(60)
        assert ended(worker)


def test_the_end_of_the_program_ends_an_idle_process(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(SOURCE)
    script = SCRIPT.replace("Worker(", "worker = Worker(").replace(".ask(limit=600)", "\nprint(worker.ask(limit=60))")
    (tmp_path / "script.py").write_text(script)
    run = [sys.executable, str(tmp_path / "script.py"), f"{tmp_path}/functions.py:pid"]
    told = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True).stdout.split()
    assert told[0] == "once" and ended(int(told[1]))
