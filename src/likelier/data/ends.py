"""What ends a turn, and what else of a vocabulary is no text: one definition for tokenizing, audit, preview, sampling.

A turn ends with the tokenizer's end of sequence, or with any token that the model's generation_config.json or
config.json names (`eos_token_id`, one or several): chat models often end turns with another token than the one that
their tokenizer calls the end. A tokenizer by itself cannot know the latter; whoever reads one with its model's
configuration says so with `know_ends`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from likelier.utils.errors import ModelError

Ids: TypeAlias = "Sequence[int] | np.ndarray"

# How chat templates spell their marks: those of ChatML and Llama 3, DeepSeek, Mistral and Llama 2, Gemma.
USUAL_MARKS = (
    r"<\|[\w.▁-]{1,40}\|>|<\|turn>|<turn\|>|<｜[\w.▁-]{1,40}｜>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\]|<</?SYS>>"
    r"|</?s>|<(?:bos|eos|start_of_turn|end_of_turn|end_of_utterance)>"
)
_USUAL = re.compile(USUAL_MARKS)
_AT_BEGINNING = re.compile(rf"\s*({USUAL_MARKS})")
_LONGEST_SPACE = 32  # tokens of white space behind an end


def begins_with_mark(text: str) -> str:
    """The mark of a chat template that a text begins with, as one that went through a template does; else empty."""
    found = _AT_BEGINNING.match(text)
    return found[1] if found else ""


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """The tokens that stand for no text: the special ones, and added ones that are spelled as chat marks are (some
    tokenizers do not call these special).
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {number: str(one) for number, one in added.items() if one.special or _USUAL.fullmatch(str(one))}
    special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return {**found, **{number: str(token) for number, token in special}}


def know_ends(tokenizer: Any, generation: Any, config: Any) -> None:
    """Tell a tokenizer the ends that its model's generation config and config name. Raises `ModelError`."""
    tokenizer._likelier_ends = named_ends(tokenizer, generation, config)


def named_ends(tokenizer: Any, generation: Any, config: Any) -> tuple[int, ...]:
    """The ends that a model's configurations name, in their order, each once. Raises `ModelError`.

    Where no file names one, transformers takes what is usual in the model's family, and another tokenizer may have a
    word there: such an id is an end only if it is a control token, or generation_config.json names it as well.
    """
    control, size = control_tokens(tokenizer), len(tokenizer)
    name = getattr(config, "_name_or_path", "")
    chosen = () if getattr(generation, "_from_model_config", True) else _ids(generation, name)
    parts = (generation, config, config.get_text_config())
    usual = [token for part in parts for token in _several(getattr(type(part), "eos_token_id", None))]
    found = dict.fromkeys(token for part in parts for token in _ids(part, name))
    is_end = {token: token in control or token in chosen or token not in usual for token in found}
    return tuple(token for token in found if 0 <= token < size and is_end[token])


def _ids(config: Any, name: str) -> Sequence[int]:
    named = getattr(config, "eos_token_id", None)
    several = _several(named)
    if any(type(one) is not int for one in several):
        raise ModelError(
            f"{name or 'the model'}: eos_token_id is {named!r} in generation_config.json or config.json; it must "
            "be a token id or a list of token ids"
        )
    return several


def _several(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


class Ends:
    """The tokens that end a turn for a tokenizer, as far as it was told (see `know_ends`); `ids` begin with its own."""

    def __init__(self, tokenizer: Any) -> None:
        own = tokenizer.eos_token_id
        named = getattr(tokenizer, "_likelier_ends", ())
        self.ids: tuple[int, ...] = tuple(dict.fromkeys((*([] if own is None else [own]), *named)))
        self.control = control_tokens(tokenizer)
        self._tokenizer = tokenizer
        self._blank: dict[tuple[int, ...], bool] = {}

    @property
    def appended(self) -> int | None:
        """What is put behind a plain answer without an end: the tokenizer's own, else the first that is named."""
        return self.ids[0] if self.ids else None

    def spelled_in(self, text: str) -> bool:
        """Whether the text's last characters, white space aside, spell an end. What they are, the tokens tell."""
        return text.rstrip().endswith(tuple(self.control[token] for token in self.ids if token in self.control))

    def close(self, ids: Ids) -> bool:
        """Whether the tokens end a turn: behind the end come only white space and control tokens."""
        return any(token in self.ids for token in self._tail(ids))

    def unnamed(self, ids: Ids) -> int | None:
        """The control token with which the tokens end where they hold no end: nothing names it as one."""
        tail = list(self._tail(ids))
        return None if not tail or any(token in self.ids for token in tail) else tail[0]

    def is_last(self, ids: Ids) -> bool:
        """Whether an end is the last of the tokens, white space aside."""
        return next(self._tail(ids), None) in self.ids

    def in_words(self, ids: Ids) -> str:
        """How an answer of these tokens ends."""
        end = next((token for token in self._tail(ids) if token in self.ids), None)
        if end is not None:
            return f"ends with {self.name(end)}"
        unnamed = self.unnamed(ids)
        if unnamed is not None:
            return f"ends with {self.name(unnamed)}, {NOT_NAMED}"
        return "has no end-of-sequence token, so the model would not learn to stop here"

    def name(self, token: int) -> str:
        """A token as it is spelled."""
        return self.control.get(token) or str(self._tokenizer.convert_ids_to_tokens(token))

    def _tail(self, ids: Ids) -> Iterator[int]:
        """From the last one backwards the control tokens and ends that only white space stands between."""
        behind: tuple[int, ...] = ()
        for token in map(int, reversed(ids)):
            if token in self.control or token in self.ids:
                if not self._is_blank(behind):
                    return
                yield token
                behind = ()
            elif len(behind) < _LONGEST_SPACE:
                behind = (token, *behind)
            else:
                return

    def _is_blank(self, ids: tuple[int, ...]) -> bool:
        if ids not in self._blank:  # together: a space may be spelled with several tokens
            self._blank[ids] = not ids or not str(self._tokenizer.decode(list(ids))).strip()
        return self._blank[ids]


NOT_NAMED = "which no configuration names as an end: the model learns to write it, and sampling does not stop there"
