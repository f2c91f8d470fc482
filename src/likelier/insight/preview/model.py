"""A model's tokenizer with the chat options that a preview or an audit was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from likelier.audit.model import tokenizer_of
from likelier.models import set_template
from likelier.options import ChatOptions
from likelier.recorded import card_of, final_model, recorded_chat


def tokenizer_with(name: str, given: Mapping[str, Any]) -> tuple[Any, int, ChatOptions]:
    """(tokenizer, default max length, chat options) of a model or a run, whose own options `given` ones replace."""
    model = final_model(name)
    tokenizer, max_length = tokenizer_of(model)
    chat = replace(recorded_chat(card_of(model)), **given)
    set_template(tokenizer, chat)
    return tokenizer, max_length, chat
