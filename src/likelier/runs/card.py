"""What the files of a run hold, as far as their readers rely on it, and the check that a file does.

A shape is a kind of value; a block of names, each with the shape of what stands there (a name that ends in `!` must be
there, any other may be absent or null, and names that are not listed hold anything); a list of one shape; or `Every`
name with the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from likelier.utils.errors import RunFolderError


@dataclass(frozen=True)
class Kind:
    """A kind of value in words, and the test for it."""

    words: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Every:
    """A block in which every name holds the same."""

    shape: Shape


Shape: TypeAlias = "Kind | Every | Mapping[str, Any] | list[Any]"
_LARGEST = 1e100  # beyond it no number of a run can be, and its square is no float any more


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def _are_data_sets(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) and isinstance(one.get("path"), str) for one in value)


TEXT = Kind("text", lambda value: isinstance(value, str))
NUMBER = Kind("a number", _is_number)
WHOLE = Kind("a whole number from 0 on", lambda value: type(value) is int and 0 <= value < 2**63)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
PLAIN = Kind("text, a number, true or false", lambda value: isinstance(value, (str, bool)) or _is_number(value))
SOURCES = Kind("a path or a list of data sets", lambda value: isinstance(value, str) or _are_data_sets(value))
ANYTHING = Kind("anything", lambda value: True)

_HELD_OUT = {"named": TEXT, "seed": WHOLE, "from_own_data": FLAG}
_COUNTS = {"groups": WHOLE, "unusable": WHOLE, "cut_prompts": WHOLE, "cut_answers": WHOLE, "answers_without_eos": WHOLE}
STAGE = {"name!": TEXT, "folder!": TEXT, "method": TEXT, "status": TEXT, "options": Every(ANYTHING)}
CARD: Shape = {
    **dict.fromkeys(
        ("status", "started", "began", "error", "method", "explained", "policy", "precision", "device"), TEXT
    ),
    **dict.fromkeys(("reward_scale", "training_seconds", "peak_memory_gib"), NUMBER),
    "chat": {
        "system_prompt": TEXT,
        "chat_template": TEXT,
        "reasoning": TEXT,
        "chat_template_kwargs": Every(ANYTHING),
        "fold_system": FLAG,
        "train_on": TEXT,
        "date": TEXT,
    },
    "lora": {"lora_r": WHOLE, "lora_alpha": NUMBER, "lora_dropout": NUMBER, "lora_targets": TEXT, "load_in_4bit": FLAG},
    "fingerprint": {"adapter": {"dropout": NUMBER}, "token_budget": WHOLE},
    **dict.fromkeys(("evaluation_start", "evaluation_end"), Every(NUMBER)),
    "objective": {
        **dict.fromkeys(("source", "items", "strength"), TEXT),
        **dict.fromkeys(("needs_reference", "rewards_per_token", "per_token", "strength_from_data"), FLAG),
        **dict.fromkeys(("has_baseline", "has_target", "lowers_both"), FLAG),
        "satisfied_at": NUMBER,
    },
    "data_format": TEXT,
    "total_steps": WHOLE,
    "steps": WHOLE,
    "hyperparameters": Every(PLAIN),
    "parameters": {"all!": WHOLE, "trainable!": WHOLE},
    "scorer": {"name": TEXT, "reason": TEXT},
    "learning_rate": {"value!": NUMBER, "source": TEXT},
    "run": {
        **dict.fromkeys(("method", "model", "output", "reference", "dtype", "push_to_hub"), TEXT),
        "data": SOURCES,
        "eval_data": SOURCES,
        "eval_fraction": NUMBER,
        "columns": Every(ANYTHING),
    },
    "options": {
        **dict.fromkeys(("truncation", "order", "scheduler", "use_votes", "use_weights", "use_margins"), TEXT),
        **dict.fromkeys(("batch_size", "seed", "max_steps", "max_length", "logging_steps", "eval_prompts"), WHOLE),
        **dict.fromkeys(("epochs", "learning_rate", "warmup", "min_score_gap"), NUMBER),
        "trainer": Every(ANYTHING),
    },
    "data": {
        "hash": TEXT,
        "median_answer_length": NUMBER,
        "max_length": WHOLE,
        "train": _COUNTS,
        "eval": _COUNTS,
        "first_row": Every(TEXT),
    },
    "versions": Every(TEXT),
    "files": Every({"bytes!": WHOLE, "hash!": TEXT}),
    "unusable_rows": Every(WHOLE),
    "reference": {
        **dict.fromkeys(("words", "identity", "weights", "scores"), TEXT),
        **dict.fromkeys(("step0_loss", "step0_loss_expected", "step0_largest_difference_per_token"), NUMBER),
        "equals_policy": FLAG,
    },
    "evaluation": {"eval_steps": WHOLE, "seconds": Every(NUMBER), "share_at_intervals": NUMBER},
    "stages": [STAGE],
    "sweep": {"held_out": _HELD_OUT, "file": TEXT},
}

_FINDING = {
    **dict.fromkeys(("name", "severity", "summary", "why", "mend"), TEXT),
    "count": WHOLE,
    "examples": [TEXT],
    "details": {**dict.fromkeys(("mean_preferred", "mean_other"), NUMBER), "rule": TEXT},
}
_STATISTICS = {"noise": dict.fromkeys(("ceiling", "flip_rate", "low", "high"), NUMBER)}
ACCOUNT: Shape = {
    "rows": WHOLE,
    "usable": WHOLE,
    "findings": [_FINDING],
    "audit": {"verdict": TEXT, "kind": TEXT, "findings": [_FINDING], "statistics": _STATISTICS},
}

SKIPPED: Shape = {"step!": WHOLE, "cause!": TEXT, "rows!": [{"source!": TEXT}]}
_SIDE = {"logps!": [NUMBER], "ref_logps": [NUMBER], "lengths": [WHOLE]}
_TOKEN = {"id": WHOLE, "text": TEXT, "trained": FLAG, "logp": NUMBER, "ref_logp": NUMBER, "logratio": NUMBER}
_SCORED = {
    **dict.fromkeys(("reward", "logp", "ref_logp", "logratio"), NUMBER),
    **dict.fromkeys(("logp_per_token", "ref_logp_per_token", "logratio_per_token"), NUMBER),
    "length": WHOLE,
    "tokens!": [_TOKEN],
}
_WRITTEN = {
    "text!": TEXT,
    "tokens": WHOLE,
    "is_whole": FLAG,
    "refusal": FLAG,
    "repetition!": NUMBER,
    **dict.fromkeys(("logratio", "reward"), NUMBER),
}
EVALUATION: Shape = {
    "step!": WHOLE,
    "when": TEXT,
    "items_of": WHOLE,
    "items": {
        "source": [TEXT],
        "prompt": [WHOLE],
        "label": [FLAG],
        "chosen": _SIDE,
        "rejected": _SIDE,
        "completion": {**_SIDE, "lengths!": [WHOLE]},
    },
    "samples": [{"source": TEXT, "prompt": TEXT, "greedy": _WRITTEN, "sampled!": _WRITTEN}],
    "pairs": [
        {
            **dict.fromkeys(("why", "prompt", "source"), TEXT),
            "chosen!": _SCORED,
            "rejected!": _SCORED,
            "margin!": NUMBER,
            "correct": FLAG,
        }
    ],
}

_ENTRY = {"name!": TEXT, "status!": TEXT, "setting!": TEXT, "folder!": TEXT, "error": TEXT}
SWEEP: Shape = {"runs!": [{**_ENTRY, "varied!": Every(ANYTHING)}]}
SWEEP_TO_GO_ON: Shape = {
    "began": TEXT,
    "runs!": [{**_ENTRY, "options!": Every(ANYTHING)}],
    "held_out!": _HELD_OUT,
    "data!": ANYTHING,
}


def checked(content: Any, shape: Shape, file: object) -> Any:
    """The content of `file`, if it has the shape. Raises `RunFolderError` with the place and the value that do not."""
    _check(content, shape, "", file)
    return content


def checked_card(content: Any, file: object) -> dict[str, Any]:
    """The content of run.json, without what is null. Raises as `checked`."""
    return {name: value for name, value in checked(content, CARD, file).items() if value is not None}


def checked_account(content: Any, file: object) -> dict[str, Any]:
    """The content of audit.json. Raises as `checked`."""
    return checked(content, ACCOUNT, file)


def checked_skipped(content: Any, file: object) -> dict[str, Any]:
    """A file of a step that was skipped. Raises as `checked`."""
    return checked(content, SKIPPED, file)


def told(card: Mapping[str, Any], run: object, *names: str) -> Any:
    """What the card of a run says under these names, one inside the other. Raises `RunFolderError` if it does not."""
    found: Any = card
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    if found is None:
        raise RunFolderError(f"{run}/run.json does not tell {'.'.join(names)}, which this needs; restore the file")
    return found


def checked_line(row: Any, place: str) -> Any:
    """A line of metrics.jsonl: names and values, and where it holds a loss its step and nothing but numbers."""
    _require(isinstance(row, dict), place, "", row, "names and values")
    if "loss" in row or "eval_loss" in row:
        _require(WHOLE.fits(row.get("step")), place, "step", row.get("step"), WHOLE.words)
        for name, value in row.items():
            _require(_is_number(value), place, name, value, NUMBER.words)
    return row


def checked_evaluation(content: Any, file: object) -> Any:
    """A file of an evaluation, whose items are two sides or one, with as many values in every list."""
    items = checked(content, EVALUATION, file).get("items") or {}
    _require(("chosen" in items) == ("rejected" in items), file, "items", list(items), "both chosen and rejected")
    pair = [bool((items[side] or {}).get("ref_logps")) for side in ("chosen", "rejected") if side in items]
    _require(len(set(pair)) < 2, file, "items", list(items), "ref_logps of both sides, or of none,")
    lists = {name: column for name, column in items.items() if isinstance(column, list)}
    for side in ("chosen", "rejected", "completion"):
        columns = (items.get(side) or {}).items()
        lists |= {f"{side}.{name}": column for name, column in columns if isinstance(column, list)}
    scored = [column for name, column in lists.items() if name.endswith(".logps")]
    count = len((scored or list(lists.values()) or [[]])[0])
    for name, column in lists.items():
        _require(len(column) == count, file, f"items.{name}", column, f"a list of {count} values")
    return content


def _check(value: Any, shape: Shape, place: str, file: object) -> None:
    if isinstance(shape, Kind):
        _require(shape.fits(value), file, place, value, shape.words)
    elif isinstance(shape, list):
        _require(isinstance(value, list), file, place, value, "a list")
        if isinstance(shape[0], Kind) and all(map(shape[0].fits, value)):
            return  # nearly always, and quick
        for number, one in enumerate(value):
            _check(one, shape[0], f"{place}[{number}]", file)
    else:
        _require(isinstance(value, dict), file, place, value, "names and values")
        named = dict.fromkeys(value, shape.shape) if isinstance(shape, Every) else shape
        for name, inner in named.items():
            bare = name if isinstance(shape, Every) else name.removesuffix("!")
            found = value.get(bare)
            if found is not None or bare != name:
                _check(found, inner, f"{place}.{bare}" if place else bare, file)


def _require(condition: bool, file: object, place: str, value: Any, wanted: str) -> None:
    if not condition:
        shown = repr(value)
        what = f"{place} is {shown if len(shown) <= 60 else shown[:57] + '...'}" if place else "it holds something else"
        raise RunFolderError(f"{file} is damaged: {what}, where {wanted} should stand; restore the file")
