"""S11: people who contradict each other, and what KTO and DPO make of it. `python -m studies.s11 [--quick]`"""

from __future__ import annotations

import torch
from torch import Tensor

from likelier.objectives.losses import kto_loss
from studies import exact, sayings
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import compared, lies, table
from studies.plots import Plot, line
from studies.tabular import path

SHARES, STEPS = (0.55, 0.6, 0.7, 0.8, 0.9), 2_000
Q = exact.strengths(SHARES)
A_OVER_B = torch.tensor([[0, 1], [1, 0]])  # both orders of two answers
REFERENCES = {"even": 0.5, "against": 0.1}  # what the reference gives the majority's answer

TEXT = """
KTO's paper (theorem 4.3) on one prompt with two answers, of which a share q of people prefers the first and the others
the second: the policy that KTO likes best always gives the majority's answer, while DPO's may give the minority's more
often. Here q goes from 0.55 to 0.9, and the reference gives either answer one half, or the majority's one tenth (drawn
between 0.08 and 0.12). DPO sees the two orders of the pair in these shares, KTO each answer as desirable and as
undesirable in these shares, with the exact divergence as its zero point. Both train by Adam at 0.01 for 2,000 steps, at
betas of 0.1 and 1. At a beta of 0.1 DPO multiplies the reference's odds by those of people to the power of ten: there
we expect the minority's answer for q = 0.55 alone, if at all.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """The majority's answer's probability, for each method, reference and share."""
    given, source = setting["beta"], exact.generator(seed)
    favour = torch.tensor(REFERENCES[setting["reference"]], dtype=torch.double)
    if setting["reference"] == "against":
        favour = favour + 0.02 * (2 * torch.rand((), dtype=torch.double, generator=source) - 1)
    ref = torch.stack([favour, 1 - favour]).log()
    beta, desirable = torch.full_like(Q, given), torch.ones(2, dtype=torch.bool)
    shares = torch.stack([Q, 1 - Q], -1)

    def loss(logits: Tensor) -> Tensor:
        by_dpo, by_kto = torch.log_softmax(logits, -1)
        zero = exact.kl(by_kto, ref).detach().clamp(min=0)[:, None]
        up = shares * kto_loss(by_kto - ref, desirable, zero, beta=given)
        down = (1 - shares) * kto_loss(by_kto - ref, ~desirable, zero, beta=given)
        return (shares * exact.dpo(by_dpo - ref, A_OVER_B, beta)).sum() + (up + down).sum()

    start = (ref + exact.normal(source, 2) / 10).repeat(2, len(SHARES), 1)
    *_, last = path(loss, start, 600 if quick else STEPS, rate=0.01, falls=False)
    by_dpo, by_kto = last.softmax(-1)
    found = exact.by("dpo", SHARES, exact.chance(by_dpo[:, 0]))
    found |= exact.by("kto", SHARES, exact.chance(by_kto[:, 0]))
    found |= exact.by("dpo_other", SHARES, by_dpo[:, 1]) | exact.by("kto_other", SHARES, by_kto[:, 1])
    return found | exact.by("share", SHARES, Q)


SETTINGS = [{"beta": beta, "reference": name} for beta in (0.1, 1.0) for name in REFERENCES]
CASES = {
    f"beta {one['beta']:g}, reference {one['reference']}, {share:.0%}": exact.within(case, one)
    for one in SETTINGS
    for share, case in zip(SHARES, exact.at("", SHARES).values(), strict=True)
}
EVEN = {label: case for label, case in CASES.items() if "beta 1, reference even" in label}
CLAIMS = [
    Claim(
        "KTO gives what the majority wants, where people contradict each other.",
        sayings.KTO,
        "the majority's answer has more than one half, by the whole interval",
        lies(CASES, "kto", 0.5),
    ),
    Claim(
        "DPO may give what the minority wants.",
        sayings.KTO,
        "the minority's answer has more than one half, by the whole interval",
        lies(CASES, "dpo_other", 0.5),
    ),
    Claim(
        "KTO does not listen to the minority at all.",
        sayings.KTO,
        "less than 0.01 is left for the minority's answer, by the whole interval",
        lies(CASES, "kto_other", -1.0, 0.01),
    ),
    Claim(
        "DPO gives each answer as often as people prefer it, at a beta of 1 and an even reference.",
        "follows from DPO's paper, arXiv 2305.18290",
        "the probability is less than 0.01 from their share, by the whole interval",
        compared(EVEN, "dpo", "share", -0.01, 0.01),
    ),
]


def tables(results: Results) -> list[Table]:
    """The majority's answer's probability."""
    found = []
    for one in SETTINGS:
        start = f"beta {one['beta']:g}, reference {one['reference']}, "
        columns = {label.removeprefix(start): {"": case} for label, case in CASES.items() if label.startswith(start)}
        title = f"What the majority's answer gets, {start.removesuffix(', ')}"
        found.append(table(results, title, {"dpo": "DPO", "kto": "KTO"}, columns))
    return found


def plots(results: Results) -> list[Plot]:
    """The same over the majority's share, where the reference is against it."""
    lines = []
    for beta in (0.1, 1.0):
        cases = [case for label, case in CASES.items() if label.startswith(f"beta {beta:g}, reference against")]
        for name in ("dpo", "kto"):
            means = {share: case.mean(results, name) for share, case in zip(SHARES, cases, strict=True)}
            lines.append(line(f"{name.upper()}, beta {beta:g}", means))
    label = "the majority's answer's probability"
    return [Plot("majority", "A reference that is against the majority", "share of people", label, lines)]


READING = """
KTO takes a side: whether 55 or 90 % agree, the majority's answer gets everything, and the reference does not matter.
DPO weighs the reference against the odds of people, to the power of 1 / beta: with a reference of nine to one and a
beta of 1 it takes more than nine in ten people to turn the answer. What is better depends on whether the minority is
wrong or of another opinion.
"""
STUDY = Study(
    *("s11", "People who contradict each other", TEXT, 1, SETTINGS, 6, run, CLAIMS, tables, plots, SETTINGS, READING),
    setup="one prompt, two answers, 55 to 90 % prefer the first; tables trained on the whole population",
)

if __name__ == "__main__":
    main(STUDY)
