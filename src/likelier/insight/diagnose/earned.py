"""What answers earn where the policy writes them itself: in training, on held-out prompts, and whether it says
anything at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import fmean

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.statistics import SURE, Level, Trend
from likelier.insight.diagnose.words import from_to, interval, number, percent, rate
from likelier.insight.rewards import Gain, gain_of, reward_parts
from likelier.insight.verdicts import Severity, Verdict
from likelier.utils.statistics import Z, mean_of, wilson

ROSE = 0.5  # standard deviations of a prompt's answers: a rise that one sees in the answers themselves (Cohen's medium)
STAYED = 0.2  # standard deviations of held-out rewards: a gain below it is small by anybody's measure (Cohen's small)
LOST = 0.1  # of what held-out answers had gained at best: a policy that has found its level wavers by less
HALF = 0.5  # of the groups: from there on more of what was written is thrown away than learnt from
ALIKE = 1e-9  # of a reward: what is left of equal ones after summing
FEWEST = 4  # logged steps, below which a part that stands still may do so by chance
MOST_PROMPTS = 100_000  # that are asked for


# --- held-out rewards ----------------------------------------------------------------------------------------------


def held_out_gain(facts: Facts) -> Gain | None:
    """How much more held-out answers earn now than the start policy's to the same prompts; None where it is unknown."""
    if not facts.latest:
        return None
    start, now = facts.detail("start"), facts.detail("last")
    found = gain_of(start.rewards, now.rewards) if start.rewards and now.step > 0 else None
    return found or _logged_gain(facts)


def _logged_gain(facts: Facts) -> Gain | None:
    row = facts.latest
    value, items = row.get("reward_gain"), int(row.get("items", 0))
    return (
        None
        if value is None
        else Gain(value, row.get("reward_gain_low", value), row.get("reward_gain_high", value), items)
    )


def training_reward(facts: Facts) -> Trend:
    """The reward over the steps. One that is standardised over each prompt's answers is 0 in the mean, whatever they
    are: the weighted sum of its parts tells more.
    """
    online = facts.card.block("online")
    if online.get("combine") != "normalised":
        return facts.trend("reward")
    names = [f"rewards/{name}/mean" for name in reward_parts(facts.run.steps)]
    weights = online.get("reward_weights") or [1.0] * len(names)
    if len(weights) != len(names):
        return Trend((), ())
    rows = [row for row in facts.run.steps if all(name in row for name in names)]
    sums = (sum(weight * row[name] for weight, name in zip(weights, names, strict=True)) for row in rows)
    return Trend(tuple(row["step"] for row in rows), tuple(sums))


def hacking(facts: Facts) -> Iterator[Verdict]:
    """The reward that is trained on rises, and what held-out answers earn falls or stays."""
    trend, gain = training_reward(facts), held_out_gain(facts)
    if not facts.method.writes_answers or gain is None or not trend.rise.surely_above(0.0):
        return
    fell, stayed = gain.is_below or _fell_from_best(facts), _stayed(facts, trend, gain)
    if not fell and not stayed:
        return
    evidence = [
        ("reward in training", from_to(trend.first.value, trend.last.value)),
        ("held-out gain over the start", str(gain)),
        _best(facts),
        _judge(facts),
        facts.distance,
    ]
    title = {} if fell else {"title": "The reward rises in training and not on held-out prompts"}
    yield verdict("reward-hacking", "warning", evidence, _against_hacking(facts), **title)


def _stayed(facts: Facts, trend: Trend, gain: Gain) -> bool:
    """Whether a clear rise in training has surely no more than a small one on held-out prompts beside it, each in
    standard deviations of its own rewards: two judges count in different units.
    """
    spreads, held = facts.trend("reward_std"), [one for one in facts.detail("start").rewards if one is not None]
    if not spreads or len(held) < 2:
        return False
    own = fmean(spreads.values[: spreads.third])
    deviation = mean_of(held).error * len(held) ** 0.5
    if not own or not deviation:
        return False
    return trend.rise.surely_above(ROSE * own, 1.0) and gain.high < STAYED * deviation


def _fell_from_best(facts: Facts) -> bool:
    """Whether held-out answers earned more at an evaluation before, by more than a tenth of what they had gained there
    and beyond three standard errors: the best of several was chosen for being high.
    """
    best = _best_evaluation(facts)
    if best is None:
        return False
    change, gained = (gain_of(*pair) for pair in ((best[1], facts.detail("last").rewards), (_first(facts), best[1])))
    if change is None or change.prompts < 2:
        return False
    half, won = (change.high - change.low) / 2, 0.0 if gained is None else max(gained.value, 0.0)
    return change.value + SURE / Z * half < -LOST * won


def _first(facts: Facts) -> tuple[float | None, ...]:
    return next(tuple(one.rewards) for one in facts.details if any(reward is not None for reward in one.rewards))


def _best_evaluation(facts: Facts) -> tuple[int, tuple[float | None, ...]] | None:
    """Step and rewards of the best evaluation, where that is neither the first nor the last one."""
    found = [(one.step, tuple(one.rewards)) for one in facts.details if any(r is not None for r in one.rewards)]
    if len(found) < 3:
        return None
    best = max(found, key=lambda one: fmean(reward for reward in one[1] if reward is not None))
    return best if best not in (found[0], found[-1]) else None


def _best(facts: Facts) -> tuple[str, str] | None:
    best = _best_evaluation(facts)
    now = facts.latest.get("reward")
    if best is None or now is None:
        return None
    mean = fmean(reward for reward in best[1] if reward is not None)
    return "held-out reward", f"{number(mean)} at its best (step {best[0]}), {number(now)} now"


def _judge(facts: Facts) -> tuple[str, str] | None:
    judge = facts.card.block("options").get("eval_reward")
    return ("judged on held-out prompts by", str(judge)) if judge else None


def _against_hacking(facts: Facts) -> list[str | None]:
    best = _best_evaluation(facts)
    is_other = _judge(facts) is not None
    return [
        "read the best answers in rollouts/: what do they do that the reward likes and nobody meant?",
        "mend the reward, or add one that charges what you found"
        if is_other
        else "more prompts, or more kinds of them",
        f"--max-steps {best[0]}: held-out answers earned most there" if best else None,
        holds_closer(facts),
        f"--learning-rate {rate(facts.peak_rate / 5)}" if facts.peak_rate else None,
    ]


def holds_closer(facts: Facts) -> str | None:
    """A weight for the divergence, as this method has one."""
    own = facts.card.hyperparameters.get(facts.method.strength)
    if not isinstance(own, (int, float)):
        return None
    flag = facts.method.strength.replace("_", "-")
    return f"--{flag} {3 * own if own else 0.05:.3g} holds the policy closer to its reference"


# --- learned -------------------------------------------------------------------------------------------------------


def gained(facts: Facts) -> Iterator[Verdict]:
    """Whether held-out answers earn more than before, and than the best of several of the start policy's."""
    if not facts.method.writes_answers:
        return
    gain = held_out_gain(facts)
    if gain is None:
        yield _unknown(facts)
        return
    evidence = [
        _reward_now(facts, "held-out reward", facts.latest),
        ("gain over the start, the same prompts", str(gain)),
        _against_best_of_n(facts),
        _judge(facts),
        _in_training(facts),
        facts.distance,
    ]
    if gain.is_above and gain.prompts > 1:
        yield verdict("learned", "good", evidence)
    elif gain.is_below:  # `reward-hacking` tells it where training's reward rises
        severity: Severity = "info" if training_reward(facts).rise.surely_above(0.0) else "warning"
        yield verdict("learned", severity, evidence, _after_loss(facts), title=_WORSE, meaning=_WORSE_MEANS)
    else:
        yield verdict("learned", "info", evidence, _to_know_more(facts, gain), title=_NOT_SHOWN, meaning=_CHANCE)


_WORSE = "Held-out answers earn less than before training"
_WORSE_MEANS = "On prompts that it has not seen the policy writes answers that are worth less than those of its start."
_NOT_SHOWN = "Whether held-out answers earn more is not shown"
_CHANCE = "The interval of the gain holds 0: so many prompts cannot tell it from chance."
_NO_PROMPTS = (
    "Nothing was held out, or not judged yet: the reward in training is of the prompts that are trained on, by the "
    "very function that is optimized, and says nothing of others."
)


def _unknown(facts: Facts) -> Verdict:
    title = "Whether it learned is not known: no held-out answer was judged after the first step"
    held = facts.card.data.held_out
    advice = [] if held else ["--eval-fraction 0.1 holds prompts out, and --eval-reward judges their answers otherwise"]
    return verdict("learned", "info", [_in_training(facts)], advice, title=title, meaning=_NO_PROMPTS)


def _in_training(facts: Facts) -> tuple[str, str] | None:
    trend = training_reward(facts)
    return ("reward in training", from_to(trend.first.value, trend.last.value)) if trend else None


def _reward_now(facts: Facts, what: str, row: Mapping[str, float]) -> tuple[str, str] | None:
    value = row.get("reward")
    if value is None:
        return None
    before = facts.start.get("reward")
    since = "" if before is None else f", {number(before)} before"
    if "reward_low" not in row:
        return what, f"{number(value)}{since}"
    bounds = f"({number(row['reward_low'])} to {number(row['reward_high'])})"
    return what, f"{number(value)} {bounds} of {row.get('items', 0):,.0f}{since}"


def _against_best_of_n(facts: Facts) -> tuple[str, str] | None:
    """One answer of the policy now, held against the best of the start policy's n."""
    bar, count = facts.start.get("best_of_n"), facts.card.hyperparameters.get("answers_per_prompt")
    if bar is None:
        return None
    what = f"best of {count} answers of the start policy"
    gain = gain_of(facts.detail("start").best_of_n, facts.detail("last").rewards)
    if gain is None:
        return what, number(bar)
    said = "beaten" if gain.is_above else "not reached" if gain.is_below else "neither beaten nor missed beyond chance"
    return what, f"{number(bar)}: {said} by one answer now: {gain}"


def _after_loss(facts: Facts) -> list[str | None]:
    return [
        f"--learning-rate {rate(facts.peak_rate / 5)}, or fewer steps" if facts.peak_rate else None,
        "read answers before and after in the report: what got worse?",
        holds_closer(facts),
    ]


def _to_know_more(facts: Facts, gain: Gain) -> list[str | None]:
    reach = gain.value - gain.low
    if gain.value <= 0 or gain.prompts < 2:
        return ["more steps", "look at the answers before and after in the report"]
    needed = round(gain.prompts * (reach / gain.value) ** 2) + 1
    why = f"to tell a gain of {number(gain.value)} from chance takes about {needed:,} held-out prompts"
    fraction = facts.card.run.eval_fraction
    if gain.prompts < needed < MOST_PROMPTS and fraction and fraction * needed / gain.prompts <= HALF:
        return [f"--eval-fraction {fraction * needed / gain.prompts:.2g}: {why}", "more steps"]
    return [f"more prompts to hold out: {why}" if gain.prompts < needed < MOST_PROMPTS else None, "more steps"]


# --- rewards that say nothing --------------------------------------------------------------------------------------


def constant_reward(facts: Facts) -> Iterator[Verdict]:
    """A reward, or a part of it, that is the same for every answer of every step."""
    if _is_constant(facts):
        rewards, steps = facts.trend("reward"), len(facts.run.steps)
        same = f"{number(rewards.values[0])} for each of {_answers_of(facts, steps):,} answers in {steps} logged steps"
        yield verdict("constant-reward", "error", [("reward", same)], _ASK_REWARD)
        return
    still = [name for name in reward_parts(facts.run.steps) if _stands_still(facts.trend(f"rewards/{name}/mean"))]
    if not still or len(reward_parts(facts.run.steps)) < 2 or not facts.method.writes_answers:
        return
    evidence = [
        (f"reward {name}", f"{number(trend.values[0])} in the mean of each of {len(trend)} logged steps")
        for name in still
        for trend in [facts.trend(f"rewards/{name}/mean")]
    ]
    meaning = "It adds the same to every answer, so that it is no part of what is learnt."
    title = f"A part of the reward says nothing: {', '.join(still)}"
    yield verdict("constant-reward", "warning", evidence, _ASK_REWARD, title=title, meaning=meaning)


_ASK_REWARD = (
    "call the reward by hand on two answers, a good one and a bad one: likelier sample --reward shows what it gives",
    "read rollouts/: a format that the reward looks for and no answer has gives 0 for ever",
)


def _is_constant(facts: Facts) -> bool:
    dead, reward = facts.trend("frac_reward_zero_std"), facts.trend("reward")
    several = (facts.card.hyperparameters.get("answers_per_prompt") or 0) > 1
    alone = not dead and len(reward) >= FEWEST and (facts.batch_size or 0) > 1
    return (min(dead.values) == 1 if several and dead else alone) and _spread(reward) <= ALIKE


def _spread(trend: Trend) -> float:
    return max(trend.values) - min(trend.values) if trend else float("inf")


def _stands_still(trend: Trend) -> bool:
    return len(trend) >= FEWEST and _spread(trend) <= ALIKE


def _answers_of(facts: Facts, steps: int) -> int:
    """Answers in so many logged steps."""
    return _groups_of(facts, steps) * int(facts.card.hyperparameters.get("answers_per_prompt") or 1)


def _groups_of(facts: Facts, steps: int) -> int:
    """Prompts of so many logged steps; those that learn from the same answers again are not logged as more."""
    updates = facts.card.block("online").get("updates_per_rollout") or 1
    return steps * max(1, (facts.card.options.logging_steps or 1) // updates) * (facts.batch_size or 1)


def dead_groups(facts: Facts) -> Iterator[Verdict]:
    """Prompts whose answers all earn the same, so that nothing is learnt from them."""
    dead = facts.trend("frac_reward_zero_std")
    compared = facts.method.compares_answers and facts.card.hyperparameters.get("advantage") != "step"
    if not facts.method.writes_answers or not dead or not compared or _is_constant(facts):
        return
    groups = _groups_of(facts, dead.third)
    share = dead.last.value
    low, high = wilson(share * groups, groups)
    if low <= HALF:
        return
    evidence = [
        (
            "prompts whose answers earn the same",
            f"{interval(share, low, high, groups)}, in the last third of the steps",
        ),
        ("at first", percent(dead.values[0])),
        _where_dead(facts),
    ]
    each = facts.card.hyperparameters.get("answers_per_prompt")
    advice = [
        "prompts of another difficulty: those that the policy always solves, or never, teach nothing",
        "a reward with steps between all and nothing",
        f"--answers-per-prompt {2 * each}: more answers differ more often" if isinstance(each, int) else None,
    ]
    yield verdict("dead-groups", "warning", evidence, advice)


def _where_dead(facts: Facts) -> tuple[str, str] | None:
    """What the answers of such groups earn, in the rollouts that are kept: the least, the most, or between."""
    groups = [[one.reward or 0.0 for one in group.judged] for step in facts.rollouts for group in step.groups]
    known = [group for group in groups if len(group) > 1]
    alike = [group[0] for group in known if max(group) - min(group) <= ALIKE]
    if not alike or len(alike) == len(known):
        return None
    least, most = min(map(min, known)), max(map(max, known))
    kinds = Counter("most" if one == most else "least" if one == least else "between" for one in alike)
    words = [
        f"{kinds['most']} where all earn the most ({number(most)})" if kinds["most"] else "",
        f"{kinds['least']} where all earn the least ({number(least)})" if kinds["least"] else "",
        f"{kinds['between']} between" if kinds["between"] else "",
    ]
    return f"of {len(alike)} such prompts in rollouts/", ", ".join(filter(None, words))


def share_level(facts: Facts, name: str) -> tuple[Level, float, float, int]:
    """A share of answers in the last third of the steps, with its 95 % interval and of how many answers it is."""
    trend = facts.trend(name)
    count = _answers_of(facts, trend.third) if trend else 0
    last = trend.last if trend else Level(0.0)
    low, high = wilson(last.value * count, count)
    return last, low, high, count
