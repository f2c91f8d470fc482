"""S5: answers that no comparison has. `python -m studies.s05 [--quick]`"""

from __future__ import annotations

import torch
from torch import Tensor

from studies import exact, sayings
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import compared, table
from studies.plots import Plot, line
from studies.tabular import minimized

BETAS, ANSWERS, SEEN, STEPS = (0.1, 0.5, 1.0), 8, 5, 2_000
STRENGTHS = exact.strengths(BETAS)
GONE = 1e-300  # the probability of the rejected answer: as good as none, even to the power of 0.1

TEXT = r"""
Table 1 of Xu and others: two answers share the reference, a third has none of it, and one comparison says that the
first is better than the second. DPO's loss is $\log(1 + (b / a)^\beta)$, a and b being what the policy gives them: it
is as small where the rejected answer is gone and the unseen third has nearly everything as where the first has it,
while a reward that is held to the reference forbids the third. We draw how much the first has between 0.01 and 0.99
and compare the losses. That DPO's loss *admits* such policies does not say that training goes there. So a table of 8
answers is trained, from the reference, on all comparisons of 5 of them (by rewards drawn at random, the better one
always preferred); no comparison has the other 3. In a table their logits get no gradient, and we expect that their
probability falls.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """The losses of both policies, and the unseen answers' probability before and after training."""
    source, found = exact.generator(seed), {}
    first = 0.01 + 0.98 * torch.rand((), dtype=torch.double, generator=source)
    half, gone = torch.tensor(0.5, dtype=torch.double), torch.tensor(GONE, dtype=torch.double)
    for name, kept in (("elsewhere", first), ("optimum", torch.ones_like(first))):
        ratios = torch.stack([kept / half, gone / half]).log().expand(len(BETAS), 2)
        found |= exact.by(name, BETAS, exact.dpo(ratios, torch.tensor([[0], [1]]), STRENGTHS)[:, 0])
    ref, rewards = torch.log_softmax(exact.normal(source, ANSWERS), 0), exact.normal(source, SEEN)
    pairs = exact.ordered(SEEN)
    pairs = pairs[:, rewards[pairs[0]] > rewards[pairs[1]]]

    def loss(logits: Tensor) -> Tensor:
        return exact.dpo(torch.log_softmax(logits, -1) - ref, pairs, STRENGTHS).sum()

    last = minimized(loss, ref.repeat(len(BETAS), 1), 200 if quick else STEPS).softmax(-1)
    found |= exact.by("unseen", BETAS, last[:, SEEN:].sum(-1))
    return found | exact.by("start", BETAS, ref.exp()[SEEN:].sum().expand(len(BETAS)))


CASES = exact.at("beta", BETAS)
CLAIMS = [
    Claim(
        "DPO's loss is as small with nearly all probability on an answer that nobody compared as on the preferred one.",
        sayings.XU,
        "the losses differ by less than 1e-6, by the whole interval",
        compared(CASES, "elsewhere", "optimum", -1e-6, 1e-6),
    ),
    Claim(
        "So DPO moves probability to answers that the data do not have (a table for each prompt).",
        "how arXiv 2404.10719 is often read",
        "unseen answers have more in the end than at the start, by the whole interval",
        compared(CASES, "unseen", "start", 0.0),
    ),
]
ROWS = {
    "elsewhere": "loss where the unseen answer has the rest",
    "optimum": "loss where the preferred one has all",
    "start": "unseen answers in the reference",
    "unseen": "unseen answers after training",
}


def tables(results: Results) -> list[Table]:
    """Losses, and what unseen answers have."""
    return [table(results, "Losses and probabilities", ROWS, {label: {"": case} for label, case in CASES.items()})]


def plots(results: Results) -> list[Plot]:
    """The unseen answers' probability over beta."""
    cases = dict(zip(BETAS, CASES.values(), strict=True))
    lines = [
        line(ROWS[name], {beta: case.mean(results, name) for beta, case in cases.items()})
        for name in ("start", "unseen")
    ]
    return [Plot("unseen", "Answers that no comparison has", "beta", "probability", lines, True)]


READING = """
Both are true at once: the loss is as content with an unseen answer as with the preferred one, and a table that learns
from the reference does not go there, but takes nearly all from what nobody compared. Whether answers that share
parameters go there is S6's question.
"""
STUDY = Study(
    *("s05", "Answers that no comparison has", TEXT, 1, [{}], 20, run, CLAIMS, tables, plots, [{}]),
    reading=READING,
    setup="losses at the paper's policies; tables of 8 answers trained on comparisons of 5 of them",
)

if __name__ == "__main__":
    main(STUDY)
