"""Upload a finished run to the model hub. The network is used here only, and only when asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from likelier.runs.card import RunCard
from likelier.runs.folder import RunFolder, final_folder
from likelier.runs.model_card import HUB_ID, base_model_id, write_model_card
from likelier.utils.errors import HubError, RunFolderError, whole_reason
from likelier.utils.files import base_names
from likelier.utils.redaction import without_secrets
from likelier.utils.strict_json import encodable
from likelier.utils.versions import __version__

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_AS_THEY_ARE = (
    *_WEIGHTS,
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "README.md",
    "merge.json",
    "metrics.jsonl",
)
_PAPERS = ("README.md", "merge.json", "config.json", "generation_config.json")
_PLACE = re.compile(  # a data file, rows in memory, a folder or a hub id; then the line or record
    r"(?P<file>[^\n]*\.(?:jsonl?|ndjson|csv|parquet)(?:\.gz)?|rows|(?:[\w.~-]*[/\\])+[\w.-]+)(?P<rest>:\d+|, \w+ \d+)"
)


def check_repository(repository: str) -> None:
    """Hold a name against the hub's rules, and see that a token is at hand; asks the hub nothing.

    Raises `HubError`: so that a run of days does not fail at its end.
    """
    import huggingface_hub
    from huggingface_hub.utils import validate_repo_id

    if not HUB_ID.fullmatch(repository):
        raise HubError(f"{repository!r} is no name of a hub repository; give owner/name")
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise HubError(f"{repository!r} is no name of a hub repository: {_reason(error)}") from error
    if huggingface_hub.is_offline_mode():
        raise HubError(f"nothing can be uploaded to {repository}: HF_HUB_OFFLINE is set; unset it")
    try:
        token = huggingface_hub.get_token()
    except Exception as error:  # a login that has expired, or that a CI's identity does not give
        raise HubError(f"the hub's token cannot be had: {_reason(error)}; run hf auth login") from error
    if token is None:
        raise HubError(f"nothing can be uploaded to {repository} without a token: run hf auth login, or set HF_TOKEN")


def push_run(folder: Path, repository: str, *, private: bool = True) -> str:
    """Create the repository if need be and upload a finished run (of a staged one the last stage) as one commit.

    Uploaded are the model or adapter, the tokenizer, README.md, run.json and metrics.jsonl, and audit.json without any
    text of rows; local paths are cut down to their last part. Checkpoints, samples and reference scores stay here.

    Returns:
        The repository's address.

    Raises:
        HubError: the hub refuses or cannot be reached; or the repository is public and `private` was asked for.
        RunFolderError: there is no finished run or model in the folder.
    """
    import huggingface_hub

    check_repository(repository)
    files = published_files(final_folder(folder))
    operations = [huggingface_hub.CommitOperationAdd(name, content) for name, content in sorted(files.items())]
    try:
        hub = huggingface_hub.HfApi()
        address = str(hub.create_repo(repository, private=private, exist_ok=True))
        is_public = private and not hub.repo_info(repository).private
        if not is_public:
            hub.create_commit(repository, operations, commit_message=f"likelier {__version__}")
    except Exception as error:  # the hub client raises many kinds; all mean that nothing was uploaded
        raise HubError(
            f"{repository}: the hub did not take the upload: {_reason(error)}. The run in {folder} is whole; "
            "upload it later"
        ) from error
    if is_public:
        raise HubError(
            f"{repository} is public already, and a private upload was asked for; nothing was uploaded. Name another "
            "repository, or make this one private"
        )
    return address


def published_files(folder: Path) -> dict[str, Path | bytes]:
    """What is uploaded of a run: names in the repository, each with a file here or its mended content."""
    run = RunFolder(folder)
    card = run.card() if run.card_file.exists() else RunCard()
    if card.raw and card.status != "done":
        raise RunFolderError(f"{folder} is not finished (status: {card.status}); only a finished run is uploaded")
    if not any(found for pattern in _WEIGHTS for found in run.path.glob(pattern)):
        raise RunFolderError(f"{folder} holds no model (*.safetensors); give a finished run, or a merged model")
    if card.raw and not (run.path / "README.md").exists():
        write_model_card(run)
    files: dict[str, Path | bytes] = {}
    for pattern in _AS_THEY_ARE:
        files |= {str(file.relative_to(run.path)): file for file in run.path.glob(pattern) if _is_own(file, run.path)}
    files |= _redacted(files)
    if card.raw:
        files["run.json"] = _as_json(base_names(_without_a_row(card)))
    for name, mend in (("audit.json", _without_texts), ("adapter_config.json", _with_public_base)):
        if (run.path / name).is_file():
            files[name] = _as_json(mend(json.loads((run.path / name).read_text(encoding="utf-8")), card))
    return files


def _redacted(files: Mapping[str, Path | bytes]) -> dict[str, bytes]:
    """The papers among the files that hold a secret after all, without it."""
    found = {}
    for name, file in files.items():
        if name not in _PAPERS or not isinstance(file, Path):
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        if name.endswith(".json"):
            content = json.loads(text)
            if without_secrets(content) != content:
                found[name] = _as_json(content)
        elif without_secrets(text) != text:
            found[name] = without_secrets(text).encode()
    return found


def _is_own(file: Path, folder: Path) -> bool:
    """Whether it is a file of the folder's. Raises `RunFolderError` for a link to a file elsewhere: its content would
    be published under a name that does not tell so.
    """
    if file.is_file() and not file.resolve().is_relative_to(folder.resolve()):
        raise RunFolderError(f"{file} is a link that leads out of the run's folder; put the file itself there")
    return file.is_file()


def _as_json(content: Any) -> bytes:
    return (encodable(json.dumps(without_secrets(content), indent=2, ensure_ascii=False)) + "\n").encode()


def _without_a_row(card: RunCard) -> dict[str, Any]:
    """The card without what quotes the data (a row as it was trained on, an error's message), and without the lengths
    and hashes of files, which are not all sent.
    """
    data = {name: part for name, part in card.block("data").items() if name != "first_row"}
    return {name: data if name == "data" else part for name, part in card.raw.items() if name not in ("error", "files")}


def _without_texts(audit: Mapping[str, Any], card: RunCard) -> dict[str, Any]:
    """Counts, and examples as places only: what else an audit may hold could be a row's text."""
    numbers = {name: value for name, value in audit.items() if isinstance(value, (int, float))}
    findings = [
        {
            "name": str(finding.get("name")),
            "count": finding.get("count"),
            "examples": [place for example in finding.get("examples") or [] if (place := _place(example))],
        }
        for finding in audit.get("findings") or []
    ]
    return numbers | {"findings": findings}


def _place(example: Any) -> str | None:
    """`file:line`, or `file, record N`, with the file's last part; None for anything else."""
    found = _PLACE.fullmatch(example) if isinstance(example, str) else None
    if found is None:
        return None
    return found["file"].replace("\\", "/").rsplit("/", 1)[-1] + found["rest"]


def _with_public_base(adapter: Mapping[str, Any], card: RunCard) -> dict[str, Any]:
    """An adapter's settings with a base that others can find: a local path is of no use to them, and tells too much."""
    base = base_names(adapter.get("base_model_name_or_path"))
    is_public = base == adapter.get("base_model_name_or_path")
    return {**adapter, "base_model_name_or_path": base if is_public else base_model_id(card) or base}


def _reason(error: BaseException) -> str:
    return without_secrets(whole_reason(error))
