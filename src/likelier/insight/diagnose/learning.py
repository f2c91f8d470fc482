"""Not learning: both rewards stay near zero. Which of the causes it is follows from the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log10

from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.ending import NO_GRADIENT, UNCHANGED, ended_with, first_lines
from likelier.insight.diagnose.facts import MOVED, SIDES, Facts
from likelier.insight.diagnose.statistics import SURE, Level
from likelier.insight.diagnose.words import from_to, number, rate
from likelier.insight.verdicts import Verdict

TOO_FEW = 3  # steps: the first ones warm up, and the last one's effect is not logged any more
FEW_STEPS = 20  # of which the first two or three warm up
MANY_STEPS = 200  # what would be a usual run: if that many steps would not do, more steps are no help
SHORT_REACH = 1.0  # nats between two answers at which a loss must not be satisfied yet: e^1 = 2.7 times
STILL_NOTHING = 5.0  # nats: overshoot of the first steps beyond a short reach; more than that is learning
WANTED = 4 * MOVED  # what the proposed learning rate aims at in as many steps
BIGGEST_CHANGE = 100.0  # of a learning rate at once


def no_gradient(facts: Facts) -> Iterator[Verdict]:
    """A gradient that is exactly 0 from the first step on, or none at all."""
    if ended_with(facts, NO_GRADIENT):
        evidence = [("error", first_lines(facts.card.error or "")), _parameters(facts)]
        yield verdict("not-learning/frozen-weights", "error", evidence, _unfreeze(facts))
    gradients, losses = facts.trend("grad_norm"), facts.trend("loss")
    if not gradients or max(gradients.values) > 0 or min(facts.trend("frac_reward_zero_std").values, default=0) == 1:
        return  # where all that is compared earns the same, it is the reward that says nothing
    evidence = [
        ("gradient norm", f"0 in all of {len(gradients)} logged steps"),
        ("loss", f"{number(losses.values[0])}, and {number(losses.values[-1])} at the end") if losses else None,
        _parameters(facts),
    ]
    if losses and all(abs(loss) == 0 for loss in losses.values):
        yield verdict("not-learning/zero-gradient", "error", evidence, _weigh(facts))
    else:
        yield verdict("not-learning/frozen-weights", "error", evidence, _unfreeze(facts))


def _weigh(facts: Facts) -> list[str]:
    """What to do where every row counts nothing."""
    zero = [f"--{name.replace('_', '-')} is 0" for name in _WEIGHTS if facts.card.hyperparameters.get(name) == 0]
    column = ["rows of weight 0 (--use-weights)"] if facts.card.options.use_weights is not None else []
    looked = f"look at the weights: {', '.join([*zero, *column])}" if zero or column else "look at the rows' weights"
    return [looked, "look at the rows that are left: likelier audit DATA --model M"]


def _unfreeze(facts: Facts) -> list[str]:
    """What to do where no weight reaches the loss."""
    if facts.card.adapter or facts.card.lora.get("lora_r"):
        return [
            "name layers that matter, --lora-targets q_proj,k_proj,v_proj,o_proj (or leave it out)",
            "from Python: both halves of an adapter must be trainable; the second starts at 0 and passes no gradient",
        ]
    return ["unfreeze the weights (requires_grad) before the trainer is made, or train an adapter: --lora-r 16"]


_WEIGHTS = ("desirable_weight", "undesirable_weight")


def unchanged(facts: Facts) -> Iterator[Verdict]:
    """A run that ended with the weights that it began with, although there was a gradient."""
    gradients = facts.trend("grad_norm")
    if not _is_unchanged(facts) or (gradients and max(gradients.values) == 0):
        return
    evidence = [
        ("error", first_lines(facts.card.error or "")) if ended_with(facts, UNCHANGED) else None,
        ("learning rate", f"0 in all of {len(facts.rates)} steps") if facts.could_not_move else None,
        ("highest learning rate", rate(facts.peak_rate)) if facts.peak_rate else None,
        _change(facts, "grad_norm"),
    ]
    yield verdict(
        "not-learning/unchanged-weights", "error", evidence, _STILL if facts.could_not_move else _larger_updates(facts)
    )


def _is_unchanged(facts: Facts) -> bool:
    is_over = facts.card.status in ("done", "failed")
    return ended_with(facts, UNCHANGED) or (is_over and facts.could_not_move)


_STILL = (
    "--warmup 0: the first step of a warm-up has learning rate 0, as in transformers",
    "or more steps, of smaller batches or in more passes over the data",
)


def _larger_updates(facts: Facts) -> list[str | None]:
    in_16_bits = facts.card.precision in (None, "bfloat16", "float16")
    return [
        f"--learning-rate {rate(10 * facts.peak_rate)}: an update below the last digit of a weight is rounded away"
        if facts.peak_rate
        else "a higher learning rate: an update below the last digit of a weight is rounded away",
        "--dtype bfloat16 keeps trained weights in 32 bits, and so does float32" if in_16_bits else None,
    ]


def _parameters(facts: Facts) -> tuple[str, str] | None:
    known = facts.card.parameters
    if not known:
        return None
    return "weights that may be trained", f"{known.trainable:,} of {known.all:,}"


def not_learning(facts: Facts) -> Iterator[Verdict]:
    """Log-ratios that stay near 0 although there is a gradient: beta, learning rate or number of steps."""
    moved, gradients = facts.moved, facts.trend("grad_norm")
    if moved is None or not facts.run.steps or (gradients and max(gradients.values) == 0) or _is_unchanged(facts):
        return
    if _satisfied_at_once(facts, moved):
        yield _beta(facts, moved)
    elif moved.value + SURE * _known(moved) < MOVED and not _is_early(facts):
        yield _steps_or_rate(facts, moved)


def _known(moved: Level) -> float:
    """The error, 0 where too few steps are known to tell."""
    return moved.error if moved.error < float("inf") else 0.0


def _is_early(facts: Facts) -> bool:
    """Whether it trains, or was stopped, and is not far enough to be blamed."""
    planned = facts.card.total_steps or 0
    return facts.card.status != "done" and facts.steps < max(FEW_STEPS, 0.3 * planned)


def _satisfied_at_once(facts: Facts, moved: Level) -> bool:
    """The loss asks for less than a nat, has got half of it, and the policy has hardly moved."""
    reach = facts.reach
    return reach is not None and reach < SHORT_REACH and reach / 2 <= moved.value < STILL_NOTHING


def _beta(facts: Facts, moved: Level) -> Verdict:
    reach, scale = facts.reach or 0.0, facts.scale or 0.0
    name = facts.method.strength
    proposed = _gentler(facts)
    evidence = [
        (name, f"{scale:g}: the loss is satisfied where the two answers are {number(reach)} nats apart"),
        *_movement(facts),
        _change(facts, "loss"),
        _change(facts, "grad_norm"),
    ]
    advice = [
        f"{facts.method.strength_flag} {proposed:g}, so that the loss asks for some nats an answer"
        + (" (or leave it out: it is then chosen from the data)" if facts.method.strength_from_data else ""),
        "then look at the learning rate: with a smaller value the gradient lasts longer, and steps go farther",
    ]
    return verdict("not-learning/beta", "warning", evidence, advice)


def _gentler(facts: Facts) -> float:
    """A beta or tau at which the loss asks for what DPO's 0.1 asks for; IPO's target is then 5 nats an answer."""
    reach, scale, wanted = facts.reach or 1.0, facts.scale or 1.0, 5.0 if facts.method.has_target else 50.0
    return float(f"{scale * reach / wanted:.2g}")


def _steps_or_rate(facts: Facts, moved: Level) -> Verdict:
    evidence = [
        *_movement(facts),
        ("steps", f"{facts.steps}, {facts.batch_size} rows each" if facts.batch_size else str(facts.steps)),
        _standing_steps(facts),
        ("highest learning rate", rate(facts.peak_rate)) if facts.peak_rate else None,
        _change(facts, "loss"),
        _change(facts, "grad_norm"),
        _parameters(facts),
    ]
    if not facts.shows_movement:
        return verdict("not-learning/too-few-steps", "warning", evidence, _more_steps(facts), meaning=_UNSEEN)
    at_this_pace = moved.value / max(facts.steps, 1) * MANY_STEPS
    if facts.steps <= TOO_FEW or (facts.steps < FEW_STEPS and at_this_pace >= MOVED):
        far = f"{number(at_this_pace, signed=True)} {facts.unit}"
        pace = ("at this pace", f"{MANY_STEPS} steps would move an answer by {far}")
        return verdict("not-learning/too-few-steps", "warning", [*evidence, pace], _more_steps(facts))
    return verdict("not-learning/learning-rate", "warning", evidence, _faster(facts, moved))


_UNSEEN = (
    "Only the last step had a learning rate above 0, since a warm-up begins there, and the figures of a step are those "
    "before it moves the weights: whether the policy has moved stands in none of them."
)


def _standing_steps(facts: Facts) -> tuple[str, str] | None:
    standing = sum(value == 0 for value in facts.rates)
    return ("steps at learning rate 0", f"{standing} of {len(facts.rates)}") if standing else None


def _more_steps(facts: Facts) -> list[str | None]:
    smaller = max(1, (facts.batch_size or 8) // 4)
    return [
        f"--batch-size {smaller}: more steps from the same rows" if (facts.batch_size or 0) > smaller else None,
        _longer(facts),
        f"--learning-rate {rate(3 * facts.peak_rate)}" if facts.peak_rate else None,
    ]


def _longer(facts: Facts) -> str:
    """More steps by the option that ended the run."""
    if facts.card.options.max_steps:
        return f"--max-steps {max(MANY_STEPS // 4, 4 * facts.card.options.max_steps)}, or more rows"
    times = ceil(MANY_STEPS / 4 / max(facts.steps, 1))
    return f"--epochs {max(1, round(facts.epochs)) * max(2, times)}, or more rows"


def _faster(facts: Facts, moved: Level) -> list[str | None]:
    advice: list[str | None] = []
    if facts.peak_rate:
        missing = WANTED / max(moved.value, 1e-12)
        factor = min(BIGGEST_CHANGE, 10 ** max(1, ceil(log10(missing))))
        advice.append(f"--learning-rate {rate(factor * facts.peak_rate)} ({factor:g} times this one)")
    if facts.card.learning_rate and facts.card.learning_rate.source == "given":
        advice.append("or leave --learning-rate out: the run then takes the method's own and prints its source")
    advice.append("small models and small data take higher rates than the defaults, which are for billions of weights")
    return advice


def _movement(facts: Facts) -> Iterator[tuple[str, str]]:
    if facts.method.reads_values and facts.moved is not None:
        yield "scores changed by", f"{number(facts.moved.value)} an answer"
    elif not facts.method.reads_values:
        what = "log-ratio to the reference" if facts.scale else "log-probability against the start"
        for side in (side for side in SIDES if side in facts.lost):
            yield f"{what}, {side} answers", facts.told(facts.lost[side])
    if facts.separated is not None:
        yield "margin between the two", facts.told(facts.separated)


def _change(facts: Facts, name: str) -> tuple[str, str] | None:
    trend = facts.trend(name)
    words = {"grad_norm": "gradient norm"}
    return (words.get(name, name), from_to(trend.values[0], trend.values[-1])) if trend else None
