"""S13: SimPO, which has no reference: drift, lengths, and what its pairs are like. `python -m studies.s13 [--quick]`"""

from __future__ import annotations

from typing import Any

import torch

from studies import counts
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, lies, table
from studies.plots import Plot, line
from studies.sayings import SIMPO
from studies.tabular import STEPS, World

SEEDS = 13_000  # those of the study; the ones below 100 were looked at while it was made
PAIRS, KL, TIES = (250, 2000), 0.5, 0  # TIES: the exact drift test, as many pairs as one likes
DATA = {"clean": "clean", "noisy": "20 % wrong", "biased": "raters favour length", "alone": "length alone decides"}
BAD, MARGINS = ("noisy", "biased"), (0.0, 0.5)
NAMES = {"simpo": "SimPO", "plain": "SimPO, not normalized by length", "bare": "SimPO, no margin", "dpo": "DPO"}
TEXT = f"""
SimPO compares log-probabilities per token and asks for a margin; no reference holds it, only the number of steps. First
an exact test of drift: the reference gives three answers (0.7, 0.2, 0.1), and raters are torn between any two.

Then 16 prompts have 8 answers of one to four parts, each of which costs the reference half a nat; length says nothing
about the gold reward. People compare answers of the reference by Bradley and Terry's model: clean; with 20 % of the
labels exchanged; with a part more worth as much to them as a unit of reward; or by length alone. SimPO (beta 2, margin
0.5) goes its way in {STEPS} steps of Adam, DPO along its beta. At the same divergence from the reference ({KL} nats) it
is asked what they gain, and how much longer answers grow: both as a share of the most that any policy gets there.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Of each method for each kind of pairs `simpo share@noisy`, `simpo growth@noisy`, `simpo end kl@noisy`."""
    number, steps = (seed, 60) if quick else (SEEDS + seed, STEPS)
    if setting["pairs"] == TIES:
        return torn(steps)
    made, generator = World.made(number, 16, 8), torch.Generator().manual_seed(2 * number + 1)
    parts = torch.randint(1, 5, made.ref.shape, generator=generator).double()
    world = World(made.features, made.gold, torch.log_softmax(made.ref - parts / 2, -1))
    lengths = World(made.features, parts, world.ref)
    clean, longer = counts.preference(world), counts.preference(lengths)
    both = torch.sigmoid(torch.logit(clean) + torch.logit(longer))
    chances = torch.stack([clean, counts.flipped(clean, 0.2), both, longer])
    pairs = counts.labelled(counts.asked(world, setting["pairs"] // len(parts), generator), chances, generator)
    learnt = counts.learnt(counts.dpo, pairs, steps)
    ways = {
        "simpo": counts.simpo(pairs, world.ref, parts, steps=steps),
        "plain": counts.simpo(pairs, world.ref, steps=steps),
        "bare": counts.simpo(pairs, world.ref, parts, margin=0.0, steps=steps),
        "dpo": torch.stack([counts.line(world, one) for one in learnt], 1),
    }
    ends = {name: way[-1] for name, way in ways.items()} | {"dpo": world.optimum(learnt, 0.1)}
    found: dict[str, Any] = {}
    for name, way in ways.items():
        kls, gains = world.kl(ends[name]), world.gain(ends[name])
        for kind, policies, kl, gain in zip(DATA, way.unbind(1), kls, gains, strict=True):
            found[f"{name} share@{kind}"] = world.share_at(policies, KL)
            found[f"{name} growth@{kind}"] = lengths.share_at(policies, KL)
            found |= {f"{name} end kl@{kind}": float(kl), f"{name} kept@{kind}": float(gain / gains[0])}
    for kind in BAD:
        four = [found[f"{name} share@{which}"] for which in (kind, "clean") for name in ("dpo", "simpo")]
        found[f"risk@{kind}"] = None if None in four else four[0] - four[1] - (four[2] - four[3])
    return found


def torn(steps: int) -> Found:
    """How far SimPO and DPO end from a reference where all comparisons are ties, with and without a margin."""
    ref = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.double).log()
    world = World(torch.zeros(1, 3, 8), torch.zeros_like(ref), ref)
    many = 1000 * counts.of_all(world, counts.preference(world))
    dpo, found = world.optimum(counts.learnt(counts.dpo, many, steps), 1.0), {}
    for margin in MARGINS:
        simpo = counts.simpo(many, ref, margin=margin, steps=steps)[-1]
        found |= {f"simpo kl@{margin}": float(world.kl(simpo)), f"dpo kl@{margin}": float(world.kl(dpo))}
    return found


def cases(*kinds: str) -> dict[str, Case]:
    """Each of these kinds of pairs, few and many."""
    return {f"{many:,} pairs, {DATA[kind]}": Case({"pairs": many}, f"@{kind}") for kind in kinds for many in PAIRS}


TORN = {f"margin {margin}": Case({"pairs": TIES}, f"@{margin}") for margin in MARGINS}
GOOD, ALL, POOR = cases("clean", *BAD), cases(*DATA), cases(*BAD)
EXACT = compared(TORN, "simpo kl", "dpo kl", 0.3233, 0.3253)
DRIFT = "raters are torn: it ends 0.3243 nats further from the reference than DPO, to a thousandth"
NEAR = f"after the same {STEPS} steps its KL is below that of DPO at a beta of 0.1, by the whole interval"
SHARE = "at the same divergence its share is above that of {}, by the whole interval"
WITHOUT = SHARE.format("SimPO without it")
LESS = "at the same divergence its answers grow less than those of {}, by the whole interval"
BEHIND = "at the same divergence its share lies further below DPO's than on as many clean pairs, by the whole interval"
KEPT = f"after {STEPS} steps it keeps less of its gain on clean pairs than DPO at a beta of 0.1, by the whole interval"
SHORT, RISK = LESS.format("SimPO without it"), "SimPO's risk depends on data quality"


def said(sentence: str, source: str, rule: str, where: dict[str, Case], above: str, other: str = "") -> Claim:
    """Decided by whether one number is above another one, or above 0."""
    judge = compared(where, above, other, 0.0) if other else lies(where, above, 0.0)
    return Claim(sentence, source, rule, judge, "growth" if "growth" in above else "share")


CLAIMS = [
    Claim("SimPO, without a reference, drifts where the labels say nothing.", "our own calculation", DRIFT, EXACT),
    said("SimPO stays near its start though nothing holds it there.", SIMPO, NEAR, ALL, "dpo end kl", "simpo end kl"),
    said("SimPO beats DPO.", f"{SIMPO}: 21.4, not 15.1", SHARE.format("DPO"), GOOD, "simpo share", "dpo share"),
    said("Normalizing by length helps.", f"{SIMPO}: 21.5, not 11.9", WITHOUT, GOOD, "simpo share", "plain share"),
    said("SimPO's margin helps.", f"{SIMPO}: 21.5, not 16.8", WITHOUT, GOOD, "simpo share", "bare share"),
    said("Normalized by length, answers grow less.", SIMPO, SHORT, ALL, "plain growth", "simpo growth"),
    said("DPO makes answers longer than SimPO does.", SIMPO, LESS.format("DPO"), ALL, "dpo growth", "simpo growth"),
    said(f"{RISK}, where training is stopped in time.", "the tutorial", BEHIND, POOR, "risk"),
    said(f"{RISK}, where it goes on to the end.", "the tutorial", KEPT, POOR, "dpo kept", "simpo kept"),
]
MEASURES = {
    "share": f"Share of the frontier's gain at a KL of {KL} nats",
    "growth": f"Growth of the answers at a KL of {KL} nats, as a share of the most",
    "end kl": f"KL after {STEPS} steps, nats (DPO: at a beta of 0.1)",
    "kept": f"The gain after {STEPS} steps, as a share of that on clean pairs (DPO: at a beta of 0.1)",
}


def tables(results: Results) -> list[Table]:
    """All of the four kinds of pairs."""
    rows = {measure: {f"{name} {measure}": words for name, words in NAMES.items()} for measure in MEASURES}
    columns = {words: {"": case} for words, case in ALL.items()}
    return [table(results, words, rows[measure], columns) for measure, words in MEASURES.items()]


def plots(results: Results) -> list[Plot]:
    """Shares and growth over the kinds of pairs."""
    found, kinds = [], [Case({"pairs": PAIRS[1]}, f"@{kind}") for kind in DATA]
    for measure in ("share", "growth"):
        lines = [
            line(words, {place: case.mean(results, f"{name} {measure}") for place, case in enumerate(kinds, 1)})
            for name, words in NAMES.items()
        ]
        found.append(
            Plot(measure, f"{MEASURES[measure]}, {PAIRS[1]:,} pairs", "", "share", lines, kinds=list(DATA.values()))
        )
    return found


SETUP = "16 prompts with 8 answers each of 1 to 4 parts, 250 or 2,000 pairs of four kinds; policies are tables"
READING = "It forgets what labels do not speak of. Normalizing and margin help; of bad pairs too, DPO makes more."
SETTINGS, TITLE = [{"pairs": many} for many in (TIES, *PAIRS)], "SimPO: drift, length and data"
STUDY = Study("s13", TITLE, TEXT, 1, SETTINGS, 24, run, CLAIMS, tables, plots, SETTINGS, READING, setup=SETUP)

if __name__ == "__main__":
    main(STUDY)
