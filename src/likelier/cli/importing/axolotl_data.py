"""Axolotl's data sets: where they lie, what their `type` reads, and the chat template."""

from __future__ import annotations

from typing import Any

from likelier.cli.importing.common import (
    Draft,
    as_block,
    as_list,
    data_sets,
    held_out,
    is_file,
    own_template,
)

# What a `type` reads, for the note that says how the columns must be called here.
_COLUMNS = {
    "argilla": "instruction, chosen_response, rejected_response",
    "icr": "input, chosen, rejected",
    "intel": "question, chosen, rejected",
    "prompt_pairs": "prompt, chosen, rejected",
    "ultra": "prompt, and conversations under chosen and rejected",
    "chat_template": "input, chosen, rejected, and system",
    "argilla_chat": "conversations under chosen and rejected",
}


def data(draft: Draft) -> None:
    """Training and held-out data, and the chat template."""
    entries = _entries(draft, "datasets")
    draft.put("data", data_sets(draft, entries))
    tests = _entries(draft, "test_datasets")
    if tests:
        draft.put("eval_data", data_sets(draft, tests))
        if draft.number("val_set_size"):
            draft.note("decided", ["val_set_size"], "test_datasets wins over it there too")
    else:
        held_out(draft, "val_set_size")
    _template(draft)


_ENTRY_READ = {"path", "data_files", "ds_type", "name", "split", "revision", "type", "trust_remote_code"}


def _entries(draft: Draft, key: str) -> list[dict[str, Any]]:
    return [entry for one in as_list(draft.take(key)) for entry in _entry(draft, key, one)]


def _entry(draft: Draft, key: str, entry: Any) -> list[dict[str, Any]]:
    """One data set, or the files that it names."""
    block = as_block(draft, key, entry)
    path, files = block.get("path"), as_list(block.get("data_files"))
    _columns(draft, key, path, block.get("type"))
    more = sorted(name for name in set(block) - _ENTRY_READ if block[name] not in (None, False))
    if more:
        draft.note("left out", [key], f"{path}: {', '.join(more)}: rows are read by the names of their columns")
    if files or is_file(path) or block.get("ds_type"):
        return [{"path": one} for one in files or [path]]
    named = {"subset": "name", "split": "split", "revision": "revision"}
    return [{"path": path} | {ours: block.get(theirs) for ours, theirs in named.items()}]


def _columns(draft: Draft, key: str, path: Any, kind: Any) -> None:
    """Say what a prompt strategy reads, where our formats call it otherwise or render it otherwise."""
    if isinstance(kind, dict):
        fields = ", ".join(f"{name}: {value}" for name, value in kind.items())
        draft.note("differs", [key], f"{path}: type {{{fields}}}: {_RENAME}")
    elif isinstance(kind, str) and kind not in ("chat_template.default", "chat_template.argilla_chat", "chat_template"):
        family, _, layout = kind.partition(".")
        reads = f", which reads {_COLUMNS[layout]}" if layout in _COLUMNS else ""
        text = f"{path}: type {kind}{reads}, with {family}'s turns around it: {_RENAME}"
        draft.note("differs", [key], text)


_RENAME = (
    "rename the columns to prompt, chosen, rejected (KTO: prompt, completion, label) and make them lists of messages, "
    "since plain text gets no chat template here"
)


def _template(draft: Draft) -> None:
    name, file = draft.take("chat_template"), draft.values.get("chat_template_jinja")
    if isinstance(file, str) and file.endswith((".jinja", ".jinja2", ".j2")):
        draft.put("chat_template", draft.take("chat_template_jinja"))
    elif name and name != "tokenizer_default":
        own_template(draft, "chat_template", name)
