"""S21: how many mediocre pairs are worth a good one. `python -m studies.s21 [--quick]`"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf, log10

import torch
from torch import Tensor

from likelier.utils.statistics import Mean
from studies import counts
from studies.harness import Claim, Found, Results, Setting, Study, Table, main, told
from studies.judging import Case, Judge, compared, table
from studies.plots import Plot, line
from studies.tabular import STEPS, World

SEEDS = 21_000  # those of the study; the ones below 100 were looked at while it was made
PAIRS, DRAWS, KL, FACTORS, ADDED = (160, 800), 2, 0.5, (1, 3, 10, 30, 100, 300, 1000), 10
WRONG, BLURRED, EXPERT = (0.1, 0.2, 0.3, 0.4, 0.45), (0.5, 0.25, 0.1), 20.0
KINDS = {
    "plain": "by good raters",
    **{f"wrong {part}": f"{part:.0%} wrong" for part in WRONG},
    **{f"blurred {part}": f"raters with {part:g} of the discernment" for part in BLURRED},
}
TEXT = f"""
One high-quality example is worth a hundred mediocre ones, it is said. 16 prompts have 8 answers each, and pairs compare
two answers of the reference. Good raters follow Bradley and Terry's model of the gold reward (of two they choose the
better one in four cases of five); an expert always chooses the better one. Mediocre pairs have 10 to 45 % of the good
raters' labels exchanged, or come from raters to whom rewards differ by a half, a quarter or a tenth as much.

DPO learns from 160 or 800 good pairs, and from 1 to 1,000 times as many mediocre ones. What it makes of them is its
share of the exact frontier's gain at a divergence of {KL} nats, the mean of {DRAWS} sets of pairs. The exchange rate is
how many times as many mediocre pairs have the same share, between the sizes that were tried in a line over their
logarithm, and at most 1,000. Its mean over worlds is geometric. A quality of the answers themselves is not asked for.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Of each kind `rate@wrong 0.1` and `expert rate@wrong 0.1`, logarithms to the base 10, and the shares behind."""
    number, steps = (seed, 60) if quick else (SEEDS + seed, STEPS)
    world, generator = World.made(number, 16, 8), torch.Generator().manual_seed(2 * number + 1)
    clean, each = counts.preference(world), setting["pairs"] // len(world.ref)

    def asked(factor: int) -> Tensor:
        return torch.stack([counts.asked(world, factor * each, generator) for _ in range(DRAWS)])

    def shares(pairs: Tensor) -> Tensor:
        """Of sets of pairs (..., draws, prompts, answers, answers), the mean over the draws."""
        learnt = counts.learnt(counts.dpo, pairs, steps)
        found = [counts.share(world, one, KL) for one in learnt.flatten(0, -3)]
        return torch.tensor(found, dtype=torch.double).reshape(learnt.shape[:-2]).mean(-1)

    chances = [counts.flipped(clean, part) for part in (0.0, *WRONG)]
    chance = torch.stack([*chances, *(counts.preference(world, part) for part in BLURRED)]).unsqueeze(1)
    few, always = asked(1), counts.preference(world, EXPERT)
    good, expert = (counts.labelled(few, chance, generator) for chance in (clean, always))
    more = torch.stack([counts.labelled(asked(factor), chance, generator) for factor in FACTORS])
    earned, (alone, best) = shares(more), shares(torch.stack([good, expert])).tolist()
    mixed = shares(good + more[FACTORS.index(ADDED)]).tolist()
    found = {"alone": alone, "expert alone": best}
    for place, kind in enumerate(KINDS):
        found |= {f"rate@{kind}": rate(earned[:, place], alone), f"expert rate@{kind}": rate(earned[:, place], best)}
        found |= {f"alone@{kind}": alone, f"mixed@{kind}": mixed[place]}
        found |= {f"earned {factor}@{kind}": float(earned[at, place]) for at, factor in enumerate(FACTORS)}
    return found | {f"surplus@wrong {part}": found[f"rate@wrong {part}"] + 2 * log10(1 - 2 * part) for part in WRONG}


def rate(earned: Tensor, wanted: float) -> float:
    """The logarithm of the factor at which the shares first reach what is wanted, between the factors tried."""
    before = (0.0, -inf)
    for factor, share in zip(FACTORS, earned.tolist(), strict=True):
        if share >= wanted:
            part = 0.0 if before[1] == -inf else (wanted - before[1]) / (share - before[1])
            return before[0] + part * (log10(factor) - before[0])
        before = log10(factor), share
    return log10(FACTORS[-1])


def factor(mean: Mean | None) -> Mean | None:
    """Of logarithms: the geometric mean and its interval."""
    return mean and replace(mean, value=10**mean.value, low=10**mean.low, high=10**mean.high)


def exchanged(where: Mapping[str, Case], name: str, low: float, high: float = inf) -> Judge:
    """In each case: whether the geometric mean's whole interval lies between the bounds."""
    return lambda results: {
        label: (low < mean.low and mean.high < high, told(mean))
        for label, case in where.items()
        if (mean := factor(case.mean(results, name))) is not None
    }


def cases(*kinds: str) -> dict[str, Case]:
    """Each of these kinds, for few and many good pairs."""
    return {f"{many} pairs, {KINDS[kind]}": Case({"pairs": many}, f"@{kind}") for kind in kinds for many in PAIRS}


POOR, ONE = cases(*list(KINDS)[1:]), "One high-quality example is worth"
RULE = "more than {} of the mediocre pairs earn as much as one of {}, by the whole interval"
SPOILT = f"good pairs alone have a larger share than with {ADDED} times as many mediocre ones, by the whole interval"
VOTES, NEAR = "our own: what a vote knows", "the exchange rate is between half and twice that, by the whole interval"
ABOVE = "more than one of the good raters' pairs earn as much as one of an expert, by the whole interval"
SURE, BEST = "The label of an expert who is always right is worth", "expert rate"
FORMULA = "Where a share e of the labels is wrong, 1 / (1 - 2e)^2 times as many make up for it."
CLAIMS = [
    Claim(f"{ONE} 100 mediocre ones.", "the tutorial", RULE.format(100, "good raters"), exchanged(POOR, "rate", 100)),
    Claim(f"{ONE} 10 mediocre ones.", "the tutorial", RULE.format(10, "good raters"), exchanged(POOR, "rate", 10)),
    Claim(f"{SURE} 100 mediocre ones.", "the tutorial", RULE.format(100, "an expert"), exchanged(POOR, BEST, 100)),
    Claim(f"{SURE} more than a good rater's.", "annotation practice", ABOVE, exchanged(cases("plain"), BEST, 1.0)),
    Claim(FORMULA, VOTES, NEAR, exchanged(cases(*(f"wrong {part}" for part in WRONG)), "surplus", 0.5, 2.0)),
    Claim("Mediocre pairs spoil good ones.", "tutorials", SPOILT, compared(POOR, "alone", "mixed", 0.0)),
]


RATES = {"rate": "good raters", "expert rate": "an expert"}


def tables(results: Results) -> list[Table]:
    """The exchange rates, and the shares beside them."""
    rows = []
    for kind, words in KINDS.items():
        found = [factor(Case({"pairs": many}, f"@{kind}").mean(results, name)) for name in RATES for many in PAIRS]
        rows.append([words, *("-" if mean is None else told(mean) for mean in found)])
    head = ["mediocre pairs", *(f"{words}, {many} of them" for words in RATES.values() for many in PAIRS)]
    mixed = {f"mixed@{kind}": f"and {ADDED} times as many, {words}" for kind, words in KINDS.items()}
    columns = {f"{many} good pairs": {"": Case({"pairs": many})} for many in PAIRS}
    return [
        Table("How many of them earn as much as one pair of", head, rows),
        table(results, f"Share of the frontier's gain at a KL of {KL}", {"alone": "alone"} | mixed, columns),
    ]


def plots(results: Results) -> list[Plot]:
    """The shares over how many mediocre pairs there are."""
    case, lines = Case({"pairs": PAIRS[0]}), []
    for kind, words in KINDS.items():
        lines.append(line(words, {many: case.mean(results, f"earned {many}@{kind}") for many in FACTORS}))
    title = f"Share of the frontier's gain at a KL of {KL}"
    return [Plot("share", title, f"pairs, times {PAIRS[0]}", "share of the gain", lines, logarithmic=True)]


SETUP = "16 prompts with 8 answers each, 160 or 800 good pairs against up to 1,000 times as many; policies are tables"
READING = "A bad pair is worth a share of a good one, unless it is nearly noise; of those that are, ten spoil one."
SETTINGS, TITLE = [{"pairs": many} for many in PAIRS], "What a good pair is worth"
STUDY = Study("s21", TITLE, TEXT, 1, SETTINGS, 12, run, CLAIMS, tables, plots, SETTINGS[:1], READING, setup=SETUP)

if __name__ == "__main__":
    main(STUDY)
