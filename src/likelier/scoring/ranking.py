"""How a model ranks the answers of pairs, as it is: no training, one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from likelier.data.groups import Group
from likelier.data.masks import trained_count
from likelier.models.policy import Policy
from likelier.scoring.implicit_rewards import score_answers
from likelier.scoring.reference import ReferenceScoring


@dataclass(frozen=True)
class ModelRanker:
    """A policy as what ranks pairs (see `data.audit.material.Ranker`)."""

    policy: Policy

    @property
    def words(self) -> str:
        """The model, as a person would say it."""
        return self.policy.words

    @property
    def tokenizer(self) -> Any:
        """The model's own."""
        return self.policy.tokenizer

    def margins(self, groups: Sequence[Group]) -> np.ndarray:
        """(groups, 2): log-probability of the chosen answer minus the rejected one's, in sums and in means a token."""
        how = ReferenceScoring.here(self.policy, groups)
        found = score_answers(self.policy.model, groups, how, per_token=False)
        scored = [found[number] for number in range(len(groups))]
        lengths = [[*map(trained_count, group.own_answers, group.own_masks)] for group in groups]
        sums = np.array([[answer.logp for answer in answers] for answers in scored]).reshape(-1, 2)
        return np.stack([values[:, 0] - values[:, 1] for values in (sums, sums / np.reshape(lengths, (-1, 2)))], 1)
