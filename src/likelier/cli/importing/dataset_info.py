"""LLaMA-Factory's registry of data sets: `dataset_info.json` in its data folder, looked up by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from likelier.cli.importing.common import Draft, as_list
from likelier.cli.importing.text import read_json

_FILE = "dataset_info.json"
_TEXT_ROLES = {"human", "user", "gpt", "assistant", "chatgpt", "model", "system", "tool", "observation"}
_TEXT_ROLES |= {"function_call"}
_KEPT_TAGS = {"role_tag": {"from", "role"}, "content_tag": {"value", "content"}}
# What the columns are called in the layouts that are read here; the first is LLaMA-Factory's default.
_KEPT_COLUMNS = {
    "messages": {"conversations", "messages"},
    "chosen": {"chosen"},
    "rejected": {"rejected"},
    "kto_tag": {"label"},
    "system": {"system"},
}
_PLAIN = (
    "its rows are plain text, around which the template is put there; here only messages get one: make prompt and "
    "answers lists of messages, in columns prompt, chosen, rejected (KTO: prompt, completion, label)"
)


def named_data_sets(draft: Draft, key: str, folder: str) -> list[dict[str, Any]]:
    """The data sets that `key` names, with commas or as a list, as entries of our `data`."""
    value = draft.take(key)
    names = [name.strip() for one in as_list(value) for name in str(one).split(",") if name.strip()]
    if not names or folder == "ONLINE":
        return [{"path": name} for name in names]
    found = _registry(draft, folder)
    return [_entry(draft, key, name, folder, found, len(names) > 1) for name in names]


def _registry(draft: Draft, folder: str) -> tuple[Path, dict[str, Any]] | None:
    """The folder and content of `dataset_info.json`: in the data folder as named, or beside the configuration."""
    for place in (Path(folder), Path(draft.path).parent / folder):
        path = place / _FILE
        if path.is_file():
            return place, read_json(path)
    return None


def _entry(
    draft: Draft, key: str, name: str, folder: str, found: tuple[Path, dict[str, Any]] | None, several: bool
) -> dict[str, Any]:
    info = found[1].get(name) if found else None
    if not isinstance(info, dict):
        where = f"{found[0] / _FILE} does not have it" if found else f"no {_FILE} was found in {folder}"
        _unresolved(draft, key, name, f"a name of LLaMA-Factory's registry; {where}")
        return {"path": f"./{name}"}
    _differences(draft, key, name, info)
    entry: dict[str, Any] = {"name": name} if several else {}
    if "hf_hub_url" in info:
        return entry | {"path": info["hf_hub_url"]} | {name: info.get(name) for name in ("subset", "revision", "split")}
    if found and "file_name" in info:
        return entry | {"path": str(found[0] / info["file_name"])}
    _unresolved(draft, key, name, "it lies in a place that is not known here; download it")
    return entry | {"path": f"./{name}"}


def _unresolved(draft: Draft, key: str, name: str, text: str) -> None:
    draft.note("missing", [key], f"{name}: {text}; put a file or a hub id in place of ./{name}")


def _differences(draft: Draft, key: str, name: str, info: dict[str, Any]) -> None:
    """Say where rows would not be read as there: other column names, plain text, a part of the rows, other media."""
    columns, tags = info.get("columns", {}), info.get("tags", {})
    if info.get("formatting", "alpaca") == "alpaca":
        draft.note("differs", [key], f"{name}: {_PLAIN}")
    else:
        kept = _KEPT_COLUMNS
        renamed = [f"{found} to {role}" for role, found in columns.items() if found not in kept.get(role, {found})]
        renamed += [f"{found} ({tag})" for tag, found in tags.items() if found not in _KEPT_TAGS.get(tag, _TEXT_ROLES)]
        if renamed:
            draft.note("differs", [key], f"{name}: rename in its rows: {', '.join(renamed)}")
    for more in ("images", "videos", "audios", "tools"):
        if more in columns:
            draft.note("left out", [key], f"{name}: {more}: only text is trained on")
    for more in ("num_samples", "folder"):
        if more in info:
            draft.note("left out", [key], f"{name}: {more}: all rows are taken")
