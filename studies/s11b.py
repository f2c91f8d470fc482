"""S11B: does KTO punish more than it rewards? `python -m studies.s11b [--quick]`"""

from __future__ import annotations

import torch
from torch import Tensor

from likelier.objectives.losses import dpo_loss, kto_loss
from studies import exact
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, table
from studies.plots import Plot, line
from studies.tabular import path

BETA, ANSWERS, PROMPTS, WEIGHTS, STEPS = 0.1, 16, 64, (0.75, 1.0, 1.33, 2.0), 300

TEXT = """
KTO is named after Kahneman and Tversky, for whom losses weigh more than gains, and so it is said to punish negative
feedback more than it rewards positive. Its value function is a sigmoid, which is symmetric about the zero point; what
may weigh more is `undesirable_weight`, which is 1 as `desirable_weight` is. First the loss itself: 1,000 log-ratios and
zero points are drawn, and the slope of the loss of a desirable answer is compared with that of an undesirable one as
far from the zero point on the other side. Then what becomes of answers: a table of 64 prompts with 16 answers each,
drawn at random, has one answer labelled as good and another as bad, and KTO trains it (beta 0.1, Adam at 0.05, its own
divergence as the zero point) for 300 steps. How many nats does the bad answer fall, and how many does the good one
rise? A probability can fall without bound and rise to 1 only, so that we expect more of the first with any loss, and
train DPO on the same two answers for comparison.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """The mean slopes at each weight of undesirable answers, and the nats that either answer moved."""
    source, found = exact.generator(seed), {}
    away, zero = 30 * exact.normal(source, 1000), 10 * exact.normal(source, 1000).abs()
    good, bad = torch.ones(1000, dtype=torch.bool), torch.zeros(1000, dtype=torch.bool)
    ref = torch.log_softmax(exact.normal(source, PROMPTS, ANSWERS), -1)
    for weight in WEIGHTS:
        found[f"up@{weight:g}"] = _slope(zero + away, good, zero, weight)
        found[f"down@{weight:g}"] = _slope(zero - away, bad, zero, weight)
        found |= _moved(f"@{weight:g}", ref, lambda logps, weight=weight: _kto(logps, ref, weight), quick)
    return found | _moved("@dpo", ref, lambda logps: dpo_loss(*(logps - ref)[:, :2].T, beta=BETA), quick)


def _slope(logratios: Tensor, desirable: Tensor, zero: Tensor, weight: float) -> float:
    """The mean size of the loss's derivative by the log-ratio."""
    at = logratios.clone().requires_grad_(True)
    kto_loss(at, desirable, zero, beta=BETA, undesirable_weight=weight).sum().backward()
    assert at.grad is not None
    return float(at.grad.abs().mean())


def _kto(logps: Tensor, ref: Tensor, weight: float) -> Tensor:
    """Of the first answer to each prompt as a good one, and the second as a bad one."""
    zero = exact.kl(logps, ref).mean().detach().clamp(min=0)
    desirable = torch.tensor([True, False])
    return kto_loss((logps - ref)[:, :2], desirable, zero, beta=BETA, undesirable_weight=weight)


def _moved(suffix: str, ref: Tensor, loss: object, quick: bool) -> dict[str, float]:
    assert callable(loss)
    *_, last = path(
        lambda logits: loss(torch.log_softmax(logits, -1)).sum(), ref, 30 if quick else STEPS, rate=0.05, falls=False
    )
    rise, fall = (torch.log_softmax(last, -1) - ref)[:, :2].mean(0) * torch.tensor([1.0, -1.0])
    return {f"rise{suffix}": float(rise), f"fall{suffix}": float(fall)}


CASES = {f"weights 1 and {weight:g}": Case({}, f"@{weight:g}") for weight in WEIGHTS}
CLAIMS = [
    Claim(
        "KTO punishes negative feedback more than it rewards positive.",
        "tutorials on KTO, after Kahneman and Tversky",
        "the slope is larger for an undesirable answer than for a desirable one, by the whole interval",
        compared(CASES, "down", "up", 0.0),
    ),
    Claim(
        "With KTO bad answers fall further than good ones rise.",
        "tutorials on KTO, after Kahneman and Tversky",
        "the bad answer falls more nats than the good one rises, by the whole interval",
        compared(CASES, "fall", "rise", 0.0),
    ),
]
ROWS = {
    "up": "slope for desirable answers",
    "down": "slope for undesirable answers",
    "rise": "nats that good answers rose",
    "fall": "nats that bad answers fell",
}


def tables(results: Results) -> list[Table]:
    """Slopes and nats at every weight of undesirable answers."""
    columns = {label: {"": case} for label, case in {**CASES, "DPO": Case({}, "@dpo")}.items()}
    return [table(results, "Weights of desirable and undesirable answers", ROWS, columns)]


def plots(results: Results) -> list[Plot]:
    """The nats over the weight."""
    cases = dict(zip(WEIGHTS, CASES.values(), strict=True))
    lines = [
        line(ROWS[name], {weight: case.mean(results, name) for weight, case in cases.items()})
        for name in ("rise", "fall")
    ]
    return [Plot("moved", "How far labelled answers moved", "undesirable_weight", "nats", lines, True)]


READING = """
With its default weights KTO pulls as hard at a good label as it pushes at a bad one, to the last digit: what people
say of it is what `undesirable_weight` above `desirable_weight` does. That bad answers fall further than good ones rise
is true, but no property of KTO: DPO does it too, as a probability has a ceiling and no floor.
"""
STUDY = Study(
    *("s11b", "Does KTO punish more than it rewards?", TEXT, 1, [{}], 10, run, CLAIMS, tables, plots, [{}]),
    reading=READING,
    setup="slopes of the loss at 1,000 places; tables of 16 answers with one labelled good and one bad",
)

if __name__ == "__main__":
    main(STUDY)
