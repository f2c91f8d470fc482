"""S8B: which chosen answers fall, in a small language. `python -m studies.s08b [--quick]`"""

from __future__ import annotations

import torch

from likelier.utils.statistics import rank_correlation
from studies import letters, single_pairs
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, lies, table
from studies.plots import Plot, line
from studies.sayings import CHOSEN_FALLS, OURS

SEEDS = 15_000  # those of the study; the ones below 100 were looked at while it was made
PAIRS, STATIONS, BETA, RATE = 50, (1, 3, 10, 30), 0.1, 1e-2
KINDS = {"lines": "ends of lines", "alike": "ends of lines that differ in a letter", "letters": "single letters"}
TEXT = f"""
S8 in a language model: which chosen answers fall? S18B's Llama of 48,000 parameters is given {PAIRS} prompts, one at a
time, and learns from one pair by DPO: beta {BETA}, {STATIONS[-1]} steps of gradient descent at {RATE:g} on all its
weights; then it is put back. An answer is the end of a line or a single letter. Both of a pair are the model's own, or
the rejected one is the chosen one with another letter in one place, and a coin says which is chosen. The fall is how
much less likely the chosen answer is in the end than before, in nats.

What it might depend on is known before any training. For lines it is the CHES score of arXiv 2410.08847: with the sums
of the hidden states at an answer's tokens, their product for both answers minus the chosen one's square; the same with
means; and what is simpler than these, how short the chosen answer is. For letters, whose state is the same, it is the
product of their vectors in the head, or what that paper derives where the state alone is trained: how little the
difference of both vectors points where the chosen one lies, as seen from the mean. Told is Spearman's correlation of
each with the fall, over the pairs.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """The correlations, the share of chosen answers that fell, and the mean fall, after 1 to 30 steps."""
    model, kind = letters.reference(20 if quick else 1000), setting["answers"]
    generator, count = torch.Generator().manual_seed(SEEDS + seed), 3 if quick else PAIRS
    logps, traits = (single_pairs.whole, single_pairs.line_traits)
    if kind == "letters":
        logps, traits = single_pairs.first, single_pairs.letter_traits
    chosen, rejected = single_pairs.drawn(model, count, generator, logps, alike=kind == "alike")
    known, found = traits(model, chosen, rejected), {}
    pairs = [(chosen.at(one), rejected.at(one)) for one in torch.arange(count).split(1)]
    falls = [single_pairs.falls(model, pair, logps, BETA, RATE, STATIONS) for pair in pairs]
    for at, fall in zip(STATIONS, torch.stack(falls, 1), strict=True):
        found |= {f"{name}@{at}": rank_correlation(trait.numpy(), fall.numpy()) for name, trait in known.items()}
        found |= {f"falls@{at}": float((fall > 0).double().mean()), f"fall@{at}": float(fall.mean())}
    return found


CASES = {words: Case({"answers": kind}, f"@{STATIONS[-1]}") for kind, words in KINDS.items()}
LINES = {words: case for words, case in CASES.items() if words != KINDS["letters"]}
LETTERS = {KINDS["letters"]: CASES[KINDS["letters"]]}
PAPER = "likelihood displacement, arXiv 2410.08847"
TELLS = f"Spearman's correlation with the fall after {STATIONS[-1]} steps is above 0.3, by the whole interval"
CLAIMS = [
    Claim(
        *CHOSEN_FALLS,
        f"more than half of the chosen answers are less likely after {STATIONS[-1]} steps, by the whole interval",
        lies(CASES, "falls", 0.5),
        "falls",
    ),
    *(
        Claim(said, PAPER, TELLS, lies(cases, name, 0.3))
        for said, cases, name in (
            ("The CHES score tells which chosen answers fall.", LINES, "ches"),
            ("The CHES score of mean states tells which chosen answers fall.", LINES, "mean ches"),
            ("How alike their vectors in the head are tells which chosen tokens fall.", LETTERS, "product"),
            ("Where the difference of both vectors points tells which chosen tokens fall.", LETTERS, "lift"),
        )
    ),
    Claim(
        "The CHES score tells more than how short the chosen answer is.",
        OURS,
        "its correlation with the fall is above that of the length, by the whole interval of the difference",
        compared(LINES, "ches", "short", 0.0),
    ),
]
NAMES = {
    "ches": "the CHES score",
    "mean ches": "the CHES score of mean states",
    "short": "how short the chosen answer is",
    "product": "the product of both vectors",
    "lift": "how little their difference lifts the chosen one",
}


def tables(results: Results) -> list[Table]:
    """The correlations in the end, and the falls along the way."""
    rows = {"falls": "share of chosen answers that fell", "fall": "how much they fell, mean, nats (below 0: rose)"}
    found = [
        table(
            results, f"Correlation with the fall, {STATIONS[-1]} steps", NAMES, {k: {"": c} for k, c in CASES.items()}
        )
    ]
    for kind, words in KINDS.items():
        columns = {f"step {at}": {"": Case({"answers": kind}, f"@{at}")} for at in STATIONS}
        found.append(table(results, f"Chosen answers, {words}", rows, columns))
    return found


def plots(results: Results) -> list[Plot]:
    """The correlations by kind, and the shares that fell by steps."""
    lines = [
        line(words, {place: case.mean(results, name) for place, case in enumerate(CASES.values(), 1)})
        for name, words in NAMES.items()
    ]
    falls = [
        line(words, {at: Case({"answers": kind}, f"@{at}").mean(results, "falls") for at in STATIONS})
        for kind, words in KINDS.items()
    ]
    title, label = "What tells which chosen answers fall", "Spearman's correlation with the fall"
    return [
        Plot("tells", title, "answers", label, lines, kinds=list(CASES)),
        Plot("falls", "Chosen answers that fell", "steps", "share of them", falls, logarithmic=True),
    ]


SETTINGS, TITLE = [{"answers": kind} for kind in KINDS], "Which chosen answers fall"
READING = """
In so small a model, one pair at a time, chosen answers hardly ever fall: at most a fifth do, where the two answers
differ in a letter. Who falls is told by the CHES score where the answers are any two lines, but no better than by how
short they are, as its sums grow with length; where both are as long, by neither. The score of means, which length does
not reach, points the other way here. Of single letters the paper's own derivation holds well.
"""
STUDY = Study(
    *("s08b", TITLE, TEXT, 1, SETTINGS, 5, run, CLAIMS, tables, plots, SETTINGS[1:], READING),
    setup="a Llama of 48,000 parameters learns from one pair of its own answers at a time, 50 of them",
)

if __name__ == "__main__":
    main(STUDY)
