"""Whose files lie in a run's folder: a run replaces and deletes what runs made there, and leaves or refuses the rest.

Nothing in such a folder is a link that leads elsewhere; the folder itself may be one, because its user named it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from likelier.runs.lock import LOCK, is_held
from likelier.utils.console import speaks
from likelier.utils.errors import LikelierError
from likelier.utils.files import NEW_FILES, read_object, refuse_link, refuse_links_below

_BEFORE_RESULTS = ("run.json", "audit.json")
OF_STEPS = ("evaluations", "skipped", "rollouts")  # folders with a file a step
SERVED = "sampler"  # where a sampler's server finds the policy as it is now
_FOLDERS = (*OF_STEPS, "checkpoints", NEW_FILES, SERVED)
_PAPERS = (*_BEFORE_RESULTS, "metrics.jsonl", "README.md")
_MODEL_FILES = (
    *("config.json", "adapter_config.json", "generation_config.json", "*.safetensors*", "*.bin", "*.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "tekken.json"),
    *("*.tiktoken", "*.spm", "chat_template*", "additional_chat_templates", "*processor_config.json"),
)
_TEMPORARY = re.compile(
    r"\.(run\.json|audit\.json|metrics\.jsonl|README\.md|report\.html|step-\d+(\.rank-\d+)?\.jsonl?)\.\d+\.tmp"
)
_OF_A_STEP = re.compile(r"step-\d+(\.rank-\d+)?(\.jsonl?)?|\.staging")


def refuse_links(folder: Path) -> None:
    """Raises `RunFolderError` where something that a run keeps in its folder is a link."""
    for name in _PAPERS:
        refuse_link(folder / name)
    for name in _FOLDERS:
        refuse_links_below(folder / name)


def stranger_in(folder: Path) -> str | None:
    """The name of something that a new run would replace and no run made; None where there is nothing of the kind."""
    ours = (*_BEFORE_RESULTS, *_FOLDERS) if was_begun(folder) else ()
    return next((entry.name for entry in _made_by_runs(folder) if entry.name not in ours), None)


def was_begun(folder: Path) -> bool:
    """Whether a run wrote its card here, or was ended between its account of the rows and its card."""
    card = _object(folder / "run.json")
    if card:
        versions = card.get("versions")
        return isinstance(versions, dict) and "likelier" in versions and "stages" not in card
    account = _object(folder / "audit.json").keys()
    return {"rows", "usable", "findings"} <= account and not (folder / "run.json").exists()


def take_away_begun(folder: Path) -> None:
    """Take away what a run without a checkpoint left, for another to begin; nothing where no run began, or ended."""
    if not was_begun(folder):
        return
    refuse_links(folder)
    for entry in (*_made_by_runs(folder), folder / LOCK):
        _remove(entry, own_only=entry.name not in (NEW_FILES, SERVED))


def _remove(entry: Path, *, own_only: bool) -> None:
    """Remove a file, or a folder; `own_only`: of a folder what a run puts there, and itself if nothing else is left."""
    if not entry.is_dir() or entry.is_symlink():
        entry.unlink(missing_ok=True)
    elif not own_only:
        shutil.rmtree(entry)
    else:
        for inner in entry.iterdir():
            if _OF_A_STEP.fullmatch(inner.name) or _TEMPORARY.fullmatch(inner.name):
                _remove(inner, own_only=False)
        if not any(entry.iterdir()):
            entry.rmdir()


def take_away_temporary(folder: Path) -> None:
    """Take away what a killed run of this folder left half written."""
    for name in (NEW_FILES, SERVED, "checkpoints/.staging"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for place in (folder, *(folder / name for name in OF_STEPS)):
        for file in place.glob(".*.tmp"):
            if _TEMPORARY.fullmatch(file.name) and not file.is_dir():
                file.unlink(missing_ok=True)


def _made_by_runs(folder: Path) -> Iterator[Path]:
    """What lies in a folder under a name that a run gives."""
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.name in (*_PAPERS, *_FOLDERS) or any(fnmatchcase(entry.name, name) for name in _MODEL_FILES):
            yield entry


def _object(file: Path) -> dict[str, object]:
    try:
        return {} if file.is_symlink() else read_object(file)
    except (OSError, ValueError):
        return {}


_MADE = (LOCK, "run.json", "audit.json")  # what a run, stages or a sweep write before there is a result


@contextmanager
def nothing_left(folder: Path, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Around work in an output folder. An error of ours before the work `has_begun` takes away what is new in it, and
    the folders that were made for it.
    """
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    before = set() if missing else {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    try:
        yield
    except LikelierError:
        if speaks() and not has_begun():
            _take_away(folder, before, missing)
        raise


def _take_away(folder: Path, before: set[str], missing: list[Path]) -> None:
    """Nothing is touched where another run has the folder by now, nor what a run does not make before its results."""
    if folder.is_dir() and not is_held(folder):
        for entry in folder.iterdir():
            if entry.name not in before and (entry.name in _MADE or entry.match(".*.tmp")) and entry.is_file():
                entry.unlink()
    for place in missing:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
