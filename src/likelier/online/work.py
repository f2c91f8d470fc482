"""What a run that writes its answers computes, counted before it runs: as `training.work`, for answers to come."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from statistics import fmean

from likelier.data.lengths import Row
from likelier.objectives.online_base import OnlineObjective
from likelier.online.evaluation import MOST_SHOWN
from likelier.online.options import OnlineOptions
from likelier.training.options import TrainingOptions
from likelier.training.work import TRIAL, Looking, Work

UNTIMED = "; with answers at their longest, and without what the rewards take"
_EVALUATIONS = 5  # between start and end, where the interval is not given


def evaluation_interval(steps: int, given: int | None) -> int | None:
    """Steps between evaluations of a run of so many steps; None for none between start and end."""
    interval = given if given is not None else ceil(steps / (_EVALUATIONS + 1))
    return interval if interval and interval < steps else None


def online_steps(prompts: int, options: TrainingOptions, online: OnlineOptions) -> int:
    """Optimizer steps of a run on so many prompts: each rollout is learnt from `updates_per_rollout` times."""
    an_epoch = ceil(prompts / options.batch_size)
    return options.max_steps or ceil(an_epoch * (options.epochs or 1)) * online.updates_per_rollout


def online_work(
    prompts: Sequence[int],
    held_out: Sequence[int],
    objective: OnlineObjective,
    online: OnlineOptions,
    options: TrainingOptions,
    *,
    at_once: int,
    token_budget: int,
    share: float = 1.0,
    critic: float = 0.0,
) -> Work:
    """Count the work of a run.

    Args:
        prompts, held_out: lengths in tokens of the prompts that are learnt from and held out, a `share` of all.
        objective, online, options: the run's.
        at_once: answers that are written at once, at most; 0 where a server writes them.
        token_budget: of a micro-batch.
        critic: what a token takes in the critic, as a share of what it takes in the policy (`critic_share`); 0 without.
            It is counted as so much of a token: once more for each that is scored, and for each that is learnt from.
    """
    size, each, most = round(len(prompts) / share), objective.answers_per_prompt, online.max_new_tokens
    prompt = fmean(prompts)
    row = Row(max(1, round(prompt)), (most,) * objective.answers_learnt)
    written = Row(row.prompt, (most,) * each)
    steps = online_steps(size, options, online)
    rollouts = ceil(steps / online.updates_per_rollout)
    an_epoch = ceil(size / options.batch_size)
    asked = min(rollouts * options.batch_size, size * rollouts / an_epoch)
    micro_batch = (row,) * max(1, min(options.batch_size, token_budget // row.tokens))
    training = round(asked * row.tokens * steps / rollouts)
    together = min(options.batch_size, size, max(1, at_once // each)) * each
    return Work(
        steps=steps,
        training=round(training * (1 + critic)),
        statistics=round(asked * written.tokens * (scorings(objective, online) + critic)),
        reference=0,
        trial=TRIAL * 2 * (max(prompts) + most),
        sampling=_written(asked, prompt, each, most, together if at_once else 0),
        **_evaluations(held_out, share, objective, options, most, together if at_once else 0),
        intervals=_intervals(steps, options) if held_out else 0,
        together=together,
        prompt=max(1, round(prompt)),
        micro_batch=micro_batch,
        micro_batches=max(steps, ceil(training / (len(micro_batch) * row.tokens))),
        answers=each,
    )


def critic_share(passed: int, policy: int, head: int, prompt: float, answers: int, most: int) -> float:
    """What a token takes in a critic, which has no head for words, as a share of what it takes in the policy.

    `passed` and `policy` count the weights of both that every token meets, `head` those that answers meet besides.
    """
    row = Row(max(1, round(prompt)), (most,) * answers)
    return passed / (policy + head * row.scored / row.tokens)


def scorings(objective: OnlineObjective, online: OnlineOptions) -> int:
    """How often a rollout is scored before it is learnt from: under the reference, and before the first update."""
    return int(objective.needs_reference) + int(objective.needs_old_logps(online.updates_per_rollout))


def _written(asked: float, prompt: float, each: int, most: int, together: int) -> Looking:
    """So many prompts, answered: each is read once, and `together` answers are written at once (0: elsewhere)."""
    if not together:
        return Looking()
    return Looking(round(asked * prompt), round(asked * each * most / together))


def _intervals(steps: int, options: TrainingOptions) -> int:
    interval = evaluation_interval(steps, options.eval_steps)
    return 0 if interval is None else (steps - 1) // interval


def _evaluations(
    held_out: Sequence[int],
    share: float,
    objective: OnlineObjective,
    options: TrainingOptions,
    most: int,
    together: int,
) -> dict[str, Looking]:
    """Each held-out prompt is answered once, at the start also as often as others are; some greedily at both ends."""
    if not held_out:
        return {"start": Looking(), "between": Looking(), "end": Looking()}
    count, prompt = round(len(held_out) / share), fmean(held_out)
    asked = count if options.eval_prompts is None else min(count, options.eval_prompts)
    compared = round(asked * (prompt + most - 1)) if objective.needs_reference else 0

    def looking(of_each: int, shown: int) -> Looking:
        several = _written(asked, prompt, of_each, most, together)
        once, greedy = (_written(number, prompt, 1, most, together) for number in (asked, shown))
        looks = (once, greedy, *([several] if of_each > 1 else []))
        return Looking(compared + sum(one.scored for one in looks), sum(one.written for one in looks))

    shown = min(asked, MOST_SHOWN)
    return {
        "start": looking(objective.answers_per_prompt, shown),
        "between": looking(1, 0),
        "end": looking(1, shown),
    }
