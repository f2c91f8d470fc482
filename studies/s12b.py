"""S12B: reward and divergence of a character model. `python -m studies.s12b [--quick]`"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn

from likelier.objectives.losses import dpo_loss
from studies import learners, letters, sayings
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, between, lies, table
from studies.learners import Pairs, Sizes, Station, World
from studies.plots import Plot, line

SEEDS = 16_000  # those of the study; the ones below 100 were looked at while it was made
PROMPTS, EACH, BATCH, RATE = 500, 4, 32, 3e-4
BETAS, STATIONS, EVERY = (0.3, 1.0, 3.0, 10.0), 3, 100
SMALL = Sizes(steps=0, rollouts=0, reading=40, pool=32, judged=4)
WHOLE = Sizes(pool=256, judged=32)
TEXT = f"""
DPO's paper draws reward over divergence for answers to the beginnings of film reviews, with a classifier of sentiment
as the true reward. Here S18B's Llama of 48,000 parameters writes {EACH} answers to each of {PROMPTS} beginnings of 2 to
8 characters, and all six pairs of them are learnt from, the answer with more gold reward first: a sum of 8 counts, with
weights drawn anew for each seed. DPO has four betas from {BETAS[-1]:g} to {BETAS[0]:g} and {STATIONS * EVERY} steps of
{BATCH} pairs, and is looked at every {EVERY}; beside it a model learns the chosen answers of the same pairs by heart.
Judged are 1,024 answers to 32 held-out beginnings, and their divergence from the reference, summed over all that could
have come at each place. The exact frontier is the reference's own 256 answers to each of these beginnings, weighted;
told is the gain as a share of the frontier's at the policy's own divergence.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """At each station `kl@1`, `gain@1`, and the `share@1` of the frontier's gain there."""
    beta, world = setting["beta"], World.made(SEEDS + seed, SMALL if quick else WHOLE)
    generator, found = torch.Generator().manual_seed(2 * (SEEDS + seed) + 1), {}
    pairs, frontier = _pairs(world, 8 if quick else PROMPTS, generator), learners.tilted(world, world.pool_gold)
    loss = _by_heart if beta is None else _dpo(world.reference, beta)
    for at, place in enumerate(_way(world, pairs, loss, generator, 3 if quick else EVERY), 1):
        most = learners.gain_at(frontier, place.kl)
        found |= {f"kl@{at}": place.kl, f"gain@{at}": place.gain, f"share@{at}": most and place.gain / most}
    return found


def _pairs(world: World, many: int, generator: torch.Generator) -> Pairs:
    """All pairs of the answers to each prompt whose gold rewards differ."""
    prompts = letters.lines(many, generator).prompts.repeat_interleave(EACH, 0)
    with torch.no_grad():
        answers = letters.written(world.reference, prompts, generator)
    gold = world.gold(answers).reshape(many, EACH)
    better = (gold[:, :, None] > gold[:, None, :]).nonzero()
    chosen, rejected = (EACH * better[:, 0] + better[:, side] for side in (1, 2))
    return Pairs(answers.at(chosen), answers.at(rejected))


Loss = Callable[[nn.Module, Pairs], Tensor]


def _by_heart(policy: nn.Module, pairs: Pairs) -> Tensor:
    """Nats a token of the chosen answers."""
    found = letters.scored(policy, pairs.chosen)
    return -found.logps.sum() / found.lengths.sum()


def _dpo(reference: nn.Module, beta: float) -> Loss:
    def loss(policy: nn.Module, pairs: Pairs) -> Tensor:
        both = pairs.chosen.and_then(pairs.rejected)
        with torch.no_grad():
            ref_logps = letters.scored(reference, both).logps
        ratios = letters.scored(policy, both).logps - ref_logps
        return dpo_loss(*ratios.chunk(2), beta=beta).mean()

    return loss


def _way(world: World, pairs: Pairs, loss: Loss, generator: torch.Generator, every: int) -> list[Station]:
    """Where training is at each station."""
    policy, found = deepcopy(world.reference).requires_grad_(True), []
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)
    for number in range(1, STATIONS * every + 1):
        some = pairs.at(torch.randint(len(pairs.chosen.tokens), (BATCH,), generator=generator))
        learners.stepped(optimizer, loss(policy, some))
        if number % every == 0:
            found.append(world.station(policy))
    return found


def _at(beta: float | None, station: int = STATIONS) -> Case:
    return Case({"beta": beta}, f"@{station}")


STEPS = [EVERY * at for at in range(1, STATIONS + 1)]
ENDS = {f"beta {beta:g}": _at(beta) for beta in BETAS}
SMALLER = {f"beta {one:g} against {two:g}": (_at(one), _at(two)) for one, two in pairwise(BETAS)}
WAYS = {"by heart": None, **{f"DPO, beta {beta:g}": beta for beta in BETAS}}
CLAIMS = [
    Claim(
        *sayings.NEAR_THE_FRONTIER,
        "its gain is more than 0.95 of the frontier's at the same divergence, by the whole interval",
        lies(ENDS, "share", 0.95),
    ),
    Claim(
        *sayings.FURTHER,
        f"after {STEPS[-1]} steps the divergence with the smaller beta is above the other's, by the whole interval",
        between(SMALLER, "kl", 0.0),
    ),
    Claim(
        *sayings.EARNS_MORE,
        f"after {STEPS[-1]} steps the gain with the smaller beta is above the other's, by the whole interval",
        between(SMALLER, "gain", 0.0),
    ),
    Claim(
        "DPO has a more efficient frontier than learning the chosen answers by heart.",
        sayings.DPO,
        "of the frontier's gain at each one's own divergence DPO has a larger share, by the whole interval",
        between({label: (case, _at(None)) for label, case in ENDS.items()}, "share", 0.0),
    ),
]


def tables(results: Results) -> list[Table]:
    """The shares, the gains and the divergences by steps."""
    measures = {"share": "share of the frontier's gain", "gain": "gold reward gained", "kl": "KL, nats an answer"}
    return [
        table(results, label, measures, {f"{step} steps": {"": _at(beta, at)} for at, step in enumerate(STEPS, 1)})
        for label, beta in WAYS.items()
    ]


def plots(results: Results) -> list[Plot]:
    """The gold reward gained over the divergence: a point for each station."""
    lines = []
    for label, beta in WAYS.items():
        places = [_at(beta, at) for at in range(1, STATIONS + 1)]
        kls = {place.mean(results, "kl"): place.mean(results, "gain") for place in places}
        lines.append(line(label, {kl.value: gain for kl, gain in kls.items() if kl is not None}))
    return [Plot("gain", "Gold reward gained", "KL to the reference, nats an answer", "gold reward gained", lines)]


SETTINGS, TITLE = [{"beta": beta} for beta in WAYS.values()], "Reward and divergence of a character model"
STUDY = Study(
    *("s12b", TITLE, TEXT, 1, SETTINGS, 5, run, CLAIMS, tables, plots, SETTINGS[:3]),
    setup="a Llama of 48,000 parameters, 3,000 pairs of its own answers, DPO at four betas",
)

if __name__ == "__main__":
    main(STUDY)
