"""What a run begins with, known by hashes of its content and not by names: weights, tokenizer, template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from likelier.data.ends import Ends
from likelier.models.policy import Policy
from likelier.scoring.reference.identity import adapter_has_effect, weights_hash
from likelier.utils.console import warn
from likelier.utils.versions import versions

_OF_THE_LAST_CALL = ("truncation", "padding")  # what a tokenizer keeps of how it was last used


def origin_of(policy: Policy) -> dict[str, str]:
    """A hash for each of `checkpoints.ORIGIN`, of a policy that was not trained yet.

    A new adapter has no effect, so its random part is left to the seed. Of several ranks all must ask together.
    """
    with_adapter = hasattr(policy.model, "peft_config") and adapter_has_effect(policy.model)
    chat = policy.chat
    return {
        "policy": weights_hash(policy.model, adapter=with_adapter),
        "tokenizer": _hash([*_tokenizer_content(policy.tokenizer), Ends(policy.tokenizer).ids]),
        "chat": _hash([policy.tokenizer.chat_template, chat.chat_template_kwargs, chat.system_prompt]),
    }


def warn_of_other_versions(before: Mapping[str, str]) -> None:
    """What computes is not part of a run's identity: a new version may round otherwise, and rarely does more."""
    now = versions()
    others = [f"{name} {before[name]} (now {now[name]})" for name in now if before.get(name) not in (None, now[name])]
    if others:
        warn(f"the run began with {', '.join(others)}: from here on its numbers may differ in their last digits")


def _tokenizer_content(tokenizer: Any) -> list[Any]:
    """All that turns text into ids and back."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return [{name: part for name, part in rules.items() if name not in _OF_THE_LAST_CALL}, special]


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
