"""Objectives: which of ours another tool's loss is, and how its hyperparameters become ours.

TRL's losses are tables here: the options of the other two tools are translated as TRL's under other names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from likelier.cli.importing.common import Draft, as_list, as_number
from likelier.cli.importing.hyperparameters import STRENGTHS, beta_alone, nll


@dataclass(frozen=True)
class Loss:
    """A loss type of TRL: our method, or the nearest one where there is none."""

    method: str = ""
    nearest: str = ""


LOSSES: dict[str, dict[str, Loss]] = {
    "dpo": {
        "sigmoid": Loss("dpo"),
        "hinge": Loss("hinge"),
        "ipo": Loss("ipo"),
        "robust": Loss("robust"),
        "sigmoid_norm": Loss("sigmoid_norm"),
        "apo_zero": Loss("apo_zero"),
        "apo_down": Loss("apo_down"),
        "sft": Loss("sft"),
        "exo_pair": Loss(nearest="dpo with a small label_smoothing"),
        "nca_pair": Loss(nearest="apo_zero, which also judges each answer on its own"),
        "bco_pair": Loss(nearest="apo_zero, or kto on the same pairs"),
        "sppo_hard": Loss(nearest="ipo, which also regresses to a target"),
        "aot": Loss(nearest="dpo, which is AOT with one pair a batch"),
        "aot_pair": Loss(nearest="dpo, which is AOT with one pair a batch"),
        "aot_unpaired": Loss(nearest="dpo, which is AOT with one pair a batch"),
        "discopop": Loss(nearest="dpo"),
        "kto_pair": Loss(nearest="kto, which makes two labelled rows of a pair"),
    },
    "kto": {
        "kto": Loss("kto"),
        "apo_zero_unpaired": Loss(nearest="apo_zero on pairs, or kto, which it is with a baseline of 0"),
    },
    "cpo": {
        "simpo": Loss("simpo"),
        "alphapo": Loss("simpo"),
        "sigmoid": Loss(nearest="simpo with nll_weight; CPO's loss is on sums, without a reference"),
        "hinge": Loss(nearest="hinge, which needs a reference"),
        "ipo": Loss(nearest="ipo, which needs a reference"),
    },
}
_FIRST = {"dpo": "sigmoid", "kto": "kto", "cpo": "sigmoid"}

# Methods of these tools that are no loss types, and what is nearest to them here.
OTHERS = {
    "orpo": "simpo with nll_weight",
    "cpo": "simpo with nll_weight",
    "kto_pair": "kto, which makes two labelled rows of a pair",
    "grpo": "the method grpo, whose options are read from files of TRL (likelier train --method grpo)",
    "gdpo": "the method grpo with combine: normalised (likelier train --method grpo)",
    "ebft": "dpo, on pairs made from the samples",
}
_SIGNS = {"kto": {"desirable_weight", "undesirable_weight"}, "cpo": {"cpo_alpha", "simpo_gamma"}}


def find_trainer(draft: Draft, losses: list[str]) -> str:
    """Which of TRL's trainers the file is for: its keys or losses say it, else it is taken for DPO."""
    for trainer, signs in _SIGNS.items():
        own = set(LOSSES[trainer]) - set(LOSSES["dpo"])
        if signs & draft.values.keys() or own & set(losses):
            return trainer
    if not losses:
        draft.note(
            "differs",
            (),
            "the file does not say for which trainer it is, and DPO was taken; if it is for KTO, CPO or a reward "
            "model, import it with --trainer kto, --trainer cpo or --trainer reward",
        )
    return "dpo"


def objective(draft: Draft, trainer: str, losses: list[str]) -> None:
    """The method and its hyperparameters, from TRL's loss types."""
    losses = losses or [_FIRST[trainer]]
    name, scale, added = _combined(draft, losses)
    loss = _known(draft, trainer, name)
    draft.put("method", loss.method)
    STRENGTHS.get(loss.method, beta_alone)(draft)
    _likelihood(draft, loss.method, scale, added)
    _smoothing(draft, trainer, loss.method)


def _known(draft: Draft, trainer: str, name: str) -> Loss:
    loss = LOSSES[trainer].get(name) or Loss(nearest=OTHERS.get(name, ""))
    if loss.method:
        return loss
    others = ", ".join(key for key, one in LOSSES[trainer].items() if one.method)
    nearest = f"the nearest here is {loss.nearest}" if loss.nearest else f"known of {trainer}: {others}"
    raise draft.error(f"loss_type {name} has no counterpart; {nearest}")


def _combined(draft: Draft, losses: list[str]) -> tuple[str, float, float]:
    """One loss and its weight, and the weight of `sft` beside it."""
    weights = [as_number(draft, "loss_weights", one) for one in as_list(draft.take("loss_weights"))]
    weights = weights or [1.0] * len(losses)
    if len(weights) != len(losses):
        raise draft.error(f"loss_weights: {len(weights)} weights for {len(losses)} losses")
    pairs = dict(zip(losses, weights, strict=True))
    added = pairs.pop("sft", 0.0) if len(pairs) > 1 else 0.0
    if len(pairs) != 1 or len(losses) > 2 or len(set(losses)) < len(losses):
        raise draft.error(
            f"loss_type {', '.join(losses)}: a mixture of preference losses has no counterpart; the nearest is one of "
            "them, with nll_weight in place of sft"
        )
    [(name, weight)] = pairs.items()
    if not weight > 0:
        raise draft.error(f"loss_weights: the weight of {name} is {weight:g}; it must be above 0")
    if weight != 1:
        text = f"{name} has the weight 1 here: its weight {weight:g} would scale the whole loss, which Adam undoes"
        draft.note("differs", ["loss_weights"], text + ", but not the clipping of gradients")
    return name, weight, added


_IGNORED = (
    "TRL 1.0 and later accept it with the sigmoid loss and ignore it, so it was left out. Here label_smoothing: {:g} "
    "has an effect, that of conservative DPO, as in TRL before 1.0; for robust DPO take the method robust"
)


def _smoothing(draft: Draft, trainer: str, method: str) -> None:
    """Label smoothing, which most losses of TRL take in silence and do not use."""
    value = draft.number("label_smoothing")
    if method == "robust" or not value:
        draft.off(["label_smoothing"])
    elif trainer == "cpo":
        draft.put("label_smoothing", value)
    elif method == "dpo":
        draft.note("left out", ["label_smoothing"], _IGNORED.format(value))
    else:
        draft.note("left out", ["label_smoothing"], f"it has no effect with {method} there either")


def _likelihood(draft: Draft, method: str, scale: float, added: float) -> None:
    """The term for the chosen answer's likelihood, against a loss of weight 1: of `sft` beside it, and of `rpo_alpha`,
    which older versions of TRL add to all that.
    """
    removed = draft.number("rpo_alpha") or 0.0
    if removed and method in ("kto", "sft"):
        draft.note("left out", ["rpo_alpha"], f"it has no effect with {method} there either")
        removed = 0.0
    if not added and not removed:
        return
    nll(draft, (added + removed) / scale, ["loss_type", "loss_weights"] * bool(added) + ["rpo_alpha"], per_answer=False)
    if removed:
        both = f": {removed:g} beside the weight {added:g} of sft, which is taken as their sum" if added else ""
        draft.note("differs", ["rpo_alpha"], f"TRL 1.0 and later no longer have it{both}")


# --- for the other tools -------------------------------------------------------------------------------------------


def as_trl(draft: Draft, trainer: str, names: Mapping[str, str], **given: Any) -> None:
    """The objective of a tool that calls TRL's options otherwise (`names`), or has them elsewhere (`given`)."""
    own = {name: key for name, key in names.items() if name not in given}
    read = {name: (draft.take if name in _LISTS else draft.number)(key) for name, key in own.items()}
    inner = Draft(draft.tool, draft.path, read | given)
    objective(inner, trainer, [str(one) for one in as_list(inner.take("loss_type"))])
    draft.options.update(inner.options)
    for note in inner.notes:
        if note.kind != "off":
            draft.note(note.kind, dict.fromkeys(names.get(name, name) for name in note.keys), note.text)


_LISTS = ("loss_type", "loss_weights")


def known_method(draft: Draft, name: str | None, what: str, known: Collection[str]) -> str:
    """The name of a method. Raises `ConfigError` for one that is not `known`, with the nearest one."""
    if name in known:
        return str(name)
    nearest = f"; the nearest here is {OTHERS[name]}" if name in OTHERS else ""
    raise draft.error(f"{what}{nearest}; known: {', '.join(known)}")
