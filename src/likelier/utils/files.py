"""Where files of the user's lie, how they are named to others, and which of them are whole.

A checkpoint is a folder whose manifest, written last, holds the name and size of every file in it.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

from likelier.utils.console import warn
from likelier.utils.errors import ConfigError, LikelierError, RunFolderError, whole_reason, writing
from likelier.utils.redaction import without_secrets
from likelier.utils.strict_json import parse_json

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


def write_output(
    output: str | Path, content: str | bytes, *, mend: str = "", kind: type[LikelierError] = ConfigError
) -> None:
    """`write_whole` where the user named it. Raises `kind` where that is not possible."""
    with writing(output, mend=mend, kind=kind):
        write_whole(Path(output), content.encode("utf-8", "replace") if isinstance(content, str) else content)


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


# --- files that are whole or known not to be --------------------------------------------------------------------------


MANIFEST = "manifest.json"
NEW_FILES = ".new-files"  # a folder where files wait until all of them are whole
_FAILED_WRITE = re.compile(  # what torch, safetensors and tokenizers say, whose errors are no OSErrors
    r"PytorchStreamWriter|inline_container|unexpected pos|os error \d+|I/O error|IoError|No space left", re.IGNORECASE
)


def seal(folder: Path) -> None:
    """Write the manifest of a folder that holds everything it should, and have all of it on disk."""
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}
    (folder / MANIFEST).write_text(json.dumps({"files": sizes}, indent=2) + "\n", encoding="utf-8")
    sync_files(folder)


def flaw_of(folder: Path) -> str | None:
    """What is wrong with a folder that was sealed; None if it is whole."""
    try:
        refuse_links_below(folder)
        sizes = read_object(folder / MANIFEST)["files"]
        for name, size in sizes.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                return f"its {MANIFEST} names {name!r}, a file elsewhere"
            found = (folder / name).stat().st_size
            if found != size:
                return f"{name} has {found} bytes instead of {size}"
            if name.endswith(".json"):
                json.loads((folder / name).read_bytes())
    except RunFolderError as error:
        return str(error)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"it cannot be read: {error}"
    return None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds names and values. Raises `OSError`, or `ValueError` where it holds something else."""
    content = parse_json(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold names and values")
    return content


def append_line(path: Path, line: str) -> None:
    """Add a line to a file in one write, or nothing of it. Raises `OSError`."""
    content = (line + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, content) < len(content):
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


@contextmanager
def moved_when_whole(target: Path) -> Iterator[Path]:
    """A folder to write files in, which are moved into `target` once all of them are on disk; an error leaves none."""
    staging = target / NEW_FILES
    made_anew(staging)
    try:
        yield staging
        sync_files(staging)
        for entry in sorted(staging.iterdir()):
            if entry.is_dir():
                refuse_link(target / entry.name)
                shutil.rmtree(target / entry.name, ignore_errors=True)
            os.replace(entry, target / entry.name)
        sync_folder(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def cause_of_failed_write(error: BaseException | None) -> str | None:
    """Why a file could not be written, if that is what an error, or the one behind it, says; else None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if _FAILED_WRITE.search(str(error)):
            return whole_reason(error)
        error = error.__cause__ or error.__context__
    return None
