"""Rows that training leaves out, and what the others look like."""

from __future__ import annotations

from typing import Any

import numpy as np

from likelier.data.audit.findings import EXAMPLES, Finding, places, severity_of
from likelier.data.audit.material import Material
from likelier.data.records import Source
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
            f"rows that cannot be used ({reason.replace('-', ' ')}): {len(found):,} of {material.rows:,}",
            places(found),
            quotes=tuple(sorted({detail for detail in found.values() if detail})[:EXAMPLES]) if material.show else (),
            sources=tuple(found),
        )
        for reason, found in reasons.items()
    ]


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
    others = sorted({*range(len(material.records))} - {*pairs, *labels})
    found = {"prompt": lengths[:, 0]}
    if pairs:
        found |= {"chosen": lengths[pairs, 1], "rejected": lengths[pairs, 2]}
    if labels:
        up = material.desirable
        found |= {"desirable": lengths[labels, 1][up], "undesirable": lengths[labels, 1][~up]}
    if others:
        found["answer"] = lengths[others, 1]
    return {name: values for name, values in found.items() if len(values)}
