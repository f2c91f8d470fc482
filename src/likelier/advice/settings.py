"""Hyperparameters for a recommendation, each with where it comes from."""

from __future__ import annotations

from likelier.objectives import METHODS
from likelier.objectives.advice import Setting, Subject

_STEPS = 50  # that an epoch should have
_BATCHES = (64, 32, 16, 8)  # the papers' 64 to 128 at one end, KTO's 8 at the other


def batch_size(rows: int) -> Setting:
    """The largest batch that leaves an epoch about 50 steps."""
    size = next((size for size in _BATCHES if rows >= _STEPS * size), _BATCHES[-1])
    source = f"ours: the largest of {_BATCHES[-1]} to {_BATCHES[0]} with {_STEPS} steps an epoch; papers take 64 to 128"
    return Setting("batch_size", size, source)


def settings_of(method: str, subject: Subject) -> list[Setting]:
    """The method's own hyperparameters and, last, its learning rate."""
    from likelier.training.arguments import LORA_RATE_FACTOR

    objective = METHODS[method]()
    found = {one.name: one for one in objective.advice.settings(objective, subject)}
    own = Setting("learning_rate", objective.learning_rate, objective.learning_rate_source)
    given = found.pop(own.name, own)
    rate, source = given.value, given.source
    if subject.adapter:
        rate, source = rate * LORA_RATE_FACTOR, f"{source}, times {LORA_RATE_FACTOR} for LoRA (ours)"
    return [*found.values(), Setting(own.name, float(f"{rate:.3g}"), source)]
