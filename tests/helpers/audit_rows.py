"""Preference rows made here, clean ones and ones with defects whose number is known."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from likelier.data.records import Labelled, Message, Pair, Source

Row = dict[str, Any]
_SYLLABLES = ["ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "ve"]


def text(rng: random.Random, low: int = 25, high: int = 40) -> str:
    """So many made-up words."""
    return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))) for _ in range(rng.randint(low, high)))


def row(prompt: Any, chosen: Any, rejected: Any) -> Row:
    """Two conversations that share the prompt."""
    ask = {"role": "user", "content": prompt}
    return {
        "chosen": [ask, {"role": "assistant", "content": chosen}],
        "rejected": [ask, {"role": "assistant", "content": rejected}],
    }


def clean_rows(count: int, seed: int = 0) -> list[Row]:
    """Rows in which there is nothing to find."""
    rng = random.Random(seed)
    return [row(text(rng), text(rng), text(rng)) for _ in range(count)]


def parts(one: Row) -> tuple[str, str, str]:
    """Prompt, chosen and rejected of a row."""
    return one["chosen"][0]["content"], one["chosen"][1]["content"], one["rejected"][1]["content"]


def seeded_rows(count: int = 5000, seed: int = 1) -> tuple[list[Row], dict[str, int], list[Row]]:
    """(rows in random order, how often each defect stands in them, evaluation rows)."""
    rng = random.Random(seed)
    bad = [*_repeats(rng), *_contradictions(rng), *_circles(rng), *_broken(rng), *_no_dialogues(rng)]
    rows = bad + clean_rows(count - len(bad), seed + 1)
    held_out = [row(f" {parts(one)[0].upper()}  ", text(rng), text(rng)) for one in rows[-11:]] + clean_rows(
        30, seed + 2
    )
    rng.shuffle(rows)
    expected = {
        "exact-duplicates": 30 + 2 * 5 + 5,
        "near-duplicates": 10 + 10 + 5,
        "contradictory-pairs": 15 + 5,
        "intransitive-cycles": 7 + 3,
        "identical-answers": 12,
        "empty-answer": 9,
        "not-text": 8,
        "prompts-differ": 6,
        "unknown-role": 4,
        "no-prompt": 2,
        "answer-not-the-assistants": 7,
        "not-unicode": 5,
        "eval-overlap": 11,
    }
    return rows, expected, held_out


def _repeats(rng: random.Random) -> list[Row]:
    once, twice, more, loud, less = (clean_rows(number, rng.randrange(10**9)) for number in (30, 5, 10, 10, 5))
    longer = [row(prompt, f"{chosen} also", rejected) for prompt, chosen, rejected in map(parts, more)]
    louder = [row(prompt.upper() + " ?!", chosen, rejected.title()) for prompt, chosen, rejected in map(parts, loud)]
    shorter = [row(prompt, chosen, " ".join(rejected.split()[:-1])) for prompt, chosen, rejected in map(parts, less)]
    return 2 * once + 3 * twice + more + longer + loud + louder + less + shorter


def _contradictions(rng: random.Random) -> list[Row]:
    tied, won = clean_rows(15, rng.randrange(10**9)), clean_rows(5, rng.randrange(10**9))
    turned = [row(prompt, rejected, chosen) for prompt, chosen, rejected in map(parts, tied + won)]
    return tied + 2 * won + turned


def _circles(rng: random.Random) -> list[Row]:
    rows = []
    for size in [3] * 7 + [4] * 3:
        prompt, answers = text(rng), [text(rng) for _ in range(size)]
        rows += [row(prompt, answers[at - 1], answers[at]) for at in range(size)]
    return rows


def _broken(rng: random.Random) -> list[Row]:
    same = [row(text(rng), answer, answer) for answer in (text(rng) for _ in range(12))]
    empty = [row(text(rng), text(rng), ["", "  ", "\n"][at % 3]) for at in range(9)]
    no_text = [row(text(rng), [1, None, True, 2.5][at % 4], text(rng)) for at in range(8)]
    apart = [
        {"chosen": row(text(rng), text(rng), "")["chosen"], "rejected": row(text(rng), "", text(rng))["rejected"]}
        for _ in range(6)
    ]
    return same + empty + no_text + apart


def _no_dialogues(rng: random.Random) -> list[Row]:
    """Conversations that are none: a strange role, no question, no answer, half a character."""

    def beginning(*messages: tuple[str, str]) -> Row:
        turns = [{"role": role, "content": content} for role, content in messages]
        return {side: [*turns, {"role": "assistant", "content": text(rng)}] for side in ("chosen", "rejected")}

    rows = [beginning(("robot", text(rng))) for _ in range(4)]
    rows += [beginning() for _ in range(2)]
    rows += [{side: one[side][:1] for side in one} for one in clean_rows(7, rng.randrange(10**9))]
    return rows + [row(text(rng), text(rng) + " \ud83d", text(rng)) for _ in range(5)]


UNUSABLE = 12 + 9 + 8 + 6 + 4 + 2 + 7 + 5


def long_rows(apart: int, early: int, seed: int = 3) -> list[Row]:
    """Rows that are far too long: so many whose answers differ at their end only, then so many that differ at once."""
    rng = random.Random(seed)
    common = [text(rng, 400, 400) for _ in range(apart)]
    rows = [row(text(rng), f"{begin} {text(rng, 9, 9)}", f"{begin} {text(rng, 9, 9)}") for begin in common]
    return rows + [row(text(rng), text(rng, 400, 400), text(rng, 400, 400)) for _ in range(early)]


def write(path: Path, rows: Iterable[Row]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def pair(number: int, prompt: str, chosen: str, rejected: str, votes: tuple[int, int, int] | None = None) -> Pair:
    """A conversation pair as a record."""
    ask, better, worse = Message("user", prompt), Message("assistant", chosen), Message("assistant", rejected)
    return Pair((ask,), (better,), (worse,), Source("made.jsonl", number), votes=votes)


def pairs(count: int, seed: int = 0) -> list[Pair]:
    """Clean pairs as records."""
    return [pair(number, *parts(one)) for number, one in enumerate(clean_rows(count, seed), 1)]


def labels(count: int, seed: int = 0, share: float = 0.5) -> list[Labelled]:
    """Clean labelled answers, of which exactly `share` are desirable, in random order."""
    rng = random.Random(seed)
    thumbs = [at < round(share * count) for at in range(count)]
    rng.shuffle(thumbs)
    return [
        Labelled((Message("user", text(rng)),), (Message("assistant", text(rng)),), up, Source("made.jsonl", number))
        for number, up in enumerate(thumbs, 1)
    ]
