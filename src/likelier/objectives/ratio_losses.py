"""More losses of pairs by their log-ratios, in the conventions of `losses`: one value a pair, nothing reduced.

Notation: s = logistic sigmoid, Dw and Dl = summed log-ratios of the chosen and the rejected answer, D = Dw - Dl.
"""

from __future__ import annotations

from math import log
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from likelier.objectives.losses import dpo_loss

Divergence = Literal["forward-kl", "js", "alpha"]
_LARGEST_EXPONENT = 60.0  # e^60 is far from what float32 can hold; beyond it two answers count as equally far


def exo_loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float, label_smoothing: float | Tensor
) -> Tensor:
    """EXO on pairs: `KL(q || p)` with `q = (s(beta D), s(-beta D))` and `p = (1 - e, e)`: the reverse of DPO's
    direction.

    Source: arXiv 2402.00856, equation 16. e, `label_smoothing`, must lie above 0, or p holds nothing against a wrong
    order; its code has log p = (0, -10).

    Shapes: (n,), (n,) -> (n,). At zero log-ratios the value is `-ln 2 - (log(1 - e) + log e) / 2`.
    """
    logits = beta * (chosen_logratios - rejected_logratios)
    smoothing = torch.as_tensor(label_smoothing, dtype=logits.dtype, device=logits.device)
    right = torch.sigmoid(logits) * (logsigmoid(logits) - torch.log1p(-smoothing))
    wrong = torch.sigmoid(-logits) * (logsigmoid(-logits) - smoothing.log())
    return right + wrong


def nca_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """NCA on pairs: `-log s(beta Dw) - (log s(-beta Dw) + log s(-beta Dl)) / 2`.

    Source: arXiv 2402.05369, equation 11. Each answer is told from noise by itself: the chosen one's terms are least
    at beta Dw = ln 2, so that it is pulled up to there and not only away from the rejected one.

    Shapes: (n,), (n,) -> (n,). At zero log-ratios the value is 2 ln 2.
    """
    chosen, rejected = beta * chosen_logratios, beta * rejected_logratios
    return -logsigmoid(chosen) - 0.5 * (logsigmoid(-chosen) + logsigmoid(-rejected))


def sppo_loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float, label_smoothing: float | Tensor = 0.0
) -> Tensor:
    """SPPO: `((Dw - t)^2 + (Dl + t)^2) / 2` with the target `t = (1/2 - e) / beta`.

    Source: arXiv 2405.00675, equation 4.7 and its code, which takes the mean over the two answers where TRL's
    `sppo_hard` adds them up. e is the chance that the rejected answer is the better one: 0 is the hard form, a number a
    pair that of soft probabilities. beta is 1 / eta.

    Shapes: (n,), (n,) -> (n,). At zero log-ratios the value is the target's square.
    """
    target = (0.5 - label_smoothing) / beta
    return ((chosen_logratios - target) ** 2 + (rejected_logratios + target) ** 2) / 2


def discopop_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float, discopop_tau: float) -> Tensor:
    """DiscoPOP: `(1 - m) (-log s(z)) + m exp(-z)` with `z = beta D` and `m = s(z / tau)`.

    Source: arXiv 2406.08414, section 5 (log-ratio modulated loss), with tau, `discopop_tau`, 0.05. m exp(-z) is made
    from its logarithm, as exp(-z) alone overflows where the order is very wrong.

    Shapes: (n,), (n,) -> (n,). At zero log-ratios the value is `(ln 2 + 1) / 2`.
    """
    logits = beta * (chosen_logratios - rejected_logratios)
    mix = logits / discopop_tau
    exponential = (logsigmoid(mix) - logits).clamp(max=_LARGEST_EXPONENT).exp()
    return torch.sigmoid(-mix) * -logsigmoid(logits) + exponential


def f_dpo_loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    *,
    beta: float,
    divergence: Divergence,
    alpha: float | None = None,
) -> Tensor:
    """f-DPO: `-log s(beta (f'(uw) - f'(ul)))`, u being the ratio of policy and reference, for a divergence that is not
    DPO's reverse KL.

    Source: arXiv 2309.16240, equation 10 and table 1: `forward-kl` f'(u) = -1/u; `js` f'(u) = log(2u / (1 + u));
    `alpha` f'(u) = (1 - u^-alpha) / alpha, which goes from reverse KL (alpha to 0) to forward KL (1). TRL counts alpha
    from the other end: its `alpha` is 1 - this one.

    Shapes: (n,), (n,) -> (n,). At zero log-ratios the value is ln 2.
    """
    slopes = (_slope(one, divergence, alpha) for one in (chosen_logratios, rejected_logratios))
    return dpo_loss(*slopes, beta=beta)


def _slope(logratios: Tensor, divergence: Divergence, alpha: float | None) -> Tensor:
    """f' of the ratio, up to a constant that the difference does without."""
    if divergence == "js":
        return log(2.0) + logsigmoid(logratios)
    power = 1.0 if divergence == "forward-kl" else alpha
    assert power is not None
    return -(-power * logratios).clamp(max=_LARGEST_EXPONENT).exp() / power


def cal_dpo_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """Calibrated DPO: `-log s(beta D) + (beta Dw - 1/2)^2 + (beta Dl + 1/2)^2`: rewards get a size, not a difference
    alone, so that the chosen answer does not fall.

    Source: arXiv 2412.14516. The regression is in units of the reward here; its code has it in nats, with targets
    +-1/(2 beta), beside a DPO term without beta, so that the regression weighs 1 / beta^2 there.

    Shapes: (n,), (n,) -> (n,). At zero log-ratios the value is `ln 2 + 1/2`.
    """
    calibration = (beta * chosen_logratios - 0.5) ** 2 + (beta * rejected_logratios + 0.5) ** 2
    return dpo_loss(chosen_logratios, rejected_logratios, beta=beta) + calibration


def same_rank(values: Tensor, others: Tensor) -> Tensor:
    """For each of `values` the one of `others` that has the same rank by size among them. (n,), (n,) -> (n,)."""
    return others.sort().values[values.argsort(stable=True).argsort()]


def aot_loss(margins: Tensor, ref_margins: Tensor, *, beta: float, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """AOT on pairs: `-log s(beta (m - r))`, where m is the policy's margin `log p(yw) - log p(yl)` of a pair and r the
    reference's margin of the same rank by size.

    Source: arXiv 2406.05882, the paired form: the distribution of the policy's margins is to lie above that of the
    reference's. `ref_margins` are `same_rank(...)` over a whole optimizer step.

    Shapes: (n,), (n,) -> (n,). At the reference the value is ln 2.
    """
    return dpo_loss(margins, ref_margins, beta=beta, label_smoothing=label_smoothing)


def aot_unpaired_loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    rejected_of_rank: Tensor,
    chosen_of_rank: Tensor,
    *,
    beta: float,
    label_smoothing: float | Tensor = 0.0,
) -> Tensor:
    """AOT without pairs: `-log s(beta (Dw - Dl))` of a chosen and a rejected answer whose log-ratios have the same rank
    among those of all chosen and of all rejected answers.

    Source: arXiv 2406.05882, the unpaired form. Each such couple belongs half to the pair of its chosen answer and half
    to that of its rejected one: an item's value is the mean of its two couples' losses. `rejected_of_rank` is what the
    chosen answer of each pair is held against and `chosen_of_rank` what the rejected one is: `same_rank` over a whole
    optimizer step, both detached. Each half has the gradient of the whole couple by its own answer, so that over a step
    the gradient is that of the sum.

    Shapes: four times (n,) -> (n,). At the reference the value is ln 2.
    """
    own = dpo_loss(chosen_logratios, rejected_of_rank, beta=beta, label_smoothing=label_smoothing)
    both = own + dpo_loss(chosen_of_rank, rejected_logratios, beta=beta, label_smoothing=label_smoothing)
    return both - both.detach() / 2


def wpo_weights(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_collisions: Tensor,
    rejected_collisions: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
) -> Tensor:
    """What WPO multiplies a pair's DPO loss by: `min(1, w(yw) w(yl))`, detached, where `w(y)` is the geometric mean
    over the answer's tokens of `pi(token) / sum_v pi(v)^2`.

    Source: arXiv 2406.11827, section 3 and its code. The sum of squares is what a token that is drawn from the policy
    has in the mean: an answer of the policy's own weighs about 1, one that it would hardly write far less. `collisions`
    are -log of these sums, added up over an answer's tokens (`SequenceScores.collision_entropies`).

    Shapes: six times (n,) -> (n,).
    """
    chosen = (chosen_logps + chosen_collisions) / chosen_lengths
    rejected = (rejected_logps + rejected_collisions) / rejected_lengths
    return (chosen + rejected).detach().clamp(max=0).exp()


def bco_logits(logratios: Tensor, desirable: Tensor, shift: Tensor | float, *, beta: float) -> Tensor:
    """What BCO's loss takes the sigmoid of: `beta D - d` for a desirable answer, its opposite for an undesirable one.

    Shapes: (n,), (n,) bool, scalar -> (n,).
    """
    logits = beta * logratios - shift
    return torch.where(desirable, logits, -logits)


def bco_loss(logratios: Tensor, desirable: Tensor, shift: Tensor | float, *, beta: float) -> Tensor:
    """BCO from labels: `-log s(beta D - d)` for a desirable answer, `-log s(-(beta D - d))` for an undesirable one.

    Source: arXiv 2404.04656, where d, `shift`, is halfway between the mean rewards of desirable and of undesirable
    answers, a running mean without gradient. Its weights for prompts that good and bad answers do not share
    (underlying distribution matching) are not here.

    Shapes: (n,), (n,) bool, scalar -> (n,). At zero log-ratios and d = 0 the value is ln 2.
    """
    return -logsigmoid(bco_logits(logratios, desirable, shift, beta=beta))


def bco_pair_loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, shift: Tensor | float, *, beta: float
) -> Tensor:
    """BCO on pairs: `-log s(beta Dw - d) - log s(-(beta Dl - d))`, both rows of `bco_loss`.

    Source: arXiv 2404.04656. TRL's `bco_pair` has no d since 1.0.

    Shapes: (n,), (n,), scalar -> (n,). At zero log-ratios and d = 0 the value is 2 ln 2.
    """
    return -logsigmoid(beta * chosen_logratios - shift) - logsigmoid(shift - beta * rejected_logratios)


LEAST_BETA = 1e-3


def dynamic_beta(margins: Tensor, mean_margin: Tensor | float, *, beta: float, beta_scaling: float) -> Tensor:
    """beta-DPO's beta: `beta (1 + alpha (M - M0))`, not below 0.001.

    Source: arXiv 2407.08639, with alpha, `beta_scaling`, 0.6 and margins M in rewards (beta D); its code has M in nats,
    so that its alpha is beta times ours, and the floor. M is the mean of a step there.

    Shapes: any, scalar -> as `margins`.
    """
    return (beta * (1 + beta_scaling * (margins - mean_margin))).clamp(min=LEAST_BETA)


def ld_logratios(logratios: Tensor, head_logratios: Tensor, *, ld_alpha: float) -> Tensor:
    """The log-ratios that LD-DPO compares: `head + alpha * tail` of the policy less the same of the reference.

    Source: arXiv 2409.06411. The head of an answer are its first tokens, as many as the shorter answer of its pair has;
    the tail is what the longer one has beyond, so that `head + alpha * tail = alpha * all + (1 - alpha) * head`.

    Shapes: twice (n,) or (n, 2) -> the same.
    """
    return ld_alpha * logratios + (1 - ld_alpha) * head_logratios
