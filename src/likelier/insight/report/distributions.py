"""How rewards and log-probabilities are spread over the held-out items, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from likelier.insight.pages.charts import Series, line_chart
from likelier.insight.pages.histograms import histogram_chart
from likelier.insight.report.curves import CHOSEN, HELD_OUT, REJECTED
from likelier.runs.evaluations import Detail
from likelier.runs.reader import Run

_GREY = 7


def distributions(run: Run) -> list[Markup]:
    """The charts for which there is something to draw; of the last evaluation where the run has not ended."""
    first, last = run.detail("start"), run.detail("last")
    before, after = first.items, last.items if last != first else {}
    when = "after training" if last.when == "end" else f"at step {last.step}"
    drawn = [_rewards(run, before, "before training"), _rewards(run, after, when), _margins(run, before, after, when)]
    both = {name: items for name, items in (("before", before), (when, after)) if items}
    if run.card.facts.reads_values:
        return [chart for chart in (_scores(both), _calibration(last)) if chart]
    drawn.append(_per_token(both) if "completion" in (after or before) else _likelier(both))
    return [chart for chart in drawn if chart]


def _sides(items: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Chosen and rejected answers; labelled ones by their label."""
    if "completion" not in items:
        return {side: items[side] for side in ("chosen", "rejected") if side in items}
    labels = items.get("label") or [True] * len(items["completion"]["logps"])
    return {
        name: {
            column: [value for value, label in zip(values, labels, strict=True) if label == wanted] if values else None
            for column, values in items["completion"].items()
        }
        for name, wanted in (("desirable", True), ("undesirable", False))
    }


def _reward(run: Run, side: Mapping[str, Any]) -> list[float]:
    """The implicit rewards of a side's answers; empty where the method has none."""
    scale, refs = run.card.reward_scale, side.get("ref_logps")
    if scale is None or not refs:
        return []
    return [scale * (own - ref) for own, ref in zip(side["logps"], refs, strict=True)]


def _rewards(run: Run, items: Mapping[str, Any], when: str) -> Markup:
    found = {name: _reward(run, side) for name, side in _sides(items).items()}
    if not any(value for values in found.values() for value in values):
        return Markup("")  # no reference, or the start, where every reward is 0
    note = "Well apart is well learned; what lies left of 0 became less likely than it was under the reference."
    return histogram_chart(
        f"Rewards {when}",
        "implicit reward",
        found,
        level=(0.0, "as the reference"),
        note=note,
        colours=(CHOSEN, REJECTED),
    )


def _margins(run: Run, before: Mapping[str, Any], after: Mapping[str, Any], when: str) -> Markup:
    found = {name: _margin(run, items) for name, items in (("before training", before), (when, after))}
    was_zero = bool(found["before training"]) and not any(found["before training"])
    shown = {name: column for name, column in found.items() if any(column)}
    note = "Of each pair. Left of the line are the pairs that the policy gets wrong."
    return histogram_chart(
        "Margins " + " and ".join(shown),
        "reward of chosen minus rejected",
        shown,
        level=(0.0, "no preference"),
        unit="number of pairs",
        note=note + (" Before the first step every margin was 0." if was_zero else ""),
        colours=[HELD_OUT if name == when else _GREY for name in shown],
    )


def _margin(run: Run, items: Mapping[str, Any]) -> list[float]:
    sides = _sides(items)
    if "chosen" not in sides:
        return []
    return [one - two for one, two in zip(*(_reward(run, sides[side]) for side in ("chosen", "rejected")), strict=True)]


def _scores(both: Mapping[str, Mapping[str, Any]]) -> Markup:
    found = {
        when: [one - two for one, two in zip(items["chosen"]["logps"], items["rejected"]["logps"], strict=True)]
        for when, items in both.items()
        if "chosen" in items
    }
    return histogram_chart(
        "Which answer the model prefers",
        "score of chosen minus rejected",
        found,
        level=(0.0, "both alike"),
        unit="number of pairs",
        note="Held-out pairs. Left of the line are those that it gets wrong.",
        colours=_colours(both),
    )


def _calibration(last: Detail) -> Markup:
    """How often a reward model is right, where it claims to be so with a certain probability."""
    bins = last.calibration
    claimed = [100 * one.claimed for one in bins]
    low, high = [one.low for one in bins], [one.high for one in bins]
    series = [
        Series("held-out pairs", claimed, [one.right for one in bins], low, high, colour=HELD_OUT),
        Series("as it claims", [50.0, 100.0], [0.5, 1.0], dashed=True, colour=_GREY),
    ]
    note = (
        "The chance that the preferred answer has the higher score, as the difference of the scores says it, against "
        "how often it has. Below the dashed line the model is too sure of itself. The band is the 95 % interval of "
        "each group of pairs: " + ", ".join(f"{one.pairs:,}" for one in bins) + "."
    )
    title, x_label = "Is it as often right as it claims?", "claimed, in percent"
    return line_chart(title, x_label, "share that is right", series if bins else [], percent=True, note=note)


def _likelier(both: Mapping[str, Mapping[str, Any]]) -> Markup:
    found = {
        when: [one - two for one, two in zip(items["chosen"]["logps"], items["rejected"]["logps"], strict=True)]
        for when, items in both.items()
        if "chosen" in items
    }
    return histogram_chart(
        "Which answer the policy finds likelier",
        "log-probability of chosen minus rejected, nats",
        found,
        level=(0.0, "both alike"),
        unit="number of pairs",
        note="Right of the line the chosen answer is likelier as it stands, whatever the reference thinks.",
        colours=_colours(both),
    )


def _per_token(both: Mapping[str, Mapping[str, Any]]) -> Markup:
    found = {
        when: [
            logp / max(1, length)
            for logp, length in zip(items["completion"]["logps"], items["completion"]["lengths"], strict=True)
        ]
        for when, items in both.items()
        if "completion" in items
    }
    return histogram_chart(
        "How likely the policy finds the answers",
        "log-probability a token, nats",
        found,
        note="To the right is likelier: 0 would be certainty.",
        colours=_colours(both),
    )


def _colours(both: Mapping[str, Any]) -> list[int]:
    return [_GREY if name == "before" else HELD_OUT for name in both]
