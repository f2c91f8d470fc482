"""S3: two answers of which everybody prefers one. `python -m studies.s03 [--quick]`"""

from __future__ import annotations

import torch

from studies import exact, sayings
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import lies, table
from studies.plots import Plot, line
from studies.tabular import path

TAUS, STEPS = (0.1, 0.5, 1.0, 10.0), 6_000
STRENGTHS = exact.strengths(TAUS)
PAIR = torch.tensor([[0], [1]])

TEXT = r"""
Section 5.3.1 of IPO's paper: two answers, a reference that gives each of them one half, and people of whom all prefer
the first. DPO's optimum then is the policy that always gives the first answer, whatever beta is, and IPO's is $\pi(y_1)
= \sigma(1 / 2\tau)$. Both are trained here by Adam at a rate of 0.01 for 6,000 steps, each from a start of its own. DPO
has no optimum that could be reached, so the rule asks whether the other answer is as good as gone; at a beta of 10 we
expect that it is not, as the gradient is then smaller than what Adam adds to its denominator.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """What either method leaves of the second answer, and how far IPO's first is from the closed form."""
    start = exact.normal(exact.generator(seed), 2, len(TAUS), 2)
    half = torch.full((2,), 0.5, dtype=torch.double).log()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        by_dpo, by_ipo = torch.log_softmax(logits, -1) - half
        return (exact.dpo(by_dpo, PAIR, STRENGTHS) + exact.ipo(by_ipo, PAIR, STRENGTHS)).sum()

    *_, last = path(loss, start, 1500 if quick else STEPS, rate=0.01, falls=False)
    by_dpo, by_ipo = last.softmax(-1)
    closed = torch.sigmoid(0.5 / STRENGTHS)
    found = exact.by("dpo", TAUS, exact.chance(by_dpo[:, 0])) | exact.by("dpo_other", TAUS, by_dpo[:, 1])
    found |= exact.by("ipo", TAUS, by_ipo[:, 0]) | exact.by("closed", TAUS, closed)
    return found | exact.by("ipo_off", TAUS, exact.error(by_ipo[:, 0], closed))


DPO, IPO = exact.at("beta", TAUS), exact.at("tau", TAUS)
CLAIMS = [
    Claim(
        "DPO overfits where everybody agrees: it ends greedy, however strong the regularization.",
        sayings.IPO,
        "less than 0.01 is left of the other answer, by the whole interval",
        lies(DPO, "dpo_other", -1.0, 0.01),
    ),
    Claim(
        "IPO does not overfit there: it ends at its closed form, which tau alone decides.",
        sayings.IPO,
        "the first answer's probability is less than 0.001 away from it, by the whole interval",
        lies(IPO, "ipo_off", -1.0, 1e-3),
    ),
]
ROWS = {
    "dpo": "DPO",
    "dpo_other": "what DPO leaves of the other answer",
    "ipo": "IPO",
    "closed": "IPO's closed form",
    "ipo_off": "IPO's distance from it",
}


def tables(results: Results) -> list[Table]:
    """Both at every strength."""
    columns = {label: {"": case} for label, case in exact.at("beta, tau", TAUS).items()}
    return [table(results, "The probability of the answer that everybody prefers", ROWS, columns)]


def plots(results: Results) -> list[Plot]:
    """The same over the strength."""
    cases = dict(zip(TAUS, IPO.values(), strict=True))
    lines = [
        line(ROWS[name], {tau: case.mean(results, name) for tau, case in cases.items()})
        for name in ("dpo", "ipo", "closed")
    ]
    return [Plot("greedy", "The answer that everybody prefers", "beta or tau", "its probability", lines, True)]


READING = """
In the limit DPO is greedy at every beta; within 6,000 steps it is so up to a beta of 1, and at 10 a quarter is left of
the other answer. A large beta protects because training does not get there, and not because the loss would stop. IPO
stops where its formula says.
"""
STUDY = Study(
    *("s03", "Two answers, and everybody agrees", TEXT, 1, [{}], 5, run, CLAIMS, tables, plots, [{}]),
    reading=READING,
    setup="two answers, all prefer one, uniform reference, 6,000 steps of Adam on the whole population",
)

if __name__ == "__main__":
    main(STUDY)
