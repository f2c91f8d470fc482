"""Rows for a case, the same for every rival: chosen by a seed, none over the length limit, with their token counts.

Real text goes to a file for the workers and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from math import log
from pathlib import Path
from typing import Any

from versus.cases import FOLDER_OF_DATA, LENGTHS, MAX_LENGTH, SEED, Case
from versus.flops import shared_work
from versus.models import FIRST_WORD, model_folder, shape_of

Row = dict[str, Any]


def prepare(case: Case, data: Path, work: Path) -> dict[str, Any]:
    """Write the case's rows and (for a random model) its model; returns where they are and what is known of them."""
    from transformers import AutoTokenizer

    from likelier import load_preferences
    from likelier.data.tokenize import tokenize_records

    folder = model_folder(case.model, work / "models")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    rows = list(_rows(case, data, tokenizer))
    path = work / f"{case.name}.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    found = tokenize_records(load_preferences(rows).train, tokenizer, max_length=MAX_LENGTH, truncation="error")
    ids = [(g.prompt.tolist(), g.answers[0].tolist(), g.answers[1].tolist()) for g in found.groups]
    assert len(ids) == len(rows), "a row cannot be used"
    steps = [ids[start : start + case.batch] for start in range(0, len(ids), case.batch)]
    return {
        "rows": str(path),
        "model": str(folder),
        "shape": asdict(shape_of(folder)),
        "lengths": [[len(prompt), len(chosen), len(rejected)] for prompt, chosen, rejected in ids],
        "shared_steps": [asdict(shared_work(step)) for step in steps],
        "shared_all": asdict(shared_work(ids)),
        "token_hash": token_hash(ids),
    }


def token_hash(ids: Iterable[Sequence[Sequence[int]]]) -> str:
    """A hash of all token ids, row by row: equal where two tools are trained on the same tokens in the same order."""
    digest = hashlib.sha256()
    for row in ids:
        digest.update(json.dumps([list(map(int, part)) for part in row]).encode())
    return digest.hexdigest()[:16]


def _rows(case: Case, data: Path, tokenizer: Any) -> Iterator[Row]:
    if case.data in LENGTHS:
        return _random_rows(case, len(tokenizer))
    groups = list(_question_groups(data) if case.data == "qa" else _single_groups(data / FOLDER_OF_DATA[case.data]))
    fitting = _fitting(groups, tokenizer)
    wanted = case.pairs // len(groups[0])
    if wanted > len(fitting):
        raise ValueError(f"{case.name}: {case.pairs} pairs asked for, {len(groups[0]) * len(fitting)} there")
    return (row for group in random.Random(SEED).sample(fitting, wanted) for row in group)


def _fitting(groups: Sequence[list[Row]], tokenizer: Any) -> list[list[Row]]:
    """The groups all of whose rows are usable and within the length limit."""
    from likelier import load_preferences
    from likelier.data.tokenize import tokenize_records

    numbered = list(enumerate((row for group in groups for row in group), 1))
    records = load_preferences([row for _, row in numbered]).train
    found = tokenize_records(records, tokenizer, max_length=MAX_LENGTH, truncation="drop").groups
    usable = {group.source.number for group in found}
    number_of = {id(row): number for number, row in numbered}
    return [group for group in groups if all(number_of[id(row)] in usable for row in group)]


def _single_groups(path: Path) -> Iterator[list[Row]]:
    """Each usable pair of a file, as message lists."""
    from likelier import load_preferences

    for pair in load_preferences(path).train:
        sides = ("prompt", "chosen", "rejected")
        yield [{side: [_message(m.role, m.content) for m in getattr(pair, side)] for side in sides}]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _question_groups(data: Path) -> Iterator[list[Row]]:
    """The six pairs of each question whose four answers differ and were all told apart."""
    for question in json.loads((data / FOLDER_OF_DATA["qa"]).read_text(encoding="utf-8")):
        answers = [question[f"prediction {number}"] for number in range(1, 5)]
        if len(set(answers)) == 4 and all(question["preference"]):
            yield list(_decided_pairs(question, answers))


def _decided_pairs(question: Row, answers: Sequence[str]) -> Iterator[Row]:
    """Judgments stand in the order 1-2, 1-3, 1-4, 2-3, 2-4, 3-4; 1: the first is better, 2: the second."""
    passages = "\n\n".join("\n".join(passage) for passage in question["passages"])
    prompt = [_message("user", f"{passages}\n\n{question['question']}")]
    pairs = [(first, second) for first in range(4) for second in range(first + 1, 4)]
    for (first, second), better in zip(pairs, question["preference"], strict=True):
        chosen, rejected = (first, second) if better == 1 else (second, first)
        sides = {"chosen": answers[chosen], "rejected": answers[rejected]}
        yield {"prompt": prompt} | {side: [_message("assistant", text)] for side, text in sides.items()}


def _random_rows(case: Case, vocabulary: int) -> Iterator[Row]:
    """Plain text of random words, one token each, with lognormal lengths (an answer's end token counts)."""
    means, spread = LENGTHS[case.data]
    rng = random.Random(SEED)
    made = 0
    while made < case.pairs:
        prompt, chosen, rejected = (
            max(2, round(rng.lognormvariate(log(mean) - spread**2 / 2, spread))) for mean in means
        )
        if prompt + max(chosen, rejected) > MAX_LENGTH:
            continue
        made += 1
        yield {
            "prompt": _words(rng, prompt, vocabulary) + " ",
            "chosen": _words(rng, chosen - 1, vocabulary),
            "rejected": _words(rng, rejected - 1, vocabulary),
        }


def _words(rng: random.Random, count: int, vocabulary: int) -> str:
    return " ".join(f"t{rng.randrange(FIRST_WORD, vocabulary)}" for _ in range(count))
