"""A reference asked again during an evaluation, when its scores are stored and its model is not in memory any more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from likelier.data.groups import Group
from likelier.models.adapter_parts import has_adapter
from likelier.models.policy import Policy
from likelier.scoring import attach_scorer
from likelier.scoring.reference.identity import Reference, identities
from likelier.scoring.reference.store import ReferenceScoring
from likelier.utils.errors import LikelierError, LikelierWarning, WrongReferenceError


@dataclass(frozen=True)
class ReferenceAccess:
    """How an evaluation comes by its reference: at hand, or loaded for as long as it is asked.

    `load` loads the reference's model once more; None where nobody knows how.
    """

    reference: Reference
    load: Callable[[], Policy] | None
    how: ReferenceScoring

    @property
    def at_hand(self) -> bool:
        """Whether asking takes no loading."""
        return self.reference.at_hand

    @property
    def can_be_asked(self) -> bool:
        """Whether it can be asked at all."""
        return self.at_hand or self.load is not None

    @contextmanager
    def opened(self, groups: Sequence[Group]) -> Iterator[Reference]:
        """A reference whose `use` works inside the context. `groups` are what will be scored.

        Raises `WrongReferenceError` where what is loaded is not the reference any more.
        """
        if self.at_hand:
            yield self.reference
            return
        assert self.load is not None
        model = self._loaded(groups)
        yield replace(self.reference, use=lambda: nullcontext(model))

    def _load_together(self) -> Policy:
        """Load it, on every rank or on none: one that failed alone would leave the others waiting."""
        assert self.load is not None
        policy, failure = None, None
        try:
            policy = self.load()
        except LikelierError as error:
            failure = error
        if self.how.ranks.all(policy is not None) and policy is not None:
            return policy
        raise failure or WrongReferenceError("another process could not load the reference once more")

    def _loaded(self, groups: Sequence[Group]) -> Any:
        assert self.load is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LikelierWarning)  # was said when the policy was loaded
            policy = self._load_together()
        self.how.place(policy)
        attach_scorer(policy.model, autocast=policy.autocast, groups=groups)
        adapter = has_adapter(policy.model)
        found = identities(policy.model, adapter=adapter, precision=policy.precision)["weights"]
        if found != self.reference.weights:
            raise WrongReferenceError(
                f"what {policy.name} holds now is not the reference of this run ({self.reference.words}): its weights "
                f"have the hash {found}, the reference's were {self.reference.weights}"
            )
        return policy.model
