"""The reference of a run: named, scored, proved, and asked again where scores are not stored or answers are new."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback

from likelier.data.groups import Group
from likelier.data.views import by_numbers, joined
from likelier.models.adapter_parts import has_adapter
from likelier.models.policy import Policy, require_same_vocabulary
from likelier.objectives import Objective
from likelier.scoring import attach_scorer
from likelier.scoring.engine import ScoredGroups
from likelier.scoring.reference.identity import (
    SCORED_FIRST,
    Reference,
    base_reference,
    other_reference,
    released,
    start_reference,
    weights_hash,
)
from likelier.scoring.reference.moving import MovingReference, MovingRule
from likelier.scoring.reference.proof import ProvedReference, check_first_step, prove_reference
from likelier.scoring.reference.reload import ReferenceAccess
from likelier.scoring.reference.store import ReferenceScoring, score_live
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError

Named = Literal["start", "base"] | Policy
MEASURED = "held-out rows and KL are measured against where it began"


def rule_of(options: TrainingOptions) -> MovingRule | None:
    """How the run's reference moves; None where it stays."""
    if options.reference_moves is None:
        return None
    return MovingRule(options.reference_moves, options.moves_every, options.moved_share)


class RunReference:
    """What a run compares its policy with.

    Args:
        policy: as it stands before the first step, with a scorer attached.
        named: `start` (the policy as it is now), `base` (adapter switched off), or another policy.
        objective, options: of the run.
        how: store, token budget and device.
        asked_later: whether evaluations will ask it about answers that are not known yet.
    """

    def __init__(
        self,
        policy: Policy,
        named: Named,
        objective: Objective,
        options: TrainingOptions,
        how: ReferenceScoring,
        *,
        asked_later: bool,
    ) -> None:
        self.policy, self.objective, self.options, self.how = policy, objective, options, how
        self._named: Named | None = named
        self._load_again = named.again if isinstance(named, Policy) else policy.again
        self._asked_later = asked_later
        self._start_tolerance: float | None = None
        self._rule = rule_of(options)
        self.moving: MovingReference | None = None
        self.model: Reference | None = None
        self._compared: Reference | None = None

    @property
    def is_live(self) -> bool:
        """Whether it is asked at every step."""
        return self.model is not None and self.options.asks_reference

    def prove(
        self, train: Sequence[Group], held_out: Sequence[Group], first_step: Sequence[int]
    ) -> tuple[Sequence[Group], Sequence[Group], dict[str, Any]]:
        """Name it, score it, prove it (see `prove_reference`): both lists of groups with its scores, and what the run
        card says. Of a method without a reference the groups come back as they were, and KL will be measured against
        the policy as it began.
        """
        if not self.objective.needs_reference:
            if self._asked_later:
                self._compared = released(self._start())
            return train, held_out, {"words": "none: this method needs no reference"}
        made = self._make(joined(train, held_out))
        self.how.ranks.require_same("reference model", made.identity)
        if self._rule is not None:
            return self._prove_moving(made, self._rule, train, held_out, first_step)
        proved = self._prove(made, train, held_out, first_step, live=self._stays_live)
        self.model = self._compared = proved.reference
        self._start_tolerance = proved.start_tolerance
        self._named = None  # a second model that was named is not kept in memory
        return proved.train, proved.held_out, proved.card

    def _prove(
        self,
        made: Reference,
        train: Sequence[Group],
        held_out: Sequence[Group],
        first_step: Sequence[int],
        *,
        live: bool,
    ) -> ProvedReference:
        model, dtype = self.policy.model, self.policy.compute_dtype
        return prove_reference(
            model, made, self.objective, train, held_out, first_step, self.how, live=live, dtype=dtype
        )

    def _prove_moving(
        self,
        start: Reference,
        rule: MovingRule,
        train: Sequence[Group],
        held_out: Sequence[Group],
        first_step: Sequence[int],
    ) -> tuple[Sequence[Group], Sequence[Group], dict[str, Any]]:
        """The same for one that moves, and begins as `start`: of training rows it is asked at every step, and nothing
        that it says is stored. Held-out rows keep the scores of the start, so that evaluations can be compared.
        """
        self._require_room_for_shares(rule)
        self.moving = MovingReference(self.policy.model, rule)
        words = f"{start.words.removesuffix(SCORED_FIRST)}; it moves: {rule.words}; {MEASURED}"
        proved = self._prove(
            replace(start, words=words, use=self.moving.use, at_hand=True), train, [], first_step, live=True
        )
        self.model, self._start_tolerance = proved.reference, proved.start_tolerance
        card = proved.card | {"moves": {"how": rule.how, "every": rule.every, "mix": rule.mix}}
        if held_out:
            held = self._prove(replace(start, words=f"for held-out rows, {start.words}"), [], held_out, [], live=False)
            held_out, card["held_out_scores"] = held.held_out, held.card["scores"]
        self._compared = released(start)
        return proved.train, held_out, card

    def _require_room_for_shares(self, rule: MovingRule) -> None:
        """Raises `ConfigError` for shares of weights in 16 bits, in which small ones would be lost by rounding."""
        trained = {weight.dtype for weight in self.policy.model.parameters() if weight.requires_grad}
        if rule.how != "hard" and trained & {torch.bfloat16, torch.float16}:
            raise ConfigError(
                f"reference_moves={rule.how} adds small shares to weights that are kept in 16 bits, which would lose "
                "them; take hard, or a dtype that trains weights in float32"
            )

    def prove_seen(
        self, train: Sequence[Group], held_out: Sequence[Group], seen: Sequence[int], first_step: Sequence[int]
    ) -> tuple[Sequence[Group], Sequence[Group], dict[str, Any]]:
        """`prove` for the training rows that some step reaches, whose numbers are `seen`, in order; the others need no
        score. `first_step` are row numbers too.
        """
        places = [bisect_left(seen, number) for number in first_step]
        if len(seen) == len(train):
            return self.prove(train, held_out, places)
        proved, held_out, card = self.prove(by_numbers(train, seen), held_out, places)
        rows = np.arange(len(train))
        rows[np.asarray(seen)] = len(train) + np.arange(len(seen))
        return by_numbers(joined(train, proved), rows.tolist()), held_out, card

    def _make(self, groups: Sequence[Group]) -> Reference:
        named, precision = self._named, self.how.precision_of(self.policy)
        if isinstance(named, Policy):
            require_same_vocabulary(self.policy, named)
            self.how.place(named)
            how = {"scorer": self.options.scorer, "known": not self.options.verify}
            attach_scorer(named.model, autocast=named.autocast, groups=groups, **how)
            other = other_reference(named.model, named.name, precision=self.how.precision_of(named))
            return replace(other, at_hand=self._stays_live)  # it stays in memory
        return base_reference(self.policy.model, precision=precision) if named == "base" else self._start()

    def _start(self) -> Reference:
        live = self._stays_live and self.objective.needs_reference
        keep_adapter = self._asked_later and not self.how.shard  # what is split already takes no second adapter
        precision = self.how.precision_of(self.policy)
        return start_reference(self.policy.model, precision=precision, live=live, keep_adapter=keep_adapter)

    @property
    def _stays_live(self) -> bool:
        """Whether one that stays is asked at every step, of held-out rows too."""
        return self.options.reference_scores == "live"

    def with_held_out_scores(self, groups: Sequence[Group]) -> list[Group]:
        """Held-out groups with its scores: of one that moves the stored ones of its start."""
        return list(groups) if self.moving is not None else self.with_live_scores(groups)

    def with_live_scores(self, groups: Sequence[Group]) -> list[Group]:
        """Ask it now, where scores are not stored."""
        if not self.is_live:
            return list(groups)
        assert self.model is not None
        return score_live(groups, self.model, self.how, heads=self.objective.needs_heads)

    def check_first_step(self, part: ScoredGroups) -> None:
        """Hold a micro-batch of the first step, dropout off, to the claim that the policy starts as the reference."""
        if self._start_tolerance is not None:
            assert self.model is not None
            check_first_step(part, self.model, self._start_tolerance)

    def at_end(self, step: int) -> dict[str, Any]:
        """What the run card says of one that moved: its version and the hash of its weights. All ranks ask together."""
        if self.moving is None:
            return {}
        with self.moving.use() as model:
            weights = weights_hash(model, adapter=has_adapter(model))
        return {"reference_at_end": {"updates": self.moving.rule.updates(step), "weights": weights}}

    def access(self) -> ReferenceAccess | None:
        """How evaluations come by it; for a method without one, by the policy as it began."""
        return None if self._compared is None else ReferenceAccess(self._compared, self._load_again, self.how)


class MoveReference(TrainerCallback):
    """Moves a reference after each optimizer step, before anything is logged or saved."""

    def __init__(self, moving: MovingReference) -> None:
        self.moving = moving

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """`global_step` counts the step that was just made."""
        self.moving.after_step(state.global_step)
