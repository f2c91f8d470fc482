"""S8: the chosen answer can fall while the margin rises. `python -m studies.s08 [--quick]`"""

from __future__ import annotations

import torch

from likelier.objectives.losses import dpo_loss
from studies import exact
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, lies, table
from studies.plots import Plot, line

BETA, RATE, STATIONS = 0.1, 0.05, (1, 30, 100, 300, 1_000, 3_000)
TOKENS = {"chosen": (1.0, 0.0), "rejected": (1.0, -1.0), "third": (-1.0, 2.0), "fourth": (-1.0, -1.0)}
UNRELATED = {"chosen": (1.0, 0.0), "rejected": (0.0, 1.0), "third": (-1.0, 0.0), "fourth": (0.0, -1.0)}

TEXT = """
Likelihood displacement (arXiv 2410.08847) in two dimensions: an answer is one token, its logit the product of the
token's vector with a hidden state, and DPO trains the state alone (gradient descent at 0.05, a beta of 0.1, 3,000
steps), from near (2.5, 0.2). The chosen token's vector, (1, 0), and the rejected one's, (1, -1), have much in common:
what tells them apart, (0, 1), hardly lifts the chosen one; it points along a third token's, (-1, 2). Where the
rejected token's vector is at a right angle to the chosen one's, we expect nothing of the kind. Seeds draw where the
state begins, 0.1 around.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Probabilities and the margin at stations, and by how much the margin rose in the step in which it rose least."""
    vectors = torch.tensor(list((TOKENS if setting["alike"] else UNRELATED).values()), dtype=torch.double)
    state = torch.tensor([2.5, 0.2], dtype=torch.double) + 0.1 * exact.normal(exact.generator(seed), 2)
    ref = torch.log_softmax(vectors @ state, 0)
    found: dict[str, float] = {name: float(value) for name, value in zip(TOKENS, ref.exp(), strict=True)}
    stations, before, least = [at // 10 or 1 for at in STATIONS] if quick else STATIONS, 0.0, float("inf")
    for number in range(1, stations[-1] + 1):
        state = state.detach().requires_grad_(True)
        ratios = torch.log_softmax(vectors @ state, 0) - ref
        dpo_loss(ratios[:1], ratios[1:2], beta=BETA).sum().backward()
        assert state.grad is not None
        state = (state - RATE * state.grad).detach()
        logps = torch.log_softmax(vectors @ state, 0)
        margin = float((logps - ref)[0] - (logps - ref)[1])
        before, least = margin, min(least, margin - before)
        for at in (at for at, place in zip(STATIONS, stations, strict=True) if place == number):
            found |= {f"{name}@{at}": float(value) for name, value in zip(TOKENS, logps.exp(), strict=True)}
            found[f"margin@{at}"] = margin
    return found | {"least": least}


SETTINGS = [{"alike": True}, {"alike": False}]
CASES = {"vectors alike": Case({"alike": True}), "at a right angle": Case({"alike": False})}
ENDS = {label: Case(case.setting, f"@{STATIONS[-1]}") for label, case in CASES.items()}
PAPER = "likelihood displacement, arXiv 2410.08847"
CLAIMS = [
    Claim(
        "DPO can make the chosen answer nearly impossible while its loss falls.",
        PAPER,
        "less than 0.01 is left of it after 3,000 steps, by the whole interval",
        lies(ENDS, "chosen", -1.0, 0.01),
    ),
    Claim(
        "The margin does not show it: it rises in every step.",
        PAPER,
        "the least rise of any of the 3,000 steps is above 0, by the whole interval",
        lies(CASES, "least", 0.0),
    ),
    Claim(
        "What is lost goes to a third answer that nobody asked about.",
        PAPER,
        "a third answer has more than 0.99 in the end, by the whole interval",
        lies(ENDS, "third", 0.99),
    ),
]
NAMES = {
    "chosen": "the chosen answer",
    "rejected": "the rejected one",
    "third": "a third one",
    "margin": "margin, nats",
}


def tables(results: Results) -> list[Table]:
    """Probabilities and margins along the way."""
    found = []
    for label, case in CASES.items():
        columns = {f"step {at:,}": {"": Case(case.setting, f"@{at}")} for at in STATIONS}
        found.append(table(results, f"Probabilities, {label}", NAMES, {"start": {"": case}, **columns}))
    return found


def plots(results: Results) -> list[Plot]:
    """Probabilities where the vectors are alike."""
    lines = []
    for name in ("chosen", "rejected", "third"):
        cases = {at: Case({"alike": True}, f"@{at}") for at in STATIONS}
        lines.append(line(NAMES[name], {at: case.mean(results, name) for at, case in cases.items()}))
    return [Plot("displaced", "Likelihood displacement", "steps", "probability", lines, True)]


READING = """
The geometry decides, and neither the loss nor its margin shows it: a run has to log the chosen answers' own
log-probability. It first rises here, for some hundreds of steps, which is long enough for a short run to look well.
"""
STUDY = Study(
    *("s08", "The chosen answer falls", TEXT, 1, SETTINGS, 5, run, CLAIMS, tables, plots, SETTINGS, READING),
    setup="four one-token answers in two dimensions, DPO trains the hidden state for 3,000 steps",
)

if __name__ == "__main__":
    main(STUDY)
