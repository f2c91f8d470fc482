"""What holds for every test: an own cache, no network, few threads, signals that arrive, examples without a clock."""

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from tests.helpers.tiers import GUARD

if TYPE_CHECKING:
    from tests.helpers.online_runs import OnlineRuns
    from tests.helpers.small_runs import SmallRuns

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once
torch.set_num_threads(1)

# The same examples at every run, and none that fails because the machine was busy.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

# Fixtures that train: a test that asks for one is slow, whoever wrote it.
_TRAINING_FIXTURES = {"runs", "online_runs"}

_WATCHED = pytest.StashKey[bool]()  # by coverage

_DISPOSITIONS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows-in-files", action="store_true", help="few rows go through a mapped file as many would")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--rows-in-files"):
        from likelier.data import token_cache, views

        views.IN_MEMORY, token_cache.WORTH_CACHING = 0, 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays, so nothing looks for garbage among it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        given = getattr(getattr(item, "callspec", None), "params", {})  # arguments by parametrize are no fixtures
        if _TRAINING_FIXTURES & (set(getattr(item, "fixturenames", ())) - given.keys()):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Of a slow test with many cases coverage watches the first, in whatever process each of them runs."""
    first: dict[str, pytest.Item] = {}
    for item in session.items:
        is_first = first.setdefault(item.nodeid.partition("[")[0], item) is item
        item.stash[_WATCHED] = is_first or item.get_closest_marker("slow") is None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test without the marker `slow` is held to the fast tier, its fixtures too. A test that coverage does not watch
    runs as fast as without it.

    Coverage makes Python a quarter to two thirds slower, in foreign packages too. What only later cases reach is told
    as missing, so that the share that is told is at most the real one, and the bound holds for both.
    """
    GUARD.test = None if item.get_closest_marker("slow") else item.name
    tracer, of_threads = (None, None) if item.stash[_WATCHED] else (sys.gettrace(), threading.gettrace())
    paused = type(tracer).__module__ == "coverage"  # and no debugger's
    if paused:
        sys.settrace(None)
        threading.settrace(None)  # threads that start together must not all install one
    try:
        return (yield)
    finally:
        GUARD.test = None
        if paused:
            sys.settrace(tracer)
            threading.settrace(of_threads)


@pytest.fixture(autouse=True, scope="module")
def short_collections() -> None:
    """What was imported for all tests is not looked through when a training run asks for a collection, as each does
    twice.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def heard_signals() -> Iterator[None]:
    """Signals that the shell has ignored (`nohup make test &` ignores two) arrive, here and in children."""
    ignored = [number for number in _DISPOSITIONS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, _DISPOSITIONS[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is never touched."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LIKELIER_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing connects to anywhere."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a connection was asked for: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> "SmallRuns":
    """Finished runs of tiny models, made by the first test that asks for them."""
    from tests.helpers.small_runs import make_runs

    return make_runs(tmp_path_factory.getbasetemp() / "small_runs")


@pytest.fixture(scope="session")
def online_runs(tmp_path_factory: pytest.TempPathFactory) -> "OnlineRuns":
    """Finished runs that learnt from their own answers, made by the first test that asks for them."""
    from tests.helpers.online_runs import make_online_runs

    return make_online_runs(tmp_path_factory.getbasetemp() / "online_runs")
