"""What a run does besides the model at ten million pairs and 1,024 ranks: sampler, planner, reference store, memory.

    python benchmarks/scale.py [--quick] [--only PART] [--markdown FILE]

There is no model and no second process in it: the project's own sampler, planner and store run on made-up rows of the
lengths of real preference data (log-normal: prompts of 200 tokens on average, answers of 280 and 250, rows over 2,048
left out). Every part runs in a process of its own, so that its memory is its own. Seconds are those of the CPU, those
of the store those of the clock. `--quick` takes a fiftieth of the rows, and half a minute; the whole takes five to ten
minutes and 4 GB.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from likelier.data.group_table import GroupColumns
from likelier.data.groups import Group
from likelier.data.mismatched import data_hash
from likelier.data.packing import StepSampler, _prompt_units, packed_micro_batches
from likelier.data.record_table import RecordTable
from likelier.data.records import Pair, Source
from likelier.data.token_cache import MappedIds, RecordIds, TokenFolder
from likelier.data.views import Filed, Several, by_numbers, changed

PAIRS = 10_000_000
RANKS = (1, 8, 64, 256, 1024)
BATCHES = (64, 512, 1024, 8192)
BUDGET = 16_384  # tokens of a micro-batch
LARGER = 4  # as many times that where no gradients are kept
LONGEST = 2048
Table = list[tuple[str, ...]]


def memory(name: str) -> float:
    """RssAnon (what is this process's alone), VmRSS or VmHWM, in bytes. Linux only."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


class Stopwatch:
    """Seconds of this process's CPU since it was made, or was last asked; of the clock where the disk is waited for."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._since = clock()

    def lap(self) -> float:
        """Seconds of this lap; the next begins."""
        now = self._clock()
        passed, self._since = now - self._since, now
        return passed


# --- made-up rows --------------------------------------------------------------------------------------------------


def lengths(count: int, seed: int = 0) -> np.ndarray:
    """(rows, 3): tokens of prompt, chosen and rejected; nearly `count` rows, those that are too long left out."""
    rng = np.random.default_rng(seed)

    def drawn(mean: float, spread: float) -> np.ndarray:
        return np.maximum(1, np.rint(rng.lognormal(math.log(mean) - spread**2 / 2, spread, count))).astype(int)

    found = np.stack([drawn(200, 0.8), drawn(280, 0.7), drawn(250, 0.7)], axis=1)
    return found[found[:, 0] + found[:, 1:].max(axis=1) <= LONGEST]


def groups_of(count: int, seed: int = 0) -> list[Group]:
    """Groups whose ids are pieces of one long array, as the pieces of the token cache's mapped file are."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 32_000, 20_000_000, dtype=np.int32)
    found = []
    for number, row in enumerate(lengths(count, seed).tolist(), 1):
        starts = rng.integers(0, len(ids) - LONGEST, 3).tolist()
        prompt, *answers = (ids[at : at + length] for at, length in zip(starts, row, strict=True))
        found.append(Group(prompt, tuple(answers), Source("preferences.jsonl", number)))
    return found


# --- the sampler ---------------------------------------------------------------------------------------------------


def sampler_table(scale: float) -> Table:
    """What every rank does to know its steps."""
    rows = round(PAIRS * scale)
    table: Table = [("the sampler", f"{rows:,} pairs")]
    for group_by in (None, "prompt"):
        keys = [b""] * rows if group_by is None else [(number // 2).to_bytes(16, "little") for number in range(rows)]
        words = "rows" if group_by is None else "whole prompts of two rows"
        before, watch = memory("RssAnon"), Stopwatch()
        sampler = StepSampler(keys, batch_size=1024, order="shuffled", group_by=group_by, seed=0)
        table.append((f"make it, {words}", f"{watch.lap():.2f} s, {(memory('RssAnon') - before) / 1e6:,.0f} MB"))
        steps = iter(sampler)
        next(steps)
        held = (memory("RssAnon") - before) / 1e6
        table.append((f"shuffle an epoch, {words}", f"{watch.lap():.2f} s, {held:,.0f} MB while it lasts"))
        count = sum(1 for _ in steps)
        table.append((f"each of {count + 1:,} steps of 1,024, {words}", f"{watch.lap() / max(1, count) * 1e6:,.0f} us"))
    return [*table, *_more_steps(rows)]


def _more_steps(rows: int) -> Table:
    table: Table = []
    for batch_size in (512, 8192):
        sampler = StepSampler([b""] * rows, batch_size=batch_size, order="shuffled", group_by=None, seed=0)
        steps, watch = iter(sampler), Stopwatch()
        next(steps)
        watch.lap()
        skipped = sum(1 for _, _step in zip(range(10_000), steps, strict=False))
        table.append(
            (f"resume: pass over {skipped:,} steps of {batch_size:,}", f"{watch.lap():.2f} s beside the shuffle")
        )
    watch = Stopwatch()
    seen = StepSampler([b""] * rows, batch_size=512, order="shuffled", group_by=None, seed=0).seen(10_000)
    return [*table, (f"which {len(seen):,} rows 10,000 steps reach", f"{watch.lap():.2f} s")]


# --- the planner ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Balance:
    """How evenly a plan keeps its ranks at work. In every round each rank computes one micro-batch, and the fullest of
    the round decides how long it takes.
    """

    rounds: int
    efficiency: float
    fillers: float
    tokens: float

    @staticmethod
    def of(plan: Sequence[Sequence[Group]], ranks: int) -> Balance:
        """Of the micro-batches of one step."""
        loads = [_held(part) if part else 0 for part in plan]
        rounds = [loads[start : start + ranks] for start in range(0, len(loads), ranks)]
        taken = ranks * sum(max(some) for some in rounds)
        empty = sum(not part for part in plan)
        return Balance(len(rounds), sum(loads) / taken, empty / len(plan), sum(loads) / (len(plan) - empty))


def planner_table(scale: float) -> Table:
    """Optimizer steps cut for different numbers of ranks."""
    repeats = 3 if scale < 1 else 10
    groups = groups_of(repeats * max(BATCHES) + 2000)
    table: Table = [
        ("ranks", "pairs a step", "ms to plan", "micro-batches a rank", "tokens in one", "efficiency", "fillers")
    ]
    for ranks in RANKS:
        for batch_size in BATCHES:
            watch = Stopwatch()
            steps = [groups[at * batch_size : (at + 1) * batch_size] for at in range(repeats)]
            plans = [packed_micro_batches(step, BUDGET, ranks=ranks) for step in steps]
            passed = watch.lap() / repeats * 1e3
            balances = [Balance.of(plan, ranks) for plan in plans]
            table.append((f"{ranks:,}", f"{batch_size:,}", f"{passed:.1f}", *_means(balances)))
    return table


def _means(balances: Sequence[Balance]) -> tuple[str, ...]:
    rounds, efficiency, fillers, tokens = (
        float(np.mean([getattr(one, name) for one in balances]))
        for name in ("rounds", "efficiency", "fillers", "tokens")
    )
    return (f"{rounds:.1f}", f"{tokens:,.0f}", f"{efficiency:.1%}", f"{fillers:.1%}")


def windows_table(scale: float) -> Table:
    """Scoring the reference: the longest first, planned some rows at a time by every rank."""
    groups = sorted(groups_of(round(1_000_000 * max(scale, 0.05))), key=lambda group: -group.tokens)
    table: Table = [("ranks", "rows planned at once", "us a row to plan", "tokens in one", "efficiency")]
    for ranks, window in ((1, 1024), (1, 4096), (1, 16_384), (1024, 8192), (1024, 65_536), (1024, 1_048_576)):
        some = _part_of(groups, window)
        watch = Stopwatch()
        plans = [packed_micro_batches(part, LARGER * BUDGET, ranks=ranks) for part in some]
        each = watch.lap() / sum(map(len, some)) * 1e6
        taken = [ranks * _longest_round(plan, ranks) for plan in plans]
        held = [sum(_held(part) for part in plan if part) for plan in plans]
        parts = sum(1 for plan in plans for part in plan if part)
        table.append(
            (f"{ranks:,}", f"{window:,}", f"{each:.1f}", f"{sum(held) / parts:,.0f}", f"{sum(held) / sum(taken):.1%}")
        )
    return table


def _part_of(groups: Sequence[Group], window: int, rows: int = 300_000) -> list[Sequence[Group]]:
    """Windows from all over the rows, about `rows` in all."""
    windows = [groups[start : start + window] for start in range(0, len(groups), window)]
    return windows[:: max(1, len(groups) // rows)]


def _held(part: Sequence[Group]) -> int:
    """Tokens that the shared-prefix scorer holds at once, of whole prompts."""
    return sum(unit.tokens for unit in _prompt_units(part, sys.maxsize))


def _longest_round(plan: Sequence[Sequence[Group]], ranks: int) -> int:
    """Tokens of the fullest micro-batch, summed over rounds."""
    loads = [_held(part) if part else 0 for part in plan]
    return sum(max(loads[start : start + ranks]) for start in range(0, len(loads), ranks))


# --- the store -----------------------------------------------------------------------------------------------------


def made_keys(count: int) -> Iterator[bytes]:
    """Keys such as a hash gives."""
    rng = np.random.default_rng(0)
    for _ in range(0, count, 100_000):
        some = rng.bytes(16 * 100_000)
        yield from (some[at : at + 16] for at in range(0, len(some), 16))


def store_table(scale: float) -> Table:
    """Two scores a pair, written by 1,024 writers one after the other, read by one reader."""
    from likelier.scoring.reference import ReferenceStore

    answers, writers = round(2 * PAIRS * scale), 1024
    table: Table = [("the store", f"{answers:,} answers, written by {writers:,} ranks")]
    with tempfile.TemporaryDirectory() as folder:
        keys, watch = made_keys(answers), Stopwatch(time.perf_counter)
        for store in [ReferenceStore(Path(folder), "reference") for _ in range(writers)]:
            for key in (next(keys) for _ in range(answers // writers)):
                store.add(key, -123.25, 250)
            store.flush()
        written = watch.lap()
        files = list(Path(folder).rglob("*.scores"))
        size = sum(file.stat().st_size for file in files)
        table.append(("write them", f"{written:.1f} s, {written / answers * 1e6:.2f} us an answer"))
        table.append(("files, bytes", f"{len(files):,} files, {size / 1e6:,.0f} MB"))
        return table + _read(Path(folder), answers // writers * writers)


def _read(folder: Path, answers: int) -> Table:
    from likelier.scoring.reference import ReferenceStore

    wanted = list(made_keys(answers))[:answers]
    before, watch = memory("RssAnon"), Stopwatch(time.perf_counter)
    store = ReferenceStore(folder, "reference")
    table: Table = [("read all segments", f"{watch.lap():.1f} s")]
    store.find(wanted[:1])
    table.append(("sort them", f"{watch.lap():.1f} s, then {(memory('RssAnon') - before) / 1e6:,.0f} MB are held"))
    watch.lap()
    found = store.find(wanted)[1].all()
    assert found
    table.append(("find all of them", f"{watch.lap():.1f} s"))
    return [*table, ("the fullest moment of this process, keys included", f"{memory('VmHWM') / 1e6:,.0f} MB")]


# --- rows in memory, and what is done to each of them ---------------------------------------------------------------


def rows_table(scale: float) -> Table:
    """What a pair takes in the memory of one process, and the time for each thing that is done to every pair."""
    import likelier.scoring.reference  # noqa: F401  what libraries take is not to be counted

    sizes = lengths(round(100_000 * max(scale, 0.1)))
    with tempfile.TemporaryDirectory() as folder:
        RecordTable.written(made_pairs(sizes[:5_000]), Path(folder))  # nor what pyarrow keeps
        meter = Meter(len(sizes))
        records = Filed(RecordTable.written(made_pairs(sizes), Path(folder)))
        meter.note("a pair in a mapped file, as it is read", timed=False)
        assert sum(1 for _ in records) == len(sizes)
        meter.note("look at all of them")
        cache, ids = TokenFolder(Path(folder) / "tokens"), np.arange(LONGEST, dtype=np.int32)
        cache.write(RecordIds(ids[:one], (ids[:two], ids[:three]), merged=False) for one, two, three in sizes.tolist())
        meter.note("token ids to disk", held=4 * int(sizes.sum()))
        mapped = cache.read()
        assert mapped is not None
        groups = as_numbers(mapped)
        passed = meter.lap()
        tracemalloc.start()  # what lies in freed blocks of earlier lines would hide what is allocated here
        again, held = as_numbers(mapped), tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        words = "token group: where its ids lie, and of which row it is"
        meter.table.append((words, f"{passed:.1f}", f"{held / len(again):,.0f}"))
        del again
        meter.start()
        assert sum(1 for _ in groups) == len(sizes)
        meter.note("make all groups")
        data_hash(groups)
        meter.note("hash of the data")
        _attach(groups, Path(folder), meter)
    return meter.table


def as_numbers(mapped: MappedIds) -> Sequence[Group]:
    """The ids as the groups of a large data set."""
    columns = GroupColumns(mapped.ids)
    for number, some in enumerate(mapped, 1):
        columns.append(Group(some.prompt, some.answers, Source("preferences.jsonl", number)))
    return columns.groups()


def made_pairs(sizes: np.ndarray) -> Iterator[Pair]:
    """Pairs of texts of these lengths in tokens, one after the other."""
    rng = np.random.default_rng(1)
    for number, row in enumerate(sizes.tolist(), 1):
        prompt, chosen, rejected = (made_text(length, rng) for length in row)
        yield Pair(prompt, chosen, rejected, Source("preferences.jsonl", number))


def made_text(length: int, rng: Any) -> str:
    """About so many tokens of text, at 4.3 characters a token."""
    characters = round(4.3 * length)
    return rng.bytes(characters // 2 + 1).hex()[:characters]


class Meter:
    """Microseconds and bytes a row of what happened since it was last asked."""

    def __init__(self, rows: int) -> None:
        self.rows, self.table = rows, Table([("in every process, a pair", "us", "bytes that stay")])
        self.start()

    def start(self) -> None:
        """What follows is noted next."""
        gc.collect()
        self._before, self._watch = memory("RssAnon"), Stopwatch()

    def lap(self) -> float:
        """Microseconds a row."""
        return self._watch.lap() / self.rows * 1e6

    def note(self, what: str, held: int | None = None, *, timed: bool = True) -> None:
        """Add a line; `held` where the bytes are known and are no memory, not `timed` what only a made-up row takes."""
        passed = self.lap()
        gc.collect()
        grown = memory("RssAnon") - self._before if held is None else held
        self.table.append((what, f"{passed:.1f}" if timed else "", f"{max(0.0, grown) / self.rows:,.0f}"))
        self.start()


def _attach(groups: Sequence[Group], folder: Path, meter: Meter) -> None:
    """Keys, and the scores of a store that has them all."""
    from likelier.scoring.reference import Reference, ReferenceScoring, ReferenceStore
    from likelier.scoring.reference.store import answer_key, attach_reference

    store = ReferenceStore(folder, "reference")
    for group in groups:
        for answer in group.answers:
            store.add(answer_key(group.prompt, answer), -123.25, 250)
    store.flush()
    del store
    meter.note("keys of two answers, and their scores to the store")
    reference = Reference("none", "none", "reference", equals_policy=False, use=nullcontext)
    how = ReferenceScoring(folder, BUDGET, "cpu")
    assert attach_reference(groups, reference, how).computed == 0
    passed = meter.lap()
    tracemalloc.start()  # what lies in freed blocks of earlier lines would hide what is allocated here
    attached = attach_reference(groups, reference, how)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    words = f"keys again, and scores from the store to the groups ({most / len(attached.groups):,.0f} bytes at once)"
    meter.table.append((words, f"{passed:.1f}", f"{held / len(attached.groups):,.0f}"))


# --- all pairs at once, without their texts ------------------------------------------------------------------------


def arrays_table(scale: float) -> Table:
    """What a process holds of all pairs while it trains."""
    rows, ids = round(PAIRS * scale), np.arange(LONGEST, dtype=np.int32)
    before, watch = memory("RssAnon"), Stopwatch()
    table: Table = [("held by every process", f"{rows:,} pairs", "seconds")]

    def note(what: str) -> None:
        gc.collect()
        table.append((what, f"{(memory('RssAnon') - before) / 1e6:,.0f} MB in all", f"{watch.lap():.0f}"))

    columns = GroupColumns(ids)
    sizes = (row for seed in count() for row in lengths(100_000, seed).tolist())
    for number, (one, two, three) in enumerate(islice(sizes, rows), 1):
        columns.append(Group(ids[:one], (ids[:two], ids[:three]), Source("preferences.jsonl", number)))
    groups = columns.groups()
    del columns
    note("token groups: where their ids lie, and of which row they are")
    scores = Several(np.full(2 * len(groups), -123.25), np.full(len(groups), 2))
    scored = changed(groups, lambda group, own: replace(group, ref_logps=own), scores)
    note("and two scores of the reference")
    kept = by_numbers(scored, range(len(scored)))
    note("and which rows they are")
    assert kept[len(kept) - 1].ref_logps == (-123.25, -123.25)
    assert sum(1 for _ in kept) == len(groups)
    note("and after going through all of them")
    return table


# --- all of it -----------------------------------------------------------------------------------------------------


PARTS: dict[str, Callable[[float], Table]] = {
    "sampler": sampler_table,
    "planner": planner_table,
    "windows": windows_table,
    "store": store_table,
    "rows": rows_table,
    "arrays": arrays_table,
}


def markdown(table: Table) -> str:
    """The first line of it is the head."""
    head, *lines = ("| " + " | ".join(map(str, line)) + " |" for line in table)
    return "\n".join([head, "|---" * len(table[0]) + "|", *lines])


def main() -> int:
    """Every part in a process of its own."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the rows")
    parser.add_argument("--only", choices=list(PARTS), help="one part, in this process")
    parser.add_argument("--markdown", help="also write the tables there")
    flags = parser.parse_args()
    if flags.only:
        print(markdown(PARTS[flags.only](0.02 if flags.quick else 1.0)))
        return 0
    tables = []
    for name in PARTS:
        words = [sys.executable, __file__, "--only", name, *(["--quick"] if flags.quick else [])]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        tables.append(done.stdout)
        print(tables[-1], flush=True)
    if flags.markdown:
        Path(flags.markdown).write_text("\n".join(tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
