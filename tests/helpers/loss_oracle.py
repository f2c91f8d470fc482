"""The objectives' formulas a second time, in NumPy, on random scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from likelier import DPO, DPOP, IPO, APODown, APOZero, Hinge, RewardModel, RobustDPO, SigmoidNorm, SimPO
from likelier.objectives import (
    AOT,
    CPO,
    EXO,
    FDPO,
    LDDPO,
    MPO,
    NCA,
    ORPO,
    SPPO,
    WPO,
    AlphaPO,
    AOTUnpaired,
    BCOPair,
    BetaDPO,
    CalDPO,
    DiscoPOP,
    Objective,
    Scored,
    SLiC,
    WeightedSum,
)

Ndarray = Any


def softplus(values: Ndarray) -> Ndarray:
    """-log sigmoid(-values), the stable way."""
    return np.maximum(values, 0) + np.log1p(np.exp(-np.abs(values)))


def sigmoid(values: Ndarray) -> Ndarray:
    return np.exp(-softplus(-values))


def divergence(chance: Ndarray, wanted: float) -> Ndarray:
    """One term of a divergence: chance log(chance / wanted)."""
    return chance * np.log(chance / wanted)


def odds(means: Ndarray) -> Ndarray:
    """Of a mean log-probability, logarithmic."""
    return means - np.log1p(-np.exp(means))


def ranked(values: Ndarray, others: Ndarray) -> Ndarray:
    """Of each value the one of the others that is larger than as many of them."""
    return np.sort(others)[[(values < value).sum() for value in values]]


def smoothed(logits: Ndarray, chance: Any) -> Ndarray:
    return (1 - chance) * softplus(-logits) + chance * softplus(logits)


class World:
    """Scores of some answers and, over them, pairs in no order, and rows with their partners."""

    def __init__(self, seed: int = 0, count: int = 7) -> None:
        rng = np.random.default_rng(seed)
        answers = 3 * count
        self.logps, self.refs = rng.normal(-20, 4, answers), rng.normal(-20, 4, answers)
        self.lengths = rng.integers(1, 12, answers)
        order = rng.permutation(answers)
        self.pairs = np.stack([order[:count], order[count : 2 * count]], 1)
        self.rows, self.partners = order[:count], order[2 * count :]
        self.desirable = np.arange(count) % 3 > 0
        self.margins, self.chances = rng.uniform(0, 2, count), rng.uniform(0, 0.5, count)
        self.collisions = rng.uniform(0.5, 1.2, answers) * -self.logps  # weights on both sides of 1
        self.tokens, self.ref_tokens = (
            [rng.dirichlet(np.ones(length)) * total for length, total in zip(self.lengths, sums, strict=True)]
            for sums in (self.logps, self.refs)
        )

    def scored(self, **more: Any) -> Scored:
        return Scored.of(
            logps=torch.tensor(self.logps),
            lengths=torch.tensor(self.lengths),
            ref_logps=torch.tensor(self.refs),
            collision_entropies=torch.tensor(self.collisions),
            token_logps=torch.tensor(np.concatenate(self.tokens)),
            **{name: torch.tensor(value) for name, value in more.items()},
        )

    def of_pairs(self, **more: Any) -> Scored:
        return self.scored(pairs=self.pairs, ref_head_logps=self.heads(self.ref_tokens), **more)

    def of_rows(self) -> Scored:
        return self.scored(rows=self.rows, desirable=self.desirable, partners=self.partners)

    @property
    def ratios(self) -> tuple[Ndarray, Ndarray]:
        """Summed log-ratios of the chosen and of the rejected answers."""
        both = self.logps - self.refs
        return both[self.pairs[:, 0]], both[self.pairs[:, 1]]

    def per_token(self, values: Ndarray) -> tuple[Ndarray, Ndarray]:
        means = values / self.lengths
        return means[self.pairs[:, 0]], means[self.pairs[:, 1]]

    @property
    def gap(self) -> Ndarray:
        return self.ratios[0] - self.ratios[1]

    @property
    def mean_gap(self) -> Ndarray:
        """The same per token."""
        chosen, rejected = self.per_token(self.logps - self.refs)
        return chosen - rejected

    @property
    def logp_gap(self) -> Ndarray:
        return self.logps[self.pairs[:, 0]] - self.logps[self.pairs[:, 1]]

    @property
    def ref_gap(self) -> Ndarray:
        return self.refs[self.pairs[:, 0]] - self.refs[self.pairs[:, 1]]

    @property
    def logp_sum(self) -> Ndarray:
        return self.logps[self.pairs].sum(1)

    @property
    def mean_logp_gap(self) -> Ndarray:
        chosen, rejected = self.per_token(self.logps)
        return chosen - rejected

    @property
    def means(self) -> tuple[Ndarray, Ndarray]:
        """Mean log-probabilities per token of the chosen and of the rejected answers."""
        return self.per_token(self.logps)

    def heads(self, tokens: list[Ndarray]) -> Ndarray:
        """Sums over the first tokens of the pairs' answers, as many as the shorter one has."""
        shared = self.lengths[self.pairs].min(1)
        rows = zip(self.pairs, shared, strict=True)
        return np.array([[tokens[answer][:count].sum() for answer in pair] for pair, count in rows])

    def desensitized(self, alpha: float) -> Ndarray:
        """LD-DPO's difference of log-ratios: alpha times what is beyond the head."""
        ratios = (self.logps - self.refs)[self.pairs]
        heads = self.heads(self.tokens) - self.heads(self.ref_tokens)
        return (heads + alpha * (ratios - heads)) @ [1, -1]

    @property
    def own_share(self) -> Ndarray:
        """WPO's weights."""
        return np.minimum(1, np.exp(sum(self.per_token(self.logps + self.collisions))))

    @property
    def nll(self) -> Ndarray:
        return -self.per_token(self.logps)[0]


# Each from its paper, as shared notation has it; `w` is the world.
PAIRED: list[tuple[Objective, Callable[[World], Ndarray]]] = [
    (DPO(beta=0.3), lambda w: softplus(-0.3 * w.gap)),
    (DPO(beta=0.3, label_smoothing=0.2), lambda w: smoothed(0.3 * w.gap, 0.2)),
    (DPO(beta=0.3, nll_weight=0.7), lambda w: softplus(-0.3 * w.gap) + 0.7 * w.nll),
    (
        RobustDPO(beta=0.3, flip_probability=0.2),
        lambda w: (0.8 * softplus(-0.3 * w.gap) - 0.2 * softplus(0.3 * w.gap)) / 0.6,
    ),
    (RewardModel(center_weight=0.01), lambda w: softplus(-w.logp_gap) + 0.01 * w.logp_sum**2),
    (RewardModel(label_smoothing=0.1), lambda w: smoothed(w.logp_gap, 0.1)),
    (IPO(tau=0.4), lambda w: (w.mean_gap - 1.25) ** 2),
    (IPO(tau=0.4, length_normalize=False), lambda w: (w.gap - 1.25) ** 2),
    (SimPO(beta=2.5, gamma_beta_ratio=0.3), lambda w: softplus(-2.5 * (w.mean_logp_gap - 0.3))),
    (
        SimPO(beta=2.5, gamma_beta_ratio=0.3, label_smoothing=0.1),
        lambda w: smoothed(2.5 * (w.mean_logp_gap - 0.3), 0.1),
    ),
    (Hinge(beta=0.2), lambda w: np.maximum(0, 1 - 0.2 * w.gap)),
    (SigmoidNorm(beta=3.0), lambda w: softplus(-3 * w.mean_gap)),
    (SigmoidNorm(beta=3.0, label_smoothing=0.2), lambda w: smoothed(3 * w.mean_gap, 0.2)),
    (APOZero(beta=0.3), lambda w: 1 - sigmoid(0.3 * w.ratios[0]) + sigmoid(0.3 * w.ratios[1])),
    (APODown(beta=0.3), lambda w: sigmoid(0.3 * w.ratios[0]) + 1 - sigmoid(0.3 * w.gap)),
    (
        DPOP(beta=0.3, penalty=4.0),
        lambda w: softplus(-0.3 * (w.gap - 4 * np.maximum(0, -w.ratios[0]))),
    ),
    (
        EXO(beta=0.3, label_smoothing=0.1),
        lambda w: divergence(sigmoid(0.3 * w.gap), 0.9) + divergence(sigmoid(-0.3 * w.gap), 0.1),
    ),
    (
        NCA(beta=0.3),
        lambda w: softplus(-0.3 * w.ratios[0]) + 0.5 * softplus(0.3 * w.ratios[0]) + 0.5 * softplus(0.3 * w.ratios[1]),
    ),
    (SPPO(beta=0.2), lambda w: 0.5 * (w.ratios[0] - 2.5) ** 2 + 0.5 * (w.ratios[1] + 2.5) ** 2),
    (
        DiscoPOP(beta=0.3, discopop_tau=0.8),
        lambda w: sigmoid(-0.375 * w.gap) * softplus(-0.3 * w.gap) + sigmoid(0.375 * w.gap) * np.exp(-0.3 * w.gap),
    ),
    (
        FDPO(beta=0.3, divergence="forward-kl"),
        lambda w: softplus(-0.3 * (np.exp(-w.ratios[1]) - np.exp(-w.ratios[0]))),
    ),
    (
        FDPO(beta=0.3, divergence="js"),
        lambda w: softplus(-0.3 * np.log(sigmoid(w.ratios[0]) / sigmoid(w.ratios[1]))),
    ),
    (
        FDPO(beta=0.3, divergence="alpha", trl_alpha=0.75),
        lambda w: softplus(-0.3 * (np.exp(-w.ratios[1] / 4) - np.exp(-w.ratios[0] / 4)) / 0.25),
    ),
    (
        CalDPO(beta=0.3),
        lambda w: softplus(-0.3 * w.gap) + (0.3 * w.ratios[0] - 0.5) ** 2 + (0.3 * w.ratios[1] + 0.5) ** 2,
    ),
    (AOT(beta=0.3), lambda w: softplus(-0.3 * (w.logp_gap - ranked(w.logp_gap, w.ref_gap)))),
    (
        AOT(beta=0.3, label_smoothing=0.2, nll_weight=0.7),
        lambda w: smoothed(0.3 * (w.logp_gap - ranked(w.logp_gap, w.ref_gap)), 0.2) + 0.7 * w.nll,
    ),
    (
        AOTUnpaired(beta=0.3),
        lambda w: (
            softplus(-0.3 * (w.ratios[0] - ranked(*w.ratios))) / 2
            + softplus(-0.3 * (ranked(w.ratios[1], w.ratios[0]) - w.ratios[1])) / 2
        ),
    ),
    (WPO(beta=0.3), lambda w: w.own_share * softplus(-0.3 * w.gap)),
    (
        WPO(beta=0.3, label_smoothing=0.2, nll_weight=0.7),
        lambda w: w.own_share * smoothed(0.3 * w.gap, 0.2) + 0.7 * w.nll,
    ),
    (LDDPO(beta=0.3, ld_alpha=0.4), lambda w: softplus(-0.3 * w.desensitized(0.4))),
    (
        LDDPO(beta=0.3, ld_alpha=0.0, label_smoothing=0.2, nll_weight=0.7),
        lambda w: smoothed(0.3 * w.desensitized(0.0), 0.2) + 0.7 * w.nll,
    ),
    (CPO(beta=0.3, nll_weight=0.7), lambda w: softplus(-0.3 * w.logp_gap) + 0.7 * w.nll),
    (ORPO(odds_weight=0.4), lambda w: w.nll + 0.4 * softplus(-(odds(w.means[0]) - odds(w.means[1])))),
    (
        AlphaPO(beta=2.0, gamma_beta_ratio=0.3, alpha=0.5),
        lambda w: softplus(-2 * ((np.exp(-w.means[1] / 2) - np.exp(-w.means[0] / 2)) / 0.5 - 0.3)),
    ),
    (
        SLiC(delta=2.0, likelihood_weight=0.3),
        lambda w: np.maximum(0, 2 - w.logp_gap) - 0.3 * w.logps[w.pairs[:, 0]],
    ),
    (
        WeightedSum(loss=((DPO(beta=0.3), 0.8), (SimPO(beta=2.5), 0.2)), nll_weight=0.7),
        lambda w: 0.8 * softplus(-0.3 * w.gap) + 0.2 * softplus(-2.5 * (w.mean_logp_gap - 0.5)) + 0.7 * w.nll,
    ),
    (BCOPair(beta=0.3), lambda w: softplus(-0.3 * w.ratios[0]) + softplus(0.3 * w.ratios[1])),
    (
        BCOPair(beta=0.3).with_state({"chosen": [6.0, 4.0], "rejected": [-2.0, 4.0]}),  # d: half of 1.5 - 0.5
        lambda w: softplus(0.5 - 0.3 * w.ratios[0]) + softplus(0.3 * w.ratios[1] - 0.5),
    ),
    (BetaDPO(beta=0.3), lambda w: softplus(-0.3 * w.gap)),
    (
        MPO().with_state({"bco_pair.chosen": [6.0, 4.0], "bco_pair.rejected": [-2.0, 4.0]}),
        lambda w: (
            0.8 * softplus(-0.1 * w.gap)
            + 0.2 * (softplus(0.5 - 0.1 * w.ratios[0]) + softplus(0.1 * w.ratios[1] - 0.5))
            + w.nll
        ),
    ),
    (BetaDPO(beta=0.3).with_state({"mean_margin": 0.2, "beta": 0.4}), lambda w: softplus(-0.4 * w.gap)),
    (
        BetaDPO(beta=0.3, beta_scaling=0.5, beta_of="pair").with_state({"mean_margin": 0.2, "beta": 0.4}),
        lambda w: softplus(-np.maximum(0.3 * (1 + 0.5 * (0.3 * w.gap - 0.2)), 1e-3) * w.gap),
    ),
]
