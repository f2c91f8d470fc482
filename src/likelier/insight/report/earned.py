"""What a report shows of a run that learns from its own answers beside its curves: the two questions, figures, and
answers that it learnt from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from likelier.insight.diagnose.earned import held_out_gain
from likelier.insight.diagnose.facts import Facts
from likelier.insight.pages.charts import number
from likelier.insight.pages.heatmap import scale_of, signed, token_spans
from likelier.insight.report.answers import Reply
from likelier.insight.report.examples import Written, clipped, place
from likelier.insight.verdicts import Severity, Verdict
from likelier.runs.reader import Run
from likelier.runs.rollouts import Group, RolledOut, WrittenStep
from likelier.utils.statistics import mean_of

FINE, ROUGH = 0.1, 0.25  # of a standard deviation, to either side: some 400 and 60 prompts
MOST_GROUPS = 3  # of a step
MOST_ALONE = 2  # of single answers, from either end


# --- the two questions ---------------------------------------------------------------------------------------------


def replies_by_reward(run: Run, verdicts: Sequence[Verdict]) -> list[Reply]:
    """Both questions with their answers; the verdicts are those on the run, the worst first."""
    facts = Facts(run)
    return [_worked(facts, verdicts), _trusted(facts)]


def _worked(facts: Facts, verdicts: Sequence[Verdict]) -> Reply:
    gain = held_out_gain(facts)
    measured = f"Held-out gain {gain}." if gain else "No held-out answer was judged after the first step."
    bad = [one for one in verdicts if one.is_bad and one.name != "learned"]

    def said(words: str, severity: Severity, *why: str) -> Reply:
        return Reply("Did it work?", words, severity, " ".join([*(f"{one.rstrip('.')}." for one in why), measured]))

    if facts.run.is_running:
        return said("Not known yet", "info", "The run has not ended")
    if any(one.severity == "error" for one in verdicts):
        return said("No", "error", verdicts[0].title)
    if gain is not None and gain.is_below:
        return said("No", "error", "Held-out answers earn less than before")
    if gain is None or not gain.is_above:
        return said("Not shown", "warning", *([bad[0].title] if bad else []))
    if bad:
        return said("In part", "warning", "Held-out answers earn more, but", bad[0].title)
    return said("Yes", "good", "Held-out answers earn more than before")


def _trusted(facts: Facts) -> Reply:
    words, severity, why = _exactness(facts)
    is_other = facts.card.block("options").get("eval_reward") is not None
    judged = "Another judge than the reward that is optimized." if is_other else _SAME_JUDGE
    return Reply("Can I trust it?", words, severity, f"{why} {judged}" if facts.latest else why)


_SAME_JUDGE = "The judge is the reward that is optimized: whether that is what you want, only reading answers tells."


def _exactness(facts: Facts) -> tuple[str, Severity, str]:
    rewards = [one for one in facts.detail("last").rewards if one is not None]
    if len(rewards) < 2:
        return "Not beyond its own prompts", "warning", "Nothing was held out and judged."
    mean = mean_of(rewards)
    reach, deviation = (mean.high - mean.low) / 2, mean.error * len(rewards) ** 0.5
    share = reach / deviation if deviation else 2 / len(rewards) ** 0.5
    why = f"n = {len(rewards):,} held-out prompts tell the mean reward to within {number(reach)}."
    if share <= FINE:
        return "Yes", "good", why
    return ("Roughly", "info", why) if share <= ROUGH else ("Hardly", "warning", why)


def tiles_by_reward(run: Run) -> list[tuple[str, str, str]]:
    """The held-out reward, its gain, and the bar: name, value, and how sure it is, of how many."""
    facts = Facts(run)
    now, gain, bar = facts.latest.get("reward"), held_out_gain(facts), facts.start.get("best_of_n")
    found = []
    if now is not None:
        low, high, items = (facts.latest.get(name) for name in ("reward_low", "reward_high", "items"))
        sure = "" if low is None or high is None else f"{number(low)} to {number(high)}, "
        found.append(("held-out reward", number(now), f"{sure}n = {items or 0:,.0f}"))
    if gain is not None:
        sure = "" if gain.prompts < 2 else f"{signed(gain.low, 3)} to {signed(gain.high, 3)}, "
        found.append(("gain over the start", signed(gain.value, 3), f"{sure}n = {gain.prompts:,}"))
    if bar is not None:
        count = run.card.hyperparameters.get("answers_per_prompt", "n")
        found.append((f"best of {count} at the start", number(bar), "the bar to beat with one answer"))
    return found


# --- rollouts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShownGroup:
    """A prompt that was learnt from, and its best and its worst answer."""

    prompt: str
    source: str
    told: str
    answers: tuple[tuple[str, Written], ...]


@dataclass(frozen=True)
class ShownStep:
    """Some groups of a step."""

    step: int
    told: str
    groups: tuple[ShownGroup, ...]


def shown_rollouts(run: Run) -> list[ShownStep]:
    """Of the first and the last step that was kept the prompts whose answers differ most in what they earned."""
    kept = run.rollouts()
    return [_shown_step(one) for one in kept[:1] + kept[1:][-1:]]


def _shown_step(one: WrittenStep) -> ShownStep:
    groups = _telling([group for group in one.groups if group.judged])
    answers = sum(len(group.answers) for group in one.groups)
    told = f"{answers:,} answers to {len(one.groups):,} prompts"
    scale = scale_of(*(answer.as_tokens for group in groups for answer in group.answers))
    return ShownStep(one.step, told, tuple(_shown_group(group, scale) for group in groups))


def _telling(groups: Sequence[Group]) -> list[Group]:
    """Some prompts: those whose answers differ most; of single answers the best and the worst."""
    if any(len(group.answers) > 1 for group in groups):
        return sorted(groups, key=_spread, reverse=True)[:MOST_GROUPS]
    ranked = sorted(groups, key=lambda group: -(group.judged[0].reward or 0.0))
    return ranked if len(ranked) <= 2 * MOST_ALONE else [*ranked[:MOST_ALONE], *ranked[-MOST_ALONE:]]


def _spread(group: Group) -> float:
    best, worst = group.judged[0].reward, group.judged[-1].reward
    return (best or 0.0) - (worst or 0.0)


def _shown_group(group: Group, scale: float) -> ShownGroup:
    ranked = group.judged
    ends = [("best", ranked[0]), ("worst", ranked[-1])] if _spread(group) else [("one of them", ranked[0])]
    rewards = ", ".join(number(one.reward or 0.0) for one in ranked)
    told = f"rewards {rewards}" if _spread(group) else f"all {len(ranked)} answers earn {rewards.split(', ')[0]}"
    told = f"reward {rewards}" if len(ranked) == 1 else told
    answers = tuple((which, Written(_shown(one, scale), ", ".join(_remarks(one)))) for which, one in ends)
    return ShownGroup(clipped(group.prompt), place(group.source), clipped(told, 400), answers)


def _shown(answer: RolledOut, scale: float) -> str:
    """Its text, each token in the colour of its advantage where a critic told one."""
    tokens = answer.as_tokens
    return token_spans(tokens, scale) if tokens["tokens"] else clipped(answer.text)


def _remarks(answer: RolledOut) -> Iterator[str]:
    if answer.reward is not None:
        parts = [f"{name} {number(value)}" for name, value in answer.rewards.items() if value is not None]
        yield f"reward {number(answer.reward)}" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")
    if answer.advantage is not None:
        yield f"advantage {signed(answer.advantage, 3)}"
    yield f"{answer.tokens} tokens" + (", cut at the limit" if answer.is_cut else "")
    if answer.side is not None:
        yield f"the {answer.side} answer of its pair"
    if not answer.counts:
        yield "left out of the loss"
