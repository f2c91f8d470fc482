"""What stands in the way of comparing: other held-out rows, other models, another reference, unequal work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from likelier.insight.compare.measures import final, summaries
from likelier.insight.compare.paired import differ_in_rows
from likelier.insight.compare.paired_rewards import judge_of
from likelier.insight.compare.subjects import Comparison, Subject, option_words
from likelier.runs.reader import Run

_OF_ANSWERS = {"eval_prompts": "16", "eval_new_tokens": "64"}


def cautions(comparison: Comparison) -> list[str]:
    """Sentences, the gravest first; empty where nothing stands in the way."""
    checks = (_lost, _models, _held_out, _references, _answers, _judges, _data, _work, _unfinished, _few_seeds)
    return [sentence for check in checks for sentence in check(comparison)]


def _lost(comparison: Comparison) -> Iterable[str]:
    for one in comparison.lost:
        yield f"{one.name} is not compared: {one.status}" + (f" ({one.error})" if one.error else "")


def _models(comparison: Comparison) -> Iterable[str]:
    if found := _told_apart(comparison, lambda run: run.card.run.model or ""):
        yield (
            f"The runs began with different models ({found}): what differs in the end need not come from training. "
            "Accuracies can be read side by side, KL and margins cannot."
        )


def _held_out(comparison: Comparison) -> Iterable[str]:
    known = {subject.name: sources(subject.runs[0]) for subject in comparison.subjects}
    rows = {name: found for name, found in known.items() if found is not None}
    unknown = [name for name in known if name not in rows]
    others = _of_other_rows(comparison)
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name}: {len(found)}" for name, found in rows.items())
        common = len(frozenset.intersection(*rows.values()))
        paired = "can only be compared on the common rows, which the paired comparison does"
        yield (
            f"The runs were held to different rows ({counts} rows of the data, {common} in common): accuracies "
            f"{'cannot be compared' if others else paired}. Give all the same eval_data."
        )
    elif others:
        yield (
            f"The held-out rows have the same places in the data but are not the same as tokens ({others}): their text "
            "was another, or they were tokenized or cut otherwise. Accuracies cannot be compared, and are not compared "
            "row by row. Give all the same eval_data."
        )
    cards = [subject.runs[0].card for subject in comparison.subjects if subject.name in unknown]
    hashes = {str(card.fingerprint.get("eval_hash", "")) for card in cards}
    if unknown and (len(hashes) > 1 or rows):
        yield f"Which rows {', '.join(unknown)} were held to is not recorded: they may be others."


def _of_other_rows(comparison: Comparison) -> str:
    """The names of subjects whose rows have the same hash, group by group; empty where no two differ."""
    groups: list[list[Subject]] = []
    for subject in comparison.subjects:
        same = (group for group in groups if not differ_in_rows(group[0].runs[0], subject.runs[0]))
        if (group := next(same, None)) is None:
            groups.append([subject])
        else:
            group.append(subject)
    several = any(
        differ_in_rows(one[0].runs[0], other[0].runs[0]) for at, one in enumerate(groups) for other in groups[:at]
    )
    return "; ".join(", ".join(one.name for one in group) for group in groups) if several else ""


def sources(run: Run) -> frozenset[str] | None:
    """The places in the data of the rows that a run was held to, or which prompts it was asked; None where they are not
    recorded.
    """
    ends = [run.detail(when) for when in ("end", "start")]
    items, asked = ends[0].items or ends[1].items, ends[0].prompts or ends[1].prompts
    return frozenset(items["source"]) if items else frozenset(asked) if asked else None


def _references(comparison: Comparison) -> Iterable[str]:
    measured = [subject for subject in comparison.subjects if "kl" in summaries(subject)]
    if len({anchor(subject.runs[0], comparison.runs) for subject in measured}) > 1:
        words = "; ".join(f"{subject.name}: {_reference_words(subject.runs[0])}" for subject in measured)
        yield f"KL is measured against different references ({words}): do not compare it."


def anchor(run: Run, others: Iterable[Run]) -> str:
    """What KL of a run is measured against: the weights of its reference, or for a method without one of its start."""
    if run.card.reference.weights:
        return run.card.reference.weights
    start = _start(run)
    known = (other.card.reference for other in others if _start(other) == start)
    return next((str(one.weights) for one in known if one.equals_policy), start)


def _start(run: Run) -> str:
    return json.dumps([run.card.run.model, run.card.run.dtype])


def _reference_words(run: Run) -> str:
    reference = run.card.reference
    return (reference.words or "unknown") if reference.weights else "the model that it began with"


def _answers(comparison: Comparison) -> Iterable[str]:
    for name, default in _OF_ANSWERS.items():
        if found := _told_apart(comparison, lambda run, name=name, default=default: _option(run, name, default)):
            yield (
                f"{name} differs ({found}): KL, lengths and repetition are of other answers. Give all runs the same."
            )


def _option(run: Run, name: str, default: str) -> str:
    return str(run.card.block("options").get(name, default))


def _judges(comparison: Comparison) -> Iterable[str]:
    runs = {subject.name: subject.runs[0] for subject in comparison.subjects}
    judged = {name: judge_of(run) or _option(run, "eval_reward", "") for name, run in runs.items()}
    named = {name: judge for name, judge in judged.items() if judge}
    if len(set(named.values())) > 1:
        words = ", ".join(f"{name}: {judge}" for name, judge in named.items())
        yield f"The answers were judged by different judges ({words}): their rewards cannot be compared."


def _data(comparison: Comparison) -> Iterable[str]:
    if found := _told_apart(comparison, lambda run: option_words(run.card.run.data or "")):
        yield f"The runs were trained on different data ({found})."


def _work(comparison: Comparison) -> Iterable[str]:
    """Answers trained on: two for each pair."""
    names: dict[float, list[str]] = {}
    for subject in comparison.subjects:
        if answers := _answers_seen(subject):
            names.setdefault(answers, []).append(subject.name)
    if len(names) > 1:
        words = "; ".join(f"{answers:,.0f}: {', '.join(own)}" for answers, own in names.items())
        yield f"The runs did not see as many answers ({words}): more training is a difference of its own."


def _answers_seen(subject: Subject) -> float:
    items = summaries(subject).get("items")
    rows = subject.runs[0].steps
    in_pairs = bool(rows) and "rewards/margins" in rows[-1] and "kl" not in rows[-1]
    own = subject.runs[0].card
    each = own.hyperparameters.get("answers_per_prompt", 1) if own.facts.writes_answers else 2 if in_pairs else 1
    return 0.0 if items is None else items.mean * each


def _unfinished(comparison: Comparison) -> Iterable[str]:
    for subject in comparison.subjects:
        for run in subject.runs:
            if run.card.status != "done":
                at = final(run).get("step")
                where = "it has no evaluation yet" if at is None else f"its figures are of step {at}"
                yield f"{subject.name} is not finished (status: {run.card.status}): {where}."


def _few_seeds(comparison: Comparison) -> Iterable[str]:
    if all(len(subject.runs) == 1 for subject in comparison.subjects):
        yield "One seed each: another seed moves each of these figures. Three or more tell how far."


def _told_apart(comparison: Comparison, of: Callable[[Run], Any]) -> str:
    """`value: names` for each value, where there are several; else empty."""
    found: dict[str, list[str]] = {}
    for subject in comparison.subjects:
        found.setdefault(str(of(subject.runs[0])), []).append(subject.name)
    return "; ".join(f"{value}: {', '.join(names)}" for value, names in found.items()) if len(found) > 1 else ""


def kl_is_comparable(comparison: Comparison, known: Mapping[str, Any]) -> bool:
    """Whether KL of all subjects that have one is measured against the same model."""
    runs = [subject.runs[0] for subject in comparison.subjects if subject.name in known]
    return len({anchor(run, comparison.runs) for run in runs}) == 1
