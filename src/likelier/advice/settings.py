"""Hyperparameters for a recommendation, each with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from likelier.objectives import METHODS
from likelier.objectives.pointwise import KTO


@dataclass(frozen=True)
class Setting:
    """An option of a run with its value and its source."""

    name: str
    value: Any
    source: str


_BETA_SOURCES = {
    "dpo": "DPO paper (2305.18290): 0.1, 0.5 for summaries; later recipes 0.01 to 0.1",
    "robust": "as DPO's",
    "kto": "KTO paper (2402.01306)",
}

# SimPO's own runs (2405.14734) by architecture, and whether the model was instructed: beta, gamma / beta, rate.
_SIMPO: dict[tuple[str, bool], tuple[float, float, float, str]] = {
    ("mistral", False): (2.0, 0.8, 3e-7, "Mistral-7B-Base"),
    ("mistral", True): (2.5, 0.1, 5e-7, "Mistral-7B-Instruct"),
    ("llama", False): (2.0, 0.5, 6e-7, "Llama-3-8B-Base"),
    ("llama", True): (2.5, 0.55, 1e-6, "Llama-3-8B-Instruct"),
    ("gemma2", True): (10.0, 0.5, 8e-7, "Gemma-2-9B-it"),
}
_NEAREST_SIMPO = ("llama", False)
_STEPS = 50  # that an epoch should have
_BATCHES = (64, 32, 16, 8)  # the papers' 64 to 128 at one end, KTO's 8 at the other


@dataclass(frozen=True)
class Subject:
    """What is trained: the architecture, whether it was instructed, how many rows there are, with an adapter or not."""

    architecture: str
    instructed: bool
    rows: int
    adapter: bool


def batch_size(rows: int) -> Setting:
    """The largest batch that leaves an epoch about 50 steps."""
    size = next((size for size in _BATCHES if rows >= _STEPS * size), _BATCHES[-1])
    source = f"ours: the largest of {_BATCHES[-1]} to {_BATCHES[0]} with {_STEPS} steps an epoch; papers take 64 to 128"
    return Setting("batch_size", size, source)


def settings_of(method: str, subject: Subject, *, flip_rate: float | None, labels: tuple[int, int]) -> list[Setting]:
    """The method's own hyperparameters and its learning rate. `labels` counts desirable and undesirable rows."""
    made = {
        "simpo": lambda: _simpo(subject),
        "ipo": list,  # tau follows from the data when it is trained; see `remarks`
        "kto": lambda: [_beta("kto"), *_kto_weights(*labels)],
        "robust": lambda: [_beta("robust"), _flip(flip_rate)],
        "dpo": lambda: [_beta("dpo")],
    }[method]()
    return [*made, _learning_rate(method, subject)]


def remarks(method: str) -> list[str]:
    """What is decided when the run begins."""
    words = "tau: 0.1 times the median answer length, so that the target is about 5 nats an answer; the run prints it"
    return [words] if method == "ipo" else []


def _beta(method: str) -> Setting:
    objective: Any = METHODS[method]()
    return Setting("beta", objective.beta, _BETA_SOURCES[method])


def _flip(rate: float | None) -> Setting:
    from likelier.advice.choice import GUESSED_FLIP_RATE

    if not rate:
        return Setting("flip_probability", GUESSED_FLIP_RATE, "a guess: nothing in the data tells it")
    return Setting("flip_probability", round(min(rate, 0.49), 3), "estimated from the data by the audit")


def _kto_weights(desirable: int, undesirable: int) -> list[Setting]:
    if not desirable or not undesirable or 1 <= desirable / undesirable <= 1.5:
        return []
    name, weight = KTO().balancing_weight(desirable, undesirable)
    source = f"KTO paper advises 1 to 1.5 between the weighted sides; here {desirable:,} to {undesirable:,}"
    return [Setting(name, round(weight, 3), source)]


def _simpo(subject: Subject) -> list[Setting]:
    beta, ratio, _, model = _simpo_run(subject)
    source = f"SimPO paper (2405.14734), {model}"
    return [Setting("beta", beta, source), Setting("gamma_beta_ratio", ratio, source)]


def _simpo_run(subject: Subject) -> tuple[float, float, float, str]:
    known = _SIMPO.get((subject.architecture, subject.instructed)) or _SIMPO.get((subject.architecture, True))
    if known is not None:
        return known
    *values, model = _SIMPO[_NEAREST_SIMPO]
    return (*values, f"{model}; nothing is published for {subject.architecture}")  # type: ignore[return-value]


def _learning_rate(method: str, subject: Subject) -> Setting:
    from likelier.training.arguments import LORA_RATE_FACTOR

    objective = METHODS[method]
    rate, source = objective.learning_rate, objective.learning_rate_source
    if method == "simpo":
        rate, source = _simpo_run(subject)[2], f"SimPO paper, {_simpo_run(subject)[3]}"
    if subject.adapter:
        rate, source = rate * LORA_RATE_FACTOR, f"{source}, times {LORA_RATE_FACTOR} for LoRA (ours)"
    return Setting("learning_rate", float(f"{rate:.3g}"), source)
