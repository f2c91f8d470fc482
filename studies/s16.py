"""S16: first DPO on pairs, then KTO on thumbs. `python -m studies.s16 [--quick]`"""

from __future__ import annotations

import torch
from torch import Tensor

from studies import counts
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, table
from studies.plots import Plot, line
from studies.tabular import STEPS, World

SEEDS = 12_000  # those of the study; the ones below 100 were looked at while it was made
PAIRS, THUMBS = (250, 1000), (500, 4000)
BETA = torch.ones(1, dtype=torch.double)
NAMES = {
    "dpo": "DPO on the pairs alone",
    "kto": "KTO on the thumbs alone",
    "then": "DPO, then KTO that is held to DPO's policy",
    "then sft": "DPO, then KTO that is held to the first reference",
    "own": "DPO, then KTO on thumbs for its own answers, held to DPO's policy",
    "apart": "KTO on all: the pairs taken apart, and the thumbs",
    "mixed": "the DPO and the KTO loss together",
}
TEXT = """
No paper was found with numbers for it: first DPO on pairs, then KTO on the thumbs that users give. 16 prompts have 8
answers each. Pairs compare two answers of the reference; a thumb goes up if the answer beats the reference's mean gold
reward at its prompt in Bradley and Terry's model, else down. Thumbs are given to answers of the reference, or, as in a
product, to those of the policy that DPO made. KTO begins from that policy, and is held to it or to the first reference.
It is set against each stage alone, against KTO on everything, and against both losses summed.

Beta is 1 in every stage. As all of them end at different divergences from the first reference, each one's gain is told
as a share of what the exact frontier gains at its own divergence too. `order` is the
share of the pairs of stage one that the policy puts in the order of their labels, by the implicit reward.
"""


def thumbs(world: World, policy: Tensor, many: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(prompts, answers) twice: how many thumbs up and down answers of a policy got, `many` in all."""
    each = many // len(policy)
    drawn = torch.multinomial(policy.exp(), each, replacement=True, generator=generator)
    seen = torch.zeros_like(policy).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=policy.dtype))
    level = (world.ref.exp() * world.gold).sum(1, keepdim=True)
    up = torch.binomial(seen, torch.sigmoid(world.gold - level), generator=generator)
    return up, seen - up


def order(world: World, policy: Tensor, pairs: Tensor) -> float:
    """The share of pairs in the order of their labels."""
    rewards = policy - world.ref
    right = (rewards[:, :, None] > rewards[:, None, :]).double()
    return float((pairs * right).sum() / pairs.sum())


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Of each method `dpo gain`, `dpo kl`, `dpo share` of the frontier at that divergence, and `dpo order`."""
    number, steps = (seed, 60) if quick else (SEEDS + seed, STEPS)
    world, generator = World.made(number, 16, 8), torch.Generator().manual_seed(2 * number + 1)
    questions = counts.asked(world, setting["pairs"] // len(world.ref), generator)
    pairs = counts.labelled(questions, counts.preference(world), generator)
    rewards = counts.learnt(counts.dpo, pairs, steps)
    first = world.optimum(rewards, 1.0)
    up, down = thumbs(world, world.ref, setting["thumbs"], generator)
    own = thumbs(world, first, setting["thumbs"], generator)
    lines = {
        "dpo": first[None],
        "kto": counts.kto(up, down, world.ref, BETA, steps=steps),
        "then": counts.kto(up, down, first, BETA, steps=steps),
        "then sft": counts.kto(up, down, world.ref, BETA, start=first, steps=steps),
        "own": counts.kto(*own, first, BETA, steps=steps),
        "apart": counts.kto(up + pairs.sum(-1), down + pairs.sum(-2), world.ref, BETA, steps=steps),
        "mixed": counts.kto(up, down, world.ref, BETA, pairs=pairs, steps=steps),
    }
    found: dict[str, float] = {}
    for name, (policy,) in lines.items():
        gain, kl = float(world.gain(policy)), float(world.kl(policy))
        found |= {f"{name} gain": gain, f"{name} kl": kl, f"{name} share": world.share(gain, kl)}
        found[f"{name} order"] = order(world, policy, pairs)
    return found


CASES = {f"{many:,} pairs, {some:,} thumbs": Case({"pairs": many, "thumbs": some}) for many in PAIRS for some in THUMBS}
ADVICE = "tutorials; no paper with numbers was found"
RULES = {
    "gain": "the gold reward gained by the first is above that of the second, by the whole interval",
    "share": "of the frontier's gain at each one's own divergence the first has a larger share, by the whole interval",
    "kl": "the divergence of the first from the first reference is above that of the second, by the whole interval",
}
SAID = [  # what people say; the measure, and which two are compared by it
    ("KTO on thumbs after DPO on pairs gets more reward than DPO alone.", "gain", "then", "dpo"),
    ("KTO on thumbs after DPO on pairs is a better policy than DPO's, for how far it goes.", "share", "then", "dpo"),
    ("The second stage goes further from the first reference.", "kl", "then", "dpo"),
    ("DPO and then KTO beats KTO on the thumbs alone.", "share", "then", "kto"),
    ("DPO and then KTO beats KTO on everything, the pairs taken apart.", "share", "then", "apart"),
    ("DPO and then KTO beats both losses together.", "share", "then", "mixed"),
    ("KTO's reference is to be DPO's policy, not the first reference.", "share", "then", "then sft"),
    ("Thumbs for DPO's own answers are worth more than as many for the reference's.", "share", "own", "then"),
]
CLAIMS = [
    *(
        Claim(said, ADVICE, RULES[what], compared(CASES, f"{one} {what}", f"{two} {what}", 0.0))
        for said, what, one, two in SAID
    ),
    *(
        Claim(
            f"The second stage does not forget the first ({words}).",
            "register of studies",
            "of stage one's pairs, the share in the order of their labels falls by less than 0.02, by the interval",
            compared(CASES, f"{name} order", "dpo order", -0.02),
        )
        for name, words in (("then", "thumbs for the reference's answers"), ("own", "for its own"))
    ),
]


def tables(results: Results) -> list[Table]:
    """Everything, a table a measure."""
    columns = {words: {"": case} for words, case in CASES.items()}
    titles = {
        "gain": "Gold reward gained",
        "kl": "KL to the first reference, nats",
        "share": "Share of the frontier's gain at that KL",
        "order": "Pairs of stage one in the order of their labels, share",
    }
    return [
        table(results, title, {f"{name} {what}": words for name, words in NAMES.items()}, columns)
        for what, title in titles.items()
    ]


def plots(results: Results) -> list[Plot]:
    """The shares over the four sizes."""
    lines = [
        line(words, {number: case.mean(results, f"{name} share") for number, case in enumerate(CASES.values(), 1)})
        for name, words in NAMES.items()
    ]
    title = "Share of the frontier's gain at the policy's own KL"
    return [Plot("share", title, "", "share of the gain", lines, kinds=list(CASES))]


SETUP = "16 prompts with 8 answers each, 250 or 1,000 pairs, then 500 or 4,000 thumbs; policies are tables, beta 1"
READING = "A few pairs gain from thumbs; many lose order by a second stage. Nothing beats both losses at once."
SETTINGS = [dict(case.setting) for case in CASES.values()]
QUICK = SETTINGS[:2]
STUDY = Study("s16", "DPO, then KTO", TEXT, 1, SETTINGS, 8, run, CLAIMS, tables, plots, QUICK, READING, setup=SETUP)

if __name__ == "__main__":
    main(STUDY)
