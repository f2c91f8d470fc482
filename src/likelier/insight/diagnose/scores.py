"""What verdicts say of a reward model: it is no policy and writes nothing, and what it gives answers are scores."""

from __future__ import annotations

from dataclasses import replace

from likelier.insight.diagnose.catalogue import CATALOGUE
from likelier.insight.verdicts import Verdict

_MEANINGS = {
    "healthy": "The model gives preferred answers the higher score, and no check of its training found anything.",
    "not-learning/learning-rate": (
        "Weights do change, and the gradient is there, but answers are scored as before. At this learning rate many "
        "more steps would not get anywhere."
    ),
    "length-exploitation": (
        "Whether an answer is long says more about its score than whether it was preferred, so a policy that learns "
        "from it will write long (or short), not well."
    ),
}


def of_scores(verdict: Verdict) -> Verdict:
    """The verdict in these words; a meaning that a check gave of its own stays, but for the name of the model."""
    usual = verdict.meaning == CATALOGUE[verdict.name].meaning
    meaning = _MEANINGS.get(verdict.name, verdict.meaning) if usual else verdict.meaning
    return replace(
        verdict,
        title=_named(verdict.title),
        meaning=_named(meaning),
        evidence=tuple((_named(what), _named(words)) for what, words in verdict.evidence),
        advice=tuple(map(_named, verdict.advice)),
    )


def _named(words: str) -> str:
    return words.replace("the policy", "the model").replace("The policy", "The model")
