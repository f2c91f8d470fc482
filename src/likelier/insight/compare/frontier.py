"""What is gained against how far the policy went for it: held-out accuracy, or a judge's reward, against KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import fmean
from typing import Any

from likelier.insight.compare.cautions import kl_is_comparable
from likelier.insight.compare.measures import MEASURES, Measure, Summary, final, summaries, value_words
from likelier.insight.compare.subjects import Comparison
from likelier.insight.kl import ALIKE, is_above_zero
from likelier.runs.reader import Run

BEFORE = "before training"
_GAINS = ("ranking_accuracy", "ranking_accuracy_per_token", "reward")


@dataclass(frozen=True)
class Place:
    """Where a setting lies: KL in nats and what was gained, means over its runs; `error` is the KL's standard error."""

    name: str
    kl: float
    gain: float
    error: float | None = None

    @property
    def went_far(self) -> bool:
        """Whether its KL can be told from 0."""
        return is_above_zero(self.kl, self.error)

    def beats(self, other: Place) -> bool:
        """At least as good in both, and better in one. KLs that cannot be told from 0 are alike, and one below 0, which
        no distance is, says too little to beat anybody.
        """
        own, others = (place.kl if place.went_far else 0.0 for place in (self, other))
        no_worse = self.kl >= 0 and own <= others and self.gain >= other.gain
        return no_worse and (own < others or self.gain > other.gain)


@dataclass(frozen=True)
class Frontier:
    """One picture: the runs as points, the settings as places, and which settings no other one beats."""

    measure: Measure
    runs: tuple[tuple[str, Run, float, float | None, float], ...]
    places: tuple[Place, ...]

    @property
    def title(self) -> str:
        """What is held against KL."""
        return f"{gain_words(self.measure)} against KL"

    @property
    def best(self) -> list[Place]:
        """The places that no other one beats, by KL; none whose KL was estimated below 0."""
        kept = [one for one in self.places if one.kl >= 0 and not self._beaten(one)]
        return sorted(kept, key=lambda place: place.kl)

    def _beaten(self, place: Place) -> bool:
        return any(other.beats(place) for other in self.places)

    def words(self) -> list[str]:
        """The frontier in sentences."""
        best = [place for place in self.best if place.name != BEFORE]
        found = [f"Before training: {self._gain(place)} at 0 nats." for place in self.places if place.name == BEFORE]
        if best:
            told = "; ".join(map(self._said, best))
            found.append(f"On the frontier, where no other setting gives as much for less KL: {told}.")
        beaten = [f"{self._said(place)} by {self._better(place)}" for place in self.places if self._beaten(place)]
        if beaten:
            found.append(f"Beaten: {'; '.join(beaten)}.")
        below = [place.name for place in self.places if place.kl < 0]
        if below:
            found.append(
                f"The KL of {', '.join(below)} came out below 0, where no KL lies: it is {ALIKE}, and beats nobody."
            )
        return [*found, *self._doubt()]

    def _doubt(self) -> list[str]:
        """How exact a setting's KL is, where that is known."""
        errors = [error**2 for *_, error, _ in self.runs if error is not None and isfinite(error)]
        if not errors:
            return []
        typical = sqrt(fmean(errors))
        return [f"The standard error of a run's KL is {typical:.2g} nats: settings closer than that are alike."]

    def _better(self, place: Place) -> str:
        better = max((one for one in self.best if one.beats(place)), key=lambda one: one.gain)
        return f"the model {BEFORE}" if better.name == BEFORE else better.name

    def _said(self, place: Place) -> str:
        if place.kl and not place.went_far:
            return f"{place.name} ({self._gain(place)} at a KL {ALIKE})"
        return f"{place.name} ({self._gain(place)} at {place.kl:.3g} nats)"

    def _gain(self, place: Place) -> str:
        return value_words(place.gain, self.measure.kind)

    def as_json(self) -> dict[str, Any]:
        """As JSON."""
        best = {place.name for place in self.best}
        places = [{**vars(place), "on_frontier": place.name in best} for place in self.places]
        return {"measure": self.measure.key, "settings": places, "words": self.words()}


def gain_words(measure: Measure) -> str:
    """The measure's name where no other column stands beside it."""
    return f"ranking accuracy {measure.head}" if measure.key.endswith("per_token") else measure.head


def frontiers(comparison: Comparison) -> list[Frontier]:
    """One for each kind of gain that is known together with a KL; none where KL cannot be compared."""
    known = {subject.name: summaries(subject) for subject in comparison.subjects}
    measured = {name: one for name, one in known.items() if "kl" in one}
    if len(measured) < 2 or not kl_is_comparable(comparison, measured):
        return []
    measures = [measure for measure in MEASURES if measure.key in _GAINS]
    return [
        found
        for measure in measures
        if (found := _frontier(comparison, measure, known)) is not None and len(found.runs) > 1
    ]


def _frontier(comparison: Comparison, measure: Measure, known: dict[str, Any]) -> Frontier | None:
    runs: list[tuple[str, Run, float, float | None, float]] = []
    places: list[Place] = _before(comparison.runs, measure)
    for subject in comparison.subjects:
        own = known[subject.name]
        if "kl" not in own or measure.key not in own:
            continue
        places.append(Place(subject.name, own["kl"].mean, own[measure.key].mean, _error(own["kl"])))
        for run, kl, gain in zip(subject.runs, own["kl"].figures, own[measure.key].figures, strict=True):
            runs.append((subject.name, run, kl.value, kl.error, gain.value))
    return Frontier(measure, tuple(runs), tuple(places)) if runs else None


def _error(kl: Summary) -> float | None:
    """The standard error of the mean over a setting's runs, as far as their own are known."""
    errors = [figure.error for figure in kl.figures if figure.error is not None]
    return sqrt(fmean(error**2 for error in errors) / len(kl.figures)) if errors else None


def _before(runs: Sequence[Run], measure: Measure) -> list[Place]:
    """The model before training, as the first run found it."""
    for run in runs:
        start = run.evaluations[0] if run.evaluations else {}
        value = start.get(measure.key)
        if start.get("step") == 0 and isinstance(value, (int, float)) and final(run) is not start:
            return [Place(BEFORE, 0.0, float(value))]
    return []
