"""Where files of the user's lie, and how they are named to others."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

from likelier.utils.console import warn
from likelier.utils.errors import ConfigError, RunFolderError
from likelier.utils.redaction import without_secrets

_ABSOLUTE = re.compile(r"(?:~?/|[A-Za-z]:[\\/]).")
_OPEN_STREAM = re.compile(r"/dev/(?P<name>stdin|stdout|stderr)|/(?:dev|proc/self)/fd/(?P<number>\d{1,4})", re.ASCII)
_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
_PLAIN_NAME = re.compile(r"[^/\\\0]+")
_ABSOLUTE_WORD = re.compile(r"(?<![^\s('\"=])(?:~?/|[A-Za-z]:[\\/])[^\s()'\"]+")


def local(name: str | os.PathLike[str]) -> Path:
    """The path that a user names, `~` resolved. Raises `ConfigError` where there is no such home, or no such name."""
    text = os.fspath(name)
    if "\0" in text:
        raise ConfigError(f"{text!r} holds a null byte, which no path can; name another")
    try:
        if re.match(r"~(?:/|$)", text) and os.environ.get("HOME") == "":  # which would lead to the root of all folders
            return Path(f"{_home()}{text[1:]}")
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{text!r}: {text.split('/')[0]} leads to no home folder on this machine; write the whole path, or ./~name "
            "for a folder that is called so"
        ) from error


def _home() -> str:
    """The home that the machine knows of this user. Raises `RuntimeError` where it knows none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError as error:
        raise RuntimeError("no home") from error


def require_utf8(name: str | os.PathLike[str], what: str) -> None:
    """Raises `ConfigError` for a name that is not UTF-8: the libraries that read and write models cannot take it."""
    try:
        os.fspath(name).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} {os.fspath(name)!r} is not a name in UTF-8; rename it, or name another") from error


def cache_folder() -> Path:
    """`LIKELIER_CACHE`, or `likelier` under the user's cache folder; it need not be there. Warns where anybody on the
    machine could put scores or models into it.
    """
    named = os.environ.get("LIKELIER_CACHE")
    folder = local(named or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "likelier")
    with suppress(OSError):  # not there yet; who writes there says what else is wrong with it
        _check_cache(folder)
    return folder


def make_folder(folder: Path) -> None:
    """Make a folder with those above it. The cache is made for its owner alone: it holds the tokens of private rows."""
    cached = cache_folder()
    if folder == cached or cached in folder.parents:
        cached.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


@cache
def _check_cache(folder: Path) -> None:
    """Once a process."""
    found = folder.stat()
    if found.st_mode & 0o002 or found.st_uid not in (os.getuid(), 0):
        warn(
            f"the cache folder {folder} can be changed by others: models and scores in it could be anybody's. "
            "Name one of your own with LIKELIER_CACHE, or: chmod o-w"
        )


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between; into a pipe
    or a device as it comes.
    """
    if is_stream(path):
        _write_into(path, content)
        return
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed; or a link that somebody put there
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a device, which nothing takes the place of; an open stream of the process also where
    it leads into a file. Other files below /dev, such as those of /dev/shm, are files.
    """
    return _stream_number(path) is not None or (path.exists() and not path.is_file() and not path.is_dir())


def _write_into(path: Path, content: bytes) -> None:
    """Opened by its name, a file that a stream of the process leads into would be cut."""
    number = _stream_number(path)
    with open(path, "wb") if number is None else open(os.dup(number), "wb") as stream:
        stream.write(content)


def _stream_number(path: Path) -> int | None:
    found = _OPEN_STREAM.fullmatch(os.path.normpath(path.absolute()))
    if found is None:
        return None
    return _STREAMS[found["name"]] if found["name"] else int(found["number"])


def below(root: Path, name: object) -> Path:
    """The folder that a file of `root` names: one below it. Raises `RunFolderError` for a name that leads out of it."""
    if not isinstance(name, str) or not name or name in (".", "..") or not _PLAIN_NAME.fullmatch(name):
        raise RunFolderError(
            f"{root} is damaged: it names the folder {name!r}, where the plain name of a folder in it is expected"
        )
    refuse_link(root / name)
    return root / name


def refuse_link(path: Path) -> None:
    """Raises `RunFolderError` for a link where a file or folder of our own is expected: it could lead anywhere."""
    if path.is_symlink():
        raise RunFolderError(
            f"{path} is a link, and nothing in a folder of likelier is followed out of it; remove the link, or put "
            "what it leads to in its place"
        )


def refuse_links_below(folder: Path) -> None:
    """Raises `RunFolderError` for a link that is the folder, or lies anywhere in it."""
    refuse_link(folder)
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            refuse_link(Path(root, name))


def made_anew(folder: Path) -> None:
    """Make a folder of a temporary name that is ours alone: a link that somebody put there goes, and so does what a
    killed process left. Raises `OSError`.
    """
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def sync_files(folder: Path) -> None:
    """Have every file and folder below a folder on disk, and itself, before it is moved to its place."""
    for entry in folder.rglob("*"):
        if entry.is_file():
            sync_file(entry)
        elif entry.is_dir():
            sync_folder(entry)
    sync_folder(folder)


def sync_file(file: Path) -> None:
    """Have a file's content on disk."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
            raise
    finally:
        os.close(descriptor)


def base_names(value: Any) -> Any:
    """JSON without secrets, in which every absolute local path is cut to its last part: what may leave this machine.

    Paths that are a whole value are found as such, wherever else they stand in a text too; others word by word.
    """
    value = without_secrets(value)  # first: the last part of a path can be half of one
    whole = sorted(set(_whole_paths(value)), key=len, reverse=True)
    return _with_base_names(value, whole)


def _whole_paths(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if _ABSOLUTE.match(value) and " (" not in value:  # else it goes on in words: "PATH (an adapter on PATH)"
            yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _whole_paths(part)


def _with_base_names(value: Any, whole: list[str]) -> Any:
    if isinstance(value, dict):
        return {name: _with_base_names(part, whole) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_base_names(part, whole) for part in value]
    if not isinstance(value, str):
        return value
    for path in whole:
        value = value.replace(path, _base_name(path))
    return _ABSOLUTE_WORD.sub(lambda match: _base_name(match.group()), value)


def _base_name(path: str) -> str:
    """The last part of a path of this system or another."""
    return PureWindowsPath(path).name or path.strip("/\\") or path
