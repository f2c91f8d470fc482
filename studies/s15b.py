"""S15B: whether more of it is worse: over-optimization by losses for pairs. `python -m studies.s15b [--quick]`"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from likelier.objectives.losses import hinge_loss
from studies import counts
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, lies, table
from studies.plots import Plot, line
from studies.tabular import RATE, STEPS, World, path

SEEDS = 16_000  # those of the study; the ones below 100 were looked at while it was made
PAIRS, NOISE, BETA, WAYS = (250, 2000), (0.0, 0.2), 0.1, {"beta": "over beta", "steps": "over the steps"}
BETAS, KLS = torch.logspace(-2, 1.6, 25, dtype=torch.double), (0.125, 0.25, 0.5, 1.0, 2.0)
NAMES = {"dpo": "DPO", "ipo": "IPO", "slic": "the hinge of SLiC"}
LOSSES = {
    "dpo": counts.dpo,
    "ipo": counts.ipo,
    "slic": lambda chosen, rejected: hinge_loss(chosen, rejected, beta=1.0),
}
TEXT = f"""
Losses for pairs have no reward model, and are over-optimized all the same, it is said: the reward that one wants first
rises with the divergence from the reference, and then falls. 16 prompts have 8 answers each, and 250 or 2,000 pairs
follow Bradley and Terry's model of the gold reward, without or with 20 % of the labels exchanged. DPO, IPO and the
hinge loss go further in two ways: by a smaller beta (from 40 to 0.01, each trained to its end), and by more steps at a
beta or tau of {BETA} (up to {STEPS} of Adam). The hump is how much of the most gold reward that is gained on the way is
lost again at its end. All answers are compared here but those that the reference hardly gives.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Of each method, way and noise `dpo hump@beta 0.2`, `dpo peak@...` (nats), `dpo end@...`; gains on the way."""
    number, steps = (seed, 60) if quick else (SEEDS + seed, STEPS)
    world, generator = World.made(number, 16, 8), torch.Generator().manual_seed(2 * number + 1)
    noise = torch.tensor(NOISE, dtype=torch.double)[:, None, None, None]
    questions = counts.asked(world, setting["pairs"] // len(world.ref), generator)
    pairs = counts.labelled(questions, counts.flipped(counts.preference(world), noise), generator)
    found: dict[str, Any] = {}
    for name, loss in LOSSES.items():
        tables = counts.learnt(loss, pairs, steps)
        by_beta = torch.stack([counts.line(world, rewards, BETAS.flip(0)) for rewards in tables], 1)
        for way, policies in {"beta": by_beta, "steps": _trained(loss, pairs, world, steps)}.items():
            for place, part in enumerate(NOISE):
                kls, gains = world.kl(policies[:, place]), world.gain(policies[:, place])
                found[f"{name} hump@{way} {part}"] = float(1 - gains[-1] / gains.max())
                found[f"{name} peak@{way} {part}"] = float(kls[gains.argmax()])
                found[f"{name} end@{way} {part}"] = float(kls[-1])
                found |= {f"{name} {kl}@{way} {part}": world.share_at(policies[:, place], kl) for kl in KLS}
    for name in NAMES:
        for way in WAYS:
            found[f"{name} deeper@{way}"] = found[f"{name} hump@{way} 0.2"] - found[f"{name} hump@{way} 0.0"]
    return found


def _trained(loss: counts.Loss, pairs: Tensor, world: World, steps: int) -> Tensor:
    """(stations, noises, prompts, answers): the policies on the way at this beta, every tenth step."""

    def total(table: Tensor) -> Tensor:
        rewards = BETA * (table - world.ref)
        return (pairs * loss(rewards[..., :, None], rewards[..., None, :])).sum()

    start = world.ref.expand(pairs.shape[:-1])
    tables = list(path(total, start, steps, rate=RATE, falls=False))
    return torch.log_softmax(torch.stack([start, *tables[9::10]]), -1)


CASES = {
    f"{WAYS[way]}, {many:,} pairs, {part:.0%} wrong": Case({"pairs": many}, f"@{way} {part}")
    for way in WAYS
    for many in PAIRS
    for part in NOISE
}
DEEPER = {f"{WAYS[way]}, {many:,} pairs": Case({"pairs": many}, f"@{way}") for way in WAYS for many in PAIRS}
SAYS = "Rafailov and others, arXiv 2406.02900"
HUMP = "more than 0.05 of the most that it gains is lost again at the end of the way, by the whole interval"
LESS = "the share that IPO loses again is below that of the other, by the whole interval"
NOISY = "it loses a larger share again where 20 % of the labels are wrong, by the whole interval"
CLAIMS = [
    *(
        Claim(f"{words[0].upper()}{words[1:]} is over-optimized.", SAYS, HUMP, lies(CASES, f"{name} hump", 0.05))
        for name, words in NAMES.items()
    ),
    *(
        Claim(
            f"IPO is over-optimized less than {NAMES[name]}.",
            SAYS,
            LESS,
            compared(CASES, f"{name} hump", "ipo hump", 0.0),
        )
        for name in ("dpo", "slic")
    ),
    Claim("Wrong labels deepen DPO's over-optimization.", "tutorials", NOISY, lies(DEEPER, "dpo deeper", 0.0)),
]


def tables(results: Results) -> list[Table]:
    """What is lost again, where the peak lies and where the way ends."""
    columns = {words: {"": case} for words, case in CASES.items()}
    titles = {
        "hump": "Of the most gold reward that is gained, the share that is lost again",
        "peak": "KL at the most gold reward, nats",
        "end": "KL at the end, nats",
    }
    return [
        table(results, title, {f"{name} {what}": words for name, words in NAMES.items()}, columns)
        for what, title in titles.items()
    ]


def plots(results: Results) -> list[Plot]:
    """The share of the frontier's gain over the divergence, with 20 % of the labels wrong."""
    lines = []
    for name, words in NAMES.items():
        for way, said in WAYS.items():
            case = Case({"pairs": PAIRS[0]}, f"@{way} {NOISE[1]}")
            lines.append(line(f"{words}, {said}", {kl: case.mean(results, f"{name} {kl}") for kl in KLS}))
    title = f"Share of the frontier's gain, {PAIRS[0]} pairs, 20 % of the labels wrong"
    return [Plot("share", title, "KL to the reference, nats", "share of the gain", lines, logarithmic=True)]


SETUP = "16 prompts with 8 answers each, 250 or 2,000 pairs, 25 betas or 600 steps; policies are tables"
READING = """
No hump is sure to be more than a twentieth: where all answers are compared, going too far costs little, and what it
costs comes from few pairs and wrong labels. The large humps of language models need answers that nobody compared.
"""
SETTINGS, TITLE = [{"pairs": many} for many in PAIRS], "Over-optimized without a reward model"
STUDY = Study("s15b", TITLE, TEXT, 1, SETTINGS, 16, run, CLAIMS, tables, plots, SETTINGS, READING, setup=SETUP)

if __name__ == "__main__":
    main(STUDY)
