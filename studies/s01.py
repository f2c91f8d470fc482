"""S1: what DPO's loss has as its optimum. `python -m studies.s01 [--quick]`"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from studies import exact, sayings
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, lies, table
from studies.plots import Plot, line
from studies.tabular import minimized

ANSWERS, BETAS, STEPS, SEEDS = 8, (0.1, 0.5, 1.0), 10_000, 10
PAIRS = exact.ordered(ANSWERS)
COUNTS = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)

TEXT = r"""
DPO's theorem: the policy with the least loss, people being Bradley and Terry's, is the optimum of rewards that are held
to the reference, $\pi^* = \pi_{\mathrm{ref}} \exp(r / \beta) / Z$, and its implicit reward
$\beta \log (\pi / \pi_{\mathrm{ref}})$ is the reward that people judge by, less $\beta \log Z$. Here 8 answers have
rewards and a reference drawn at random, the loss is that of the whole population (every ordered pair, weighted by how
many people choose so), and a table learns from it by Adam. Then only 100 to 100,000 comparisons are at hand, of answers
drawn alike, at a beta of 1: how fast does the policy come nearer? The distance is the total variation, which stays
finite where an answer never wins; the slope is fitted over the seven numbers of comparisons in logarithms.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """How far the trained policy is from the theorem's, and how fast that of a sample comes there."""
    return _all(exact.SEEDS + (seed - seed % SEEDS), quick)[seed % SEEDS]


@cache
def _all(number: int, quick: bool) -> list[dict[str, float]]:
    """Of all seeds at once, which takes hardly longer than one: (seeds, betas or counts, answers)."""
    source, betas = torch.Generator().manual_seed(number), exact.strengths(BETAS)
    rewards, ref = exact.normal(source, SEEDS, 1, ANSWERS), exact.normal(source, SEEDS, 1, ANSWERS).log_softmax(-1)
    chances = torch.sigmoid(rewards[..., PAIRS[0]] - rewards[..., PAIRS[1]])
    policies = _trained(ref, chances, betas, quick)
    tilted = ref + rewards / betas[:, None]
    optima, log_z = tilted.log_softmax(-1), tilted.logsumexp(-1)
    off = betas[:, None] * (policies - ref) - rewards
    worth = (policies.exp() * rewards).sum(-1) - betas * exact.kl(policies, ref)
    sample = torch.stack([_sample(chances[:, 0], count, source) for count in COUNTS], 1)
    from_sample = _trained(ref, sample, torch.ones(len(COUNTS), dtype=torch.double), quick)
    distances = (from_sample.exp() - optima[:, -1:].exp()).abs().sum(-1) / 2
    across = exact.strengths(COUNTS).log()
    slopes = [torch.cov(torch.stack([across, one]))[0, 1] / across.var() for one in distances.log()]
    numbers = {
        "kl": exact.error(exact.kl(optima, policies), torch.zeros(())),
        "spread": off.std(-1),
        "constant": exact.error(off.mean(-1), -betas * log_z),
        "worth": exact.error(worth, betas * log_z),
        "log_z": -betas * log_z,
    }
    found: list[dict[str, float]] = []
    for seed, slope in enumerate(slopes):
        found.append({"slope": float(slope)} | exact.by("distance", COUNTS, distances[seed]))
        for name, values in numbers.items():
            found[-1] |= exact.by(name, BETAS, values[seed])
    return found


def _trained(ref: Tensor, weights: Tensor, betas: Tensor, quick: bool) -> Tensor:
    """The policies (seeds, betas, answers) with the least loss of pairs with these weights (seeds, betas or 1, n)."""

    def loss(logits: Tensor) -> Tensor:
        return (weights * exact.dpo(torch.log_softmax(logits, -1) - ref, PAIRS, betas)).sum()

    last = minimized(loss, ref.expand(-1, len(betas), -1), 500 if quick else STEPS)
    return torch.log_softmax(last, -1)


def _sample(chances: Tensor, count: int, source: torch.Generator) -> Tensor:
    """(seeds, n) the shares of so many comparisons that fall on each ordered pair."""
    drawn = torch.multinomial(chances, count, replacement=True, generator=source)
    return torch.zeros_like(chances).scatter_add(1, drawn, torch.ones(drawn.shape, dtype=chances.dtype)) / count


CASES = exact.at("beta", BETAS)
CLAIMS = [
    Claim(
        "Your language model is secretly a reward model: DPO's optimum is that of the reward, held to the reference.",
        sayings.DPO,
        "the divergence from the closed form is below 1e-8 nats, by the whole interval",
        lies(CASES, "kl", -1.0, 1e-8),
    ),
    Claim(
        "The implicit reward is the reward that people judge by, up to a number that is the same for all answers.",
        sayings.DPO,
        "the deviation of their difference over the answers is below 1e-6, by the whole interval",
        lies(CASES, "spread", -1.0, 1e-6),
    ),
    Claim(
        "That number is known: beta log Z, which also is what the optimum is worth.",
        sayings.DPO,
        "the mean difference is less than 1e-6 from it, by the whole interval",
        lies(CASES, "constant", -1.0, 1e-6),
    ),
    Claim(
        "From a sample, the policy comes nearer as one over the root of the number of comparisons.",
        "textbooks, of maximum likelihood",
        "the slope lies between -0.6 and -0.4, by the whole interval",
        lies({"100 to 100,000 comparisons": Case({})}, "slope", -0.6, -0.4),
        figure="sample",
    ),
]
ROWS = {
    "kl": "divergence from the closed form, nats",
    "spread": "deviation of implicit reward less reward",
    "log_z": "-beta log Z",
    "constant": "distance of the mean difference from it",
    "worth": "distance of the policy's worth from beta log Z",
}


def tables(results: Results) -> list[Table]:
    """What the theorem says, and how far off it is."""
    return [table(results, "On the whole population", ROWS, {label: {"": case} for label, case in CASES.items()})]


def plots(results: Results) -> list[Plot]:
    """The distance over the number of comparisons."""
    means = {count: Case({}, f"@{count:g}").mean(results, "distance") for count in COUNTS}
    lines = [line("DPO on a sample", means)]
    return [Plot("sample", "Distance from the exact optimum", "comparisons", "total variation", lines, True)]


STUDY = Study(
    *("s01", "The optimum of DPO's loss", TEXT, 1, [{}], SEEDS, run, CLAIMS, tables, plots, [{}]),
    setup="8 answers, random rewards and reference, a table trained on all ordered pairs or on a sample of them",
)

if __name__ == "__main__":
    main(STUDY)
