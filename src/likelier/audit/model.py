"""A model's tokenizer and context, without its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from likelier.errors import ModelError


def tokenizer_of(name: str) -> tuple[Any, int]:
    """(tokenizer, default max length) of a hub id, a folder (an adapter's base gives the context), a GGUF file or demo.

    Raises `ModelError` if there is none.
    """
    from transformers import AutoConfig, AutoTokenizer

    from likelier.data.tokenize import default_max_length
    from likelier.models import DEMO_MODEL, _first_line, _locate, demo_model_folder

    name = str(demo_model_folder()) if name == DEMO_MODEL else name
    base, own = _base_of(name)
    where, more = _locate(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(own or where, **({} if own else more))
        config = AutoConfig.from_pretrained(where, **more).get_text_config()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"the tokenizer of {name} cannot be loaded: {_first_line(error)}") from error
    return tokenizer, default_max_length(getattr(config, "max_position_embeddings", None))


def _base_of(name: str) -> tuple[str, str | None]:
    """(the model, its adapter's folder if that has a tokenizer of its own)."""
    folder = Path(name).expanduser()
    settings = folder / "adapter_config.json"
    if not settings.is_file():
        return name, None
    try:
        base = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except json.JSONDecodeError as error:
        raise ModelError(f"{settings} is broken JSON: {error}") from error
    if not base:
        raise ModelError(f"{settings} does not name its base model (base_model_name_or_path)")
    return str(base), str(folder) if (folder / "tokenizer_config.json").is_file() else None
