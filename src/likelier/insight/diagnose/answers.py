"""What the policy writes, now against the start: too far, or going round in circles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.earned import holds_closer
from likelier.insight.diagnose.facts import Facts, change_of
from likelier.insight.diagnose.statistics import BELIEVABLE, mean_of
from likelier.insight.diagnose.words import from_to, interval, number, rate
from likelier.insight.verdicts import Verdict
from likelier.utils.statistics import wilson

FAR = 10.0  # nats of KL an answer, or
FAR_PER_TOKEN = 0.25  # nats a token: each token 1.3 times likelier than under the reference, all along
TOO_FAR_PER_TOKEN = 1.0  # each token 2.7 times likelier: another model writes, whatever its answers look like
REPEATS = 0.15  # more repeated runs of four tokens than at the start
LOOPS = 0.5  # of an answer's runs repeated: it is a loop, not a sentence said twice
MORE = 0.3  # of the answers: with 16 of them less is chance
LONGER, SHORTER = 1.5, 0.5  # times the length at the start
ONE_ANSWER = 1 / 3  # of the distinct answers at the start that are left
VARIED = 0.5  # distinct answers among those drawn at the start, below which collapse cannot be seen
SAME = 0.5  # of the answers begin alike: the commonest beginning is the rule
FEWEST = 6  # answers


def over_optimization(facts: Facts) -> Iterator[Verdict]:
    """Far from the reference, and the answers are worse than at the start; or so far that it need not be asked."""
    kl, per_token = facts.kl or (0.0, 0.0)
    if not facts.compares or not (kl >= FAR or per_token >= FAR_PER_TOKEN):
        return
    signs = list(_signs(facts))
    if not signs and per_token < TOO_FAR_PER_TOKEN:
        return
    larger = f"{facts.method.strength_flag} {3 * facts.scale:.3g} holds the policy closer" if facts.scale else None
    advice = [
        f"--learning-rate {rate(facts.peak_rate / 5)}, or fewer steps" if facts.peak_rate else None,
        larger,
        _earlier(facts),
    ]
    title = {} if signs else {"title": "The policy went far away from where it began"}
    yield verdict("over-optimization", "warning", [facts.distance, *signs, _margin(facts)], advice, **title)


def _earlier(facts: Facts) -> str:
    saves = facts.card.block("options").get("save_steps")
    often = max(1, min(50, facts.steps // 4))
    take = "take the checkpoint before the answers turn"
    return take if saves and saves <= often else f"--save-steps {often}, and {take}"


def _margin(facts: Facts) -> tuple[str, str] | None:
    trend = facts.trend("rewards/margins")
    return ("margin in training, all the while", from_to(trend.values[0], trend.values[-1])) if trend else None


def _signs(facts: Facts) -> Iterator[tuple[str, str]]:
    """What got worse in the answers."""
    worse = [
        (_rose(facts, "repetition", REPEATS), "repetition", "repeated runs of four tokens"),
        (_rose(facts, "cut_answers", MORE), "cut_answers", "answers that did not end"),
        (_rose(facts, "refusals", MORE), "refusals", "refusals"),
        (_judge_fell(facts), "reward", "the judge's reward of its answers"),
    ]
    for is_worse, name, words in worse:
        shown = change_of(facts, name, words)
        if is_worse and shown:
            yield shown
    ratio = facts.latest.get("answer_length_ratio")
    if ratio is not None and not SHORTER < ratio < LONGER:
        yield "length of its answers", f"{number(ratio)} times that at the start"


def _rose(facts: Facts, name: str, by: float) -> bool:
    change = facts.held_out_change(name)
    return change is not None and change >= by


def _judge_fell(facts: Facts) -> bool:
    """Whether the same prompts' answers got lower rewards, beyond noise; or lose against those of the start."""
    if facts.latest.get("win_rate_high", 1.0) < 0.5:
        return True
    before, now = (
        [one.sampled.reward for one in facts.detail(when).samples if one.sampled.reward is not None]
        for when in ("start", "end")
    )
    if len(before) != len(now) or len(now) < FEWEST:
        return False
    return mean_of([after - earlier for earlier, after in zip(before, now, strict=True)]).surely_below(0.0, BELIEVABLE)


def repetition(facts: Facts) -> Iterator[Verdict]:
    """Loops within answers, or one answer to every prompt."""
    drawn, greedy, alike = _repeats(facts), _greedy_repeats(facts), _all_alike(facts)
    if not drawn and not greedy and not alike:
        return
    evidence = [
        change_of(facts, "repetition", "repeated runs of four tokens in its answers"),
        greedy,
        change_of(facts, "cut_answers", "answers that did not end"),
        alike,
        ("learning rate", rate(facts.peak_rate)) if facts.peak_rate else None,
    ]
    free = not facts.method.needs_reference
    advice = [
        f"--learning-rate {rate(facts.peak_rate / 10)}: {_enough(facts)} is often reached with whole sentences"
        if facts.peak_rate
        else None,
        "fewer steps, or one epoch only",
        "read the answers in rollouts/: does the reward pay for repeating?"
        if facts.method.writes_answers
        else "look at answers_without_eos in run.json: answers without an end teach the model not to stop",
        "--beta 2 or more" if free and facts.card.hyperparameters.get("beta", 2.0) < 2 else None,
    ]
    severe = alike is not None or facts.latest.get("repetition", 0.0) >= LOOPS
    yield verdict("repetition-or-collapse", "error" if severe else "warning", evidence, advice)


def _enough(facts: Facts) -> str:
    return "the same reward" if facts.method.writes_answers else "the same margin"


def _repeats(facts: Facts) -> bool:
    """Whether drawn answers repeat themselves more than at the start."""
    return facts.latest.get("repetition", 0.0) - facts.start.get("repetition", 0.0) >= REPEATS


def _greedy_repeats(facts: Facts) -> tuple[str, str] | None:
    """The same of greedy answers, which loop sooner: at temperature 1 chance leads out of a loop."""
    before, now = (
        [one.greedy.repetition for one in facts.detail(when).samples if one.greedy] for when in ("start", "end")
    )
    if not before or not now or fmean(now) < LOOPS or fmean(now) - fmean(before) < REPEATS:
        return None
    return "the same in greedy answers", from_to(fmean(before), fmean(now))


def _all_alike(facts: Facts) -> tuple[str, str] | None:
    """Answers drawn at temperature 1 that differed at the start, and do no more."""
    before, now = (_texts(facts, when) for when in ("start", "end"))
    if min(len(before), len(now)) < FEWEST or len(set(before)) < VARIED * len(before):
        return None
    if len(set(now)) / len(now) > ONE_ANSWER * len(set(before)) / len(before):
        return None
    return "distinct answers drawn", f"{len(set(before))} of {len(before)} at first, {len(set(now))} of {len(now)} now"


def same_opening(facts: Facts) -> Iterator[Verdict]:
    """Answers to different prompts that begin alike, and did not at the start: a sentence that fits every prompt is how
    a rule is kept without an answer.
    """
    before, now = (_texts(facts, when) for when in ("start", "end"))
    if not facts.method.writes_answers or min(len(before), len(now)) < FEWEST:
        return
    (_, earlier), (opening, count) = map(_commonest_opening, (before, now))
    low, high = wilson(count, len(now))
    if count < SAME * len(now) or low <= wilson(earlier, len(before))[1]:
        return
    evidence = [
        (f'answers that begin with "{opening}"', interval(count / len(now), low, high, len(now))),
        ("the commonest beginning at first", f"{earlier} of {len(before)} answers"),
        facts.distance,
    ]
    advice = [
        "read the answers in the report: do they answer their prompts?",
        "a reward that also asks for something of the prompt (a word of the question, a column of the row)",
        holds_closer(facts),
    ]
    yield verdict("same-opening", "warning", evidence, advice)


def _commonest_opening(texts: Sequence[str]) -> tuple[str, int]:
    """The two words that most texts begin with, and how many do."""
    openings = Counter(" ".join(text.split()[:2]) for text in texts)
    return openings.most_common(1)[0]


def _texts(facts: Facts, when: str) -> list[str]:
    return [one.sampled.text for one in facts.detail(when).samples]
