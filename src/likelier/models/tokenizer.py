"""A model's tokenizer and context, without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from likelier.data.ends import know_ends
from likelier.data.options import ChatOptions
from likelier.data.records import Record
from likelier.data.vocabulary import require_rows
from likelier.models.safe_loading import (
    read_config,
    read_generation,
    read_tokenizer,
    reading,
    say_what_a_file_names,
    try_out,
)
from likelier.utils.errors import ModelError
from likelier.utils.files import local, read_object


def tokenizer_of(name: str) -> tuple[Any, int]:
    """(tokenizer, default max length) of a hub id, a folder (an adapter's base gives the context), a GGUF file or demo.

    Raises `ModelError` if there is none.
    """
    from likelier.data.tokenize import default_max_length
    from likelier.models.loading import DEMO_MODEL, demo_model_folder, locate_config

    name = str(demo_model_folder()) if name == DEMO_MODEL else name
    base, own = base_of(name)
    where, more = locate_config(base)
    with reading(base, "a tokenizer"):
        tokenizer = read_tokenizer(own or where, {} if own else more)
        whole = read_config(where, base, more)
        know_ends(tokenizer, read_generation(where, whole), whole)
        config = whole.get_text_config()
        try_out(tokenizer, config)
    if own is None:  # an adapter may bring rows for tokens of its own
        require_rows(tokenizer, getattr(config, "vocab_size", None) or len(tokenizer), name)
    return tokenizer, default_max_length(getattr(config, "max_position_embeddings", None))


def check_template_of(model: str, records: Sequence[Record], chat: ChatOptions) -> None:
    """Raises `ModelError` for conversations without a template, before weights are loaded."""
    from likelier.data.rendering import check_template

    if chat.chat_template is None and any(isinstance(record.prompt, tuple) for record in records):
        check_template(records, tokenizer_of(model)[0], chat)


def base_of(name: str) -> tuple[str, str | None]:
    """(the model, its adapter's folder if that has a tokenizer of its own). Raises `ModelError`."""
    folder = local(name)
    settings = folder / "adapter_config.json"
    if not settings.is_file():
        return name, None
    try:
        base = read_object(settings).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise ModelError(f"{settings} cannot be read: {error}") from error
    if not base or not isinstance(base, str):
        raise ModelError(f"{settings} does not name its base model (base_model_name_or_path)")
    say_what_a_file_names(str(base), str(settings))
    return str(base), str(folder) if (folder / "tokenizer_config.json").is_file() else None
