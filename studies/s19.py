"""S19: a proxy reward is over-optimized; does `diagnose` speak in time? `python -m studies.s19 [--quick]`"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from studies import sayings
from studies.bags import Language, first_warning, optimized, reward_model
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, lies, table
from studies.plots import Plot, line

LABELS, STEPS, KLS = (100, 1_000, 10_000), 500, (0.5, 1, 2, 4, 8, 16, 32)
JUDGES = {"itself": "the proxy itself", "second": "a second proxy of as many other labels", "gold": "the gold reward"}
FELL = 0.1  # of the gain at the peak: what is lost at the end where the proxy is said to be over-optimized

TEXT = """
A policy that is optimized against a reward model gets better for a while, and then worse (arXiv 2210.10760): the proxy
still rises, and what it stands for falls. Here an answer is 20 tokens of a vocabulary of 32, its features are sums over
them, and the gold reward likes a direction of these, but not too far along it. Reward models see the features and
their products, and learn from 100, 1,000 or 10,000 comparisons of the reference's answers. GRPO optimizes each of them
for 500 steps without a term for the divergence. The run's metrics and the rewards of 64 held-out answers are given to
`likelier diagnose` after every fifth step, as a live view would: when does it warn, if those answers are judged by the
proxy itself, by a second proxy of as many other labels, or by the gold reward? The gold reward in the mean, and so its
peak, is known exactly, to us alone.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Where the gold reward peaks, what is lost after it, and what `diagnose` says by then with each judge."""
    generator = torch.Generator().manual_seed(8000 + seed)
    language = Language.made(generator)
    proxy, second = (reward_model(language, setting["labels"], generator) for _ in range(2))
    judges = {"itself": proxy, "second": second, "gold": None}
    course = optimized(language, proxy, judges, seed, 100 if quick else STEPS)
    gains = [value - course.gold[0] for value in course.gold]
    peak = max(range(len(gains)), key=gains.__getitem__)
    fell = gains[-1] < (1 - FELL) * gains[peak]
    found: dict[str, Any] = {"peak_gain": gains[peak], "peak_kl": course.kl[peak], "end_gain": gains[-1]}
    found |= {"end_kl": course.kl[-1], "fell": float(fell)}
    for kl in KLS:
        reached = next((number for number, value in enumerate(course.kl) if value >= kl), None)
        found[f"gain@{kl}"] = None if reached is None else gains[reached]
    for judge in judges:
        at, name = first_warning(course, judge) or (None, None)
        spoke = at is not None
        found |= {f"verdict_{judge}": name, f"warned_kl_{judge}": course.kl[at] if spoke else None}
        found[f"spoke_{judge}"] = float(spoke) if fell else None
        found[f"before_{judge}"] = float(spoke and at <= peak) if fell else None
        found[f"in_time_{judge}"] = float(spoke and gains[at] > 0) if fell else None
        found[f"for_nothing_{judge}"] = None if fell else float(spoke)
    return found


CASES = {f"{labels:,} labels": Case({"labels": labels}) for labels in LABELS}
CLAIMS = [
    Claim(
        "A reward that stands for another one is over-optimized.",
        "Gao, Schulman and Hilton, arXiv 2210.10760",
        "in more than half of the runs a tenth of the gold reward's gain is lost by the end, by the whole interval",
        lies(CASES, "fell", 0.5),
    ),
    *(
        Claim(
            f"`diagnose` {when}; {words} judges held-out answers.",
            sayings.OURS,
            "in more than half of the runs in which the gold reward falls, by the whole interval",
            lies(CASES, f"{name}_{judge}", 0.5),
        )
        for name, when in (
            ("before", "warns before the gold reward's peak"),
            ("in_time", "warns while the policy is still better than its start"),
            ("spoke", "warns at all"),
        )
        for judge, words in JUDGES.items()
    ),
    *(
        Claim(
            f"`diagnose` does not warn where the gold reward does not fall; {words} judges held-out answers.",
            sayings.OURS,
            "in fewer than a fifth of those runs, by the whole interval",
            lies(CASES, f"for_nothing_{judge}", -1.0, 0.2),
        )
        for judge, words in JUDGES.items()
    ),
]
ROWS = {
    "peak_gain": "gold reward gained at its peak",
    "peak_kl": "KL at the peak, nats an answer",
    "end_gain": "gold reward gained at the end",
    "end_kl": "KL at the end",
    "fell": "runs in which it falls, share",
    **{f"warned_kl_{judge}": f"KL at the first warning, judged by {words}" for judge, words in JUDGES.items()},
}


def tables(results: Results) -> list[Table]:
    """Where the peak lies, where the warnings, and which verdict comes first in how many runs."""
    found = table(results, "Peaks and warnings", ROWS, {label: {"": case} for label, case in CASES.items()})
    rows = []
    for judge, words in JUDGES.items():
        names = ([one[f"verdict_{judge}"] or "silent" for one in results.of(**case.setting)] for case in CASES.values())
        seen = [Counter(column).most_common() for column in names]
        rows.append([f"judged by {words}", *(", ".join(f"{n} {name}" for name, n in column) for column in seen)])
    return [found, Table("The first verdict, in how many runs", ["", *CASES], rows)]


def plots(results: Results) -> list[Plot]:
    """The gold reward over the divergence."""
    lines = [line(label, {kl: case.mean(results, f"gain@{kl}") for kl in KLS}) for label, case in CASES.items()]
    return [Plot("gold", "Gold reward gained", "KL, nats an answer", "gold reward above the start", lines, True)]


SETTINGS = [{"labels": labels} for labels in LABELS]
STUDY = Study(
    *("s19", "Over-optimized", TEXT, 1, SETTINGS, 20, run, CLAIMS, tables, plots, SETTINGS[:2]),
    setup="answers are bags of 20 tokens, GRPO optimizes reward models of 100 to 10,000 labels for 500 steps",
)

if __name__ == "__main__":
    main(STUDY)
