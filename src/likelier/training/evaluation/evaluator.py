"""One evaluation of a run: at its start, at intervals, at its end. `schedule` bounds what the intervals cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch

from likelier.data.groups import Group
from likelier.models.generation import Written
from likelier.models.policy import Policy
from likelier.objectives import Objective
from likelier.scoring.engine import prompt_numbers
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.scoring.reference.reload import ReferenceAccess
from likelier.training.evaluation.answers import (
    Answer,
    Asked,
    answer_metrics,
    kl_metrics,
    says_while_writing,
    with_log_ratios,
    write,
)
from likelier.training.evaluation.calibration import calibration
from likelier.training.evaluation.close_ups import telling_pairs, token_by_token
from likelier.training.evaluation.heldout import (
    Evaluation,
    evaluate_as_reference,
    evaluate_groups,
    item_table,
)
from likelier.training.evaluation.schedule import some_of
from likelier.training.options import TrainingOptions
from likelier.training.rewards import Judge, reward_metrics
from likelier.utils.console import say, warn
from likelier.utils.errors import LikelierError, TrainingError, whole_reason
from likelier.utils.terminal import busy, counting

When = Literal["start", "interval", "end"]
MOST_ITEMS = 2000  # of the items whose scores are written down
_SAMPLING = 1.0  # the temperature at which KL is defined


@dataclass(frozen=True)
class Outcome:
    """An evaluation's metrics, and the content of its file."""

    metrics: dict[str, float]
    detail: dict[str, Any]


@dataclass
class Evaluator:
    """Evaluates one policy on its held-out groups.

    Args:
        policy, objective, options: of the run.
        held_out: all held-out groups, with reference scores where they are stored.
        words: the last turn of the prompt of each row, by its place in the data.
        reference: whom KL is measured against; None where it cannot be asked.
        judge: gives written answers a reward.
        how: token budget and device.
        live: brings groups their reference scores where these are not stored.
        began: the file of the evaluation at the start, in a run that goes on.
    """

    policy: Policy
    objective: Objective
    options: TrainingOptions
    held_out: Sequence[Group]
    words: Mapping[str, str]
    reference: ReferenceAccess | None
    judge: Judge | None
    how: ReferenceScoring
    live: Callable[[Sequence[Group]], list[Group]]
    began: Mapping[str, Any] | None = None
    seconds: dict[When, float] = field(default_factory=dict)

    @cached_property
    def asked(self) -> list[Asked]:
        """The prompts that the policy answers: evenly spaced among the distinct ones."""
        first: dict[int, Group] = {}
        for number, group in zip(prompt_numbers(self.held_out).tolist(), self.held_out, strict=True):
            first.setdefault(number, group)
        groups, most = self._with_room(list(first.values())), self.options.answered_prompts
        step = max(1.0, len(groups) / most) if most else 1.0
        kept = [groups[int(place * step)] for place in range(min(most, len(groups)))]
        return [Asked(tuple(group.prompt.tolist()), self.words_of(group), group.source) for group in kept]

    def _with_room(self, groups: list[Group]) -> list[Group]:
        """Those whose prompt leaves room for an answer in the model's context."""
        context, tokens = self.policy.context, self.options.answer_tokens
        found = [group for group in groups if context is None or len(group.prompt) + tokens <= context]
        if len(found) < len(groups) and self.options.answered_prompts:
            warn(
                f"{len(groups) - len(found)} of {len(groups)} held-out prompts leave no room for an answer of {tokens} "
                f"tokens in the model's context of {context}; the policy is not asked them"
            )
        return found

    def words_of(self, group: Group) -> str:
        """The last turn of a group's prompt."""
        known = self.words.get(str(group.source))
        return known or self.policy.tokenizer.decode(group.prompt, skip_special_tokens=True)

    def evaluate(self, when: When, step: int) -> Outcome:
        """Score and, where asked for, let the policy write."""
        begun = time.monotonic()
        groups = some_of(self.held_out, self.options.interval_items) if when == "interval" else self.held_out
        found = self._score(groups, when, step)
        metrics, detail = dict(found.metrics), {"step": step, "when": when, "items_of": len(self.held_out)}
        detail["items"] = item_table(found, MOST_ITEMS)
        if self.objective.reads_values and found.pairs is not None:
            scores = found.scored.logps[found.pairs]
            told, detail["calibration"] = calibration(
                scores[:, 0] - scores[:, 1], prompt_numbers(found.groups).tolist()
            )
            metrics |= told
        if self.asked:
            with self._reference(when, groups) as reference:
                answered = self._answer(when, reference)
                metrics |= answered.metrics
                detail |= answered.detail
                if when == "end" and reference is not None:
                    with busy("looking at the telling rows, token by token"):
                        detail |= self._look_closer(found, reference)
        if when == "start":
            self.began = detail
        seconds = time.monotonic() - begun
        self.seconds[when] = self.seconds.get(when, 0.0) + seconds
        return Outcome(metrics | {"seconds": round(seconds, 3)}, detail)

    def account(self, interval: int | None, training_seconds: float) -> dict[str, Any] | None:
        """What the evaluations took, for the run card; None where nothing is held out."""
        if not self.held_out:
            return None
        share = self.seconds.get("interval", 0.0) / max(training_seconds, 1e-9)
        seconds = {when: round(took, 3) for when, took in self.seconds.items()}
        return {"eval_steps": interval, "seconds": seconds, "share_at_intervals": round(share, 4)}

    def go_on_from(self, logged: Sequence[Mapping[str, Any]]) -> None:
        """Take over what an interrupted run spent, from the lines of its metrics."""
        between = [line["eval_seconds"] for line in logged if line.get("step") and "eval_seconds" in line]
        self.seconds["interval"] = float(sum(between))

    def _score(self, groups: Sequence[Group], when: When, step: int) -> Evaluation:
        found, groups = None, self.live(groups)
        if self._is_reference(when):
            dtype = torch.float64 if self.policy.compute_dtype == torch.float64 else torch.float32
            found = evaluate_as_reference(self.objective, groups, self.how.device, dtype)
        if found is None:
            with counting("evaluating", len(groups)) as report:
                settings = replace(self.how, report=report).settings
                found = evaluate_groups(self.policy.model, self.objective, groups, **settings)
        if not bool(torch.isfinite(found.scored.logps).all()):
            raise TrainingError(
                f"evaluation at step {step}: the policy's log-probability of a held-out answer is not finite; the "
                "weights are damaged. Lower the learning rate, and go on from an earlier checkpoint"
            )
        return found

    # --- the reference ---------------------------------------------------------------------------------------------

    def _is_reference(self, when: When) -> bool:
        """Whether the policy is its reference: it was proved to start as that, and has made no step. What both would
        say is then the same number, and nothing is scored for it a second time.
        """
        return when == "start" and self.reference is not None and self.reference.reference.equals_policy

    @contextmanager
    def _reference(self, when: When, groups: Sequence[Group]) -> Iterator[Reference | None]:
        """The reference, where it can be asked at this time: at hand always, else loaded at the end."""
        known = self.reference
        if known is None or self._is_reference(when) or not known.can_be_asked or not (known.at_hand or when == "end"):
            yield None
            return
        if not known.at_hand:
            say("evaluation: the reference is loaded once more, to measure KL")
        with ExitStack() as stack:
            reference = None
            try:
                reference = stack.enter_context(known.opened(groups))
            except LikelierError as error:  # after all the training, the rest of the evaluation is worth having
                warn(f"KL to the reference is not measured: {error}")
            yield reference

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, when: When, reference: Reference | None) -> Outcome:
        """Answers drawn at temperature 1; greedy ones too at the start and the end."""
        temperatures = [_SAMPLING] if when == "interval" else [_SAMPLING, 0.0]
        drawn, *others = self._compared(when, [self._write(one) for one in temperatures], reference)
        metrics = kl_metrics(drawn)
        if when == "interval":
            return Outcome(metrics | answer_metrics(drawn, self._at_start("tokens")), {})
        drawn, greedy = (self._judged(answers, when) for answers in (drawn, *others))
        rewards = [answer.reward for answer in drawn if answer.reward is not None]
        if rewards:
            metrics |= reward_metrics(rewards, self._at_start("reward"))
        samples = [
            {
                "source": str(one.source),
                "prompt": one.words,
                "greedy": likeliest.as_json(),
                "sampled": sampled.as_json(),
            }
            for one, likeliest, sampled in zip(self.asked, greedy, drawn, strict=True)
        ]
        return Outcome(metrics | answer_metrics(drawn, self._at_start("tokens")), {"samples": samples})

    def _write(self, temperature: float) -> list[Written]:
        most = self.options.answer_tokens
        with counting(f"writing {len(self.asked)} answers, in tokens", len(self.asked) * most) as report:
            return write(
                self.policy,
                self.asked,
                new_tokens=most,
                temperature=temperature,
                seed=self.options.seed,
                token_budget=self.how.token_budget,
                report=report,
            )

    def _compared(
        self, when: When, sets: Sequence[Sequence[Written]], reference: Reference | None
    ) -> list[list[Answer]]:
        """Each set of answers with the log-ratios that are known at this time."""
        if reference is None:
            ratio = 0.0 if self._is_reference(when) else None
            return [[Answer(one, logratio=ratio) for one in written] for written in sets]
        passes = 1 if says_while_writing(self.policy) else 2
        with counting("scoring what was written", passes * len(self.asked)) as report:
            return with_log_ratios(self.policy, reference.use, self.asked, sets, replace(self.how, report=report))

    def _judged(self, answers: list[Answer], when: When) -> list[Answer]:
        if self.judge is None:
            return answers
        try:
            with busy(f"the judge reads {len(answers)} answers"):
                rewards = self._rewards(self.judge, [answer.written.text for answer in answers])
        except Exception as error:  # the user's own code; after all the training the rest is worth having
            if when != "end":
                raise
            reason = error if isinstance(error, LikelierError) else f"{type(error).__name__}: {whole_reason(error)}"
            warn(f"the answers are not judged: {reason}")
            return answers
        return [replace(answer, reward=reward) for answer, reward in zip(answers, rewards, strict=True)]

    def _rewards(self, judge: Judge, answers: list[str]) -> list[float]:
        """The judge is asked by the first rank alone: it may be slow, or cost something."""
        ranks, prompts = self.how.ranks, [one.words for one in self.asked]
        if not ranks.several:
            return list(judge(prompts, answers))
        told, failure = torch.zeros(1 + len(answers), dtype=torch.double), None
        try:
            if ranks.is_first:
                told = torch.tensor([1.0, *judge(prompts, answers)], dtype=torch.double)
        except Exception as error:
            failure = error
        told = ranks.total(told)
        if not told[0]:
            raise failure or TrainingError("the judge failed in the first process")
        return told[1:].tolist()

    def _at_start(self, figure: str) -> list[Any]:
        """A figure of each drawn answer at the start of the run, where it is known for all."""
        samples = (self.began or {}).get("samples", [])
        found = [sample["sampled"][figure] for sample in samples if figure in sample["sampled"]]
        return found if len(found) == len(self.asked) else []

    # --- a closer look ---------------------------------------------------------------------------------------------

    def _look_closer(self, found: Evaluation, reference: Reference) -> dict[str, Any]:
        chosen = telling_pairs(found, self.objective)
        if not chosen:
            return {}
        scale = self.objective.reward_scale()
        pairs = token_by_token(chosen, self.words_of, self.policy, reference, self.how, 1.0 if scale is None else scale)
        return {"pairs": pairs}
