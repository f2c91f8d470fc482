"""S15: rankings that the reference has wrong. `python -m studies.s15 [--quick]`"""

from __future__ import annotations

import torch
from torch import Tensor

from likelier.objectives.losses import dpo_loss
from likelier.utils.statistics import Mean
from studies import counts
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, lies, table
from studies.plots import Plot, line
from studies.tabular import RATE, STEPS, World, path

SEEDS = 15_000  # those of the study; the ones below 100 were looked at while it was made
SPREADS, BETA, EACH, LOSSES, END = (1, 5, 20), 0.1, 50, (0.65, 0.6, 0.55), "end"
BINS = {"half": (0.0, 0.5), "one": (0.5, 1.0), "two": (1.0, 2.0), "more": (2.0, float("inf"))}  # in spreads
TEXT = f"""
A policy ranks a pair rightly if the chosen answer is the likelier one. DPO asks for something else: that the chosen
answer gained more than the rejected one. 16 prompts have 8 answers each, and all answers are compared alike ({EACH}
pairs a prompt, by Bradley and Terry's model of the gold reward), as where the answers are other models'. The
reference's log-probabilities spread by 1, 5 or 20 nats (a standard deviation; whole answers of a language model differ
by tens), and say nothing about the reward. DPO at a beta of {BETA} begins at the reference and takes {STEPS} steps of
Adam. It is looked at when its mean loss is first below 0.65, 0.6 and 0.55 (0.693 is the start), and at the end. Told
are shares of the training pairs. The idealized policy is the exact optimum of the gold reward at this beta.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """At each stop the shares `ranked@0.6`, `rewarded@0.6`, `flipped@0.6` and, by how far wrong, `flipped one@0.6`."""
    number, steps = (seed, 100) if quick else (SEEDS + seed, STEPS)
    made, generator = World.made(number, 16, 8), torch.Generator().manual_seed(2 * number + 1)
    ref = torch.log_softmax(setting["spread"] * made.ref, -1)
    even = World(made.features, made.gold, torch.full_like(ref, 1 / 8).log())
    pairs = counts.labelled(counts.asked(even, EACH, generator), counts.preference(even), generator)
    gaps = -_above(ref)  # how much likelier the reference has the rejected answer
    right = {"ideal": _above(ref + made.gold / BETA), "reference": -gaps}
    found = {name: _share(pairs, values > 0) for name, values in right.items()}
    for stop, now in _stops(pairs, ref, steps).items():
        ranked = _above(now) > 0
        found |= {f"ranked@{stop}": _share(pairs, ranked), f"flipped@{stop}": _share(pairs * (gaps > 0), ranked)}
        found |= {f"rewarded@{stop}": _share(pairs, _above(now - ref) > 0), f"ideal@{stop}": found["ideal"]}
        for name, (low, high) in BINS.items():
            there = (gaps > low * setting["spread"]) & (gaps <= high * setting["spread"])
            found[f"flipped {name}@{stop}"] = _share(pairs * there, ranked)
    return found


def _above(table: Tensor) -> Tensor:
    return table[..., :, None] - table[..., None, :]


def _share(pairs: Tensor, holds: Tensor) -> float:
    return float((pairs * holds).sum() / pairs.sum())


def _stops(pairs: Tensor, ref: Tensor, steps: int) -> dict[float | str, Tensor]:
    """The table at each loss that it reaches, and at the end."""
    found: dict[float | str, Tensor] = {}
    zeros = torch.zeros((), dtype=ref.dtype)

    def loss(table: Tensor) -> Tensor:
        return (pairs * dpo_loss(_above(table - ref), zeros, beta=BETA)).sum()

    for now in path(loss, ref, steps, rate=RATE, falls=False):
        mean = float(loss(now) / pairs.sum())
        found |= {stop: now for stop in LOSSES if mean < stop and stop not in found}
        found[END] = now
    return found


STOPS = {**{stop: f"loss {stop}" for stop in LOSSES}, END: "the end"}
CASES = {
    f"spread {spread}, {words}": Case({"spread": spread}, f"@{stop}")
    for spread in SPREADS
    for stop, words in STOPS.items()
}
CHEN = "Chen and others, arXiv 2405.19534"
RARE = "of the pairs that the reference ranks wrongly it ranks fewer than a quarter rightly, by the whole interval"
FAR = "it flips more of those wrong by up to half a spread than of those wrong by more than two, by the whole interval"
SIXTY = "it ranks fewer than 60 % of its own training pairs rightly, by the whole interval"
IDEAL = "the idealized policy ranks more than 0.05 more of the pairs rightly, by the whole interval"
REWARD = "the share with the higher implicit reward is more than 0.1 above the share ranked rightly, by the interval"
CLAIMS = [
    Claim("DPO rarely flips rankings that the reference has wrong.", CHEN, RARE, lies(CASES, "flipped", -1.0, 0.25)),
    Claim(
        "The further wrong the reference is, the rarer DPO flips it.",
        CHEN,
        FAR,
        compared(CASES, "flipped half", "flipped more", 0.0),
    ),
    Claim("Policies trained by DPO rank fewer than 60 % rightly.", CHEN, SIXTY, lies(CASES, "ranked", -1.0, 0.6)),
    Claim("DPO ranks far worse than it ideally could.", CHEN, IDEAL, compared(CASES, "ideal", "ranked", 0.05)),
    Claim("Reward accuracy is not ranking accuracy.", CHEN, REWARD, compared(CASES, "rewarded", "ranked", 0.1)),
]


def tables(results: Results) -> list[Table]:
    """Ranking and reward accuracy, and what is flipped by how far wrong it was."""
    names = {"ranked": "ranked rightly", "rewarded": "higher implicit reward", "flipped": "flipped, of those wrong"}
    words = ("up to half a spread", "half to one", "one to two", "more than two")
    names |= {f"flipped {name}": f"flipped, of those wrong by {said}" for name, said in zip(BINS, words, strict=True)}
    found = []
    for spread in SPREADS:
        columns = {said: {"": Case({"spread": spread}, f"@{stop}")} for stop, said in STOPS.items()}
        found.append(table(results, f"Shares of the training pairs, spread {spread} nats", names, columns))
    rows = {"reference": "the reference ranks rightly", "ideal": "the idealized policy ranks rightly"}
    columns = {f"spread {spread} nats": {"": Case({"spread": spread})} for spread in SPREADS}
    return [*found, table(results, "Before, and ideally", rows, columns)]


def plots(results: Results) -> list[Plot]:
    """What is flipped over how far wrong it was, at a loss of 0.55."""
    lines = []
    for spread in SPREADS:
        case = Case({"spread": spread}, f"@{LOSSES[-1]}")
        means: dict[float, Mean | None] = {}
        for place, name in enumerate(BINS, 1):
            means[place] = case.mean(results, f"flipped {name}")
        lines.append(line(f"spread {spread} nats", means))
    title, kinds = f"Wrong rankings that are flipped at a loss of {LOSSES[-1]}", ["half a spread", "one", "two", "more"]
    return [Plot("flipped", title, "wrong by up to", "share flipped", lines, kinds=kinds)]


SETUP = "16 prompts with 8 answers each, 800 pairs, references that spread by 1, 5 and 20 nats; policies are tables"
READING = """
How often DPO flips a wrong ranking depends on how far wrong it is and how far training goes. Where the reference
spreads by a nat, it mostly does; where by twenty, as whole answers of a language model may, hardly, and the implicit
rewards are in the labels' order all the same. Trained to the end it comes up to the idealized policy, or near it.
"""
SETTINGS, TITLE = [{"spread": spread} for spread in SPREADS], "Rankings that the reference has wrong"
STUDY = Study("s15", TITLE, TEXT, 1, SETTINGS, 16, run, CLAIMS, tables, plots, SETTINGS[:1], READING, setup=SETUP)

if __name__ == "__main__":
    main(STUDY)
