"""Hyperparameters: TRL's options of one method as ours, each loss with the traps that its values have."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from likelier.cli.importing.common import Draft, as_list


def beta_alone(draft: Draft) -> None:
    """The strength of those methods that have no other hyperparameter."""
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
    beta_alone(draft)
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
    beta_alone(draft)
    draft.put_or_default("flip_probability", draft.number("label_smoothing"), 0.0)
    if draft.given("label_smoothing"):
        draft.note("differs", ["label_smoothing"], "the chance of a flipped label is called flip_probability")
    else:
        draft.note("differs", ["loss_type"], "robust without label_smoothing is plain DPO, there as here")


def _exo(draft: Draft) -> None:
    beta_alone(draft)
    smoothing = draft.number("label_smoothing")
    draft.put("label_smoothing", smoothing or 1e-3)
    if not smoothing:
        text = "TRL refuses exo_pair without label_smoothing; 0.001 was taken, which older versions of it put in"
        draft.note("differs", ["loss_type", "label_smoothing"], text)


def _sppo(draft: Draft) -> None:
    beta_alone(draft)
    draft.note(
        "differs",
        ["loss_type"],
        "the loss is the mean of its two squares here, as in the paper's code, and their sum there: half of it, which "
        "Adam undoes, but not the clipping of gradients (max_grad_norm)",
    )


def _bco(draft: Draft) -> None:
    beta_alone(draft)
    draft.note(
        "differs",
        ["loss_type"],
        "rewards count from the running mean of both sides here, as in BCO's paper and in TRL before 1.0; TRL has left "
        "it out since",
    )


TIMES_OURS = {"sppo": 2.0}  # what TRL's loss is of ours; a term beside it has that much less weight here


def _discopop(draft: Draft) -> None:
    beta_alone(draft)
    draft.put_or_default("discopop_tau", draft.number("discopop_tau"), 0.05)


def _aot(draft: Draft) -> None:
    beta_alone(draft)
    draft.note(
        "differs",
        ["loss_type"],
        "the whole optimizer step is put in order of size here, and what a device computes at once there, which is a "
        "smaller sample of the distributions that AOT compares",
    )


def _kto(draft: Draft) -> None:
    beta_alone(draft)
    for name in ("desirable_weight", "undesirable_weight"):
        draft.put_or_default(name, draft.number(name), 1.0)
    draft.note(
        "differs",
        (),
        "KTO's baseline is a mean over the optimizer step of answers to other prompts, drawn once per data set; there "
        "it is taken over a micro-batch, from neighbouring rows",
    )


_MARGIN_KEYS = ("beta", "simpo_gamma")


def _margin(draft: Draft) -> tuple[float, float]:
    """Strength and margin of SimPO and AlphaPO: gamma is absolute elsewhere, and a share of beta here. Gives both."""
    beta, gamma = draft.number("beta", 0.1), draft.number("simpo_gamma", 0.5)
    draft.put("beta", beta)
    if not beta > 0:
        raise draft.error(f"{draft.options['method']} needs a beta above 0, found {beta!r}")
    draft.put("gamma_beta_ratio", round(gamma / beta, 10))
    text = f"the margin gamma {gamma:g} is gamma_beta_ratio {gamma / beta:g} times beta {beta:g}"
    draft.note("differs", _MARGIN_KEYS, text)
    return beta, gamma


def _simpo(draft: Draft) -> None:
    beta, gamma = _margin(draft)
    if beta < 1:
        draft.put("allow_small_beta", True)
        draft.note(
            "differs",
            _MARGIN_KEYS,
            f"BETA {beta:g} IS ABOUT 20 TIMES TOO SMALL FOR SIMPO: it is per token, 2 to 10 are usual, and with "
            f"{beta:g} the margin is {gamma / beta:g} nats at every token, which is never reached: models trained so "
            "repeat themselves. It was kept, with allow_small_beta. Better: beta 2, gamma_beta_ratio 0.5, without it",
        )
    _likelihood_beside(draft)


def _alphapo(draft: Draft) -> None:
    beta, gamma = _margin(draft)
    draft.put("alpha", draft.number("alpha"))
    if beta < 1:
        draft.note(
            "differs",
            _MARGIN_KEYS,
            f"BETA {beta:g} IS ABOUT 25 TIMES TOO SMALL FOR ALPHAPO: it is per token, its paper has 2.5, and with "
            f"{beta:g} the margin is {gamma / beta:g}. It was kept. Better: beta 2.5, gamma_beta_ratio 0.1",
        )
    _likelihood_beside(draft)


def _likelihood_beside(draft: Draft) -> None:
    """What TRL's CPO adds to its losses unless it is told not to."""
    without = "alphapo" in as_list(draft.values.get("loss_type"))
    weight = 0.0 if without else draft.number("cpo_alpha", 1.0)
    if without:
        simpo = ", and with alpha 0 it is SimPO" if draft.options["method"] == "simpo" else ""
        draft.note("decided", ["cpo_alpha", *["alpha"] * bool(simpo)], f"alphapo sets cpo_alpha to 0{simpo}")
    if weight:
        nll(draft, weight, ["cpo_alpha"], per_answer=False)
    elif draft.options["method"] == "cpo":  # whose default it is
        draft.put("nll_weight", 0.0)


def _cpo(draft: Draft) -> None:
    beta_alone(draft)
    _likelihood_beside(draft)
    if draft.given("simpo_gamma"):
        draft.note("decided", ["simpo_gamma"], "without effect there: only SimPO has it")


def _orpo(draft: Draft) -> None:
    draft.put_or_default("odds_weight", draft.number("beta"), 0.1)
    draft.note("differs", ["beta"], "the weight of the odds ratio is called odds_weight")


def _sft(draft: Draft) -> None:
    if draft.given("beta"):
        draft.note("decided", ["beta"], "supervised fine-tuning has none")
    draft.note("differs", ["loss_type"], "sft: its mean is per token of each answer here, not of the batch")


STRENGTHS: dict[str, Callable[[Draft], None]] = {
    "ipo": _ipo,
    "sigmoid_norm": _sigmoid_norm,
    "robust": _robust,
    "exo": _exo,
    "sppo": _sppo,
    "discopop": _discopop,
    "aot": _aot,
    "aot_unpaired": _aot,
    "bco_pair": _bco,
    "kto": _kto,
    "simpo": _simpo,
    "alphapo": _alphapo,
    "cpo": _cpo,
    "orpo": _orpo,
    "sft": _sft,
}


def orpo_of_trl(draft: Draft) -> None:
    """What TRL's ORPO, and so that of those who train with it, takes for the likelihood."""
    draft.note(
        "differs",
        (),
        "ORPO's likelihood is of prompt and chosen answer together there, a mean over all tokens of the micro-batch; "
        "here it is the answer's alone, per token of each answer, as in the paper",
    )


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
