"""From runs to figures: medians, ratios to likelier, the ratio that the operations predict, and the harvest of it.

`harvest` is measured ratio / ratio of operations: 1 where the whole saving in operations became a saving in time, less
where some was lost, more where there is another gain besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from versus.flops import (
    Operations,
    PaddedBatch,
    Shape,
    Work,
    likelier_operations,
    padded_batch,
    padding_efficiency,
    trl_operations,
)

Record = dict[str, Any]


def summarise(record: Record, device: str) -> list[Record]:
    """A row of figures for each rival of a case, in the order of their first runs."""
    rivals = list(dict.fromkeys(run["rival"] for run in record["runs"]))
    skipped = 1 if device == "cuda" and len(record["facts"]["shared_steps"]) > 1 else 0
    rows = [_figures(record, rival, device, skipped) for rival in rivals]
    ours = next((row for row in rows if row["rival"] == "likelier" and "whole" in row), None)
    for row in rows:
        if ours is not None:
            _compare(row, ours)
    return rows


def _figures(record: Record, rival: str, device: str, skipped: int) -> Record:
    own = [run for run in record["runs"] if run["rival"] == rival]
    done = [run for run in own if "seconds" in run]
    found: Record = {"rival": rival, "runs": len(done)}
    problems = [run["status"] for run in own if "status" in run]
    if problems:
        found["problem"] = problems[0]
    operations = _operations(record, rival, done, device)
    if operations is not None:
        found |= {"operations_whole": operations.whole, "operations_training": operations.training(skipped)}
    if not done:
        return found
    wholes = [run["seconds"]["whole"] for run in done]
    trainings = [sum(run["seconds"]["step_times"][skipped:]) for run in done]
    pairs = record["case"]["pairs"]
    trained = pairs * (1 - skipped / len(record["facts"]["shared_steps"]))
    return found | {
        "whole": median(wholes),
        "whole_range": [min(wholes), max(wholes)],
        "training": median(trainings),
        "pairs_per_second": pairs / median(wholes),
        "pairs_per_second_training": trained / median(trainings),
        "before_training": median(run["seconds"]["before_training"] for run in done),
        "imports_and_load": median(run["seconds"]["imports"] + run["seconds"]["load"] for run in done),
        "peak": median(run["memory"].get("cuda_peak", run["memory"]["peak"]) for run in done),
        "loaded": median(run["memory"]["loaded"] for run in done),
        "static": median(run["memory"]["static"] for run in done),
        "efficiency": _efficiency(record, done[0]),
        "taken_by_others": max(run["taken_by_others"] or 0.0 for run in done),
        "as_planned": _as_planned(record, done[0]),
        "same_tokens": all(run["token_hash"] == record["facts"]["token_hash"] for run in done),
        "trace": done[0]["trace"],
    }


def _batches(items: Sequence[Record]) -> list[PaddedBatch]:
    return [PaddedBatch(**item) for item in items]


def _operations(record: Record, rival: str, done: Sequence[Record], device: str) -> Operations | None:
    """Of the batches that were seen, else of those that TRL's collator would make of the rows."""
    case, facts = record["case"], record["facts"]
    shape, lora = Shape(**facts["shape"]), case["lora"]
    if rival.startswith("likelier"):
        steps = [Work(**step) for step in facts["shared_steps"]]
        kept = done[0]["head_kept"] if done else 1.0
        return likelier_operations(shape, rival, steps, Work(**facts["shared_all"]), lora=lora, head_kept=kept)
    if done:
        steps, before = [_batches(step) for step in done[0]["trained"]], _batches(done[0]["precomputed"])
    elif rival == "trl-grouped":
        return None
    else:
        steps = planned_batches(case, rival, facts["lengths"])
        before = [] if rival == "trl-default" else [batch for step in steps for batch in step]
    return trl_operations(shape, rival, steps, before, lora=lora, scores_answers_only=device == "cuda")


def planned_batches(case: Record, rival: str, lengths: Sequence[Sequence[int]]) -> list[list[PaddedBatch]]:
    """The batches of each step in file order, by TRL's collator's rule."""
    rows = [(prompt, chosen, rejected) for prompt, chosen, rejected in lengths]
    size = 1 if rival == "trl-micro" else case["batch"]
    steps = [rows[start : start + case["batch"]] for start in range(0, len(rows), case["batch"])]
    return [[padded_batch(step[start : start + size]) for start in range(0, len(step), size)] for step in steps]


def _as_planned(record: Record, run: Record) -> bool | None:
    """Whether TRL's collator made the batches that our rule says; None where the order is not ours."""
    if "trained" not in run or run["rival"] == "trl-grouped":
        return None
    made = [_batches(step) for step in run["trained"]]
    return made == planned_batches(record["case"], run["rival"], record["facts"]["lengths"])


def _efficiency(record: Record, run: Record) -> float:
    """TRL: real tokens of its training batches over padded ones. likelier: distinct tokens over those fed."""
    if "trained" in run:
        return padding_efficiency([batch for step in run["trained"] for batch in _batches(step)])
    return sum(step["tokens"] for step in record["facts"]["shared_steps"]) / sum(map(sum, run["tokens_fed"]))


def _compare(row: Record, ours: Record) -> None:
    """Add the ratios to likelier's row, and how far the first repeats' traces are apart at most."""
    for name in ("whole", "training"):
        if f"operations_{name}" in row:
            row[f"operations_ratio_{name}"] = row[f"operations_{name}"] / ours[f"operations_{name}"]
        if "whole" in row:
            row[f"time_ratio_{name}"] = row[name] / ours[name]
            row[f"harvest_{name}"] = row[f"time_ratio_{name}"] / row[f"operations_ratio_{name}"]
    if "whole" in row:
        row["memory_ratio"] = row["peak"] / ours["peak"]
        if row["rival"] != "trl-grouped":
            row["differences"] = {name: _apart(row["trace"][name], ours["trace"][name]) for name in row["trace"]}
            norms = zip(row["trace"]["grad_norm"], ours["trace"]["grad_norm"], strict=True)
            row["differences"]["grad_norm, relative"] = max(abs(theirs / own - 1) for theirs, own in norms)


def _apart(left: Sequence[float], right: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(left, right, strict=True))


def growth_rows(record: Record) -> list[Record]:
    """Seconds a pair, peak memory and the store's size, for each finished run of a growth case."""
    pairs = record["case"]["pairs"]
    return [
        {
            "rival": run["rival"],
            "pairs": pairs,
            "ms_per_pair": 1000 * run["seconds"]["whole"] / pairs,
            "ms_per_pair_training": 1000 * run["seconds"]["training"] / pairs,
            "peak": run["memory"]["peak"],
            "loaded": run["memory"]["loaded"],
            "store_bytes": run.get("store_bytes"),
        }
        for run in record["runs"]
        if "seconds" in run
    ]
