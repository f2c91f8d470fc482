"""Bad inputs whose fault lies in structures: messages as text, prompts beside conversations, system prompts."""

from __future__ import annotations

import json

from tests.helpers.bad_inputs import PAIR, Case
from tests.helpers.bad_inputs import _lines as lines

TALKS = {
    who: [{"role": "user", "content": "When?"}, {"role": "assistant", "content": text}]
    for who, text in (("chosen", "At 4."), ("rejected", "Never."))
}
SPELLED = {
    name: json.dumps([{"role": "user" if name == "prompt" else "assistant", "content": name}])
    for name in ("prompt", "chosen", "rejected")
}
STRUCTURES = [
    Case(
        "a text that spells messages and was cut off",
        "audit @prefs.jsonl",
        {"prefs.jsonl": lines(SPELLED | {"prompt": '[{"role": "user", "content": "Wha'})},
    ),
    Case(
        "one answer that spells messages beside one of plain text",
        "audit @prefs.jsonl",
        {"prefs.jsonl": lines(SPELLED | {"rejected": "b"})},
    ),
    Case(
        "some prompts that spell messages and some of plain text",
        "audit @prefs.jsonl",
        {"prefs.jsonl": lines(SPELLED, PAIR)},
    ),
    Case(
        "a prompt that whole conversations do not say",
        "audit @prefs.jsonl",
        {"prefs.jsonl": lines(TALKS | {"prompt": "The ship left at 4."})},
    ),
    Case(
        "two system prompts",
        "audit @prefs.jsonl",
        {
            "prefs.jsonl": lines(
                {"system": "Be kind.", "messages": [{"role": "system", "content": "Be short."}, *TALKS["chosen"]]}
            )
        },
    ),
    Case(
        "a system prompt in some rows of plain text only",
        "audit @prefs.jsonl",
        {"prefs.jsonl": lines(PAIR, PAIR | {"system": "Be kind."})},
    ),
    Case(
        "a part of a message that is a picture",
        "audit @prefs.jsonl",
        {
            "prefs.jsonl": lines(
                {"prompt": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]}
                | {"chosen": TALKS["chosen"][1:], "rejected": TALKS["rejected"][1:]}
            )
        },
    ),
]
