"""S9: what wrong labels cost, and what gets it back. `python -m studies.s09 [--quick]`"""

from __future__ import annotations

import torch

from studies import counts
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, lies, table
from studies.plots import Plot, line
from studies.sayings import AGAINST_WRONG, FEW_WRONG, RATERS, ROBUST, SMOOTH
from studies.tabular import STEPS, World

SEEDS = 9000  # those of the study; the ones below 100 were looked at while it was made
NOISE, PAIRS, KL, VOTES = (0.0, 0.05, 0.1, 0.2, 0.4), (250, 2000), 0.5, 5
ALL = 0  # as many pairs as one likes
NAMES = {
    "dpo": "DPO",
    "cdpo": "cDPO, which knows the noise",
    "rdpo": "robust DPO, which knows the noise",
    "ipo": "IPO",
    "votes": "DPO, a fifth of the pairs, five votes each as a soft label",
    "majority": "DPO, the same, their majority as the label",
}
TEXT = """
Some labels are wrong: with a chance of 5, 10, 20 or 40 % the two answers of a pair are exchanged. 16 prompts have 8
answers each, the gold reward is known, and people compare two answers of the reference by Bradley and Terry's model of
it, so that even with no label wrong the better answer is chosen in four cases of five only. All learn from the same
comparisons. Conservative DPO (`label_smoothing`) and robust DPO are told the true noise, which nobody knows in
practice. Soft labels are the shares of five votes on a fifth of the pairs, each vote wrong with the same chance.

Two things are asked apart. At the same beta (1): how much reward does the policy gain, and how far does it go for it?
At the same divergence from the reference (0.5 nats): which share of the exact frontier's gain is it? What only makes a
policy go further along the same way is a smaller beta, and helps in the first sense alone. "All pairs" are as many
labels as one likes.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Of each method at each noise: `dpo share@0.1`, `dpo gain@0.1` and `dpo kl@0.1` at a beta of 1, and its wins."""
    number, steps = (seed, 60) if quick else (SEEDS + seed, STEPS)
    world, generator = World.made(number, 16, 8), torch.Generator().manual_seed(2 * number + 1)
    noise = torch.tensor(NOISE, dtype=torch.double)[:, None, None, None]
    chance = counts.flipped(counts.preference(world), noise)
    each = setting["pairs"] // len(world.ref)
    pairs = counts.of_all(world, chance)
    if each:
        pairs = counts.labelled(counts.asked(world, each, generator), chance, generator)
    losses = {"dpo": counts.dpo, "cdpo": counts.cdpo(noise), "rdpo": counts.rdpo(noise), "ipo": counts.ipo}
    learnt = {name: counts.learnt(loss, pairs, steps) for name, loss in losses.items()}
    if each:
        voted = counts.voted(counts.asked(world, each // VOTES, generator), chance, VOTES, generator)
        learnt |= zip(("votes", "majority"), (counts.learnt(counts.dpo, many, steps) for many in voted), strict=True)
    found: dict[str, float] = {}
    for name, tables in learnt.items():
        for part, rewards in zip(NOISE, tables, strict=True):
            policy = world.optimum(rewards, 1.0)
            found[f"{name} share@{part}"] = counts.share(world, rewards, KL)
            found |= {f"{name} gain@{part}": float(world.gain(policy)), f"{name} kl@{part}": float(world.kl(policy))}
            found[f"{name} wins@{part}"] = counts.wins(world, policy)
    for less, more in ((0.0, 0.1), (0.1, 0.2), (0.2, 0.4)):
        found[f"lost@{more}"] = 0.1 * (found[f"dpo wins@{less}"] - found[f"dpo wins@{more}"]) / (more - less)
        found[f"kept@{more}"] = found[f"dpo share@{more}"] / found["dpo share@0.0"]
    return found


def cases(*amounts: int, noise: tuple[float, ...] = NOISE[1:]) -> dict[str, Case]:
    """Each of these numbers of pairs at each noise."""
    return {
        f"{f'{many:,}' if many else 'all'} pairs, {part:.0%} wrong": Case({"pairs": many}, f"@{part}")
        for many in amounts
        for part in noise
    }


AT_KL = "the share of the first at the same divergence is above that of the second, by the whole interval"
AT_BETA = "the gain of the first at a beta of 1 is above that of the second, by the whole interval"
SAID = [
    ("Where labels are wrong, robust DPO earns more than DPO at the same beta.", ROBUST, "rdpo gain", "dpo gain"),
    ("Where labels are wrong, robust DPO makes more of the pairs than DPO.", ROBUST, "rdpo share", "dpo share"),
    ("Where labels are wrong, label smoothing earns more than DPO at the same beta.", SMOOTH, "cdpo gain", "dpo gain"),
    ("Where labels are wrong, DPO with label smoothing makes more of them.", SMOOTH, "cdpo share", "dpo share"),
    (*AGAINST_WRONG["ipo"], "ipo share", "dpo share"),
    ("Votes are better kept as soft labels than counted to a majority.", RATERS, "votes share", "majority share"),
    ("Five votes a pair are worth more than five times as many pairs.", RATERS, "votes share", "dpo share"),
]
TENS = cases(*PAIRS, ALL, noise=NOISE[2:])
CLAIMS = [
    *(
        Claim(
            said,
            source,
            AT_BETA if one.endswith("gain") else AT_KL,
            compared(cases(*PAIRS) if one.startswith("votes") else cases(*PAIRS, ALL), one, two, 0.0),
        )
        for said, source, one, two in SAID
    ),
    Claim(
        "Ten points more wrong labels cost 30 points of win rate.",
        'arXiv 2404.09824 ("can lead to")',
        "DPO at a beta of 1 against the reference: each ten points cost more than half of it, by the whole interval",
        lies(TENS, "lost", 0.15),
    ),
    Claim(
        *FEW_WRONG,
        "it keeps more than nine tenths of its share at the same divergence, by the whole interval",
        lies(TENS, "kept", 0.9),
    ),
]


def tables(results: Results) -> list[Table]:
    """The shares, and what is gained at the same beta at which divergence."""
    columns, found = {f"{part:.0%} wrong": {"": Case({"pairs": PAIRS[1]}, f"@{part}")} for part in NOISE}, []
    for measure, words in {
        "share": f"Share of the frontier's gain at a KL of {KL} nats",
        "gain": "Gold reward gained at a beta of 1",
        "kl": "KL to the reference at a beta of 1, nats",
    }.items():
        rows = {f"{name} {measure}": said for name, said in NAMES.items()}
        found.append(table(results, f"{words}, {PAIRS[1]:,} pairs", rows, columns))
    return found


def plots(results: Results) -> list[Plot]:
    """The shares over the noise."""
    lines = []
    for name, words in NAMES.items():
        means = {100 * part: Case({"pairs": PAIRS[1]}, f"@{part}").mean(results, f"{name} share") for part in NOISE}
        lines.append(line(words, means))
    title = f"Share of the exact frontier's gain, {PAIRS[1]:,} pairs"
    return [Plot("share", title, "wrong labels, %", f"share of the gain at a KL of {KL}", lines)]


SETUP = (
    "16 prompts with 8 answers each, 250, 2,000 or all pairs, 5 to 40 % of the labels exchanged; policies are tables"
)
READING = """
At the same beta robust DPO earns more, mainly by going further, and label smoothing less, by going less far: a switch
that is turned on asks for another beta. At the same divergence smoothing and IPO make more of 2,000 noisy pairs, as
both bound what a unanimous pair asks for, and robust DPO only where very much is wrong.
"""
SETTINGS = [{"pairs": many} for many in (*PAIRS, ALL)]
QUICK, TITLE = SETTINGS[:2], "Wrong labels"
STUDY = Study("s09", TITLE, TEXT, 1, SETTINGS, 20, run, CLAIMS, tables, plots, QUICK, READING, setup=SETUP)

if __name__ == "__main__":
    main(STUDY)
