"""The curves of one run over its steps, training and held-out together, each with a word on how to read it."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from likelier.insight.pages.charts import Series, line_chart
from likelier.runs.method import MethodFacts
from likelier.runs.reader import Row, Run
from likelier.utils.statistics import Z

CHOSEN, REJECTED, TRAIN, HELD_OUT = 0, 1, 5, 2  # the page's series colours, the same in every chart
_NOT_APART = 1e-6  # rewards closer than this are equal: whoever is ahead is rounding


def curves(run: Run) -> list[Markup]:
    """The charts for which there is something to draw."""
    drawn = [
        _loss(run),
        _rewards(run),
        _margins(run),
        _accuracy(run),
        *(_measured(run) if len(run.evaluations) > 1 else []),
        _log_probabilities(run),
        _lengths(run),
        _baseline(run),
        gradient(run),
        rate(run),
    ]
    return [chart for chart in drawn if chart]


def _measured(run: Run) -> list[Markup]:
    """What only evaluations know; a single one makes no curve."""
    return [kl(run), own_answers(run), _answer_lengths(run)]


def trained(run: Run, key: str, name: str = "training", colour: int = TRAIN) -> Series:
    """A metric of the steps."""
    return Series(name, *run.column(key), smooth=True, colour=colour)


def held_out(run: Run, key: str, name: str = "held-out", colour: int = HELD_OUT) -> Series:
    """A metric of the evaluations."""
    return Series(name, *run.evaluated(key), dashed=True, colour=colour)


def _sides(run: Run, key: str) -> list[Series]:
    """Chosen and rejected apart, training and held-out."""
    found = []
    for side, colour in (("chosen", CHOSEN), ("rejected", REJECTED)):
        found.append(trained(run, f"{key}/{side}", f"{side}, training", colour))
        found.append(held_out(run, f"{key}/{side}", f"{side}, held-out", colour))
    return found


def _loss(run: Run) -> Markup:
    expected = run.card.reference.step0_loss_expected
    level = (
        (float(expected), f"at the reference: {float(expected):.4g}") if isinstance(expected, (int, float)) else None
    )
    note = "Held-out rising while training falls is overfitting. The loss alone says little of the answers' quality."
    series = [trained(run, "loss"), held_out(run, "loss")]
    return line_chart("Loss", "step", "mean over the items of a step", series, level=level, note=note)


def _rewards(run: Run) -> Markup:
    if not run.column("rewards/rejected")[0] and not run.evaluated("rewards/rejected")[0]:
        return Markup("")  # without two sides the reward is the loss's negative
    scale = run.card.reward_scale
    if scale is None:
        note = _own_rewards(run.card.facts)
        return line_chart("Rewards", "step", "chosen and rejected apart", _sides(run, "rewards"), note=note)
    note = (
        f"A reward is {scale:g} times the log-ratio to the reference: above 0 an answer became likelier, below 0 less "
        "likely. If both lines fall, the chosen answers are losing too."
    )
    level = (0.0, "as the reference")
    return line_chart("Rewards", "step", "chosen and rejected apart", _sides(run, "rewards"), level=level, note=note)


def _own_rewards(method: MethodFacts) -> str:
    """How to read rewards that are no multiple of a log-ratio."""
    if method.reads_values:
        return "A reward is the model's score of an answer. Only differences are learnt: both lines may drift together."
    per_token = ", per token" if method.rewards_per_token else ""
    if method.needs_reference:
        return f"A reward is what this method makes of an answer and its reference{per_token}."
    return f"This method has no reference: a reward is what the policy itself gives an answer{per_token}."


def _margins(run: Run) -> Markup:
    series = [trained(run, "rewards/margins"), held_out(run, "rewards/margins")]
    note = "How far the chosen answer's reward is above the rejected one's. The held-out line shows what carries over."
    return line_chart(
        "Margin", "step", "reward of chosen minus rejected", series, level=(0.0, "no preference"), note=note
    )


def _accuracy(run: Run) -> Markup:
    key = "pair_accuracy" if run.evaluated("pair_accuracy")[0] else "rewards/accuracies"
    series = [
        Series("training", *_apart(run.steps, "rewards/accuracies"), smooth=True, colour=TRAIN),
        _with_interval(run, key, "held-out, by reward", HELD_OUT),
        _with_interval(run, "ranking_accuracy", "held-out, the policy itself", CHOSEN),
    ]
    note = (
        "By reward: the chosen answer gained more than the rejected one; where no reward differs yet nobody is right, "
        "and no point is drawn. The policy itself: it finds the chosen answer likelier. Bands are 95 % intervals."
    )
    if run.card.facts.reads_values:
        note = "Pairs whose chosen answer has the higher score. Bands are 95 % intervals."
    level = (0.5, "coin toss")
    return line_chart("Accuracy", "step", "share of pairs", series, percent=True, level=level, note=note)


def _apart(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    """A metric where the rewards of the two sides differ at all."""
    kept = [row for row in rows if abs(row.get("rewards/margins") or 0.0) > _NOT_APART]
    known = [(row.get("step", 0), float(row[name])) for row in kept if isinstance(row.get(name), (int, float))]
    return [step for step, _ in known], [value for _, value in known]


def _with_interval(run: Run, key: str, name: str, colour: int) -> Series:
    by_policy = key.startswith("ranking")
    rows = [row for row in run.evaluations if by_policy or abs(row.get("rewards/margins") or 0.0) > _NOT_APART]
    names = (key, f"{key}_low", f"{key}_high")
    kept = [row for row in rows if all(isinstance(row.get(one), (int, float)) for one in names)]
    y, low, high = ([float(row[one]) for row in kept] for one in names)
    return Series(name, [row.get("step", 0) for row in kept], y, low, high, dashed=True, colour=colour)


def kl(run: Run) -> Markup:
    """KL to the reference, of answers to held-out prompts."""
    rows = [row for row in run.evaluations if isinstance(row.get("kl"), (int, float)) and "kl_per_token" in row]
    values = [float(row["kl"]) for row in rows]
    spread = [Z * float(row.get("kl_standard_error") or 0.0) for row in rows]
    low, high = ([value + sign * reach for value, reach in zip(values, spread, strict=True)] for sign in (-1, 1))
    series = [Series("held-out prompts", [row.get("step", 0) for row in rows], values, low, high, colour=HELD_OUT)]
    note = (
        "How far the policy has moved, measured on answers that it draws itself: the price of what it learned. "
        "The band is 1.96 standard errors."
    )
    return line_chart("KL to the reference", "step", "nats an answer", series, note=note)


def _log_probabilities(run: Run) -> Markup:
    note = (
        "What the policy gives the data's answers, summed over their tokens. A falling chosen line means that the "
        "answers one wants become less likely, whatever the margin does."
    )
    measured = len(run.evaluations) > 1
    sides = [one for one in _sides(run, "logps") if one.dashed == measured]
    return line_chart("Log-probabilities", "step", "nats an answer", sides, note=note)


def own_answers(run: Run) -> Markup:
    """Repetition, refusals and cut answers on held-out prompts."""
    named = (
        ("repetition", "repeated runs of four tokens"),
        ("refusals", "refusals"),
        ("cut_answers", "cut at the limit"),
    )
    series = [Series(name, *run.evaluated(key), colour=at) for at, (key, name) in enumerate(named)]
    wins = _with_interval(run, "win_rate", "wins against the start, by the judge", 3)
    note = "Answers that the policy draws to the same held-out prompts. Rising repetition is how a collapse begins."
    return line_chart("The policy's own answers", "step", "shares", [*series, wins], percent=True, note=note)


def _answer_lengths(run: Run) -> Markup:
    series = [Series("its own answers", *run.evaluated("answer_length"), colour=HELD_OUT)]
    note = "Answers that only grow longer may be learning length instead of quality. They are cut at a limit."
    return line_chart("Length of the policy's own answers", "step", "tokens, mean", series, note=note)


def _lengths(run: Run) -> Markup:
    both = [
        trained(run, "lengths/chosen", "chosen", CHOSEN),
        trained(run, "lengths/rejected", "rejected", REJECTED),
    ]
    note = "Of the data's answers in each step. Where one side is always longer, length can pass for the preference."
    return line_chart("Length of the data's answers", "step", "tokens, mean", both, note=note)


def _baseline(run: Run) -> Markup:
    if not run.card.facts.has_baseline:
        return Markup("")
    note = (
        f"{run.method.upper()}'s baseline: rewards count from here. Always 0 means that it plays no part; see the "
        "verdicts."
    )
    return line_chart("Baseline of the step", "step", "nats", [trained(run, "kl", "training")], note=note)


def gradient(run: Run) -> Markup:
    """The gradient's norm."""
    note = "Before clipping. Single spikes are usual; a level that climbs announces trouble."
    return line_chart("Gradient norm", "step", "", [trained(run, "grad_norm")], note=note)


def rate(run: Run) -> Markup:
    """The learning rate."""
    x, y = run.column("learning_rate")
    return line_chart("Learning rate", "step", "", [Series("training", x, y, colour=TRAIN)])
