"""A name is looked up at once: a path is no hub id, and the hub is asked a single time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError

from likelier.cli import main as cli
from likelier.models.loading import locate
from likelier.utils import hub_names
from likelier.utils.errors import DataError, ModelError
from likelier.utils.hub_names import NotOnHub, ask_hub, is_path


class Api:
    """A hub that answers, or does not, and counts."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.error = error

    def repo_info(self, name: str, *, repo_type: str, timeout: float) -> None:
        assert timeout <= 10
        self.asked.append((name, repo_type))
        if self.error is not None:
            raise self.error


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    ask_hub.cache_clear()
    yield
    ask_hub.cache_clear()


def hub(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> Api:
    api = Api(error)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    return api


@pytest.mark.parametrize("name", ["./a", "../a/b", "~/a", "/a", "runs/dpo/checkpoints", "a.gguf", "x/a.gguf"])
def test_paths(name: str) -> None:
    assert is_path(name)


@pytest.mark.parametrize("name", ["gpt2", "owner/name", "demo", "owner/name-1.5"])
def test_what_may_be_a_hub_id(name: str) -> None:
    assert not is_path(name)


@pytest.mark.usefixtures("online")
def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    api = hub(monkeypatch)
    assert locate("owner/name") == locate("owner/name") == ("owner/name", {})
    assert api.asked == [("owner/name", "model")]


@pytest.mark.usefixtures("online")
def test_a_hub_out_of_reach_ends_it_where_nothing_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, OSError("[Errno -2] Name or service not known"))
    with pytest.raises(ModelError, match=r"no folder owner/name here, and the hub cannot be reached .*not known"):
        locate("owner/name")


@pytest.mark.usefixtures("online")
def test_a_hub_out_of_reach_leaves_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models--owner--name").mkdir()
    hub(monkeypatch, TimeoutError("timed out"))
    assert locate("owner/name") == ("owner/name", {})
    assert constants.HF_HUB_OFFLINE and "owner/name is taken from its cache" in capsys.readouterr().err


@pytest.mark.usefixtures("online")
def test_a_data_set_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from likelier.data.sources import read_rows

    hub(monkeypatch, OSError("no network"))
    monkeypatch.setattr(hub_names, "_in_cache", lambda *_: False)
    with pytest.raises(DataError, match=r"owner/rows: no such file here .*cannot be reached .*no network"):
        read_rows("owner/rows")


@pytest.mark.usefixtures("online")
def test_a_name_that_can_be_no_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotOnHub, match="no hub id either"):
        ask_hub("a b", "model")


@pytest.mark.usefixtures("online")
def test_a_hub_that_has_no_such_model(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, RepositoryNotFoundError("404", response=MagicMock()))
    with pytest.raises(NotOnHub, match="no model of that name that you may see"):
        ask_hub("owner/name", "model")


@pytest.mark.parametrize("command", ["train --method dpo --output out", "score --output out.jsonl"])
def test_a_model_that_is_nowhere_is_told_before_data_are_read(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command.split(), "--model", "./absent", "--data", "absent.jsonl"]) == 2
    assert "no such model folder: ./absent" in capsys.readouterr().err
