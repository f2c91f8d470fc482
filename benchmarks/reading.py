"""How fast preferences are read and tokenized, and what they take in memory: 100,000 generated pairs of about 1.3 kB.

    python benchmarks/reading.py [PAIRS]

Each kind of file is read in a process of its own, so that its peak memory is its own; the first is tokenized twice with
the demo model's tokenizer, the second time from the cache.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [f"word{number}" for number in range(2000)]


def rows(count: int):
    """Distinct pairs: prompts of about 40 words, answers of about 55."""
    rng = random.Random(0)
    for number in range(count):
        prompt, chosen, rejected = (" ".join(rng.choices(WORDS, k=length)) for length in (40, 55, 55))
        yield {"prompt": f"{number} {prompt}", "chosen": chosen, "rejected": rejected}


def write(folder: Path, count: int) -> list[Path]:
    """The same pairs as text and as messages, in every kind of file."""
    import csv

    import pyarrow
    import pyarrow.parquet

    paths = [folder / name for name in ("text.jsonl", "messages.jsonl", "text.json", "text.csv", "text.parquet")]
    found = list(rows(count))
    paths[0].write_text("".join(json.dumps(row) + "\n" for row in found))
    with open(paths[1], "w") as stream:
        for row in found:
            sides = {name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
            stream.write(json.dumps({"prompt": [{"role": "user", "content": row["prompt"]}], **sides}) + "\n")
    paths[2].write_text(json.dumps(found))
    with open(paths[3], "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), paths[4])
    return paths


def peak() -> float:
    """MiB of this process alone; ru_maxrss would begin with its parent's. Pages of mapped files count as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(path: str) -> None:
    """Read one file and print its line of the table."""
    from likelier import load_preferences

    before, start = peak(), time.perf_counter()
    count = len(load_preferences(path).train)
    seconds = time.perf_counter() - start
    size = Path(path).stat().st_size / 2**20
    print(f"| {Path(path).name} | {size:.0f} | {seconds:.1f} | {count / seconds:,.0f} | {peak() - before:.0f} |")


def measure_tokens(path: str, model: str) -> None:
    """Tokenize a file as a run would, and say what that took."""
    from transformers import AutoTokenizer

    from likelier import load_preferences
    from likelier.data.tokenize import tokenize_records

    records = load_preferences(path).train
    tokenizer = AutoTokenizer.from_pretrained(model)
    before, start = peak(), time.perf_counter()
    found = tokenize_records(records, tokenizer, max_length=2048, cached=True)
    seconds, tokens = time.perf_counter() - start, sum(group.tokens for group in found.groups)
    print(f"{len(found.groups)} pairs, {tokens:,} tokens: {seconds:.1f} s, {peak() - before:.0f} MiB more")


def main(count: int) -> None:
    """Print the table, then what tokenizing takes."""
    from likelier.models.loading import demo_model_folder

    print("| file | MiB | seconds | rows/s | memory beyond the program's, MiB |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), count)
        for path in paths:
            _alone("--file", path)
        model = demo_model_folder()
        for name in ("tokenized", "from the cache"):
            print(f"{name}: ", end="", flush=True)
            _alone("--tokens", paths[0], model, LIKELIER_CACHE=folder)


def _alone(*words: object, **environment: str) -> None:
    command = [sys.executable, __file__, *map(str, words)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=os.environ | environment)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--file"]:
        measure(sys.argv[2])
    elif sys.argv[1:2] == ["--tokens"]:
        measure_tokens(*sys.argv[2:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
