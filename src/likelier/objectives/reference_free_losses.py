"""Losses of pairs that ask no reference, beside SimPO in `losses`, in the same conventions: one value a pair.

Notation: s = logistic sigmoid, pw and pl = summed log-probabilities of the chosen and the rejected answer, nw and nl
their tokens, aw and al = pw / nw and pl / nl.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_LARGEST_EXPONENT = 60.0  # e^60 is far from what float32 can hold


def cpo_loss(chosen_logps: Tensor, rejected_logps: Tensor, *, beta: float) -> Tensor:
    """CPO's preference term: `-log s(beta (pw - pl))`, which is DPO with a uniform reference; the paper adds the chosen
    answer's negative log-likelihood.

    Source: arXiv 2401.08417, equation 5. Shapes: (n,), (n,) -> (n,).
    """
    return -logsigmoid(beta * (chosen_logps - rejected_logps))


def log_odds(chosen_means: Tensor, rejected_means: Tensor) -> Tensor:
    """`log(odds_w / odds_l)`, `odds = exp(a) / (1 - exp(a))` of mean log-probabilities a < 0. (n,), (n,) -> (n,)."""
    return (chosen_means - rejected_means) - (_log1mexp(chosen_means) - _log1mexp(rejected_means))


def orpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    odds_weight: float,
) -> Tensor:
    """ORPO: `-aw - odds_weight log s(log odds)`: fine-tuning on the chosen answer, per token, and an odds ratio.

    Source: arXiv 2403.07691, equations 6 and 7. The likelihood is the answer's alone (TRL takes prompt and answer).

    Shapes: four times (n,) -> (n,).
    """
    chosen, rejected = chosen_logps / chosen_lengths, rejected_logps / rejected_lengths
    return -chosen - odds_weight * logsigmoid(log_odds(chosen, rejected))


def alpha_po_rewards(logps: Tensor, lengths: Tensor, *, alpha: float) -> Tensor:
    """`(1 - p^-alpha) / alpha` with p the geometric mean of an answer's token probabilities; its logarithm at alpha 0.
    Arxiv 2501.03884, equation 6. (n,), (n,) -> (n,).
    """
    means = logps / lengths
    return -(-alpha * means).clamp(max=_LARGEST_EXPONENT).expm1() / alpha if alpha else means


def alpha_po_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    gamma_beta_ratio: float,
    alpha: float,
) -> Tensor:
    """AlphaPO: SimPO on bent rewards, `-log s(beta (r_w - r_l - gamma_beta_ratio))` with `alpha_po_rewards`.

    Source: arXiv 2501.03884, equation 7. At alpha 0 it is SimPO. Shapes: four times (n,) -> (n,).
    """
    chosen = alpha_po_rewards(chosen_logps, chosen_lengths, alpha=alpha)
    rejected = alpha_po_rewards(rejected_logps, rejected_lengths, alpha=alpha)
    return -logsigmoid(beta * (chosen - rejected - gamma_beta_ratio))


def slic_loss(chosen_logps: Tensor, rejected_logps: Tensor, *, delta: float, likelihood_weight: float) -> Tensor:
    """SLiC-HF: `max(0, delta - pw + pl) - likelihood_weight pw`: a margin in nats an answer, and the chosen answer's
    likelihood, summed.

    Source: arXiv 2305.10425, equation 1, its regularization on the chosen answer. TRL's `hinge` is RSO's loss on
    log-ratios and another one. Shapes: (n,), (n,) -> (n,).
    """
    return torch.relu(delta - chosen_logps + rejected_logps) - likelihood_weight * chosen_logps


def _log1mexp(values: Tensor) -> Tensor:
    """log(1 - exp(a)) for a < 0, exact near 0 and far from it; a = 0 counts as the next smaller number."""
    below = values.clamp(max=-torch.finfo(values.dtype).tiny)
    near = below > -0.6931471805599453
    return torch.where(
        near, (-torch.expm1(below.where(near, -1.0))).log(), torch.log1p(-below.where(~near, -1.0).exp())
    )
