"""Work that takes long is told of in plain lines where there is no terminal, and short work is not."""

from __future__ import annotations

import pytest

from likelier.utils import terminal
from likelier.utils.phases import Phases
from likelier.utils.terminal import busy, counting


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    return _Clock()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, clock: _Clock) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(terminal, "_phases", Phases(lines.append, lambda: 100.0, clock))
    return lines


def _after(seconds: float, clock: _Clock) -> None:
    clock.now += seconds
    terminal._phases.tell()


def test_counted_work_tells_how_far_it_is_and_what_is_left(clock: _Clock, told: list[str]) -> None:
    with counting("scoring the reference", 40) as report:
        report(10)
        _after(4.0, clock)
        assert told == []
        _after(1.0, clock)
        _after(8.0, clock)
        assert told == ["scoring the reference: 10 of 40, 5 s so far, about 15 s left"]
        _after(1.0, clock)
        assert len(told) == 2
    _after(60.0, clock)
    assert len(told) == 2


def test_what_is_said_of_work_may_change_while_it_runs(clock: _Clock, told: list[str]) -> None:
    with counting(lambda: f"sampling ({clock.now:.0f} tokens a second)", 4) as report:
        report(1)
        _after(12.0, clock)
    assert told == ["sampling (112 tokens a second): 1 of 4, 12 s so far, about 36 s left"]


def test_work_of_unknown_length_tells_how_long_it_takes(clock: _Clock, told: list[str]) -> None:
    with busy("loading demo"):
        _after(12.0, clock)
    assert told == ["loading demo: 12 s so far"]


def test_the_innermost_work_is_told_and_then_the_one_around_it(clock: _Clock, told: list[str]) -> None:
    with counting("training, in steps", 4) as report:
        report(1)
        with busy("writing a checkpoint"):
            _after(300.0, clock)
        _after(10.0, clock)
    assert told == [
        "writing a checkpoint: 5 min so far",
        "training, in steps: 1 of 4, 5 min so far, about 16 min left",
    ]


def test_what_else_is_said_puts_a_line_off(clock: _Clock) -> None:
    lines: list[str] = []
    phases = Phases(lines.append, lambda: 108.0, clock)
    with phases.phase("tokenizing", 4, watched=False):
        clock.now = 112.0
        phases.tell()
        assert lines == []
        clock.now = 113.0
        phases.tell()
    assert lines == ["tokenizing: 0 of 4, 13 s so far"]


def test_phases_that_follow_one_another_are_no_silence(clock: _Clock, told: list[str]) -> None:
    with busy("loading demo"):
        _after(4.0, clock)
    with counting("tokenizing", 4):
        _after(2.0, clock)
    assert told == ["tokenizing: 0 of 4, 2 s so far"]


def test_work_that_has_only_begun_says_what_is_to_do(clock: _Clock) -> None:
    lines: list[str] = []
    phases = Phases(lines.append, lambda: 0.0, clock)
    with phases.phase("writing answers", 16, watched=False):
        phases.tell()
    with phases.phase("saving the model", watched=False):
        clock.now += 20.0
        with phases.phase("loading demo", watched=False):
            phases.tell()
    assert lines == ["writing answers: 16 to do", "loading demo: begun"]
