"""S24: how much the learning rate and beta matter. `python -m studies.s24 [--quick]`: hours without `--quick`."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from studies import sayings
from studies.demo_runs import Task
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, between, lies, table
from studies.plots import Plot, line
from studies.real_pairs import MEASURES, SHORT_WORDS, held_out_after, short_pairs

SEEDS = 7000  # those of the study; none of them was looked at while it was made
BETA, RATE, BEST_FULL = 0.1, 2e-4, 5e-6
BETAS, RATES, FULL_RATES = (0.03, 0.1, 0.3, 1.0), (5e-5, 2e-4, 8e-4), (1e-6, 5e-6, 2e-5, 2e-4)
TEXT = f"""
Which of the two numbers that everybody asks for, the learning rate or beta, is to be chosen with care? S23's real
pairs, with their labels as they are: SmolLM2-135M-Instruct reads 256 of pandalm once by DPO, 16 a step, at a rate that
is held. With LoRA (rank 16) the rate is a quarter of {RATE:g}, this, or four times as much, at a beta of {BETA}; and
beta is 0.03 to 1 at that rate. All weights are trained at four rates, from 1e-6 to LoRA's own. Asked are the share of
150 held-out pairs, of other prompts, that the model then orders as people did, and how far their answers'
log-probabilities have moved: the mean log-ratio to the reference of the chosen and of the rejected answer, in nats an
answer.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """The accuracy on held-out pairs, and the mean log-ratios of their answers."""
    seed, rate, beta = SEEDS + seed, setting["rate"], setting["beta"]
    with tempfile.TemporaryDirectory() as scratch:
        tiny = Task.tiny(Path(scratch)) if quick else None
        files = short_pairs("s24", seed, tiny)
        options: dict[str, Any] = {"method": "dpo", "beta": beta, "learning_rate": rate, "seed": seed}
        options |= {"lora_r": 16} if setting["weights"] == "lora" else {}
        options["model"] = tiny.model if tiny else "demo"
        return held_out_after(files, options, beta, f"{setting['weights']}-{rate:g}-{beta:g}")


def _lora(rate: float = RATE, beta: float = BETA) -> Case:
    return Case({"weights": "lora", "rate": rate, "beta": beta})


def _full(rate: float) -> Case:
    return Case({"weights": "full", "rate": rate, "beta": BETA})


LORAS = {f"LoRA, rate {rate:g}": _lora(rate) for rate in RATES}
BY_BETA = {f"LoRA, beta {beta:g}": _lora(beta=beta) for beta in BETAS}
FULLS = {f"all weights, rate {rate:g}": _full(rate) for rate in FULL_RATES}
CLAIMS = [
    Claim(
        *sayings.RATE_BEFORE_BETA,
        "the accuracy with the other beta is above that with the other rate, by the whole interval of the difference",
        between(
            {
                "a quarter of the rate, or three times the beta": (_lora(beta=BETAS[2]), _lora(RATES[0])),
                "four times the rate, or three tenths of the beta": (_lora(beta=BETAS[0]), _lora(RATES[2])),
            },
            "accuracy",
            0.0,
        ),
    ),
    Claim(
        *sayings.FULL_IS_SLOW,
        f"of all weights, {BEST_FULL:g} gives more accuracy than LoRA's {RATE:g}, by the whole interval",
        between({"a fortieth of the rate": (_full(BEST_FULL), _full(RATE))}, "accuracy", 0.0),
    ),
    Claim(
        *sayings.LORA_KEEPS_UP,
        f"LoRA's accuracy at {RATE:g} is less than 0.05 below that of all weights, by the whole interval",
        between({label: (_lora(), case) for label, case in list(FULLS.items())[:3]}, "accuracy", -0.05),
    ),
    Claim(
        *sayings.BETA_HOLDS,
        "the chosen answer's mean log-ratio is higher with the larger of two betas, by the whole interval",
        between(
            {f"beta {more:g} against {less:g}": (_lora(beta=more), _lora(beta=less)) for less, more in pairwise(BETAS)},
            "chosen",
            0.0,
        ),
    ),
    Claim(
        *sayings.CHOSEN_FALLS,
        "the mean log-ratio of held-out chosen answers is below 0, by the whole interval",
        lies(LORAS | BY_BETA | FULLS, "chosen", -1e9, 0.0),
    ),
]


def tables(results: Results) -> list[Table]:
    """Over the rate with LoRA and of all weights, and over beta."""
    titles = {"LoRA by its rate": LORAS, "LoRA by beta": BY_BETA, "All weights by their rate": FULLS}
    return [
        table(results, title, MEASURES, {label.split(", ")[1]: {"": case} for label, case in cases.items()})
        for title, cases in titles.items()
    ]


def plots(results: Results) -> list[Plot]:
    """Accuracy over the rate, and how far the chosen answer moved over beta."""
    means = [
        {case.setting["rate"]: case.mean(results, "accuracy") for case in some.values()} for some in (LORAS, FULLS)
    ]
    title, label = "Accuracy on held-out pairs, by the rate", "share ordered as people did"
    lines = [line("LoRA", means[0]), line("all weights", means[1])]
    sides = [
        line(f"the {side} answer", {beta: _lora(beta=beta).mean(results, side) for beta in BETAS})
        for side in ("chosen", "rejected")
    ]
    return [
        Plot("rate", title, "learning rate", label, lines, logarithmic=True),
        Plot("beta", "How far answers moved, by beta", "beta", "mean log-ratio, nats", sides, logarithmic=True),
    ]


SETTINGS = [dict(case.setting) for case in (*LORAS.values(), *BY_BETA.values(), *FULLS.values())]
SETTINGS = [one for number, one in enumerate(SETTINGS) if one not in SETTINGS[:number]]
QUICK = [dict(_full(BEST_FULL).setting), dict(_lora().setting)]
TITLE = "Learning rate and beta"
STUDY = Study(
    *("s24", TITLE, TEXT, 1, SETTINGS, 3, run, CLAIMS, tables, plots, QUICK),
    setup=f"{SHORT_WORDS}; by DPO, with LoRA and of all weights",
)

if __name__ == "__main__":
    main(STUDY)
