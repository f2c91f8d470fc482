"""S17: equivalences that should be exact. `python -m studies.s17 [--quick]`"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from math import log10

from likelier.insight.pages.charts import Series
from likelier.scoring.reference import start_reference
from likelier.scoring.reference.store import attach_reference, score_live
from likelier.utils.statistics import mean_of
from studies import sayings, tiny_llamas
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, Judge, lies, table
from studies.plots import Plot, line
from studies.tiny_llamas import CUT, PRECISIONS, WHOLE, gaps, number, scoring

WITH_REFERENCE = ("dpo", "ipo", "kto")
TOLERANCE: dict[str, float] = dict(zip(PRECISIONS, (1e-10, 1e-5, 1e-5, 1e-2), strict=True))
BITS = {"float64": 52, "float32": 23, "bfloat16": 7}
BETAS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
TEXT = """
What this package says of itself, asked of itself: steps of random Llamas of two layers on 18 pairs of random tokens are
taken in two ways each, by the package's own code. A gap is how far the step's loss or its gradient, whichever is
further, is from the other way's, relative; the policy stands a little way from its reference. In float64 only rounding
may differ (1e-10). Where float32 takes part (transformers' own norms compute in it also in a model in float64) we allow
1e-5, and in bfloat16 arithmetic 0.01, which we do not expect to hold everywhere. What people do and this package does
not, a step as the mean of its micro-batches' means, is held to the same.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Gaps by what was done and by method, `shared@dpo` and so on; in bfloat16 also how far scores are off."""
    precision = setting["precision"]
    model = tiny_llamas.attached(tiny_llamas.llama(precision, seed), precision)
    cases = dict(list(tiny_llamas.groups_by_case(seed).items())[: 2 if quick else None])
    with tempfile.TemporaryDirectory() as folder:
        start, live = (start_reference(model, precision=precision, live=live) for live in (False, True))
        stored = {case: attach_reference(own, start, scoring(folder, CUT)).groups for case, own in cases.items()}
        whole = sorted((one for own in stored.values() for one in own), key=number)
        found = tiny_llamas.gaps_at_start(model, whole)
        if precision == "bfloat16":
            found |= tiny_llamas.drift(model, seed, whole)
        tiny_llamas.move(model, seed + 100)
        own = partial(tiny_llamas.steps, model)
        found |= tiny_llamas.gaps_of_sharing(model, {"shared": whole} | stored)
        found |= gaps("order", own(whole[::-1], turned=True), own(whole))
        found |= gaps("cut", own(whole, budget=CUT), own(whole))
        found |= gaps("averaged", tiny_llamas.averaged(model, whole), own(whole))
        asked = sorted(score_live(whole, live, scoring(folder, WHOLE)), key=number)
        found |= gaps("stored", own(asked), own(whole), WITH_REFERENCE)
        asked = tiny_llamas.without_adapter(precision, seed, whole)
        found |= gaps("adapter", own(asked), own(whole), WITH_REFERENCE)
    return found | tiny_llamas.gaps_to_hinge(model, whole, BETAS)


def agrees(what: str, precisions: Sequence[str] = PRECISIONS) -> Judge:
    """In each precision: whether every gap whose name begins so is below what it allows."""

    def judged(results: Results) -> dict[str, tuple[bool, str]]:
        found = {}
        for precision in precisions:
            cells = results.of(precision=precision)
            known = [(gap, name.split("@")[1]) for cell in cells for name, gap in cell.items() if name.startswith(what)]
            if known:
                gap, method = max(known)
                found[precision] = (gap < TOLERANCE[precision], f"{gap:.2g} ({method})")
        return found

    return judged


SETTINGS = [{"precision": name} for name in PRECISIONS]
RULE = "{} is, in every seed and method, below 1e-10 in float64, 1e-5 where float32 takes part, 0.01 in bfloat16"
STEP, LOSS = "the gap of the step", "the loss's gap, relative, at the reference"
SLOPE = "the gap of the gradients per beta, DPO's at a beta of 1e-6,"
SAID = [
    ("Prefix sharing changes nothing numerically.", sayings.OURS, STEP, "shared"),
    ("The order of a step's rows changes nothing.", sayings.UNSOURCED, STEP, "order"),
    ("Gradient accumulation, summed over the step, changes nothing.", sayings.OURS, STEP, "cut"),
    ("A stored reference is as good as a live one.", sayings.OURS, STEP, "stored"),
    ("With its adapter switched off a LoRA policy is the base model.", sayings.UNSOURCED, STEP, "adapter"),
    ("The first loss is known: ln 2, IPO's 1 / (2 tau)², KTO's 1/2, SimPO's by hand.", sayings.OURS, LOSS, "start"),
    ("As beta goes to 0, DPO is half of a hinge: linear in the margin.", sayings.OURS, SLOPE, "limit@1e-06"),
]
CLAIMS = [
    *(Claim(words, who, RULE.format(gap), agrees(what)) for words, who, gap, what in SAID),
    Claim(
        "Gradient accumulation, averaged over micro-batches, changes nothing.",
        sayings.UNSOURCED,
        f"{STEP} is, in every seed and method, below 1e-10 in float64",
        agrees("averaged", PRECISIONS[:1]),
    ),
    Claim(
        "In bfloat16 a token's log-probability is right to a hundredth of a nat.",
        sayings.UNSOURCED,
        "its mean distance from float32's is below 0.01, by the whole interval",
        lies({"a token": Case({"precision": "bfloat16"}, "@mean")}, "drift", -1.0, 0.01),
    ),
]


def tables(results: Results) -> list[Table]:
    """The largest gaps of all, and by what was done; and the drift."""
    kinds = dict.fromkeys(name.split("@")[0] for found in results.of() for name in found)
    rows = []
    for kind in (kind for kind in kinds if kind not in ("limit", "drift")):
        judged = agrees(kind)(results)
        rows.append([kind, *(judged.get(name, (False, "-"))[1] for name in PRECISIONS)])
    found = [Table("The largest gap of any seed, and of which method", ["", *PRECISIONS], rows)]
    if results.has("drift@mean"):
        columns = {name: {"": Case({"precision": "bfloat16"}, f"@{name}")} for name in ("mean", "worst", "answer")}
        words = "Nats between bfloat16 and float32: of a token in the mean and at worst, and of a whole answer"
        found.append(table(results, words, {"drift": "bfloat16"}, columns))
    return found


def _line(results: Results, words: str, names: Mapping[float, tuple[str, str]]) -> Series:
    """Powers of ten: of what is called so in that precision."""
    found = {place: results.values(name, precision=precision) for place, (name, precision) in names.items()}
    return line(words, {place: mean_of([log10(one) for one in each]) for place, each in found.items() if each})


def plots(results: Results) -> list[Plot]:
    """What precision makes of every gap, and DPO on its way to the limit."""
    kinds = ("shared", "order", "cut", "averaged")
    lines = [_line(results, kind, {bits: (f"{kind}@dpo", name) for name, bits in BITS.items()}) for kind in kinds]
    limits = [_line(results, name, {beta: (f"limit@{beta:g}", name) for beta in BETAS}) for name in BITS]
    given = ("DPO's gradient beside half of the hinge's", "beta", "gap, power of ten", [one for one in limits if one.x])
    gaps_of_dpo = Plot("gaps", "Two ways to take a step of DPO", "bits of the precision", "gap, power of ten", lines)
    return [gaps_of_dpo, Plot("limit", *given, True)]


READING = """
What is said is so in float64, to the last digits, and to 1e-6 in float32: who sees more than that there has found a
mistake. In bfloat16 two right ways to a gradient are a hundredth apart, more than was allowed. For the limit our rule
was a bad one: at a beta of 1e-6 no gap can be 1e-10; it falls with beta, as it should. Averaged micro-batches of
unequal size are another step, a fifth away, and KTO's baseline is then of a few rows. Models are tiny and random: what
is exact carries over, how far bfloat16 drifts does not.
"""
STUDY = Study(
    *("s17", "Equivalences that should be exact", TEXT, 1, SETTINGS, 3, run, CLAIMS, tables, plots, SETTINGS[:1]),
    reading=READING,
    setup="steps of random Llamas of two layers on 18 pairs of random tokens, by DPO, IPO, KTO and SimPO",
)

if __name__ == "__main__":
    main(STUDY)
