"""How long `likelier audit` takes without a model, and what memory: 100,000 generated pairs of about a kilobyte, of
which known numbers are exact duplicates, near duplicates and contradictions.

    python benchmarks/auditing.py [PAIRS]

The command runs in a process of its own, start-up, reading and the report included. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

WORDS = [f"word{number}" for number in range(20_000)]
FREQUENCIES = list(accumulate(1 / rank for rank in range(10, len(WORDS) + 10)))  # roughly as in written language
EXPECTED_SHARES = {"exact-duplicates": 0.01, "near-duplicates": 0.02, "contradictory-pairs": 0.005}


def rows(count: int) -> Iterator[dict[str, str]]:
    """Pairs with a prompt of about 40 words and answers of about 55; the first ones come again, as they were or not."""
    rng = random.Random(0)
    repeats = {name: round(share * count) for name, share in EXPECTED_SHARES.items()}
    first: list[dict[str, str]] = []
    kept = sum(repeats.values())
    for _ in range(count - kept):
        prompt, chosen, rejected = (
            " ".join(rng.choices(WORDS, cum_weights=FREQUENCIES, k=rng.randint(length - 15, length + 15)))
            for length in (40, 55, 55)
        )
        row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        if len(first) < kept:
            first.append(row)
        yield row
    again = iter(first)
    for name, _ in zip((name for name, many in repeats.items() for _ in range(many)), first, strict=True):
        row = next(again)
        if name == "near-duplicates":
            row = row | {"chosen": row["chosen"].title() + " indeed!", "prompt": row["prompt"] + " please"}
        elif name == "contradictory-pairs":
            row = {"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]}
        yield row


def measure(path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """(the audit as JSON, seconds and MiB) of one run of the command."""
    report = path.with_suffix(".audit.json")
    command = [sys.executable, "-c", "from likelier.cli.main import run; run()", "audit", str(path), "--format", "json"]
    start = time.perf_counter()
    child = os.spawnvp(os.P_NOWAIT, sys.executable, [*command, "--output", str(report)])
    _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    assert os.waitstatus_to_exitcode(status) in (0, 3)
    figures = {"seconds": seconds, "processor": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss / 1024}
    return json.loads(report.read_text(encoding="utf-8")), figures


def main(count: int) -> None:
    """Print the figures, and for each seeded defect how many were found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        with path.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows(count))
        size = path.stat().st_size / 2**20
        audit, figures = measure(path)
    print(f"{count:,} pairs, {size:.0f} MiB, {os.cpu_count()} processors")
    print(f"{figures['seconds']:.1f} s, of processors {figures['processor']:.1f} s; peak {figures['memory']:.0f} MiB")
    found = {finding["name"]: finding["count"] for finding in audit["findings"]}
    for name, share in EXPECTED_SHARES.items():
        print(f"{name}: {found.pop(name, 0):,} of {round(share * count):,}")
    print(f"other findings: {found or 'none'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=int, nargs="?", default=100_000, help="how many (default: %(default)s)")
    main(parser.parse_args().pairs)
