"""A run as the checks see it: rewards turned into nats, first against last, held-out data before training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from likelier.insight.diagnose import words
from likelier.insight.diagnose.items import Items, items_of
from likelier.insight.diagnose.statistics import Level, Trend, trend_of
from likelier.insight.diagnose.words import from_to, number
from likelier.insight.kl import is_above_zero, kl_words
from likelier.runs.card import RunCard
from likelier.runs.evaluations import Detail, TellingPair
from likelier.runs.method import MethodFacts
from likelier.runs.reader import Row, Run, one_of, without_prefix
from likelier.runs.rollouts import WrittenStep

SIDES = ("chosen", "rejected")
MOVED = 0.5  # nats: one answer became 1.6 times likelier than it was; less cannot be seen in what a model writes


@dataclass(frozen=True)
class Facts:
    """A run, and what follows from its files. Log-ratios are log pi - log pi_ref, summed over an answer, in nats."""

    run: Run

    # --- what kind of run ------------------------------------------------------------------------------------------

    @property
    def card(self) -> RunCard:
        """run.json"""
        return self.run.card

    @cached_property
    def method(self) -> MethodFacts:
        """What the run recorded of its method."""
        return self.card.facts

    @cached_property
    def scale(self) -> float | None:
        """What a log-ratio is multiplied by to give a reward; None where rewards are something else."""
        return self.card.reward_scale or None

    @cached_property
    def compares(self) -> bool:
        """Whether it learns that one answer is better than another."""
        return any("rewards/rejected" in row for row in (*self.run.steps, *self.run.evaluations))

    @cached_property
    def wants_pairs(self) -> bool:
        """Whether the method is one for pairs, which all take the weight of a likelihood term."""
        return "nll_weight" in self.card.hyperparameters

    # --- training --------------------------------------------------------------------------------------------------

    @cached_property
    def steps(self) -> int:
        """Optimizer steps that were logged."""
        return int(self.run.steps[-1].get("step", len(self.run.steps))) if self.run.steps else 0

    @cached_property
    def epochs(self) -> float:
        """Passes over the data that were made; 0 where that was not logged."""
        return float(self.run.steps[-1].get("epoch", 0.0)) if self.run.steps else 0.0

    @cached_property
    def peak_rate(self) -> float | None:
        """The highest learning rate that was logged; the one of the card where none was."""
        logged = self.trend("learning_rate").values
        return max(logged) if logged else self.card.learning_rate and self.card.learning_rate.value

    @cached_property
    def rates(self) -> tuple[float, ...]:
        """The learning rate of every step; empty where that of one is unknown. A warm-up begins at 0."""
        logged = self.trend("learning_rate").values
        return logged if len(logged) == self.steps else ()

    @property
    def could_not_move(self) -> bool:
        """Whether every step had learning rate 0."""
        return bool(self.rates) and max(self.rates) == 0

    @property
    def shows_movement(self) -> bool:
        """Whether a step that could move the weights lies before the last figures: those of a training step are
        computed before it moves them.
        """
        return not self.rates or max(self.rates[:-1], default=0.0) > 0 or any(map(self.on_held_out, SIDES))

    @property
    def batch_size(self) -> int | None:
        """Pairs or rows of a step."""
        return self.card.options.batch_size

    def trend(self, name: str) -> Trend:
        """A metric over the training steps."""
        return trend_of(self.run.column(name))

    def logratio(self, side: str) -> Trend:
        """The log-ratios of a side over the training steps, in nats; empty without a reference that stays."""
        return self.trend(f"rewards/{side}").scaled(1 / self.scale) if self.scale and not self.moves else Trend((), ())

    @cached_property
    def margin(self) -> Trend:
        """Chosen minus rejected log-ratio over the training steps, in nats; empty without a reference that stays."""
        return self.trend("rewards/margins").scaled(1 / self.scale) if self.scale and not self.moves else Trend((), ())

    @property
    def moves(self) -> bool:
        """Whether the reference moved: log-ratios in training are then no distance from anything that stays."""
        return self.card.reference.moves is not None

    @cached_property
    def length(self) -> float:
        """Mean tokens of an answer that is trained on."""
        known = [value for side in SIDES for value in self.trend(f"lengths/{side}").values]
        return sum(known) / len(known) if known else float(self.card.data.median_answer_length or 1)

    # --- evaluations -----------------------------------------------------------------------------------------------

    @cached_property
    def start(self) -> Row:
        """The evaluation before the first step; empty without one."""
        found = next((row for row in self.run.evaluations if row.get("step") == 0), None)
        return found or without_prefix(self.card.evaluation_start)

    @cached_property
    def latest(self) -> Row:
        """The last evaluation after the first step; empty without one."""
        after = [row for row in self.run.evaluations if row.get("step", 0) > 0]
        return after[-1] if after else without_prefix(self.card.evaluation_end)

    def from_start_to_now(self, name: str) -> tuple[float, float] | None:
        """An evaluation metric at the start and now; None where one of them is unknown, or the last evaluation is of
        other rows, as those at intervals are that score only some of the held-out ones.
        """
        before, now = self.start.get(name), self.latest.get(name)
        same_rows = self.start.get("items") == self.latest.get("items")
        return None if before is None or now is None or not same_rows else (before, now)

    def held_out_change(self, name: str) -> float | None:
        """An evaluation metric now minus at the start, as `from_start_to_now`."""
        known = self.from_start_to_now(name)
        return None if known is None else known[1] - known[0]

    def held_out_logratio(self, side: str) -> float | None:
        """The mean log-ratio of the held-out answers of a side, in nats; None where it is unknown."""
        if self.scale is None:
            return None
        known = self.latest.get(f"logratios/{side}")
        reward = self.latest.get(f"rewards/{side}")
        return known if known is not None else None if reward is None else reward / self.scale

    def detail(self, when: str) -> Detail:
        """As `Run.detail`, with every file read once."""
        return one_of(self.details, when)

    @cached_property
    def details(self) -> Sequence[Detail]:
        """As `Run.details`, read once."""
        return self.run.details()

    @cached_property
    def rollouts(self) -> Sequence[WrittenStep]:
        """As `Run.rollouts`, read once."""
        return self.run.rollouts()

    @property
    def kl(self) -> tuple[float, float] | None:
        """KL of the policy's answers, an answer and a token; None where it was not measured. (KTO's own metrics hold a
        `kl` too, its baseline; that has no `kl_per_token` beside it.)
        """
        an_answer, a_token = self.latest.get("kl"), self.latest.get("kl_per_token")
        return None if an_answer is None or a_token is None else (an_answer, a_token)

    @property
    def distance(self) -> tuple[str, str] | None:
        """KL in words; without a reference, or with one that moved, it is measured against the start."""
        if self.kl is None:
            return None
        what = "KL to the reference" if self.method.needs_reference and not self.moves else "KL to the start"
        asked = self.latest.get("kl_standard_error")
        prompts = len(self.detail("end").samples)
        a_token = f", {number(self.kl[1])} a token" if is_above_zero(self.kl[0], asked) else ""
        return what, f"{kl_words(self.kl[0], asked)}{a_token}" + (f", {prompts} answers" if prompts else "")

    @cached_property
    def items(self) -> Items | None:
        """The held-out answers one by one, now against the reference, else against the start; or by their scores."""
        return items_of(self.detail("start"), self.detail("last"), scores=self.method.reads_values)

    @property
    def pairs_in_tokens(self) -> Sequence[TellingPair]:
        """The pairs that were scored token by token at the end."""
        return self.detail("end").pairs

    # --- what the checks ask most ----------------------------------------------------------------------------------

    @cached_property
    def lost(self) -> dict[str, Level]:
        """For each side how its log-probability stands to the reference or the start, in nats an answer: on held-out
        data where there are any, else in the last third of training. Of a reward model what it scores.
        """
        return {side: level for side in SIDES if (level := self._standing(side)) is not None}

    def on_held_out(self, side: str) -> Level | None:
        """The same where held-out data tell it; None where they do not."""
        if self.items is not None and side in self.items.sides:
            return self.items.level(side)
        if self.method.reads_values:
            held = self.latest.get(f"rewards/{side}")
        else:
            held = self.held_out_logratio(side)
            held = self.held_out_change(f"logps/{side}") if held is None else held
        return None if held is None else Level(held, cases=int(self.latest.get("items", 0)))

    def _standing(self, side: str) -> Level | None:
        held = self.on_held_out(side)
        if held is not None:
            return held
        if (self.scale and not self.moves) or self.method.reads_values:
            trend = self.logratio(side) if self.scale else self.trend(f"rewards/{side}")
            return trend.last if trend else None
        per_token = self.token_trend(side)
        return per_token.rise.scaled(self.length) if per_token else None

    def token_trend(self, side: str) -> Trend:
        """The log-probability per token of a side over the training steps, for methods without a reference."""
        logps, lengths = self.trend(f"logps/{side}"), self.trend(f"lengths/{side}")
        both = zip(logps.values, lengths.values, strict=False)
        return Trend(logps.steps, tuple(logp / length for logp, length in both if length))

    @cached_property
    def separated(self) -> Level | None:
        """How far the chosen answers have moved away from the rejected ones, in nats, or are scored above them by a
        reward model; None where nothing compares.
        """
        if not self.compares or set(self.lost) != set(SIDES):
            return None
        if self.items is not None and self.items.is_paired:
            return self.items.margin
        margin = self.trend("rewards/margins") if self.method.reads_values else self.margin
        if margin and not self.latest:
            return margin.last
        return self.lost["chosen"] - self.lost["rejected"]

    def told(self, level: Level) -> str:
        """One of these levels in words: with its unit, its interval, and of how many rows or steps it is the mean."""
        of = "held-out rows" if any(map(self.on_held_out, SIDES)) else "logged steps"
        return words.level(level, self.unit) + (f", {level.cases:,} {of}" if level.cases else "")

    @property
    def unit(self) -> str:
        """Of what the levels are so many."""
        return "of score" if self.method.reads_values else "nats"

    @cached_property
    def moved(self) -> Level | None:
        """How far answers moved at most, in nats: the farthest mean of a step, and the typical held-out answer (root
        mean square); None where nothing is known. Of a reward model how far its scores have changed.
        """
        if self.method.reads_values:
            return self._rescored
        steps = [*self.margin.values, *(value for side in SIDES for value in self.logratio(side).values)]
        known = [*self.lost.values(), *map(Level, steps)]
        if self.items is not None:
            known += [Level(self.items.typical(side)) for side in self.items.sides]
        return max((Level(abs(one.value), one.error) for one in known), key=lambda one: one.value, default=None)

    @property
    def _rescored(self) -> Level | None:
        """How far scores are from what the model gave at first: the typical held-out answer, else training's rise."""
        if self.items is not None and (typical := max(map(self.items.typical, self.items.sides))):
            return Level(typical)
        trends = [self.trend(f"rewards/{name}") for name in (*SIDES, "margins")]
        rises = [trend.rise for trend in trends if trend]
        return max((Level(abs(one.value), one.error) for one in rises), key=lambda one: one.value, default=None)

    @cached_property
    def reach(self) -> float | None:
        """The nats between two answers at which the loss is satisfied; None where no such number is known."""
        at = self.method.satisfied_at
        return at * self.length if at and self.method.per_token else at


def change_of(facts: Facts, name: str, what: str) -> tuple[str, str] | None:
    """An evaluation metric at the start and now, in words; None where one of them is unknown."""
    known = facts.from_start_to_now(name)
    return None if known is None else (what, from_to(*known))
