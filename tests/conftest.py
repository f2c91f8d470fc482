"""What holds for every test: a cache of its own, no network, few threads."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.small_runs import SmallRuns

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once
torch.set_num_threads(1)


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
    from tests.small_runs import make_runs

    return make_runs(tmp_path_factory.getbasetemp() / "small_runs")
