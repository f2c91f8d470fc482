"""S2: what IPO's loss has as its optimum. `python -m studies.s02 [--quick]`"""

from __future__ import annotations

import torch

from studies import exact, sayings
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import lies, table
from studies.plots import Plot, line
from studies.tabular import minimized

ANSWERS, TAUS, STEPS = 8, (0.1, 0.5, 1.0), 2_500
PAIRS = exact.ordered(ANSWERS)

TEXT = r"""
IPO's theorem asks nothing of people: whatever share of them prefers which of two answers, transitive or not, its
optimum is $\pi_{\mathrm{ref}}(y) \exp(p(y \succ \mu) / \tau) / Z$, where $p(y \succ \mu)$ is how often y is preferred
to an answer of $\mu$, here one of all 8 alike. The shares are drawn at random between 0 and 1, pair by pair, and so
have circles. A table learns from every ordered pair, weighted by its share, by Adam. DPO, which supposes Bradley and
Terry's model, learns from the same at the same strength and is told beside it.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """The divergence of both methods' policies from IPO's closed form."""
    source, taus = exact.generator(seed), exact.strengths(TAUS)
    ref = torch.log_softmax(exact.normal(source, ANSWERS), 0)
    upper = torch.rand(ANSWERS, ANSWERS, dtype=torch.double, generator=source).triu(1)
    shares = upper + (1 - upper).T.tril(-1) + torch.eye(ANSWERS, dtype=torch.double) / 2
    weights, closed = shares[PAIRS[0], PAIRS[1]], torch.log_softmax(ref + shares.mean(1) / taus[:, None], -1)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        by_ipo, by_dpo = torch.log_softmax(logits, -1) - ref
        return (weights * (exact.ipo(by_ipo, PAIRS, taus) + exact.dpo(by_dpo, PAIRS, taus))).sum()

    last = minimized(loss, ref.repeat(2, len(TAUS), 1), 2000 if quick else STEPS)
    by_ipo, by_dpo = torch.log_softmax(last, -1)
    found = exact.by("ipo", TAUS, exact.error(exact.kl(closed, by_ipo), torch.zeros(()))) | exact.by(
        "dpo", TAUS, exact.kl(closed, by_dpo)
    )
    return (
        found | exact.by("ipo_moved", TAUS, exact.kl(by_ipo, ref)) | exact.by("dpo_moved", TAUS, exact.kl(by_dpo, ref))
    )


CASES = exact.at("tau", TAUS)
CLAIMS = [
    Claim(
        "IPO learns from preferences as they are, without Bradley and Terry's model: its optimum has a closed form.",
        sayings.IPO,
        "the divergence from the closed form is below 1e-8 nats, by the whole interval",
        lies(CASES, "ipo", -1.0, 1e-8),
    )
]
ROWS = {
    "ipo": "IPO: from IPO's closed form, nats",
    "dpo": "DPO: from IPO's closed form",
    "ipo_moved": "IPO: from the reference",
    "dpo_moved": "DPO: from the reference",
}


def tables(results: Results) -> list[Table]:
    """Divergences from the closed form and from the reference."""
    return [table(results, "Divergences", ROWS, {label: {"": case} for label, case in CASES.items()})]


def plots(results: Results) -> list[Plot]:
    """How far either goes from the reference, over the strength."""
    cases = dict(zip(TAUS, CASES.values(), strict=True))
    lines = [
        line(ROWS[name], {tau: case.mean(results, name) for tau, case in cases.items()})
        for name in ("ipo_moved", "dpo_moved")
    ]
    return [Plot("moved", "How far the optimum is from the reference", "tau or beta", "KL in nats", lines, True)]


READING = """
The closed form is exact, also where preferences have circles. DPO, which takes the shares for Bradley and Terry's,
goes further from the reference at the same strength.
"""
STUDY = Study(
    *("s02", "The optimum of IPO's loss", TEXT, 1, [{}], 10, run, CLAIMS, tables, plots, [{}]),
    reading=READING,
    setup="8 answers, shares of people drawn pair by pair, a table trained on all ordered pairs",
)

if __name__ == "__main__":
    main(STUDY)
