"""Run folders for the report: real short trainings on hostile data, and made-up ones of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.helpers.small_runs import pair_rows, write_card, write_rows

SCRIPT = "<script>document.title = 'seized'; console.error('seized')</script>"
IMAGE = "<img src=http://outside.invalid/x.png onerror=alert(1)>"
EVIL = f"{SCRIPT}{IMAGE}\"'&{{{{ 7 * 7 }}}}</style>\x1b[31m\u202e\ud800"
SECTIONS = (
    "verdicts",
    "dropped",
    "results",
    "answers",
    "curves",
    "distributions",
    "tokens",
    "data",
    "timing",
    "reproduce",
)


def hostile_rows(count: int = 24) -> list[dict[str, Any]]:
    """Pairs whose prompts and answers are full of markup."""
    rows = pair_rows(count)
    for row in rows:
        for name in ("prompt", "chosen", "rejected"):
            turn = row[name][-1]
            turn["content"] = f"{SCRIPT}{IMAGE}&amp; {turn['content']}"
    return rows


def hostile_data(folder: Path) -> Path:
    scores = {"score_chosen": 2, "score_rejected": 1}  # for the methods that learn from them
    return write_rows(folder / "pairs <b>&.jsonl", [row | scores for row in hostile_rows()])


def write_run(folder: Path, card: dict[str, Any], rows: list[dict[str, Any]], **files: Any) -> Path:
    """A run folder with this content; `files` are evaluations by their step (`step_0`), or the account (`audit`)."""
    (folder / "evaluations").mkdir(parents=True)
    write_card(folder, card)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, content in files.items():
        place = "audit.json" if name == "audit" else f"evaluations/{name.replace('_', '-')}.json"
        (folder / place).write_text(json.dumps(content), encoding="utf-8")
    return folder


def huge_run(folder: Path, text: str) -> Path:
    """A long run in which every text is this one, many times over."""
    long = text * (20_000 // len(text))
    card = {
        "status": "failed",
        "error": long,
        "method": "dpo",
        "reward_scale": 0.1,
        "policy": long,
        "explained": long,
        "run": {"method": "dpo", "model": long, "data": long},
        "options": {"batch_size": 8, "seed": 1, "trainer": {"note": long}},
        "versions": {"torch": long},
        "reference": {"words": long},
    }
    steps = [{"step": step, **_metrics(step)} for step in range(1, 5_001)]
    evaluations = [
        {"step": step, **{f"eval_{name}": value for name, value in _metrics(step).items()}}
        for step in range(0, 5_001, 25)
    ]
    answer = {"text": long, "tokens": 9000, "is_whole": False, "repetition": 0.5, "refusal": True, "logratio": 1.0}
    sample = {"source": long, "prompt": long, "greedy": answer, "sampled": answer}
    items = {side: {"logps": [-1.0] * 2000, "ref_logps": [-2.0] * 2000, "lengths": [3] * 2000} for side in _SIDES}
    detail: dict[str, Any] = {"when": "start", "step": 0, "samples": [sample] * 20, "items": items}
    end = {**detail, "when": "end", "step": 5_000, "pairs": [_pair(text, long)] * 8}
    finding = dict.fromkeys(("name", "severity", "summary", "why", "mend"), long) | {"examples": [long] * 6}
    audit = {"findings": [finding] * 40, "audit": {"verdict": long, "findings": [finding] * 40}}
    return write_run(folder, card, steps + evaluations, step_0=detail, step_5000=end, audit=audit)


_SIDES = ("chosen", "rejected")
_NAMES = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "grad_norm")
_MORE = ("logps/chosen", "logps/rejected", "lengths/chosen", "lengths/rejected", "learning_rate", "kl", "kl_per_token")


def _metrics(step: int) -> dict[str, float]:
    return dict.fromkeys((*_NAMES, *_MORE), 0.5 + step * 37 % 101 / 1000)


def _pair(token: str, text: str) -> dict[str, Any]:
    tokens = [{"id": 1, "text": token, "logp": -1.0, "ref_logp": -2.0, "logratio": 1.0}] * 900
    answer = {"reward": 0.1, "logp": -1.0, "ref_logp": -2.0, "logratio": 1.0, "length": 900, "tokens": tokens}
    return {
        "source": text,
        "why": text,
        "prompt": text,
        "chosen": answer,
        "rejected": answer,
        "margin": 1.0,
        "correct": True,
    }
