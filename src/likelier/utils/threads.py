"""Several calls that wait for something else, at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_threads(call: Callable[[Given], Made], given: Iterable[Given], *, most: int) -> Iterator[tuple[Given, Made]]:
    """Each of `given` with what `call` makes of it, as they are ready, at most so many at a time. The first error is
    raised here.

    The process does not wait for threads whose result nobody wants any more, after an error or an interruption: what
    hangs in one must not hold it.
    """
    waiting: SimpleQueue[Given] = SimpleQueue()
    done: SimpleQueue[tuple[Given, Future[Made]]] = SimpleQueue()
    over, count = Event(), 0
    for one in given:
        waiting.put(one)
        count += 1

    def work() -> None:
        while not over.is_set():
            try:
                one = waiting.get_nowait()
            except Empty:
                return
            found: Future[Made] = Future()
            try:
                found.set_result(call(one))
            except BaseException as error:
                found.set_exception(error)
            done.put((one, found))

    for _ in range(min(most, count)):
        Thread(target=work, daemon=True).start()
    try:
        for _ in range(count):
            one, found = done.get()
            yield one, found.result()
    finally:
        over.set()
