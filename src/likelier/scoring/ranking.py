"""How a model ranks the answers of pairs, as it is: no training, one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from likelier.data.tokenize import Group
from likelier.models.policy import Policy
from likelier.models.token_budget import default_token_budget
from likelier.scoring.attach import attach_scorer
from likelier.scoring.engine import score_groups


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
        policy, device = self.policy, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        policy.model.to(device)
        attach_scorer(policy.model, autocast=policy.autocast, groups=groups)
        budget = default_token_budget(policy.model, device)
        place = {id(group): number for number, group in enumerate(groups)}
        margins = np.zeros((len(groups), 2))
        for part in score_groups(policy.model, groups, token_budget=budget, device=device):
            sums, means = part.scores.logps.double(), part.scores.logps.double() / part.scores.lengths
            for group, (chosen, rejected) in zip(part.groups, part.batch.answers_of_groups(), strict=True):
                margins[place[id(group)]] = [float(values[chosen] - values[rejected]) for values in (sums, means)]
        return margins
