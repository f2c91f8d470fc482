"""Every verdict by its stable name: its title, and what it means where nothing more is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from likelier.insight.verdicts import Severity, Verdict


@dataclass(frozen=True)
class Entry:
    """What is always true of a verdict."""

    name: str
    title: str
    meaning: str


_ENTRIES = [
    Entry(
        "failed",
        "The run failed",
        "It ended with an error before its last step, so no trained model lies in its folder.",
    ),
    Entry(
        "interrupted",
        "The run was interrupted",
        "It was stopped before its last step. What follows is about the steps that were made.",
    ),
    Entry(
        "unfinished",
        "The run has not ended",
        "What follows is about the steps so far and may change.",
    ),
    Entry(
        "wrong-reference",
        "The reference is not the one that the run claims",
        "Rewards, margins and losses are measured against the wrong model, so none of them means what it says, and the "
        "policy is held near something else than its start.",
    ),
    Entry(
        "distant-reference",
        "The policy starts far from its reference",
        "The reference is another model than the policy's start. The first rewards are then not 0, and the loss also "
        "pulls the policy towards that model. This is right if it was meant.",
    ),
    Entry(
        "not-learning/frozen-weights",
        "Nothing is trained: no weight reaches the loss",
        "The gradient is exactly 0 although the loss is not: what may be trained has no effect on the answers, or is "
        "cut off from the loss. The model that was saved is the one that was loaded.",
    ),
    Entry(
        "not-learning/zero-gradient",
        "Nothing is trained: the loss itself is 0",
        "Every row counts nothing, so there is no gradient: its weight is 0, or all its tokens are masked. The model "
        "that was saved is the one that was loaded.",
    ),
    Entry(
        "not-learning/unchanged-weights",
        "Nothing is trained: no weight has changed",
        "The gradient is there, and no step let it move a weight: the learning rate was 0, or so small that every "
        "update was rounded away. The model is the one that was loaded.",
    ),
    Entry(
        "not-learning/beta",
        "The loss is satisfied before the policy has moved",
        "The loss of a pair is as good as 0 as soon as its two answers are a hair's breadth apart, because every nat "
        "is multiplied by a large number. After that nothing pulls, and the model answers as it did before.",
    ),
    Entry(
        "not-learning/learning-rate",
        "Nothing is learned: the steps are too small",
        "Weights do change, and the gradient is there, but the answers are as likely as before. At this learning rate "
        "many more steps would not get anywhere.",
    ),
    Entry(
        "not-learning/too-few-steps",
        "Nothing is learned yet: too few steps",
        "The policy moves, and there were too few steps for it to get anywhere.",
    ),
    Entry(
        "likelihood-displacement",
        "The margin grows while the chosen answers lose probability",
        "The rejected answers fall, and the chosen ones fall with them. The loss only asks for the difference; the "
        "probability goes to answers that nobody has judged.",
    ),
    Entry(
        "simpo-drift",
        "The policy drifts away from where it began",
        "The method has no reference, so nothing but the learning rate and the number of steps keeps the policy near "
        "its start. The good answers themselves have become unlikely.",
    ),
    Entry(
        "overfitting",
        "The pairs are learned by heart",
        "What is learned in training no longer holds on held-out data: the policy remembers these pairs.",
    ),
    Entry(
        "rows-left-out",
        "Many rows were left out",
        "What was trained on (or measured on) is only a part of the data, and seldom a fair one: where long rows fall "
        "out, the model learns from short ones, and is measured on them.",
    ),
    Entry(
        "noisy-data",
        "The judgements are the limit",
        "No model can agree with labels that do not agree with each other; past that point it can only remember them.",
    ),
    Entry(
        "eval-leakage",
        "Held-out data were trained on",
        "Held-out accuracy then measures memory as well, and overfitting does not show.",
    ),
    Entry(
        "over-optimization",
        "The policy went too far: its answers suffer",
        "The reward that is trained on still rises, and what the policy writes gets worse: it is optimized past the "
        "point where that reward says anything about quality.",
    ),
    Entry(
        "repetition-or-collapse",
        "Answers repeat themselves, or are all alike",
        "The policy has lost the variety of language: it goes round in circles, or gives one answer to everything.",
    ),
    Entry(
        "same-opening",
        "Answers to different prompts begin alike",
        "Half of them or more begin with the same two words, which they did not at the start: right where a form was "
        "asked for, else the policy has found a sentence that the reward likes whatever was asked.",
    ),
    Entry(
        "length-exploitation",
        "The reward follows length",
        "Whether an answer is long says more about its reward than whether it was preferred, so the policy learns to "
        "write long (or short), not well.",
    ),
    Entry(
        "unstable",
        "Training is unstable",
        "Single steps threw the policy far off, so where it stands depends on the last accident.",
    ),
    Entry(
        "skipped-step",
        "A step was skipped: its loss or gradient was not finite",
        "Its rows were not learned from, the weights were left alone and training went on. A second such step ends a "
        "run. The rows lie in the run folder, with their scores and texts.",
    ),
    Entry(
        "kto-baseline",
        "KTO's baseline is off",
        "The baseline is the mean log-ratio of answers under prompts that are not theirs, and every row is judged "
        "against it.",
    ),
    Entry(
        "reward-hacking",
        "The reward rises in training while held-out answers earn less",
        "The policy has found what the reward pays for, and it is not what held-out prompts, or another judge, call "
        "good.",
    ),
    Entry(
        "reward-models-disagree",
        "The reward models part over what the policy now writes",
        "They learnt from the same kind of answers, and agree where those were. Where they part, at least one of them "
        "is wrong, and a policy that is paid there is paid for a model's mistake: an early sign of over-optimization.",
    ),
    Entry(
        "constant-reward",
        "Every answer earns the same",
        "The reward does not tell one answer from another, so that there is nothing to learn from it.",
    ),
    Entry(
        "dead-groups",
        "Most prompts teach nothing: their answers all earn the same",
        "An answer is compared with the others of its prompt. Where all earn the same, what was written and judged for "
        "it is thrown away.",
    ),
    Entry(
        "entropy-collapse",
        "The policy has stopped exploring: its draws are nearly certain",
        "It writes nearly the same answer each time, so that no better one is ever found, and the answers to a prompt "
        "no longer differ in what they earn.",
    ),
    Entry(
        "length-runaway",
        "Answers grow longer and longer",
        "Length is paid for, by the reward or by how a step divides, and nothing says when to stop. Each step takes "
        "longer, too.",
    ),
    Entry(
        "truncated-answers",
        "Many answers are cut off at the limit",
        "They are judged, and learnt from, without their end: the reward is that of half an answer.",
    ),
    Entry(
        "clip-share",
        "Much of what was written is beyond the clip",
        "The policy moves so far on one batch of answers that what they teach is held back.",
    ),
    Entry(
        "kl-blow-up",
        "The policy went far away from its reference",
        "Another model writes: what the reward does not look at is no longer what it was.",
    ),
    Entry(
        "sampler-drift",
        "The sampler is not the policy that is trained",
        "Answers are drawn from one distribution and learnt from as if they were drawn from another one.",
    ),
    Entry(
        "blind-critic",
        "The critic explains nothing",
        "Its values say no more of what an answer will earn than their mean does, so that advantages are as noisy as "
        "without it, and the policy learns from chance.",
    ),
    Entry(
        "learned",
        "Held-out answers earn more than before",
        "One answer to each held-out prompt, drawn with the same random numbers before and after, judged by the same "
        "reward: the interval of the gain lies above 0.",
    ),
    Entry("healthy", "Healthy", "The policy learns what the data prefer, and no check of its training found anything."),
    Entry(
        "unclear",
        "Nothing is wrong as far as can be seen, and nothing is shown either",
        "No check of its training found anything, and the steps that there are do not show beyond their noise that "
        "something is learned.",
    ),
]

CATALOGUE = {entry.name: entry for entry in _ENTRIES}


def verdict(
    name: str,
    severity: Severity,
    evidence: Iterable[tuple[str, str] | None],
    advice: Iterable[str | None] = (),
    **more: Any,
) -> Verdict:
    """A verdict of the catalogue; `title` and `meaning` may be given where more is known. Nones are left out."""
    entry = CATALOGUE[name]
    return Verdict(
        name,
        severity,
        more.get("title", entry.title),
        tuple(filter(None, evidence)),
        more.get("meaning", entry.meaning),
        tuple(filter(None, advice)),
    )
