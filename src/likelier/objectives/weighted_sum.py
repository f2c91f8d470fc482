"""A sum of losses that learn from pairs, each with its weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, replace
from math import isfinite, prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from likelier.objectives import losses
from likelier.objectives.base import Objective, Scored, State, hyperparameter, require
from likelier.objectives.pairwise import Paired
from likelier.objectives.registry import METHODS
from likelier.objectives.scored import Place

LIKELIHOOD = "nll"  # what the term of nll_weight is called among the losses


@dataclass(frozen=True)
class WeightedSum(Paired):
    """Losses of pairs, each times its weight, added up. The weights are taken as they are, not divided by their sum.

    `loss` holds objectives with their weights; each has hyperparameters of its own. `nll_weight` adds the chosen
    answer's likelihood, once and for all of them. The logged rewards, the strength and the learning rate are those of
    the objective that is named first. A reference is needed where one of them needs it.

    Raises `ValueError` for fewer than two losses, one that stands there twice or is no loss of pairs' answers, a weight
    that is not above 0, and an `nll_weight` of a loss that has none by default.
    """

    method: ClassVar[str] = "weighted_sum"
    loss: tuple[tuple[Objective, float], ...] = hyperparameter(
        MISSING,
        "the losses that weighted_sum adds, such as dpo=0.8 sppo=0.2; a hyperparameter of one of them is "
        "--METHOD.NAME, such as --dpo.beta 0.05",
        kw_only=True,
        many="METHOD=WEIGHT",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "loss", tuple((part, float(weight)) for part, weight in self.loss))
        names = [part.method for part in self.parts]
        wanted = "at least two losses, each once; of a single one take the method itself"
        require(len(names) > 1 and len(set(names)) == len(names), self.method, "loss", " ".join(names), wanted)
        for part, weight in self.loss:
            self._check(part, weight)
        for name, value in self._of_the_parts().items():
            object.__setattr__(self, name, value)

    def _check(self, part: Objective, weight: float) -> None:
        require(weight > 0 and isfinite(weight), self.method, f"weight of {part.method}", weight, "above 0, and finite")
        fits = part.data == "pairs" and not part.reads_values and not isinstance(part, WeightedSum)
        likelihood = " (nll_weight adds the likelihood of the chosen answers)"
        wanted = f"a loss of pairs' answers that is no sum itself{likelihood if part.data == 'answers' else ''}"
        require(fits, self.method, "loss", part.method, wanted)
        own, usual = getattr(part, "nll_weight", 0.0), getattr(type(part), "nll_weight", 0.0)
        wanted = "left out: nll_weight adds that term to the whole sum"
        require(not own or bool(usual), self.method, f"{part.method}.nll_weight", own, wanted)

    def _of_the_parts(self) -> dict[str, Any]:
        """What a method says of itself by class, as the losses of this one decide it."""
        first = self.parts[0]
        return {
            "strength": f"{first.method}.{first.strength}",
            "rewards_per_token": first.rewards_per_token,
            "learning_rate": first.learning_rate,
            "learning_rate_source": f"as for {first.method}: {first.learning_rate_source}",
            "has_target": any(part.has_target for part in self.parts),
            "lowers_both": all(part.lowers_both for part in self.parts),
            "needs_step": any(part.needs_step for part in self.parts),
            "needs_collisions": any(part.needs_collisions for part in self.parts),
            "needs_heads": any(part.needs_heads for part in self.parts),
            "needs_reference": any(part.needs_reference for part in self.parts),
            "takes_margins": all(part.takes_margins for part in self.parts),
            "takes_soft_labels": all(part.takes_soft_labels for part in self.parts),
        }

    # --- by names and values ---------------------------------------------------------------------------------------

    @classmethod
    def options(cls, named: Mapping[str, Any]) -> dict[str, Any]:
        own = super().options(named)
        of_parts = {
            f"{name}.{option}": hint
            for name in weights_of(named.get("loss", ""))
            for option, hint in METHODS[name].options({}).items()
        }
        return own | {"loss": dict[str, float]} | of_parts

    @classmethod
    def of(cls, hyperparameters: Mapping[str, Any]) -> WeightedSum:
        weights, own = weights_of(hyperparameters.get("loss", "")), dict(hyperparameters)
        own.pop("loss", None)
        parts = []
        for name, weight in weights.items():
            given = {key: own.pop(key) for key in list(own) if key.startswith(f"{name}.")}
            made = METHODS[name].of({key.removeprefix(f"{name}."): value for key, value in given.items()})
            parts.append((made, weight))
        return cls(loss=tuple(parts), **own)

    def hyperparameters(self) -> dict[str, object]:
        """`loss` in words (dpo=0.8 sppo=0.2), `nll_weight`, and each loss's own as METHOD.NAME."""
        own: dict[str, object] = {_named(part, name): value for part in self.parts for name, value in _own_of(part)}
        words = " ".join(f"{part.method}={weight!r}" for part, weight in self.loss)
        return {"loss": words, "nll_weight": self.nll_weight} | own

    # --- the sum ---------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[Objective, ...]:
        """The objectives whose losses are added, each with what it carries."""
        states = {
            part.method: {name: self.state[_named(part, name)] for name in part.first_state()} for part, _ in self.loss
        }
        return tuple(part.with_state(states[part.method]) for part, _ in self.loss)

    def part_losses(self, scored: Scored, statistics: Tensor | None = None) -> dict[str, Tensor]:
        found = {part.method: part.losses(scored, own) for part, own in self._split(statistics)}
        if self.nll_weight:
            logps, _, lengths, _ = scored.chosen_rejected(scored.logps, scored.lengths)
            found[LIKELIHOOD] = losses.nll_loss(logps, lengths)
        return found

    def losses(self, scored: Scored, statistics: Tensor | None = None) -> Tensor:
        weights = {part.method: weight for part, weight in self.loss} | {LIKELIHOOD: self.nll_weight}
        weighted = [weights[name] * values for name, values in self.part_losses(scored, statistics).items()]
        return sum(weighted[1:], weighted[0])

    def judges_alone(self) -> bool:
        return all(part.judges_alone() for part in self.parts)

    def rewards(self, scored: Scored) -> Tensor:
        return self.parts[0].rewards(scored)

    def reward_scale(self) -> float | None:
        return self.parts[0].reward_scale()

    def per_token(self) -> bool:
        return all(part.per_token() for part in self.parts)

    def satisfied_at(self) -> float | None:
        """Where the last of the losses asks for no more; None where that is not known, or in other units."""
        known = [part.satisfied_at() for part in self.parts if part.per_token() == self.per_token()]
        found = [nats for nats in known if nats is not None]
        return max(found) if len(found) == len(self.parts) else None

    # --- of a whole step, and from step to step --------------------------------------------------------------------

    def step_statistics(self, scored: Scored) -> Tensor | None:
        """Those of its parts, flat and one after the other; None where none has any."""
        found = [part.step_statistics(scored) for part in self.parts]
        own = [one.flatten() for one in found if one is not None]
        return torch.cat(own) if own else None

    def _split(self, statistics: Tensor | None) -> list[tuple[Objective, Tensor | None]]:
        """Each part with its own of the step's statistics."""
        if statistics is None:
            return [(part, None) for part in self.parts]
        sizes = [sum(prod(shape) for shape in self._shapes(pairs) if shape is not None) for pairs in (1, 2)]
        a_pair = sizes[1] - sizes[0]
        shapes = self._shapes(1 + (len(statistics) - sizes[0]) // a_pair if a_pair else 1)
        cut = iter(statistics.split([prod(shape) for shape in shapes if shape is not None]))
        own = [None if shape is None else next(cut).reshape(shape) for shape in shapes]
        return list(zip(self.parts, own, strict=True))

    def _shapes(self, pairs: int) -> list[torch.Size | None]:
        """Of each part's statistics of a step of so many pairs."""
        one = Scored.of(torch.zeros(2), torch.ones(2), torch.zeros(2), pairs=torch.tensor([[0, 1]]))
        found = [part.step_statistics(replace(one, place=Place(0, pairs))) for part in self.parts]
        return [None if statistics is None else statistics.shape for statistics in found]

    def first_state(self) -> State:
        return {_named(part, name): value for part, _ in self.loss for name, value in part.first_state().items()}

    def next_state(self, statistics: Tensor) -> State:
        after = [(part, part.state if own is None else part.next_state(own)) for part, own in self._split(statistics)]
        return {_named(part, name): value for part, state in after for name, value in state.items()}

    def state_metrics(self) -> dict[str, Tensor]:
        return {name: value for part in self.parts for name, value in part.state_metrics().items()}

    def statistics_metrics(self, statistics: Tensor) -> dict[str, float]:
        own = [(part, one) for part, one in self._split(statistics) if one is not None]
        return {name: value for part, one in own for name, value in part.statistics_metrics(one).items()}

    # --- what it says of itself ------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        first = self.parts[0]
        return super().facts() | {
            "source": self.source or ", ".join(dict.fromkeys(part.source for part in self.parts)),
            "strength_from_data": first.facts()["strength_from_data"],
        }

    def resolved(self, median_length: float) -> WeightedSum:
        loss = tuple((part.resolved(median_length), weight) for part, weight in self.loss)
        return type(self)(loss=loss, nll_weight=self.nll_weight)

    def warnings(self, batch_size: int, desirable: int, undesirable: int) -> list[str]:
        return [words for part in self.parts for words in part.warnings(batch_size, desirable, undesirable)]

    def pair_words(self, median_length: float) -> str:
        words = [f"{weight:g} times {part.method} ({part.explain(median_length)})" for part, weight in self.loss]
        return f"a sum: {'; '.join(words)}; the logged rewards are {self.parts[0].method}'s"


def _named(part: Objective, name: str) -> str:
    return f"{part.method}.{name}"


def _own_of(part: Objective) -> Iterable[tuple[str, object]]:
    """A loss's hyperparameters, but for a likelihood term that the sum has for it."""
    usual = getattr(type(part), "nll_weight", 0.0)
    return ((name, value) for name, value in part.hyperparameters().items() if name != "nll_weight" or usual)


def weights_of(loss: Any) -> dict[str, float]:
    """Methods and their weights, from a mapping or from words METHOD=WEIGHT, in one text or several.

    Raises `ValueError` for what is neither, for an unknown method and for one that stands there twice.
    """
    shape = "write METHOD=WEIGHT for each of at least two, such as dpo=0.8 sppo=0.2 (in YAML: {dpo: 0.8, sppo: 0.2})"
    if isinstance(loss, Mapping):
        given = [(str(name), value) for name, value in loss.items()]
    else:
        words = loss.split() if isinstance(loss, str) else [str(word) for word in loss]
        given = [(name, value) for name, _, value in (word.partition("=") for word in words)]
    found: dict[str, float] = {}
    for name, value in ((name.replace("-", "_"), value) for name, value in given):
        if name not in METHODS:
            raise ValueError(f"loss: unknown method {name!r}; known: {', '.join(METHODS)}")
        if name in found:
            raise ValueError(f"loss: {name} stands there twice; keep one of them")
        try:
            found[name] = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            raise ValueError(f"loss: {value!r} is no weight of {name}; {shape}") from None
    if not found:
        raise ValueError(f"loss is missing; {shape}")
    return found
