"""The two questions that a report answers before anything else: did it work, and can its numbers be trusted?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.generalization import Accuracy, held_out_accuracy
from likelier.insight.diagnose.learned import learned
from likelier.insight.verdicts import Severity, Verdict
from likelier.runs.reader import Run

FINE, ROUGH = 0.05, 0.1  # of the accuracy, to either side: what an interval may be wide to be exact, or of use at all
# Verdicts on the numbers or the data rather than on the model: with one of them, figures are to be read with care.
_ON_NUMBERS = ("wrong-reference", "eval-leakage", "rows-left-out", "noisy-data")


@dataclass(frozen=True)
class Reply:
    """A question, the answer in a word or two, and why."""

    question: str
    said: str
    severity: Severity
    because: str


def replies(run: Run, verdicts: Sequence[Verdict]) -> list[Reply]:
    """Both questions with their answers; the verdicts are those on the run, the worst first."""
    facts = Facts(run)
    held = held_out_accuracy(facts)
    return [_worked(facts, verdicts, held), _trusted(facts, verdicts, held)]


def count_words(run: Run, held: Accuracy) -> str:
    """Of how many held-out items an accuracy is."""
    return f"n = {held.cases:,.0f} {run.card.facts.items}"


def _worked(facts: Facts, verdicts: Sequence[Verdict], held: Accuracy | None) -> Reply:
    run, bad = facts.run, [one for one in verdicts if one.is_bad and one.name not in _ON_NUMBERS]
    measured = f"Held-out accuracy {held.share}, {count_words(run, held)}." if held else "No held-out accuracy."
    nothing = next((one for one in verdicts if one.name.startswith("not-learning")), None)

    def said(words: str, severity: Severity, *why: str) -> Reply:
        return Reply("Did it work?", words, severity, " ".join([*(one.rstrip(".") + "." for one in why), measured]))

    if run.card.status == "training":
        return said("Not known yet", "info", "The run has not ended")
    if nothing is not None:
        return said("No", "error", nothing.title)
    if any(one.severity == "error" for one in verdicts if one.name not in _ON_NUMBERS):
        return said("No", "error", bad[0].title)
    found = learned(facts)
    if not found.is_shown:
        return said(
            "Not shown", "warning", *([found.title] if found.title else ["The steps show nothing beyond their noise"])
        )
    if bad:
        return said("In part", "warning", "It learned what the data prefer, but", bad[0].title)
    return said("Yes", "good", found.title or "It learned what the data prefer")


def _trusted(facts: Facts, verdicts: Sequence[Verdict], held: Accuracy | None) -> Reply:
    doubts = [one for one in verdicts if one.name in _ON_NUMBERS and one.is_bad]
    words, severity, why = _exactness(facts, held)
    if any(one.severity == "error" for one in doubts):
        words, severity = "No", "error"
    elif doubts and severity == "good":
        words, severity = "With care", "warning"
    return Reply("Can I trust it?", words, severity, " ".join([*why, *(f"{one.title}." for one in doubts)]))


def _exactness(facts: Facts, held: Accuracy | None) -> tuple[str, Severity, list[str]]:
    if held is None:
        rows = facts.latest.get("items")
        if rows:
            return "Roughly", "info", [f"n = {rows:,.0f} held-out {facts.method.items}; no accuracy is measured."]
        return "Not beyond its own rows", "warning", ["Nothing was held out."]
    reach = max(held.value - held.low, held.high - held.value)
    width = f"{count_words(facts.run, held)} tell the accuracy to within {100 * reach:.0f} points."
    if reach <= FINE:
        return "Yes", "good", [width]
    return ("Roughly", "info", [width]) if reach <= ROUGH else ("Hardly", "warning", [width])
