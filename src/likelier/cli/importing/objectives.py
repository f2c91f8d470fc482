"""Objectives: which of ours another tool's loss is, and how its hyperparameters become ours.

TRL's losses are tables here: the options of the other two tools are translated as TRL's under other names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from likelier.cli.importing.common import Draft, as_list, as_number


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
    _STRENGTHS.get(loss.method, _beta)(draft)
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


def _beta(draft: Draft) -> None:
    draft.put_or_default("beta", draft.number("beta"), 0.1)


def _ipo(draft: Draft) -> None:
    """IPO on mean log-ratios per token, as all three tools have it."""
    tau = draft.number("beta", 0.1)
    draft.put("tau", tau)
    draft.put("length_normalize", True)
    if not tau > 0:
        raise draft.error(f"IPO needs a beta above 0, found {tau!r}")
    target = f"the target is {1 / (2 * tau):g} nats"
    text = f"beta is called tau in IPO, and log-ratios are means per token in both: {target}"
    weak = ", AT EVERY TOKEN, which is a very weak hold on the reference; without tau it is chosen from the data"
    draft.note("differs", ["beta", "loss_type"], text + (weak if tau < 1 else " a token"))


def _sigmoid_norm(draft: Draft) -> None:
    _beta(draft)
    small_norm_beta(draft, "beta")


def small_norm_beta(draft: Draft, key: str) -> None:
    """Warn of DPO's beta, which stands under `key`, on a loss whose beta is per token."""
    beta = draft.options["beta"]
    if beta < 1:
        draft.note(
            "differs",
            [key],
            f"BETA {beta:g} IS ABOUT 50 TIMES TOO SMALL FOR SIGMOID_NORM: it is per token, and Tulu 3 took 5. It was "
            "kept; better: beta 5, or leave it out",
        )


def _robust(draft: Draft) -> None:
    _beta(draft)
    draft.put_or_default("flip_probability", draft.number("label_smoothing"), 0.0)
    if draft.given("label_smoothing"):
        draft.note("differs", ["label_smoothing"], "the chance of a flipped label is called flip_probability")
    else:
        draft.note("differs", ["loss_type"], "robust without label_smoothing is plain DPO, there as here")


def _kto(draft: Draft) -> None:
    _beta(draft)
    for name in ("desirable_weight", "undesirable_weight"):
        draft.put_or_default(name, draft.number(name), 1.0)
    draft.note(
        "differs",
        (),
        "KTO's baseline is a mean over the optimizer step of answers to other prompts, drawn once per data set; there "
        "it is taken over a micro-batch, from neighbouring rows",
    )


def _simpo(draft: Draft) -> None:
    """SimPO's strength and margin: gamma is absolute elsewhere, and a share of beta here."""
    keys = ("beta", "simpo_gamma")
    beta, gamma = draft.number("beta", 0.1), draft.number("simpo_gamma", 0.5)
    draft.put("beta", beta)
    if not beta > 0:
        raise draft.error(f"SimPO needs a beta above 0, found {beta!r}")
    draft.put("gamma_beta_ratio", round(gamma / beta, 10))
    draft.note("differs", keys, f"the margin gamma {gamma:g} is gamma_beta_ratio {gamma / beta:g} times beta {beta:g}")
    if beta < 1:
        draft.put("allow_small_beta", True)
        draft.note(
            "differs",
            keys,
            f"BETA {beta:g} IS ABOUT 20 TIMES TOO SMALL FOR SIMPO: it is per token, 2 to 10 are usual, and with "
            f"{beta:g} the margin is {gamma / beta:g} nats at every token, which is never reached: models trained so "
            "repeat themselves. It was kept, with allow_small_beta. Better: beta 2, gamma_beta_ratio 0.5, without it",
        )
    _likelihood_beside(draft)


def _likelihood_beside(draft: Draft) -> None:
    """What TRL's CPO adds to SimPO unless it is told not to."""
    if draft.number("alpha", 0.0):
        raise draft.error("alpha: AlphaPO has no counterpart; the nearest here is simpo, which it is with alpha 0")
    without = "alphapo" in as_list(draft.values.get("loss_type"))
    weight = 0.0 if without else draft.number("cpo_alpha", 1.0)
    if without:
        draft.note("decided", ["cpo_alpha", "alpha"], "alphapo sets cpo_alpha to 0, and with alpha 0 it is SimPO")
    if weight:
        nll(draft, weight, ["cpo_alpha"], per_answer=False)


def _sft(draft: Draft) -> None:
    if draft.given("beta"):
        draft.note("decided", ["beta"], "supervised fine-tuning has none")
    draft.note("differs", ["loss_type"], "sft: its mean is per token of each answer here, not of the batch")


_STRENGTHS = {
    "ipo": _ipo,
    "sigmoid_norm": _sigmoid_norm,
    "robust": _robust,
    "kto": _kto,
    "simpo": _simpo,
    "sft": _sft,
}


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


def nll(draft: Draft, weight: float, keys: Iterable[str], *, per_answer: bool) -> None:
    """A term for the chosen answer's likelihood."""
    draft.put("nll_weight", weight)
    where = "in both, " if per_answer else "over all chosen tokens of the micro-batch there, "
    draft.note(
        "differs",
        keys,
        f"the chosen answer's negative log-likelihood, weight {weight:g}: a mean {where}per token of each answer"
        + ("" if per_answer else " here, so that long ones do not lead"),
    )
