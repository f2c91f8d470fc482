"""Objectives: which of ours another tool's loss is, and how its hyperparameters become ours.

TRL's losses are tables here: the options of the other two tools are translated as TRL's under other names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from likelier.cli.importing.common import Draft, Note, as_list, as_number
from likelier.cli.importing.hyperparameters import STRENGTHS, TIMES_OURS, beta_alone, nll
from likelier.objectives import METHODS
from likelier.objectives.weighted_sum import weights_of


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
        "exo_pair": Loss("exo"),
        "nca_pair": Loss("nca"),
        "sppo_hard": Loss("sppo"),
        "discopop": Loss("discopop"),
        "bco_pair": Loss("bco_pair"),
        "aot": Loss("aot"),
        "aot_pair": Loss("aot"),
        "aot_unpaired": Loss("aot_unpaired"),
        "kto_pair": Loss(nearest="kto, which makes two labelled rows of a pair"),
    },
    "kto": {
        "kto": Loss("kto"),
        "apo_zero_unpaired": Loss(nearest="apo_zero on pairs, or kto, which it is with a baseline of 0"),
    },
    "cpo": {
        "sigmoid": Loss("cpo"),
        "simpo": Loss("simpo"),
        "alphapo": Loss("simpo"),
        "hinge": Loss(nearest="slic with delta 1 / beta, whose margin is the same divided by beta"),
        "ipo": Loss(nearest="cpo, or ipo, which needs a reference"),
    },
    "orpo": {"orpo": Loss("orpo")},
}
_FIRST = {"dpo": "sigmoid", "kto": "kto", "cpo": "sigmoid", "orpo": "orpo"}

# Methods of these tools that are no loss types, and what is nearest to them here.
OTHERS = {
    "cpo": "the method cpo (likelier train --method cpo)",
    "kto_pair": "kto, which makes two labelled rows of a pair",
    "grpo": "the method grpo, whose options are read from files of TRL (likelier train --method grpo)",
    "gdpo": "the method grpo with combine: normalised (likelier train --method grpo)",
    "ebft": "dpo, on pairs made from the samples",
}
_SIGNS: dict[str, set[str]] = {
    "kto": {"desirable_weight", "undesirable_weight"},
    "cpo": {"cpo_alpha", "simpo_gamma"},
    "orpo": set(),
}


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
            "the file does not say for which trainer it is, and DPO was taken; if it is for KTO, CPO, ORPO or a "
            "reward model, import it with --trainer kto, cpo, orpo or reward",
        )
    return "dpo"


def objective(draft: Draft, trainer: str, losses: list[str]) -> None:
    """The method and its hyperparameters, from TRL's loss types."""
    losses = losses or [_FIRST[trainer]]
    weights, added = _weights(draft, losses)
    if len(weights) > 1:
        _sum(draft, trainer, weights, added)
        return
    [(name, scale)] = weights.items()
    _scaled_to_1(draft, name, scale)
    method = _variant(draft, trainer, _known(draft, trainer, name).method)
    draft.put("method", method)
    STRENGTHS.get(method, beta_alone)(draft)
    _likelihood(draft, method, scale * TIMES_OURS.get(method, 1.0), added)
    _smoothing(draft, trainer, method)


def _known(draft: Draft, trainer: str, name: str) -> Loss:
    loss = LOSSES[trainer].get(name) or Loss(nearest=OTHERS.get(name, ""))
    if loss.method:
        return loss
    others = ", ".join(key for key, one in LOSSES[trainer].items() if one.method)
    nearest = f"the nearest here is {loss.nearest}" if loss.nearest else f"known of {trainer}: {others}"
    raise draft.error(f"loss_type {name} has no counterpart; {nearest}")


def _variant(draft: Draft, trainer: str, method: str) -> str:
    """The method that an option beside the loss type makes of it."""
    if trainer == "dpo":
        return _desensitized(draft, _weighted(draft, _under_divergence(draft, method)))
    alpha = draft.number("alpha", 0.0) if trainer == "cpo" else 0.0
    if alpha and method != "simpo":
        raise draft.error(f"alpha: {alpha:g} with loss_type sigmoid has no counterpart; the nearest here is alphapo")
    return "alphapo" if alpha else method


_DIVERGENCES = {"forward_kl": "forward-kl", "js_divergence": "js", "alpha_divergence": "alpha"}


def _under_divergence(draft: Draft, method: str) -> str:
    """The method under `f_divergence_type`, which only DPO itself has here."""
    kind = draft.values.get("f_divergence_type")
    if not kind or kind == "reverse_kl":
        return method
    if str(kind) not in _DIVERGENCES:
        raise draft.error(f"f_divergence_type: {kind!r} is unknown; known: reverse_kl, {', '.join(_DIVERGENCES)}")
    if method == "sft":
        draft.note("left out", ["f_divergence_type"], "it has no effect with sft there either")
        return method
    if method != "dpo":
        text = "with another loss than sigmoid has no counterpart; the nearest here is f_dpo, which it is with sigmoid"
        raise draft.error(f"f_divergence_type: {kind} {text}")
    divergence = _DIVERGENCES[draft.take("f_divergence_type")]
    if divergence == "alpha":
        return _alpha_divergence(draft)
    draft.put("divergence", divergence)
    return "f_dpo"


def _weighted(draft: Draft, method: str) -> str:
    """The method with `use_weighting`, which only DPO itself has here."""
    if not draft.values.get("use_weighting"):
        return method
    if method != "dpo":
        raise draft.error(
            f"use_weighting with {method} has no counterpart; the nearest here is wpo, which it is with dpo"
        )
    draft.take("use_weighting")
    draft.note(
        "differs", ["use_weighting"], "it is the method wpo; a pair weighs at most 1 here, as in the paper's code"
    )
    return "wpo"


def _desensitized(draft: Draft, method: str) -> str:
    """The method with `ld_alpha`, which only DPO itself has here; 1 changes nothing."""
    if draft.values.get("ld_alpha") in (None, False, "none", 1):
        return method
    if method != "dpo":
        raise draft.error(
            f"ld_alpha with {method} has no counterpart; the nearest here is ld_dpo, which it is with dpo"
        )
    draft.put("ld_alpha", draft.number("ld_alpha"))
    draft.note(
        "differs",
        ["ld_alpha"],
        "it is the method ld_dpo, for policy and reference alike (LLaMA-Factory and TRL before 1.0: the policy's sums "
        "alone); logged rewards are those of whole answers",
    )
    return "ld_dpo"


def _alpha_divergence(draft: Draft) -> str:
    """f-DPO's alpha as TRL 1.0 and later count it; at its ends it is another divergence, under its own name here."""
    keys = ("f_divergence_type", "f_alpha_divergence_coef")
    alpha = draft.number(keys[1])
    older = "TRL before 1.0 and ms-swift count alpha from the other end, as the paper does: if the file is for them,"
    if alpha is not None and abs(alpha - 1) < 1e-6:
        draft.note("differs", keys, f"with alpha 1 it is DPO. {older} it is f_dpo with divergence: forward-kl")
        return "dpo"
    if alpha == 0:
        draft.put("divergence", "forward-kl")
        draft.note("differs", keys, "with alpha 0 it is the forward KL")
        return "f_dpo"
    if alpha is not None and not 0 < alpha < 1:
        raise draft.error(f"{keys[1]}: {alpha:g} has no counterpart; the nearest here is f_dpo with 0 to 1")
    draft.put("divergence", "alpha")
    draft.put_or_default("trl_alpha", alpha, 0.5)
    by_default = "divergence: forward-kl, which is their default, without trl_alpha"
    mend = by_default if alpha is None else f"alpha: {alpha:g} in place of trl_alpha"
    draft.note("differs", keys, f"{older} write {mend}")
    return "f_dpo"


def _weights(draft: Draft, losses: list[str]) -> tuple[dict[str, float], float]:
    """The losses with their weights, and the weight of `sft` beside them."""
    given = [as_number(draft, "loss_weights", one) for one in as_list(draft.take("loss_weights"))]
    given = given or [1.0] * len(losses)
    if len(given) != len(losses):
        raise draft.error(f"loss_weights: {len(given)} weights for {len(losses)} losses")
    weights = dict(zip(losses, given, strict=True))
    if len(weights) < len(losses):
        raise draft.error(f"loss_type {', '.join(losses)}: one stands there twice; add up its weights")
    added = weights.pop("sft", 0.0) if len(weights) > 1 else 0.0
    for name, weight in weights.items():
        if not weight > 0:
            raise draft.error(f"loss_weights: the weight of {name} is {weight:g}; it must be above 0")
    return weights, added


def _scaled_to_1(draft: Draft, name: str, weight: float) -> None:
    if weight != 1:
        text = f"{name} has the weight 1 here: its weight {weight:g} would scale the whole loss, which Adam undoes"
        draft.note("differs", ["loss_weights"], text + ", but not the clipping of gradients")


def _sum(draft: Draft, trainer: str, weights: Mapping[str, float], added: float) -> None:
    """Several losses: each as if it stood alone, its hyperparameters under its name."""
    loss: dict[str, float] = {}
    own: dict[str, Any] = {}
    said: list[Note] = []
    for name, weight in weights.items():
        part = Draft(draft.tool, draft.path, {key: draft.values[key] for key in draft.values if key not in _OF_THE_SUM})
        objective(part, trainer, [name])
        method = part.options.pop("method")
        if method in loss:
            raise draft.error(f"loss_type {', '.join(weights)}: two of them are {method} here; keep one of them")
        loss[method] = weight * TIMES_OURS.get(method, 1.0)
        own |= {f"{method}.{option}": value for option, value in part.options.items()}
        draft.translated |= part.translated
        said += part.notes
    draft.put("method", "weighted_sum")
    draft.put("loss", loss)
    draft.options.update(own)
    draft.notes += [note for note in dict.fromkeys(said) if note.kind not in _SILENT]
    draft.notes += [note for note in dict.fromkeys(said) if note.kind in _SILENT and not draft.accounted & {*note.keys}]
    if TIMES_OURS.keys() & loss:
        draft.note(
            "differs", ["loss_weights"], "that half is made up for by the weight in loss, so that the sum is theirs"
        )
    _likelihood(draft, "weighted_sum", 1.0, added)
    name_the_sum(draft)


def name_the_sum(draft: Draft) -> None:
    """A sum that has a name of its own, where its weights are those."""
    for method in _NAMED_SUMS:
        usual = METHODS[method]().hyperparameters()
        own = weights_of(usual["loss"]), usual["nll_weight"]
        if (draft.options.get("loss"), draft.options.get("nll_weight")) == own:
            draft.put("method", method)
            del draft.options["loss"]


_OF_THE_SUM = ("loss_weights", "rpo_alpha")
_NAMED_SUMS = ("mpo",)
_SILENT = ("off", "same")


_IGNORED = (
    "TRL 1.0 and later accept it with the sigmoid loss and ignore it, so it was left out. Here label_smoothing: {:g} "
    "has an effect, that of conservative DPO, as in TRL before 1.0; for robust DPO take the method robust"
)


def _smoothing(draft: Draft, trainer: str, method: str) -> None:
    """Label smoothing, which most losses of TRL take in silence and do not use."""
    value = draft.number("label_smoothing")
    if method in ("robust", "exo") or not value:
        draft.off(["label_smoothing"])
    elif method in ("simpo", "aot", "aot_unpaired"):
        draft.put("label_smoothing", value)
    elif trainer == "cpo":
        text = f"with {method} has no counterpart; the nearest is simpo with it, or {method} without: take the line out"
        raise draft.error(f"label_smoothing: {value:g} {text}")
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
