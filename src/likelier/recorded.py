"""What a run recorded of itself: its card, and the reference that it was trained against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from likelier.data.tokenize import Group
from likelier.errors import ConfigError, LikelierError, WrongReferenceError
from likelier.models import Policy, load_policy, require_same_vocabulary
from likelier.options import ChatOptions, Dtype
from likelier.reference import Reference, base_reference, other_reference
from likelier.runs import RunFolder, final_folder
from likelier.scoring import attach_scorer


def card_of(model: str) -> dict[str, Any]:
    """The card of a run folder; empty for any other model."""
    try:
        return RunFolder(model).read_card()
    except LikelierError:
        return {}


def final_model(name: str) -> str:
    """A staged run's last finished stage; any other name as it was given."""
    found = final_folder(name)
    return name if found == Path(name) else str(found)


def recorded_chat(card: dict[str, Any]) -> ChatOptions:
    """How a run turned conversations into text, beyond the template that was saved with its tokenizer."""
    return ChatOptions(**{name: value for name, value in card.get("chat", {}).items() if name != "chat_template"})


def has_no_reference(card: dict[str, Any]) -> bool:
    """Whether a run was trained by a method without a reference."""
    return bool(card.get("reference")) and "weights" not in card["reference"]


def adapter_gone_on_from(card: dict[str, Any]) -> str | None:
    """The adapter that training went on from; None where it began with a whole model."""
    began = card.get("run", {}).get("model")
    return began if began and (Path(began) / "adapter_config.json").is_file() else None


def recorded_source(card: dict[str, Any]) -> str | None:
    """The name of the model that a run took as its reference; None where that is no model that can be loaded."""
    run = card.get("run", {})
    if not run or run["reference"] == "base":
        return None
    return run["model"] if run["reference"] == "start" else run["reference"]


def reference_for(
    model: str, named: str | None, card: dict[str, Any], policy: Policy, dtype: Dtype, groups: Sequence[Group]
) -> Reference:
    """The reference of a loaded policy: the named one; else the one that the run recorded, proved by its identity;
    else an adapter's base. A run of a method without one gives the model that it began with.

    Args:
        model: the policy's name.
        named: what the user asked for: a model, `base` (adapter switched off) or nothing.
        card: of `card_of(model)`.
        policy: with a scorer attached; a reference that is another model goes to its device.
        dtype: of a model that has to be loaded.
        groups: what will be scored (see `attach_scorer`).

    Raises:
        ConfigError: none is recorded.
        WrongReferenceError: what lies at the recorded place is not what the run was trained against.
    """
    has_adapter = (Path(model) / "adapter_config.json").is_file()
    if named is not None and named != "base":
        return loaded_reference(named, policy, dtype, groups)
    base = base_reference(policy.model, precision=policy.precision) if has_adapter or named == "base" else None
    recorded = card.get("reference", {}).get("weights")
    if base is not None and (named == "base" or recorded in (None, base.weights)):
        return base
    source = recorded_source(card)
    if source is None:
        raise ConfigError(f"{model} does not name a reference that can be loaded; give --reference")
    found = loaded_reference(source, policy, dtype, groups)
    if recorded is not None and card.get("precision") == policy.precision and found.weights != recorded:
        raise WrongReferenceError(
            f"{source} is not the reference that {model} was trained against: its weights are others (hash "
            f"{found.weights}, recorded {recorded}). Give the right one with --reference"
        )
    return found


def loaded_reference(name: str, policy: Policy, dtype: Dtype, groups: Sequence[Group]) -> Reference:
    """Another model as the reference, on the policy's device. Raises `WrongReferenceError` for another vocabulary."""
    other = load_policy(name, dtype=dtype)
    require_same_vocabulary(policy, other)
    other.model.to(policy.model.device)
    attach_scorer(other.model, autocast=other.autocast, groups=groups)
    return other_reference(other.model, name, precision=other.precision)
