"""The fast tier is fast by what it may not do: only a test marked `slow` trains or starts anything."""

import multiprocessing
import os
import socket
import subprocess
from collections.abc import Callable

import pytest
import torch

from tests.helpers.tiers import GUARD


def one_step() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    torch.optim.SGD([weight], lr=1.0).step()


def a_process() -> None:
    subprocess.run(["true"], check=True)


def a_worker() -> None:
    worker = multiprocessing.get_context("spawn").Process(target=int)
    worker.start()
    worker.join()


def a_server() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))


def swallowed() -> None:
    try:
        os.fork()
    except Exception:
        pytest.fail("the product could go on")


@pytest.mark.parametrize(
    ("deed", "words"),
    [(one_step, "trains"), (a_process, "starts"), (a_worker, "starts"), (a_server, "serves"), (swallowed, "starts")],
)
def test_what_the_fast_tier_forbids_ends_the_test(deed: Callable[[], None], words: str) -> None:
    assert GUARD.test is not None
    with pytest.raises(pytest.fail.Exception, match=f"{words}.*pytest.mark.slow"):
        deed()


@pytest.mark.slow
@pytest.mark.parametrize("deed", [one_step, a_process, a_worker, a_server])
def test_a_slow_test_may(deed: Callable[[], None]) -> None:
    deed()
