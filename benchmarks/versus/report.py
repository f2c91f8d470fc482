"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from versus.cases import LENGTHS, MAX_LENGTH, RIVALS
from versus.machine import GB
from versus.summary import growth_rows

Record = dict[str, Any]

_QUIET = 0.05
_HEADINGS = (
    "rival",
    "whole s (min-max)",
    "training s",
    "pairs/s",
    "peak GB (loaded)",
    "efficiency",
    "time: whole / FLOPs / harvest",
    "time: training / FLOPs / harvest",
    "memory",
    "differs: loss, gradient",
)
_NOTES = """\
whole: from the trainer's making (tokenization, TRL's precomputing) to the last step, hence with the reference; imports
and loading of the model are left out. likelier's whole also holds its trial of the scorer and its proof of the
reference (8 short pairs are scored again), whatever the number of pairs. training: from the first step to
the last. pairs/s: of the whole. peak: largest resident size (CUDA: allocated by torch); loaded: resident once the model
is there. efficiency: TRL, real tokens over padded ones in training; likelier, distinct tokens of the steps over tokens
fed. The ratios are to likelier; FLOPs is the ratio that the operations predict for these very rows (`versus/flops.py`),
and harvest is the measured ratio over it. differs: the largest difference to likelier's first repeat over all steps, of
the loss in nats and of the gradient's norm as a share; all rivals but trl-grouped take the same rows in the same
order."""


def markdown(results: Record) -> str:
    """The whole page."""
    parts = [_opening(results), *_disturbance(results)]
    parts += [_case(record, results["device"]) for record in results["cases"].values()]
    if any(record["runs"] for record in results["growth"].values()):
        parts.append(_growth(results["growth"].values()))
    if any("profile" in run for record in results["profile"].values() for run in record["runs"]):
        parts.append(_profile(results["profile"]))
    parts += [f"{name}: {problem}" for name, problem in results["problems"].items()]
    parts.append(_settings(results))
    return "\n\n".join(parts) + "\n"


def _opening(results: Record) -> str:
    machine, run = results["machine"], _first_run(results)
    device = "" if run is None or run["device"]["name"] == "cpu" else f"{run['device']['name']}; "
    threads = f", {run['device']['threads']} threads" if run else ""
    versions = {} if run is None else _versions(results)
    lines = [
        f"# likelier against TRL ({results['plan']})",
        f"{device}{machine['processor']}, {machine['cores']} cores{threads}, {machine['memory_gb']:.0f} GB; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}; {results['date']}"
        + (f"; {results['minutes']} minutes in all." if "minutes" in results else "; unfinished."),
        _NOTES,
    ]
    return "\n\n".join(lines)


def _disturbance(results: Record) -> list[str]:
    """A warning where other processes had a share of the processor."""
    shares = [run["taken_by_others"] for run in _runs(results) if run["taken_by_others"] is not None]
    disturbed = [share for share in shares if share > _QUIET]
    if not disturbed:
        return []
    return [
        f"**Disturbed:** in {len(disturbed)} of {len(shares)} runs other programs took more than {_QUIET:.0%} of the "
        f"processor (at most {max(disturbed):.0%}). Measure again on a quiet machine."
    ]


def _runs(results: Record) -> list[Record]:
    tables = (results[name].values() for name in ("cases", "growth", "profile"))
    return [run for table in tables for record in table for run in record["runs"] if "seconds" in run]


def _first_run(results: Record) -> Record | None:
    return next(iter(_runs(results)), None)


def _versions(results: Record) -> dict[str, str]:
    return {name: version for run in _runs(results) for name, version in run["versions"].items()}


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _case(record: Record, device: str) -> str:
    case, facts = record["case"], record["facts"]
    prompts, chosen, rejected = facts["mean_lengths"]
    source = "random tokens" if case["data"] in LENGTHS else "real text"
    words = (
        f"{case['data']} ({source}), {case['model']}, {'LoRA' if case['lora'] else 'full'}: {case['pairs']} pairs, "
        f"{case['batch']} a step; mean prompt/chosen/rejected {prompts:.0f}/{chosen:.0f}/{rejected:.0f} tokens, "
        f"at most {MAX_LENGTH}."
    )
    if device == "cuda":
        words += " Training without the first step (kernels are chosen and compiled in it)."
    rows = [_row(row) for row in record["summary"]]
    return f"## {case['name']}\n\n{words}\n\n{_table(_HEADINGS, rows)}"


def _row(row: Record) -> list[str]:
    if "whole" not in row:
        return [
            row["rival"],
            row["problem"],
            *[""] * 4,
            *(_ratios(row, name) for name in ("whole", "training")),
            "",
            "",
        ]
    low, high = row["whole_range"]
    spread = f" ({low:.1f}-{high:.1f})" if row["runs"] > 1 else ""
    differences = row.get("differences")
    name = row["rival"] + (" (1)" if "problem" in row else "") + ("" if row["same_tokens"] else " (OTHER TOKENS)")
    return [
        name,
        f"{row['whole']:.1f}{spread}",
        f"{row['training']:.1f}",
        f"{row['pairs_per_second']:.3g}",
        f"{row['peak'] / GB:.2f} ({row['loaded'] / GB:.2f})",
        f"{row['efficiency']:.2f}",
        *(_ratios(row, name) for name in ("whole", "training")),
        f"{row['memory_ratio']:.2f}" if "memory_ratio" in row else "",
        "" if row["rival"] == "likelier" or differences is None else _difference(differences),
    ]


def _difference(found: Record) -> str:
    return f"{found['loss']:.1e}, {found['grad_norm, relative']:.1e}"


def _ratios(row: Record, name: str) -> str:
    names = (f"time_ratio_{name}", f"operations_ratio_{name}", f"harvest_{name}")
    found = [f"{row[key]:.2f}" if key in row else "-" for key in names]
    return "" if found == ["-"] * 3 else " / ".join(found)


def _growth(records: Iterable[Record]) -> str:
    headings = ("rival", "pairs", "ms a pair, whole", "ms a pair, training", "peak MB (loaded)", "store kB")
    rows = [
        [
            row["rival"],
            f"{row['pairs']:,}",
            f"{row['ms_per_pair']:.2f}",
            f"{row['ms_per_pair_training']:.2f}",
            f"{row['peak'] / 1e6:.0f} ({row['loaded'] / 1e6:.0f})",
            "" if row["store_bytes"] is None else f"{row['store_bytes'] / 1e3:.0f}",
        ]
        for record in records
        for row in growth_rows(record)
    ]
    return f"## Growth with the number of pairs\n\nA random Llama of 2 layers, one epoch.\n\n{_table(headings, rows)}"


def _profile(records: dict[str, Record]) -> str:
    found = [(name, run["profile"]) for name, record in records.items() for run in record["runs"] if "profile" in run]
    rows = [
        [
            name.removeprefix("profile-"),
            f"{profile['products']:.1%}",
            ", ".join(f"{key} {share:.1%}" for key, share in list(profile["largest"].items())[:6]),
        ]
        for name, profile in found
    ]
    words = "Self CPU time of likelier's second training step (4 pairs), optimizer included."
    return f"## Share of matrix products\n\n{words}\n\n{_table(('training', 'products', 'largest operators'), rows)}"


def _settings(results: Record) -> str:
    """What each rival was given, as told by its own first run in each way of training."""
    seen: dict[tuple[str, str], Record] = {}
    for record in results["cases"].values():
        for run in record["runs"]:
            if "settings" in run:
                training = "LoRA" if record["case"]["lora"] else "full"
                seen.setdefault((run["rival"], training), run["settings"])
    rows = [
        [rival, training, RIVALS[rival], ", ".join(f"{name}={value}" for name, value in settings.items())]
        for (rival, training), settings in seen.items()
    ]
    words = "What differs from each tool's own defaults; both take AdamW as transformers sets it up, without warm-up."
    return f"## Settings\n\n{words}\n\n{_table(('rival', 'training', 'in words', 'settings'), rows)}"
