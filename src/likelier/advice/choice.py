"""The choice of a method: the rows that the methods say they fit, in order of precedence; the first that fits wins.

Then its hyperparameters, each with where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from likelier.objectives import METHODS
from likelier.objectives.advice import FEW_PAIRS, Case, Setting, Situation, Subject

_ONLINE = (
    "the highest that can be reached is an online method (GRPO and its relatives): the policy writes, a reward judges, "
    "and it learns from its own answers. Its command stands below; the run file is the offline start for it"
)
_ONLINE_DOUBT = (
    "online methods lead most tables where the reward knows more than the pairs (a verifier, new labels) and there is "
    "a budget for sampling; with a poor reward they learn to please it"
)


@dataclass(frozen=True)
class Choice:
    """The row that was used, its methods, its reasons and its doubts. `online` where the goal is the ceiling: the
    methods are then what comes before, or stands in for, online training.
    """

    row: str
    methods: tuple[str, ...]
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]
    online: bool = False


def table() -> list[tuple[str, Case]]:
    """Every case of every method, in order of precedence."""
    rows = [(method, case) for method, objective in METHODS.items() for case in objective.advice.cases]
    return sorted(rows, key=lambda row: row[1].rank)


def learn_from_labels(methods: tuple[str, ...]) -> bool:
    """Whether all of these methods learn from labels."""
    return all(METHODS[method].data == "labels" for method in methods)


def _why_left(known: Situation) -> str:
    """What becomes of labels that no stage learns from."""
    if not known.has_reference:
        return "aside: what learns from them needs a reference"
    if known.pairs_dominate:
        return f"aside: {known.pairs:,} pairs say more"
    if known.both:
        return "to a later stage"
    return (
        f"aside: from {FEW_PAIRS} pairs on a stage of KTO after them does not pay. After 1,000 it cost DPO 0.2 to 0.3 "
        f"in reward, after 250 it did not; {FEW_PAIRS} lies between (docs/studies, S16; tables). Thumbs for the "
        "trained policy's own answers are worth more: collect those, and learn from them in a stage after"
    )


def choose(known: Situation) -> Choice:
    """The method for a situation."""
    first, case = next(row for row in table() if row[1].fits(known))
    methods, reasons = (first, *case.then), [case.why(known)]
    if known.labels and not any(learn_from_labels((method,)) for method in methods):
        reasons.append(f"the {known.labels:,} labels are left {_why_left(known)}")
    doubts = tuple(doubt for method in methods for doubt in METHODS[method].advice.doubts)
    if known.goal != "ceiling":
        return Choice(case.name, methods, tuple(reasons), (*case.doubts, *doubts))
    return Choice("ceiling", methods, (_ONLINE, *reasons), (_ONLINE_DOUBT, *doubts), online=True)


_STEPS = 50  # that an epoch should have

_BATCHES = (64, 32, 16, 8)  # the papers' 64 to 128 at one end, KTO's 8 at the other


def batch_size(rows: int) -> Setting:
    """The largest batch that leaves an epoch about 50 steps."""
    size = next((size for size in _BATCHES if rows >= _STEPS * size), _BATCHES[-1])
    source = f"ours: the largest of {_BATCHES[-1]} to {_BATCHES[0]} with {_STEPS} steps an epoch; papers take 64 to 128"
    return Setting("batch_size", size, source)


def settings_of(method: str, subject: Subject) -> list[Setting]:
    """The method's own hyperparameters and, last, its learning rate."""
    from likelier.training.arguments import LORA_RATE_FACTOR

    objective = METHODS[method]()
    found = {one.name: one for one in objective.advice.settings(objective, subject)}
    own = Setting("learning_rate", objective.learning_rate, objective.learning_rate_source)
    given = found.pop(own.name, own)
    rate, source = given.value, given.source
    if subject.adapter:
        rate, source = rate * LORA_RATE_FACTOR, f"{source}, times {LORA_RATE_FACTOR} for LoRA (ours)"
    factor, why = rate_factor(subject)
    if factor > 1:
        rate, source = rate * factor, f"{source}, times {factor:.2g}: {why} (ours)"
    return [*found.values(), Setting(own.name, float(f"{rate:.3g}"), source)]


_PUBLISHED = 7e9  # weights of the models that published rates are for
_STEEPNESS = 0.7  # so that 135 million weights get 16 times the rate: LoRA learns at 2e-4 to 5e-4 there (the demo)
_MOST = 20.0
_FEW_STEPS = 1.5


def rate_factor(subject: Subject) -> tuple[float, str]:
    """How much above the published rates a model of this size is trained, and one of few steps; and why."""
    if subject.weights is None:
        return 1.0, ""
    factor, why = min(_MOST, max(1.0, _PUBLISHED / subject.weights) ** _STEEPNESS), []
    if factor > 1:
        why.append(
            f"published rates are for 7B and more, and {subject.weights / 1e6:,.0f}M weights hardly move at them"
        )
    if subject.rows < _STEPS * batch_size(subject.rows).value:
        factor *= _FEW_STEPS
        why.append(f"an epoch has fewer than {_STEPS} steps")
    return factor, ", and ".join(why)


_RANKS = ((10_000, 16), (50_000, 32))


def lora_rank(rows: int) -> int:
    """The rank of a new adapter: more rows need more room in it."""
    return next((rank for most, rank in _RANKS if rows <= most), 64)
