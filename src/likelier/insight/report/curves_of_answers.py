"""The curves of a run that learns from its own answers: what they earn, how they are written, how far it went."""

from __future__ import annotations

from markupsafe import Markup

from likelier.insight.pages.charts import Series, line_chart
from likelier.insight.report.curves import HELD_OUT, TRAIN, gradient, held_out, kl, own_answers, rate, trained
from likelier.insight.rewards import reward_parts
from likelier.runs.reader import Run

_MOST_PARTS = 8  # rewards with a chart of their own
_DRIFTS = 1e-6  # nats a token between sampler and scorer: below it they are the same but for rounding


def curves_of_answers(run: Run) -> list[Markup]:
    """The charts for which there is something to draw."""
    drawn = [
        *_rewards(run),
        *_parts(run),
        _spread(run),
        _dead(run),
        _lengths(run),
        _entropy(run),
        _cut(run),
        _kl_in_training(run),
        *([kl(run), own_answers(run)] if len(run.evaluations) > 1 else []),
        _clipped(run),
        _returns(run),
        _critic(run),
        _drift(run),
        gradient(run),
        rate(run),
    ]
    return [chart for chart in drawn if chart]


def _rewards(run: Run) -> list[Markup]:
    """Training and held-out together, or apart where another judge counts in units of its own."""
    judge, bar = run.card.block("options").get("eval_reward"), run.evaluated("best_of_n")[1]
    level = (bar[0], f"best of {_answers(run)} of the start policy, held out") if bar else None
    ours, theirs = trained(run, "reward"), _with_interval(run)
    note = (
        "Held-out prompts are answered once each, with the same random numbers every time; the band is the 95 % "
        "interval. The dotted line is what picking the best of several answers would have given without training."
    )
    if judge is None:
        return [line_chart("Reward", "step", "mean over answers", [ours, theirs], level=level, note=note)]
    own = "By the function that is optimized, on the prompts that are trained on: it may rise without any use."
    return [
        line_chart("Reward in training", "step", "mean over answers", [ours], note=own),
        line_chart(
            f"Held-out reward, judged by {judge}", "step", "mean over prompts", [theirs], level=level, note=note
        ),
    ]


def _answers(run: Run) -> object:
    return run.card.hyperparameters.get("answers_per_prompt", "several")


def _with_interval(run: Run) -> Series:
    names = ("reward", "reward_low", "reward_high")
    rows = [row for row in run.evaluations if all(isinstance(row.get(name), (int, float)) for name in names)]
    if not rows:
        return held_out(run, "reward")
    y, low, high = ([float(row[name]) for row in rows] for name in names)
    return Series("held-out", [row.get("step", 0) for row in rows], y, low, high, dashed=True, colour=HELD_OUT)


def _parts(run: Run) -> list[Markup]:
    """Each reward by itself, where there are several."""
    own = reward_parts(run.steps)
    judged_otherwise = run.card.block("options").get("eval_reward") is not None
    found = []
    for name in own[:_MOST_PARTS] if len(own) > 1 else []:
        key = f"rewards/{name}/mean"
        series = [trained(run, key), *([] if judged_otherwise else [held_out(run, key)])]
        found.append(line_chart(f"Reward: {name}", "step", "mean over answers, before its weight", series))
    return found


def _spread(run: Run) -> Markup:
    note = (
        "How far the reward models are apart on an answer. They agree where they have learnt; if this grows, the "
        "policy goes where they only guess, and its reward says less and less."
    )
    judged_otherwise = run.card.block("options").get("eval_reward") is not None
    series = [trained(run, "rewards/spread"), *([] if judged_otherwise else [held_out(run, "rewards/spread")])]
    return line_chart("Disagreement of the reward models", "step", "standard deviation, mean", series, note=note)


def _dead(run: Run) -> Markup:
    note = (
        "Where all answers to a prompt earn the same there is nothing to learn from it: it was too easy, or too hard."
    )
    series = [trained(run, "frac_reward_zero_std")]
    return line_chart("Prompts whose answers all earn the same", "step", "share", series, percent=True, note=note)


def _lengths(run: Run) -> Markup:
    series = [
        trained(run, "completions/mean_length"),
        trained(run, "completions/mean_terminated_length", "training, those that ended", 0),
        held_out(run, "answer_length"),
    ]
    note = "Answers that only grow longer may be learning length instead of quality. They are cut at a limit."
    return line_chart("Length of the answers", "step", "tokens, mean", series, note=note)


def _entropy(run: Run) -> Markup:
    note = (
        "Of the distribution that each token was drawn from. It falls as the policy becomes sure; near 0 it writes one "
        "answer only, and finds no better one."
    )
    return line_chart("Entropy", "step", "nats a token", [trained(run, "entropy")], note=note)


def _cut(run: Run) -> Markup:
    series = [trained(run, "completions/clipped_ratio"), held_out(run, "cut_answers")]
    note = "Answers that reached the limit: they are judged without their end."
    return line_chart("Answers cut at the limit", "step", "share", series, percent=True, note=note)


def _kl_in_training(run: Run) -> Markup:
    note = "How far the policy has moved, measured on the answers that it learns from."
    return line_chart("KL to the reference, in training", "step", "nats an answer", [trained(run, "kl")], note=note)


def _clipped(run: Run) -> Markup:
    values = run.column("clip_ratio/region_mean")[1]
    if not any(values):
        return Markup("")  # one update for each batch of answers: no ratio leaves 1
    series = [
        trained(run, "clip_ratio/region_mean", "both", TRAIN),
        trained(run, "clip_ratio/low_mean", "below", 0),
        trained(run, "clip_ratio/high_mean", "above", 1),
    ]
    note = "What lies beyond the clip teaches nothing more."
    return line_chart("Ratios beyond the clip", "step", "share", series, percent=True, note=note)


def _returns(run: Run) -> Markup:
    series = [trained(run, "returns"), trained(run, "kl_penalty", "price of the divergence", 0)]
    note = "What the policy climbs: an answer's score less what its divergence from the reference costs it."
    return line_chart("Returns", "step", "mean over answers", series, note=note)


def _critic(run: Run) -> Markup:
    note = (
        "How much of what answers go on to earn the critic's values tell beforehand: 100 % is a critic that knows, 0 "
        "one that knows no more than their mean, and advantages are then as noisy as without it."
    )
    series = [trained(run, "value/explained_variance")]
    return line_chart("What the critic explains", "step", "share of variance", series, percent=True, note=note)


def _drift(run: Run) -> Markup:
    if max(run.column("sampler/kl")[1], default=0.0) < _DRIFTS:
        return Markup("")
    note = "Answers are drawn by the sampler and learnt from by the scorer: apart, they are two policies."
    return line_chart("Sampler against scorer", "step", "KL, nats a token", [trained(run, "sampler/kl")], note=note)
