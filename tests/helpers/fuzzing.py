"""What fuzzing needs: commands run in this process with a deadline, what files they leave, and values to harm with."""

from __future__ import annotations

import io
import json
import os
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from likelier.cli import main as cli
from likelier.utils.errors import LikelierError

THOROUGH = os.environ.get("LIKELIER_FUZZ") == "thorough"
SECONDS = 30.0  # after which an example counts as hung
EXPECTED = (0, 2, 3)


def cases(quick: int, thorough: int) -> Any:
    """How many examples: the same ones at every `make test`, many and new ones in `make fuzz`."""
    return settings(
        max_examples=thorough if THOROUGH else quick,
        derandomize=not THOROUGH,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink] if THOROUGH else [Phase.explicit, Phase.generate],
        suppress_health_check=[
            *(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
            *(HealthCheck.large_base_example, HealthCheck.function_scoped_fixture),
        ],
    )


class Hang(BaseException):
    """An example took too long; no `except Exception` can swallow it."""


@contextmanager
def deadline(seconds: float = SECONDS) -> Iterator[None]:
    """Raises `Hang` in what takes longer."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Outcome(NamedTuple):
    """How a command ended, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str


def command(*words: object) -> Outcome:
    """A command in this process, with the deadline; what argparse refuses has its code 2 too."""
    out, err = io.StringIO(), io.StringIO()
    with deadline(), warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err):
        show = warnings.showwarning
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            warnings.showwarning = show
    return Outcome(code, out.getvalue(), err.getvalue())


def must_end_well(*words: object) -> Outcome:
    """The property of every command, whatever it is given."""
    found = command(*words)
    assert found.code in EXPECTED, (words, found.code, found.err[-3000:])
    assert "Traceback" not in found.err and "fault of likelier" not in found.err, (words, found.err[-3000:])
    if found.code == 2:
        assert "error: " in found.err, (words, found.err)
    return found


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file, link and folder below a folder, with the content of files (locks aside)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name != ".lock":
            found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else b""
    return found


def leaves_nothing(folder: Path, *words: object) -> Outcome:
    """The property of commands that write: exit code 2 leaves the folder as it was."""
    before = files_below(folder)
    found = must_end_well(*words)
    if found.code == 2:
        after = files_below(folder)
        assert after == before, (words, sorted(after.keys() ^ before.keys()), found.err[-2000:])
    return found


def only_our_errors(work: Callable[[], Any]) -> Any:
    """The property of the library: it succeeds, or raises an error of ours with a message. Gives the error, if any."""
    with deadline(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            work()
        except LikelierError as error:
            assert str(error).strip()
            return error
    return None


@contextmanager
def workplace() -> Iterator[Path]:
    """A new folder for one example."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        yield Path(name)


# --- values ----------------------------------------------------------------------------------------------------------

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "\x00", "\ud800", "\x1b[31m", "\u202e", "👍🏽", "nan", "1e999", "a" * 5000, "../..", "~x/y", "-"]
    ),
)
numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([-(10**30), 10**18, 2**63, 10**400, 1e308, float("nan"), float("inf"), -float("inf"), 0.5, -0.0]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


def as_json(value: Any) -> str:
    """JSON, or what comes nearest to it: lone surrogates escaped, NaN and Infinity as Python writes them."""
    return json.dumps(value)


def harmed(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are cut, overwritten, doubled, put in front of, or coded otherwise."""

    def cut(place: float) -> bytes:
        return content[: int(place * len(content))]

    def overwritten(change: tuple[float, bytes]) -> bytes:
        place = int(change[0] * len(content))
        return content[:place] + change[1] + content[place + len(change[1]) :]

    def inserted(change: tuple[float, bytes]) -> bytes:
        place = int(change[0] * len(content))
        return content[:place] + change[1] + content[place:]

    where = st.floats(0, 1)
    few = st.binary(min_size=1, max_size=6) | st.sampled_from(
        [
            b"\x00",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b'"',
            b"[" * 100_000,
            b"{",
            b"\n",
            b"9" * 5000,
            b"NaN",
            b"\\ud800",
            b"\xc3",
        ]
    )
    return st.one_of(
        where.map(cut),
        st.tuples(where, few).map(overwritten),
        st.tuples(where, few).map(inserted),
        st.just(content + content),
        st.sampled_from(["utf-16", "utf-32", "latin-1", "cp1252"]).map(
            lambda coding: content.decode("utf-8", "replace").encode(coding, "replace")
        ),
        st.binary(max_size=60),
        st.just(b""),
    )


def harmed_json(value: Any) -> st.SearchStrategy[Any]:
    """The JSON value with one place in it replaced by junk, or taken out."""
    return st.builds(
        lambda seed, new, gone: _replaced(value, seed, new, gone), st.integers(0, 10**6), junk, st.booleans()
    )


def _replaced(value: Any, seed: int, new: Any, gone: bool) -> Any:
    places = list(_places(value))
    path = places[seed % len(places)]
    if not path:
        return new
    whole = json.loads(json.dumps(value))
    inside = whole
    for key in path[:-1]:
        inside = inside[key]
    if gone:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return whole


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _places(one, (*path, key))
    elif isinstance(value, list):
        for number, one in enumerate(value[:3]):
            yield from _places(one, (*path, number))
