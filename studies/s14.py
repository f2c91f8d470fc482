"""S14: few pairs, IPO and DPO. `python -m studies.s14 [--quick]`"""

from __future__ import annotations

import torch
from torch import Tensor

from studies import counts
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, lies, table
from studies.plots import Plot, line
from studies.tabular import STEPS, World

SEEDS = 11_000  # those of the study; the ones below 100 were looked at while it was made
PAIRS, DRAWS, STRENGTH, KL, LONG = (100, 500, 2_000, 10_000, 20_000), 6, 0.1, 0.5, 4
WAYS = {"usual": "the usual number of steps", "long": f"{LONG} times as many"}
TEXT = f"""
Nobody has published that IPO is steadier than DPO on fewer than 1,000 pairs; it is said in tutorials. 16 prompts have
8 answers each, and pairs are labelled by Bradley and Terry's model of a known gold reward. In each world {DRAWS} sets
of pairs are drawn anew. A method is steadier if what its policies gain differs less from set to set (the standard
deviation over them). Training stops after {STEPS} steps of Adam over all pairs, or after {LONG} times as many.

Both are compared at equal strength, a beta and a tau of {STRENGTH} as everybody's defaults are (IPO then aims at a gap
of 5 nats between two answers), and at the same divergence of 0.5 nats from the reference, each policy at the beta that
brings it there. A smaller deviation at equal strength may be that of a policy which hardly moved. So a third measure
stands beside them: the deviation as a share of the gain. The gap between the two closes if their shares of the
frontier's gain at the same divergence differ by less than 0.02.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Of each method in each way what `_judged` measures: `dpo gain@usual`, `dpo spread@long`, and so on."""
    number, steps = (seed, 30) if quick else (SEEDS + seed, STEPS)
    world, generator = World.made(number, 16, 8), torch.Generator().manual_seed(2 * number + 1)
    questions = torch.stack([counts.asked(world, setting["pairs"] // 16, generator) for _ in range(DRAWS)])
    pairs = counts.labelled(questions, counts.preference(world), generator)
    found = {}
    for name, loss in (("dpo", counts.dpo), ("ipo", counts.ipo)):
        for way, longer in (("usual", 1), ("long", LONG)):
            judged = _judged(world, counts.learnt(loss, pairs, longer * steps))
            found |= {f"{name} {what}@{way}": value for what, value in judged.items()}
    return found | {"lost by dpo@": found["dpo share@usual"] - found["dpo share@long"]}


def _judged(world: World, tables: Tensor) -> dict[str, float]:
    """Means and deviations over the sets of pairs, of implicit rewards (sets, prompts, answers)."""
    policies = world.optimum(tables, STRENGTH)
    gains, shares = world.gain(policies), torch.tensor([counts.share(world, one, KL) for one in tables])
    return {
        "gain": float(gains.mean()),
        "spread": float(gains.std()),
        "relative spread": float(gains.std() / gains.mean()),
        "kl": float(world.kl(policies).mean()),
        "share": float(shares.mean()),
        "share spread": float(shares.std()),
        "gap": float((tables.amax(-1) - tables.amin(-1)).mean()) / STRENGTH,
    }


def cases(way: str, *amounts: int) -> dict[str, Case]:
    """These numbers of pairs."""
    return {f"{many:,} pairs": Case({"pairs": many}, f"@{way}") for many in amounts}


FEW, MANY, SECONDARY = PAIRS[:2], PAIRS[-2:], "tutorials; no primary source was found"
STEADIER = {
    "spread": "that of the gain at equal strength, by the whole interval",
    "relative spread": "as a share of each one's gain at equal strength, by the whole interval",
    "share spread": "that of the share of the frontier's gain at the same divergence, by the whole interval",
}
MEASURED = {"spread": "in reward", "relative spread": "for what it gains", "share spread": "at the same divergence"}
AT = "at the same divergence, trained long, by the whole interval"
SHARES = [  # of how far IPO's share is above DPO's, and the bounds
    ("With fewer than 1,000 examples IPO makes more of them than DPO.", "IPO's share is above DPO's", FEW, (0.0,)),
    ("The gap between IPO and DPO closes above 10,000 pairs.", "they differ by less than 0.02", MANY, (-0.02, 0.02)),
    ("There is a gap to close: IPO is ahead below 1,000 pairs.", "IPO's is more than 0.02 above DPO's", FEW, (0.02,)),
]
CLAIMS = [
    *(
        Claim(
            f"With fewer than 1,000 examples IPO is steadier than DPO ({MEASURED[name]}; {WAYS[way]}).",
            SECONDARY,
            f"IPO's deviation over sets of pairs is below DPO's, {rule}",
            compared(cases(way, *FEW), f"dpo {name}", f"ipo {name}", 0.0),
        )
        for name, rule in STEADIER.items()
        for way in WAYS
    ),
    *(
        Claim(said, SECONDARY, f"{rule} {AT}", compared(cases("long", *few), "ipo share", "dpo share", *bounds))
        for said, rule, few, bounds in SHARES
    ),
    Claim(
        "IPO bounds how far the policy goes, DPO does not.",
        "arXiv 2310.12036",
        "trained long, DPO's KL is more than 0.1 nats above IPO's at equal strength, by the whole interval",
        compared(cases("long", *PAIRS), "dpo kl", "ipo kl", 0.1),
    ),
    Claim(
        "DPO gets worse where it is trained too long.",
        "tutorials",
        "its share at the same divergence falls by more than 0.02 with four times the steps, by the whole interval",
        lies(cases("", *PAIRS), "lost by dpo", 0.02),
    ),
]
ROWS = {
    "gain": "gold reward gained",
    "spread": "its deviation over sets of pairs",
    "kl": "KL to the reference, nats",
    "gap": "largest gap between two answers' log-ratios, nats",
    "share": f"share of the frontier's gain at a KL of {KL}",
    "share spread": "its deviation over sets of pairs",
}


def tables(results: Results) -> list[Table]:
    """What both gain at the same strength and how far it differs, and their shares at the same divergence."""
    found = []
    for way, words in WAYS.items():
        rows = {f"{name} {what}": f"{name.upper()}: {said}" for what, said in ROWS.items() for name in ("dpo", "ipo")}
        columns = {label: {"": case} for label, case in cases(way, *PAIRS).items()}
        found.append(table(results, f"A beta and a tau of {STRENGTH}, {words}", rows, columns))
    return found


def plots(results: Results) -> list[Plot]:
    """The deviations, and the shares, over the number of pairs."""
    found = []
    for what, title in (("spread", "Deviation of the gain over sets of pairs"), ("share", f"Share at a KL of {KL}")):
        lines = [
            line(
                f"{name.upper()}, {words}",
                {many: Case({"pairs": many}, f"@{way}").mean(results, f"{name} {what}") for many in PAIRS},
            )
            for name in ("dpo", "ipo")
            for way, words in WAYS.items()
        ]
        found.append(Plot(what, title, "pairs", what, lines, logarithmic=True))
    return found


SETUP = "16 prompts with 8 answers each, 6 sets of 100 to 20,000 pairs; policies are tables"
READING = (
    "IPO goes less far at equal strength; for what it gains it is no steadier. At equal KL little is between them."
)
SETTINGS = [{"pairs": many} for many in PAIRS]
STUDY = Study("s14", "Few pairs", TEXT, 1, SETTINGS, 8, run, CLAIMS, tables, plots, SETTINGS[:2], READING, setup=SETUP)

if __name__ == "__main__":
    main(STUDY)
