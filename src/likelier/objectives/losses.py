"""The losses: pure functions of tensors, one value per pair or per row, nothing reduced.

Inputs are what the seam returns: `logps` are log-probabilities summed over answer tokens (nats), `logratios` are
`logps - ref_logps`, `lengths` the number of tokens summed. Only a loss may divide by a length. Every hyperparameter is
keyword-only and has no hidden default where methods disagree. All functions broadcast over their tensor arguments.

Notation in the docstrings: s = logistic sigmoid, Dw and Dl = log-ratios of the chosen and the rejected answer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def _smoothed(logits: Tensor, label_smoothing: float | Tensor) -> Tensor:
    """`-(1 - e) log s(logits) - e log s(-logits)`: the expected logistic loss when a label is wrong with chance `e`."""
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def dpo_logits(
    chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float, margin: float | Tensor = 0.0
) -> Tensor:
    """What `dpo_loss` takes the sigmoid of: `beta (Dw - Dl) - margin`. (n,), (n,) -> (n,)."""
    return beta * (chosen_logratios - rejected_logratios) - margin


def dpo_loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    *,
    beta: float,
    label_smoothing: float | Tensor = 0.0,
    margin: float | Tensor = 0.0,
) -> Tensor:
    """Direct preference optimization: `-log s(beta (Dw - Dl) - margin)`.

    Source: arXiv 2305.18290, equation 7; with `label_smoothing` e > 0 the conservative DPO of E. Mitchell's note,
    equation 3. A tensor gives each pair its own soft label (a tie is 0.5). `margin` >= 0 is how much more reward
    the chosen answer should get (DPO with an offset, arXiv 2402.10571).

    Shapes: (n,), (n,) -> (n,). At zero log-ratios the value is ln 2 without a margin.
    """
    return _smoothed(dpo_logits(chosen_logratios, rejected_logratios, beta=beta, margin=margin), label_smoothing)


def reward_model_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    label_smoothing: float | Tensor = 0.0,
    margin: float | Tensor = 0.0,
    center_weight: float = 0.0,
) -> Tensor:
    """Bradley and Terry's likelihood of a choice between two scores: `-log s(rw - rl - m) + c (rw + rl)^2`.

    Source: arXiv 2203.02155, equation 1; the margin m of arXiv 2307.09288, section 3.2.2; c, `center_weight`, that of
    arXiv 2312.09244, which keeps the scores, of which only differences count, around 0.

    Shapes: (n,), (n,) -> (n,). At equal scores of 0 the value is ln 2 without a margin.
    """
    return _smoothed(chosen - rejected - margin, label_smoothing) + center_weight * (chosen + rejected).square()


def robust_dpo_loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float, flip_probability: float
) -> Tensor:
    """Robust DPO: an unbiased estimate of the DPO loss on clean labels when labels flip with `flip_probability` e.

    `(-(1 - e) log s(beta (Dw - Dl)) + e log s(-beta (Dw - Dl))) / (1 - 2 e)`, arXiv 2403.00409. Mind the sign of the
    second term: conservative DPO has the other one. The value can be negative.

    Shapes: (n,), (n,) -> (n,).
    """
    logits = dpo_logits(chosen_logratios, rejected_logratios, beta=beta)
    kept = -(1 - flip_probability) * logsigmoid(logits)
    flipped = flip_probability * logsigmoid(-logits)
    return (kept + flipped) / (1 - 2 * flip_probability)


def ipo_loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    tau: float,
    length_normalize: bool = True,
    margin: float | Tensor = 1.0,
    label_smoothing: float | Tensor = 0.0,
) -> Tensor:
    """Identity preference optimization: `(h - 1 / (2 tau))^2`, a regression that stops pushing at its target.

    Source: arXiv 2310.12036, equation 17. `h = Dw / n_w - Dl / n_l` per token (the form its authors confirmed for
    practice) or, without `length_normalize`, `h = Dw - Dl` per answer. The target 1 / (2 tau) has the unit of `h`.
    `margin` >= 0 multiplies it. Where a label is wrong with chance `label_smoothing` e, the expected loss is, up to a
    constant, the one with the target (1 - 2 e) / (2 tau): a tie (0.5) asks for no difference.

    Shapes: four times (n,) -> (n,). At zero log-ratios the value is the target's square.
    """
    target = margin * (1 - 2 * label_smoothing) / (2 * tau)
    if length_normalize:
        chosen_logratios = chosen_logratios / chosen_lengths
        rejected_logratios = rejected_logratios / rejected_lengths
    return (chosen_logratios - rejected_logratios - target) ** 2


def rebel_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, reward_gaps: Tensor, *, eta: float) -> Tensor:
    """Regression of relative rewards: `((Dw - Dl) / eta - (rw - rl))^2`, D being log-ratios to the policy that wrote
    the answers.

    Source: arXiv 2404.16767, equation 9; its code multiplies the gap by eta and not the difference by 1 / eta, so that
    its loss is eta^2 times this one. `reward_gaps` are rw - rl; at 0 the two answers are to stay as far apart as they
    were.

    Shapes: three times (n,) -> (n,). At zero log-ratios the value is the gap's square.
    """
    return ((chosen_logratios - rejected_logratios) / eta - reward_gaps) ** 2


def _by_label(desirable: Tensor, up: float, down: float, like: Tensor) -> Tensor:
    """`up` for desirable rows, else `down`, as exact as `like` (torch.where makes float32 of two Python numbers)."""
    return torch.where(desirable, torch.full_like(like, up), torch.full_like(like, down))


def kto_logits(logratios: Tensor, desirable: Tensor, kl: Tensor | float, *, beta: float) -> Tensor:
    """What `kto_loss` takes the sigmoid of: `+-beta (D - kl)`, plus for desirable rows. (n,), (n,) bool -> (n,)."""
    return _by_label(desirable, 1.0, -1.0, logratios) * beta * (logratios - kl)


def kto_loss(
    logratios: Tensor,
    desirable: Tensor,
    kl: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimization: `w (1 - s(+-beta (D - kl)))`, plus for desirable rows, minus for undesirable ones.

    Source: arXiv 2402.01306, equation 7. `kl` is the baseline z0, estimated on the whole optimizer step, clamped at 0
    and detached by whoever computes it (`objectives.KTO.step_statistics`).

    Shapes: logratios (n,), desirable (n,) bool, kl scalar -> (n,). At zero log-ratios and kl the value is w / 2.
    """
    weight = _by_label(desirable, desirable_weight, undesirable_weight, logratios)
    return weight * torch.sigmoid(-kto_logits(logratios, desirable, kl, beta=beta))


def simpo_logits(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    gamma_beta_ratio: float | Tensor,
) -> Tensor:
    """What `simpo_loss` takes the sigmoid of: `beta (p_w / n_w - p_l / n_l - gamma_beta_ratio)`.

    Shapes: four times (n,) -> (n,).
    """
    return beta * (chosen_logps / chosen_lengths - rejected_logps / rejected_lengths - gamma_beta_ratio)


def simpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    gamma_beta_ratio: float | Tensor,
    label_smoothing: float | Tensor = 0.0,
) -> Tensor:
    """SimPO: `-log s(beta (p_w / n_w - p_l / n_l - gamma_beta_ratio))`: no reference, a margin per token.

    Source: arXiv 2405.14734, equation 6, with gamma = gamma_beta_ratio * beta. `beta` is per token, hence 2 to 10. A
    tensor gives each pair a margin of its own.

    Shapes: four times (n,) -> (n,).
    """
    scores = (chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
    return _smoothed(simpo_logits(*scores, beta=beta, gamma_beta_ratio=gamma_beta_ratio), label_smoothing)


def hinge_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """Hinge on the implicit reward margin: `max(0, 1 - beta (Dw - Dl))` (RSO, arXiv 2309.06657). (n,), (n,) -> (n,)."""
    return torch.relu(1 - beta * (chosen_logratios - rejected_logratios))


def sigmoid_norm_loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    label_smoothing: float | Tensor = 0.0,
) -> Tensor:
    """Length-normalized DPO: `-log s(beta (Dw / n_w - Dl / n_l))` (Tulu 3, arXiv 2411.15124). `beta` is per token.

    Shapes: four times (n,) -> (n,). At zero log-ratios the value is ln 2.
    """
    means = (chosen_logratios / chosen_lengths, rejected_logratios / rejected_lengths)
    return dpo_loss(*means, beta=beta, label_smoothing=label_smoothing)


def apo_zero_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """APO-zero: `1 - s(beta Dw) + s(beta Dl)`: raise the chosen, lower the rejected (arXiv 2408.06266, equation 7).

    For data whose chosen answers are better than what the model writes. (n,), (n,) -> (n,), 1 at zero log-ratios.
    """
    return torch.sigmoid(-beta * chosen_logratios) + torch.sigmoid(beta * rejected_logratios)


def apo_down_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """APO-down: `s(beta Dw) + 1 - s(beta (Dw - Dl))`: lower both, the rejected more (arXiv 2408.06266, equation 8).

    For data whose chosen answers are worse than what the model writes. (n,), (n,) -> (n,), 1 at zero log-ratios.
    """
    return torch.sigmoid(beta * chosen_logratios) + torch.sigmoid(-beta * (chosen_logratios - rejected_logratios))


def dpop_logits(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float, penalty: float) -> Tensor:
    """What `dpop_loss` takes the sigmoid of: `beta (Dw - Dl - penalty max(0, -Dw))`. (n,), (n,) -> (n,)."""
    fall = torch.relu(-chosen_logratios)
    return beta * (chosen_logratios - rejected_logratios - penalty * fall)


def dpop_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float, penalty: float) -> Tensor:
    """DPO-Positive: `-log s(beta (Dw - Dl - penalty max(0, -Dw)))`: DPO that pays for a falling chosen answer.

    Source: arXiv 2402.13228, equation 3, with the penalty inside the bracket that beta multiplies. At `penalty` 0 it is
    DPO, and at zero log-ratios the value is ln 2.

    Shapes: (n,), (n,) -> (n,).
    """
    return -logsigmoid(dpop_logits(chosen_logratios, rejected_logratios, beta=beta, penalty=penalty))


def nll_loss(logps: Tensor, lengths: Tensor) -> Tensor:
    """Negative log-likelihood per token of each answer: `-p / n`. The loss of SFT, and the term that RPO adds to a
    paired loss (arXiv 2404.19733, equation 7). (n,), (n,) -> (n,).
    """
    return -logps / lengths
