"""Calls that wait at the same time: all come back, an error ends them, none that hangs holds the process."""

from __future__ import annotations

import subprocess
import sys
import time
from threading import Event

import pytest

from likelier.utils.threads import in_threads


def test_each_comes_back_with_what_it_was_given() -> None:
    assert dict(in_threads(lambda number: number**2, range(20), most=3)) == {n: n**2 for n in range(20)}
    assert list(in_threads(str, [], most=3)) == []


def test_they_wait_together() -> None:
    started = [Event() for _ in range(3)]

    def meet(number: int) -> bool:
        started[number].set()
        return all(event.wait(30) for event in started)

    assert [met for _, met in in_threads(meet, range(3), most=3)] == [True] * 3


def test_the_first_error_is_raised_and_no_more_are_begun() -> None:
    begun: list[int] = []

    def call(number: int) -> int:
        begun.append(number)
        if number == 0:
            raise ValueError("zero")
        time.sleep(0.01)
        return number

    with pytest.raises(ValueError, match="zero"):
        list(in_threads(call, range(1000), most=1))
    time.sleep(0.05)
    assert len(begun) < 100


@pytest.mark.slow
def test_one_that_hangs_does_not_hold_the_process() -> None:
    code = (
        "import time\nfrom likelier.utils.threads import in_threads\n"
        "def call(n):\n    if n: time.sleep(600)\n    raise ValueError('over')\n"
        "list(in_threads(call, [1, 0], most=2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "over" in done.stderr
