"""What is measured: the tables to change when a benchmark should take more or less time. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, replace

BETA = 0.1
MAX_LENGTH = 1024
LEARNING_RATES = {"full": 5e-6, "lora": 1e-4}
LORA_RANK = 16
SEED = 42
FOLDER_OF_DATA = {
    "hh": "hh-rlhf/harmless-base_test.jsonl.gz",
    "qa": "qa-feedback/dev_feedback.json",
    "dpo_en": "llama-factory/dpo_en_demo.json",
}

RIVALS = {
    "likelier": "PreferenceTrainer with its default options; the reference store is empty",
    "likelier-cached": "the same again: the reference is found in the store",
    "trl-default": "DPOTrainer's defaults: checkpointing on, reference at every step",
    "trl-tuned": "reference precomputed, checkpointing off",
    "trl-grouped": "as tuned, batches of like length (another order: no loss comparison)",
    "trl-micro": "as tuned, one pair at a time, gradients accumulated over the step",
}
SAME_ORDER = [name for name in RIVALS if name != "trl-grouped"]

# Means of prompt, chosen and rejected in tokens (PERFORMANCE.md, section 1.10), and the spread of the lognormal.
LENGTHS = {
    "hh-like": ((127, 59, 59), 0.75),
    "ultrafeedback-like": ((121, 288, 288), 0.6),
    "tldr-like": ((382, 34, 34), 0.35),
    "short": ((24, 12, 12), 0.5),
}


@dataclass(frozen=True)
class Case:
    """Rows, a model and how it is trained; `repeats` says how often each rival runs.

    `data` is a key of FOLDER_OF_DATA (real text) or of LENGTHS (random tokens); `model` is `demo` (SmolLM2-135M) or a
    key of `models.CONFIGS`. `pairs` rows go in steps of `batch`.
    """

    name: str
    data: str
    model: str
    lora: bool
    pairs: int
    batch: int
    repeats: dict[str, int]

    @property
    def training(self) -> str:
        """full or lora."""
        return "lora" if self.lora else "full"

    @property
    def learning_rate(self) -> float:
        """The rate of full fine-tuning or of LoRA."""
        return LEARNING_RATES[self.training]


def _repeats(count: int, **others: int) -> dict[str, int]:
    """Every rival `count` times but for those named (`trl_grouped=1`); 0 leaves one out."""
    found = dict.fromkeys(RIVALS, count) | {name.replace("_", "-"): number for name, number in others.items()}
    return {name: number for name, number in found.items() if number}


# At about 90 GFLOP/s: hh-full 16 minutes, hh-lora 4, qa-full 8, dpo_en-full 7, the rest 4.
FULL = (
    Case("hh-full", "hh", "demo", False, 16, 8, _repeats(1)),
    Case("hh-lora", "hh", "demo", True, 8, 4, _repeats(1, trl_grouped=0, trl_micro=0)),
    Case("qa-full", "qa", "demo", False, 6, 6, _repeats(1)),
    Case("dpo_en-full", "dpo_en", "demo", False, 4, 2, _repeats(1, trl_micro=0)),
)
QUICK = (
    Case("hh-full", "hh", "demo", False, 8, 4, _repeats(1, trl_grouped=0, trl_micro=0)),
    Case("hh-lora", "hh", "demo", True, 4, 2, _repeats(1, trl_grouped=0, trl_micro=0)),
)
GROWTH = tuple(
    Case(f"growth-{pairs}", "short", "tiny", False, pairs, 8, {"likelier": 1, "trl-tuned": 1})
    for pairs in (100, 1_000, 10_000)
)
PROFILED = (
    Case("profile-full", "hh", "demo", False, 8, 4, {"likelier": 1}),
    Case("profile-lora", "hh", "demo", True, 8, 4, {"likelier": 1}),
)
CUDA = (
    Case("1B-hh-full", "hh-like", "random-1B", False, 96, 8, _repeats(2, trl_micro=0)),
    Case("1B-ultrafeedback-full", "ultrafeedback-like", "random-1B", False, 64, 8, _repeats(2, trl_micro=0)),
    Case("0.5B-tldr-full", "tldr-like", "random-0.5B", False, 96, 8, _repeats(1, trl_micro=0)),
    Case("1B-ultrafeedback-lora", "ultrafeedback-like", "random-1B", True, 64, 8, _repeats(1, trl_micro=0)),
    Case("0.5B-hh-full", "hh-like", "random-0.5B", False, 96, 8, _repeats(1, trl_micro=0)),
)


@dataclass(frozen=True)
class Plan:
    """Cases, whether the growth table and the share of matrix products are made, and the minutes it may take."""

    name: str
    cases: tuple[Case, ...]
    extras: bool
    minutes: float


PLANS = {
    "cpu": Plan("cpu", FULL, True, 45),
    "cpu_quick": Plan("cpu_quick", QUICK, False, 10),
    "cpu_growth": Plan("cpu_growth", (), True, 10),
    "cuda": Plan("cuda", CUDA, False, 8.7),
}


def chosen(
    plan: Plan,
    *,
    names: list[str] | None = None,
    rivals: list[str] | None = None,
    repeats: int | None = None,
    model: str | None = None,
    pairs: int | None = None,
) -> tuple[Case, ...]:
    """The plan's cases with what the command line changes. Raises `ValueError` for a case or rival of no such name."""
    known = [case.name for case in plan.cases]
    for given, allowed in ((names, known), (rivals, list(RIVALS))):
        unknown = [name for name in given or [] if name not in allowed]
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}; known here: {', '.join(allowed)}")
    cases = [case for case in plan.cases if not names or case.name in names]
    return tuple(_changed(case, rivals, repeats, model, pairs) for case in cases)


def _changed(case: Case, rivals: list[str] | None, repeats: int | None, model: str | None, pairs: int | None) -> Case:
    wanted = rivals or list(case.repeats)
    if "likelier-cached" in wanted and "likelier" not in wanted:
        wanted = ["likelier", *wanted]  # it fills the store
    counts = {name: repeats or case.repeats.get(name, 1) for name in RIVALS if name in wanted}
    return replace(case, repeats=counts, model=model or case.model, pairs=pairs or case.pairs)
