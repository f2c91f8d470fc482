"""S3B: is the divergence that DPO is derived from respected? `python -m studies.s03b [--quick]`"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from studies import exact, tabular
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, lies, table
from studies.plots import Plot, line
from studies.tabular import Pairs, World, path

BETAS, EACH, STATIONS = (1.0, 4.0), (8, 64), (100, 300, 1_000, 3_000)
STRENGTHS = exact.strengths(BETAS)

TEXT = """
DPO is derived from rewards that are held to the reference by beta times the divergence, and so it is said that its loss
respects this constraint by itself. That holds for the optimum on a whole population (S1). Here are samples: S18's world
with 32 prompts with 16 answers each, 8 or 64 comparisons a prompt of the reference's answers, labelled by people
(Bradley and Terry's model of the gold reward) or by a judge who always takes the better answer. DPO and IPO learn from
them by Adam at 0.05, from the reference, for 3,000 steps. The measure is the divergence as a multiple of what the
optimum of the gold reward has at the same beta, which is what the constraint promises. Tables of 16 answers cannot go
further from a reference than some nats, so that at a beta of 4, where little is promised, there is more room for a
multiple.

Whether it stays where it is, is asked by the last two thirds of the steps: the divergence after 3,000 as a multiple of
that after 1,000. IPO stands beside DPO at a tau of a quarter of its beta, at which both have the same optimum where
people hardly prefer either answer.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Divergences of both methods along the way, as multiples of what is promised (`dpo@1 300`)."""
    world = World.made(exact.SEEDS + seed, prompts=8 if quick else 32)
    asked = replace(world, gold=world.gold * 1e6) if setting["labels"] == "judge" else world
    pairs = Pairs.drawn(asked, world.ref, setting["pairs"], exact.generator(seed))
    promised = torch.stack([world.kl(world.optimum(world.gold, beta)) for beta in BETAS])

    def loss(logits: Tensor) -> Tensor:
        by_dpo, by_ipo = torch.log_softmax(logits, -1)
        dpo = tabular.LOSSES["dpo"](by_dpo, world.ref, pairs, STRENGTHS[:, None])
        return (dpo + tabular.LOSSES["ipo"](by_ipo, world.ref, pairs, STRENGTHS[:, None] / 4)).sum()

    stations, found = [step // 10 for step in STATIONS] if quick else STATIONS, {}
    start = world.ref.expand(2, len(BETAS), *world.ref.shape)
    for number, logits in enumerate(path(loss, start, stations[-1], rate=0.05, falls=False), 1):
        if number in stations:
            kls = torch.stack([world.kl(policies) for policies in torch.log_softmax(logits, -1)])
            label = STATIONS[stations.index(number)]
            for name, row in zip(("dpo", "ipo"), kls, strict=True):
                found |= exact.by(f"{name} {label}", BETAS, row / promised)
    for name in ("dpo", "ipo"):
        for beta in BETAS:
            found[f"{name} grew@{beta:g}"] = found[f"{name} 3000@{beta:g}"] / found[f"{name} 1000@{beta:g}"]
    return found


LABELS = {"people": "people", "judge": "a sure judge"}
SETTINGS = [{"pairs": pairs, "labels": labels} for labels in LABELS for pairs in EACH]
CASES = {
    f"{one['pairs']} pairs a prompt by {LABELS[one['labels']]}, beta {beta:g}": Case(one, f"@{beta:g}")
    for one in SETTINGS
    for beta in BETAS
}
CLAIMS = [
    Claim(
        "The KL constraint is naturally respected by DPO's loss.",
        "tutorials on DPO",
        "the divergence is below 1.1 times that of the optimum which DPO is derived from, by the whole interval",
        lies(CASES, "dpo 3000", -1.0, 1.1),
    ),
    Claim(
        "DPO goes further and further from the reference, the longer it trains.",
        "IPO's paper, arXiv 2310.12036",
        "the divergence grows by more than 5 % from step 1,000 to 3,000, by the whole interval",
        lies(CASES, "dpo grew", 1.05),
    ),
    Claim(
        "IPO stays where it is.",
        "IPO's paper, arXiv 2310.12036",
        "its divergence grows by less than 5 % over the same steps, by the whole interval",
        lies(CASES, "ipo grew", -1.0, 1.05),
    ),
]
ROWS = {f"{name} {step}": f"{name.upper()}, {step:,} steps" for name in ("dpo", "ipo") for step in STATIONS}


def tables(results: Results) -> list[Table]:
    """The multiples along the way."""
    columns = {label: {"": case} for label, case in CASES.items()}
    return [table(results, "Divergence, as a multiple of what the constraint promises", ROWS, columns)]


def plots(results: Results) -> list[Plot]:
    """The same at a beta of 1, over the steps."""
    lines = [
        line(
            f"{name.upper()}, {label.removesuffix(', beta 1')}",
            {at: case.mean(results, f"{name} {at}") for at in STATIONS},
        )
        for name in ("dpo", "ipo")
        for label, case in CASES.items()
        if label.endswith("beta 1")
    ]
    return [Plot("kl", "Divergence at a beta of 1", "steps", "multiple of what is promised", lines, True)]


READING = """
On a sample DPO respects nothing by itself: answers that never won a comparison lose everything, whoever labels, and the
divergence grows with every step, to 2 and 10 times what beta promises. More comparisons of the reference's own answers
do not mend it, as the rare ones stay rare. IPO ends below the promise and stays there. What holds DPO near the
reference is the number of steps, and so a run's divergence is a thing to look at and not to be derived from beta.
"""
STUDY = Study(
    *("s03b", "Is the KL constraint respected?", TEXT, 1, SETTINGS, 5, run, CLAIMS, tables, plots, SETTINGS, READING),
    setup="32 prompts of 16 answers, tables trained by DPO and IPO on 8 or 64 comparisons a prompt",
)

if __name__ == "__main__":
    main(STUDY)
