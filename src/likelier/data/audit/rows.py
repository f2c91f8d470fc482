"""Rows that training leaves out, and what the others look like: lengths, prompts, labels, what is held out."""

from __future__ import annotations

from typing import Any

import numpy as np

from likelier.data.audit.facts import ANSWER
from likelier.data.audit.findings import EXAMPLES, Finding, places, severity_of
from likelier.data.audit.material import Material, plain_prompt
from likelier.data.records import UNJUDGED, Source
from likelier.utils.statistics import histogram, summary


def unusable_rows(material: Material) -> list[Finding]:
    """A finding for each reason for which rows were left out, counted in rows."""
    reasons: dict[str, dict[Source, str]] = {}
    for row in material.unusable:
        reasons.setdefault(row.reason, {}).setdefault(row.source, row.detail)
    return [
        Finding(
            reason,
            len(found),
            severity_of(reason, len(found) / material.rows),
            f"{_said(reason)} ({reason.replace('-', ' ')}): {len(found):,} of {material.rows:,}",
            places(found),
            quotes=tuple(sorted({detail for detail in found.values() if detail})[:EXAMPLES]) if material.show else (),
            sources=tuple(found),
        )
        for reason, found in reasons.items()
    ]


def _said(reason: str) -> str:
    return "rows without a verdict" if reason in UNJUDGED else "rows that cannot be used"


def length_statistics(material: Material) -> tuple[list[Finding], dict[str, Any]]:
    """Characters of prompts and answers by side, with a histogram of the answers."""
    sides = sides_of(material, material.lengths)
    answers = {name: values for name, values in sides.items() if name != "prompt"}
    bars = histogram(*answers.values())
    named = dict(zip(answers, bars["counts"], strict=True))
    lengths = {name: summary(values) for name, values in sides.items()}
    return [], {"characters": {**lengths, "histogram": {"edges": bars["edges"], "counts": named}}}


def sides_of(material: Material, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Lengths (records, 3) of prompt and answers, as arrays by what they are: prompt, chosen, rejected, ..."""
    pairs, labels = material.pairs, material.labels
    others = np.flatnonzero(material.facts.kinds == ANSWER)
    found = {"prompt": lengths[:, 0]}
    if pairs:
        found |= {"chosen": lengths[pairs, 1], "rejected": lengths[pairs, 2]}
    if labels:
        up = material.desirable
        found |= {"desirable": lengths[labels, 1][up], "undesirable": lengths[labels, 1][~up]}
    if len(others):
        found["answer"] = lengths[others, 1]
    return {name: values for name, values in found.items() if len(values)}


def label_balance(material: Material) -> tuple[list[Finding], dict[str, Any]]:
    """How many answers are desirable."""
    total, up = len(material.labels), int(material.desirable.sum())
    few = min(up, total - up)
    statistics = {"label_balance": {"desirable": up, "undesirable": total - up, "share_desirable": up / total}}
    share = few / total
    if share >= 0.25:
        return [], statistics
    finding = Finding(
        "label-balance",
        few,
        "error" if not few else "warning" if share < 0.1 else "info",
        f"desirable answers: {up:,}, undesirable ones: {total - up:,} ({up / total:.1%} to {1 - up / total:.1%})",
        details={**statistics["label_balance"], "mend": _weights(up, total - up)},
    )
    return [finding], statistics


def _weights(up: int, down: int) -> str:
    """Weights that bring the two sides to 1 : 1 (2402.01306 advises 1 to 3/2 for the desirable side)."""
    if not up or not down:
        return "Add rows with the other label; with one label alone train with --method sft on the desirable ones."
    option, factor = ("desirable-weight", down / up) if up < down else ("undesirable-weight", up / down)
    return f"Train with --method kto --{option} {factor:.3g}, which brings the two sides to the same weight."


def prompt_statistics(material: Material) -> tuple[list[Finding], dict[str, Any]]:
    """How many prompts there are, and how often they come; several pairs of one prompt are no defect."""
    sizes = np.bincount(np.unique(material.prompts, return_inverse=True)[1])
    most, repeated = int(sizes.max(initial=0)), int((sizes > 1).sum())
    return [], {"prompts": {"distinct": len(sizes), "repeated": repeated, "most_rows_of_one": most}}


def eval_overlap(material: Material) -> list[Finding]:
    """Training rows whose prompt also stands in the evaluation file, letter case and white space aside."""
    assert material.held_out is not None
    held = {plain_prompt(record.prompt): str(record.source) for record in reversed(material.held_out)}
    shared = [
        (number, held[prompt])
        for number, record in enumerate(material.records)
        if (prompt := plain_prompt(record.prompt)) in held
    ]
    rows = [number for number, _ in shared]
    prompts = {plain_prompt(material.records[number].prompt) for number in rows}
    affected = sum(plain_prompt(record.prompt) in prompts for record in material.held_out)
    known = {material.keys[number] for number in rows}
    whole = sum(material.keys_of(record) in known for record in material.held_out)
    return material.finding(
        "eval-overlap",
        rows,
        "rows whose prompt also stands in the evaluation file",
        more=f" (prompts: {len(prompts):,}; rows of the evaluation file: {affected:,} of {len(material.held_out):,})",
        related=(place for _, place in shared),
        details={"prompts": len(prompts), "evaluation_rows": affected, "same_rows": whole},
    )
