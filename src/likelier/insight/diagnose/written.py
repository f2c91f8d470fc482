"""How the policy writes where it learns from its own answers: certain, long, cut off, held back, or far away."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from likelier.insight.diagnose.answers import FAR, FAR_PER_TOKEN, LONGER, TOO_FAR_PER_TOKEN
from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.earned import held_out_gain, holds_closer, share_level
from likelier.insight.diagnose.facts import MOVED, Facts
from likelier.insight.diagnose.statistics import Trend, correlation, is_correlated
from likelier.insight.diagnose.words import from_to, interval, number, percent, rate
from likelier.insight.verdicts import Severity, Verdict

BEGINNING = 3  # logged steps that stand for the start: one alone is noise
COLLAPSED = 0.25  # of the entropy at the start: a quarter of its logarithm of choices a token is left
CUT = 0.1  # of the answers: from there on most groups of eight hold one that was cut (1 - 0.9^8 = 57 %)
HARDLY = 0.9  # of the answers cut: the exception is one that ends
# Ratios beyond the clip: a fifth of the tokens teach nothing more. Of whole answers more is usual (GSPO's paper).
HELD_BACK = {"token": 0.2, "sequence": 0.5, "geometric": 0.5}
APART = 2.0  # times the disagreement at the start: with the same noise in their labels it does not grow by itself
KNOWS = 0.05  # of the returns' variance: a critic that explains less leaves advantages as noisy as none would
DRIFT = MOVED  # nats an answer between sampler and scorer: one is 1.6 times likelier than the other takes it to be


def entropy_collapse(facts: Facts) -> Iterator[Verdict]:
    """Draws have become nearly certain, so that there is nothing left to choose between."""
    entropy = facts.trend("entropy")
    if not facts.method.writes_answers or len(entropy) < 2 * BEGINNING:
        return
    start = _start(entropy)
    if start <= 0 or not entropy.last.surely_below(COLLAPSED * start):
        return
    is_gained = _gained(facts)
    evidence = [
        ("entropy, nats a token", from_to(start, entropy.last.value)),
        _change(facts, "frac_reward_zero_std", "prompts whose answers earn the same"),
        _gain(facts),
    ]
    advice = [
        f"--learning-rate {rate(facts.peak_rate / 5)}, or fewer steps" if facts.peak_rate else None,
        _wider_clip(facts),
        holds_closer(facts),
        "a reward that several different answers can earn",
    ]
    meaning = {"meaning": _CERTAIN} if is_gained else {}
    yield verdict("entropy-collapse", "info" if is_gained else "warning", evidence, advice, **meaning)


_CERTAIN = (
    "The policy has become nearly certain of its answers, which earn more than before: it has used up what it could "
    "explore, and more steps will hardly change them."
)


def length_runaway(facts: Facts) -> Iterator[Verdict]:
    """Answers that grow and grow. Where held-out answers earn more it may be what the task takes."""
    lengths = facts.trend("completions/mean_length")
    if not facts.method.writes_answers or len(lengths) < 2 * BEGINNING:
        return
    start = _start(lengths)
    if start <= 0 or not lengths.last.surely_above(LONGER * start):
        return
    severity: Severity = "info" if _gained(facts) else "warning"
    evidence = [
        ("tokens of an answer", from_to(start, lengths.last.value)),
        _change(facts, "completions/clipped_ratio", "answers cut at the limit"),
        _with_length(facts),
        _gain(facts),
    ]
    advice = [
        "read the longest answers in rollouts/: is what was added of use?",
        "add a reward for length, for instance --reward length:..200, with a small weight (--reward-weights)",
        "--truncated penalty with --missing-eos-penalty 1 charges answers that do not end",
    ]
    yield verdict("length-runaway", severity, evidence, advice)


def _with_length(facts: Facts) -> tuple[str, str] | None:
    """The correlation of reward and length among answers to the same prompt, where it is more than noise."""
    lengths: list[float] = []
    rewards: list[float] = []
    for group in (group for step in facts.rollouts for group in step.groups):
        own = [(one.tokens, one.reward) for one in group.judged if one.reward is not None]
        if len(own) > 1:
            middle, mean = fmean(tokens for tokens, _ in own), fmean(reward for _, reward in own)
            lengths += [tokens - middle for tokens, _ in own]
            rewards += [reward - mean for _, reward in own]
    if not lengths:
        return None
    value = correlation(lengths, rewards)
    if not is_correlated(abs(value), len(lengths)):
        return None
    return (
        "reward and length of answers to one prompt",
        f"correlation {value:+.2f}, {len(lengths):,} answers in rollouts/",
    )


def models_disagree(facts: Facts) -> Iterator[Verdict]:
    """Several reward models that no longer agree on what is written."""
    spread = facts.trend("rewards/spread")
    if not facts.method.writes_answers or len(spread) < 2 * BEGINNING:
        return
    start = _start(spread)
    if start <= 0 or not spread.last.surely_above(APART * start):
        return
    evidence = [
        ("standard deviation between the models' scores", from_to(start, spread.last.value)),
        _change(facts, "reward", "reward in training"),
        _gain(facts),
        facts.distance,
    ]
    advice = [
        "read the answers in rollouts/ whose models are farthest apart: one of the two is wrong about them",
        holds_closer(facts),
        f"--learning-rate {rate(facts.peak_rate / 5)}, or fewer steps" if facts.peak_rate else None,
        "label such answers, and train the reward models on them too",
    ]
    yield verdict("reward-models-disagree", "warning", evidence, advice)


def truncated_answers(facts: Facts) -> Iterator[Verdict]:
    """Answers that reached the limit: they are judged, and learnt from, without their end."""
    if not facts.method.writes_answers:
        return
    last, low, high, count = share_level(facts, "completions/clipped_ratio")
    if not count or low <= CUT:
        return
    limit, how = (facts.card.block("online").get(name) for name in ("max_new_tokens", "truncated"))
    evidence = [
        ("answers cut at the limit", f"{interval(last.value, low, high, count)}, in the last third of the steps"),
        ("the limit", f"{limit} tokens (--max-new-tokens); cut answers: {how or 'keep'}") if limit else None,
        _change(facts, "completions/mean_terminated_length", "tokens of the others"),
    ]
    advice = [
        f"--max-new-tokens {2 * limit}, as far as memory allows" if limit else None,
        "--truncated mask leaves them out of the loss" if how in (None, "keep") else None,
        "a base model may never write an end, one that was tuned on a chat template does: --method sft teaches it",
    ]
    title = {"title": "Hardly any answer ends"} if low > HARDLY else {}
    yield verdict("truncated-answers", "warning", evidence, advice, **title)


def clip_share(facts: Facts) -> Iterator[Verdict]:
    """Many ratios beyond the clip: what they belong to has no gradient any more."""
    clipped, level = facts.trend("clip_ratio/region_mean"), str(facts.card.hyperparameters.get("ratio", "token"))
    limit = HELD_BACK.get(level, HELD_BACK["token"])
    if not facts.method.writes_answers or not clipped or not clipped.last.surely_above(limit):
        return
    updates = facts.card.block("online").get("updates_per_rollout") or 1
    evidence = [
        (f"ratios beyond the clip, of {'tokens' if level == 'token' else 'answers'}", from_to_shares(clipped)),
        _change(facts, "clip_ratio/low_mean", "below it"),
        _change(facts, "clip_ratio/high_mean", "above it"),
        ("updates on the same answers", str(updates)),
    ]
    advice = [
        f"--updates-per-rollout {max(1, updates // 2)}" if updates > 1 else None,
        f"--learning-rate {rate(facts.peak_rate / 3)}" if facts.peak_rate else None,
    ]
    yield verdict("clip-share", "warning", evidence, advice)


def kl_blow_up(facts: Facts) -> Iterator[Verdict]:
    """Far from the reference: by a nat a token, or by less while held-out answers do not earn more."""
    if not facts.method.writes_answers:
        return
    found = _divergence(facts)
    if found is None:
        return
    where, an_answer, a_token = found
    is_far = an_answer >= FAR or a_token >= FAR_PER_TOKEN
    if not (a_token >= TOO_FAR_PER_TOKEN or (is_far and not _gained(facts))):
        return
    evidence = [
        (f"KL to the reference, {where}", f"{number(an_answer)} nats an answer, {number(a_token)} a token"),
        _change(facts, "kl", "in training, nats an answer"),
        _gain(facts),
    ]
    advice = [
        f"--learning-rate {rate(facts.peak_rate / 5)}, or fewer steps" if facts.peak_rate else None,
        holds_closer(facts),
    ]
    yield verdict("kl-blow-up", "warning", evidence, advice)


def _divergence(facts: Facts) -> tuple[str, float, float] | None:
    """Where KL was measured, in nats an answer and a token; only where it is surely above 0."""
    if facts.kl is not None:
        error = facts.latest.get("kl_standard_error") or 0.0
        return ("held-out prompts", *facts.kl) if facts.kl[0] > 2 * error else None
    kl, lengths = facts.trend("kl"), facts.trend("completions/mean_length")
    if not kl or not lengths or not kl.last.surely_above(0.0):
        return None
    return "last third of the steps", kl.last.value, kl.last.value / max(lengths.last.value, 1.0)


def sampler_drift(facts: Facts) -> Iterator[Verdict]:
    """Answers are drawn from another distribution than the one that is trained."""
    drift, lengths = facts.trend("sampler/kl"), facts.trend("completions/mean_length")
    if not facts.method.writes_answers or not drift or not lengths:
        return
    an_answer = drift.last.scaled(lengths.last.value)
    if not an_answer.surely_above(DRIFT):
        return
    corrected = facts.card.hyperparameters.get("tis")
    evidence = [
        ("KL of sampler to scorer", f"{number(an_answer.value)} nats an answer, {number(drift.last.value)} a token"),
        _change(facts, "sampler/max_diff", "largest difference of a token, nats"),
        ("corrected by truncated importance sampling", str(corrected)) if corrected else None,
    ]
    advice = [
        "--tis token weighs each token by how much likelier the scorer finds it" if not corrected else None,
        "a server in the policy's own precision, with the newest adapter, and without quantized weights or cache",
    ]
    yield verdict("sampler-drift", "info" if corrected else "warning", evidence, advice)


def blind_critic(facts: Facts) -> Iterator[Verdict]:
    """A critic whose values say no more of what answers earn than one number would."""
    explained = facts.trend("value/explained_variance")
    if len(explained) < 2 * BEGINNING or not explained.last.surely_below(KNOWS):
        return
    updates = facts.card.block("online").get("updates_per_rollout") or 1
    own, warmup = (facts.card.hyperparameters.get(name) for name in ("critic_learning_rate", "critic_warmup"))
    evidence = [
        ("share of the returns' variance that its values explain", from_to_shares(explained)),
        _change(facts, "value/loss", "its loss"),
        _gain(facts),
    ]
    peak = own or facts.peak_rate
    advice = [
        f"--critic-learning-rate {rate(5 * peak)}" if peak else None,
        f"--critic-warmup {max(2, 2 * (warmup or 0))}: it learns alone from so many rollouts first",
        "--reward model:FOLDER: a critic that begins as the reward model knows what answers earn",
        f"--updates-per-rollout {2 * updates}" if updates < 4 else None,
    ]
    yield verdict("blind-critic", "info" if _gained(facts) else "warning", evidence, advice)


# --- shared --------------------------------------------------------------------------------------------------------


def from_to_shares(trend: Trend) -> str:
    """A share that changed over the steps."""
    return f"{percent(_start(trend))} at first, {percent(trend.last.value)} in the last third"


def _start(trend: Trend) -> float:
    return fmean(trend.values[:BEGINNING])


def _change(facts: Facts, name: str, what: str) -> tuple[str, str] | None:
    trend = facts.trend(name)
    return (what, from_to(_start(trend), trend.last.value)) if trend else None


def _gained(facts: Facts) -> bool:
    """Whether held-out answers surely earn more than before."""
    gain = held_out_gain(facts)
    return gain is not None and gain.is_above


def _gain(facts: Facts) -> tuple[str, str] | None:
    gain = held_out_gain(facts)
    return None if gain is None else ("held-out gain over the start", str(gain))


def _wider_clip(facts: Facts) -> str | None:
    own = facts.card.hyperparameters.get("clip_high")
    low = facts.card.hyperparameters.get("clip_low")
    updates = facts.card.block("online").get("updates_per_rollout") or 1
    if updates < 2 or own is None or low is None or own > low:
        return None
    return f"--clip-high {1.4 * own:.2g}, above --clip-low: unlikely tokens may then rise farther"
