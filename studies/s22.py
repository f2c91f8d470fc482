"""S22: what rewards near zero say. `python -m studies.s22 [--quick]`"""

from __future__ import annotations

import torch
from torch import Tensor

from likelier.objectives.losses import dpo_loss
from studies import counts
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, lies, table
from studies.plots import Plot, line
from studies.tabular import World, path

SEEDS = 13_000  # those of the study; none of them was looked at while it was made
BETAS = torch.tensor([0.01, 0.1, 1.0], dtype=torch.double)
EACH, RATE, STEPS, EVERY = 64, 0.02, 400, 5
LEARNT, NEAR = 0.6, 0.1
TEXT = """
Who watches a run of DPO sees two means, `rewards/chosen` and `rewards/rejected`, and is told that a run in which both
stay near zero does not learn. A reward is beta times a log-ratio, so that the same policy has rewards of any size.
S18's world with 64 prompts and 16 answers each, 64 comparisons a prompt, by people (Bradley and Terry's model of the
gold reward) or by coin; DPO learns from them by Adam at 0.02 for 400 steps, at betas of 0.01, 0.1 and 1. The question
is how large the larger of the two means is when the policy has learnt: when its answers have more gold reward than the
reference's in 60 % of all cases. Near zero is below 0.1.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """The larger of both mean rewards when it has learnt (`size@0.1`) and at the end (`end@0.1`), the shares of wins
    then (`wins@0.1`), and both on the way (`size 100@0.1`, ...).
    """
    world, generator = World.made(SEEDS + seed, prompts=8 if quick else 64), torch.Generator().manual_seed(seed)
    chance = counts.preference(world) if setting["labels"] == "people" else torch.full((), 0.5, dtype=torch.double)
    pairs = counts.labelled(counts.asked(world, EACH, generator), chance, generator)
    beta, found = BETAS[:, None, None], {}

    def loss(logits: Tensor) -> Tensor:
        ratios = torch.log_softmax(logits, -1) - world.ref
        return (pairs * dpo_loss(ratios[..., :, None], ratios[..., None, :], beta=beta[..., None])).sum()

    for number, logits in enumerate(
        path(loss, world.ref.expand(3, *world.ref.shape), STEPS, rate=RATE, falls=False), 1
    ):
        if number % EVERY:
            continue
        for one, policy in zip(BETAS.tolist(), torch.log_softmax(logits, -1), strict=True):
            size, won = _size(pairs, one * (policy - world.ref)), counts.wins(world, policy)
            if won >= LEARNT:
                found.setdefault(f"size@{one:g}", size)
            if number % 50 == 0:
                found |= {f"size {number}@{one:g}": size, f"wins {number}@{one:g}": won}
            found |= {f"end@{one:g}": size, f"wins@{one:g}": won}
    return found


def _size(pairs: Tensor, rewards: Tensor) -> float:
    """The larger of both means, as far from zero; of pairs (prompts, answers, answers), the chosen answer first."""
    sums = [(pairs.sum(axis) * rewards).sum() / pairs.sum() for axis in (2, 1)]
    return max(abs(float(one)) for one in sums)


def _cases(labels: str) -> dict[str, Case]:
    return {f"beta {beta:g}": Case({"labels": labels}, f"@{beta:g}") for beta in BETAS.tolist()}


CLAIMS = [
    Claim(
        "Both rewards near zero: the model is not learning.",
        "tutorials on DPO",
        "when it has learnt, the larger of the two means is beyond 0.1, by the whole interval",
        lies(_cases("people"), "size", NEAR),
    ),
    Claim(
        "Rewards that leave zero: the model learns what people prefer.",
        "tutorials on DPO",
        "with labels by coin the larger of the two means ends below 0.1, by the whole interval",
        lies(_cases("coin"), "end", -1.0, NEAR),
    ),
]


def tables(results: Results) -> list[Table]:
    """Where both kinds of labels end, and the size of rewards when something had been learnt."""
    rows = {"size": "the larger mean when 60 % of cases were won", "end": "the larger mean at the end"}
    rows["wins"] = "share of cases won at the end"
    columns = {
        f"{name}, {label}": {"": case}
        for name, labels in (("people", "people"), ("by coin", "coin"))
        for label, case in _cases(labels).items()
    }
    return [table(results, "Sizes of rewards", rows, columns)]


def plots(results: Results) -> list[Plot]:
    """Wins against the size of the rewards, along the way."""
    lines = []
    for label, case in _cases("people").items():
        places = [Case(case.setting, f" {number}{case.suffix}") for number in range(50, STEPS + 1, 50)]
        sizes = {place.mean(results, "size"): place.mean(results, "wins") for place in places}
        lines.append(line(label, {size.value: won for size, won in sizes.items() if size is not None}))
    return [Plot("size", "Cases won, by the size of rewards", "the larger mean reward", "share of cases won", lines)]


READING = """
The size of rewards measures beta as much as what was learnt: where 60 % of all cases are won, the larger mean is 0.4 at
a beta of 1, 0.05 at 0.1 and 0.005 at 0.01. And rewards grow as well where there is nothing to learn, since a table fits
the coins. What does not depend on beta are log-ratios in nats and the accuracy on held-out pairs with its interval, and
`likelier diagnose` goes by these.
"""
SETTINGS = [{"labels": labels} for labels in ("people", "coin")]
STUDY = Study(
    *("s22", "Rewards near zero", TEXT, 1, SETTINGS, 8, run, CLAIMS, tables, plots, SETTINGS, READING),
    setup="64 prompts of 16 answers, tables trained by DPO at three betas, labels by people or by coin",
)

if __name__ == "__main__":
    main(STUDY)
