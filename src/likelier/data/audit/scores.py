"""What the reference model itself thinks of the pairs, on a sample: no training, one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from likelier.data.audit.findings import Finding, places, severity_of
from likelier.data.audit.material import Material, sampled
from likelier.data.records import Source
from likelier.data.tokenize import tokenize_records
from likelier.utils.statistics import Share, share_of

BETA = 0.1
FAR = 5.0  # sigmoid(-5) < 1 %: what is left of DPO's gradient when a pair's reward margin is that far


def reference_checks(material: Material) -> tuple[list[Finding], dict[str, Any]]:
    """How often the reference ranks the chosen answer first, and which pairs it ranks so surely that little can change.

    `log p(chosen) - log p(rejected)` has to be overcome before the ranking turns (2405.19534). DPO's gradient on a pair
    is sigmoid(-beta * change): where the reference prefers the rejected answer by more than 5 / beta nats, less than
    1 % of it is left when the ranking turns.
    """
    assert material.ranker is not None and material.max_length is not None
    rows = [material.records[number] for number in sampled(material.decided, material.sample)]
    chat = material.chat if any(isinstance(row.prompt, tuple) for row in rows) else None
    tokenized = tokenize_records(rows, material.tokenizer, max_length=material.max_length, chat=chat)
    groups = tokenized.groups
    if not groups:
        return [], {}
    margins = material.ranker.margins(groups)
    clusters = np.array([hash(group.prompt.tobytes()) for group in groups])
    accuracy, per_token = (share_of((margins[:, at] > 0).astype(float), clusters) for at in (0, 1))
    far = FAR / BETA
    statistics = {
        "model": material.ranker.words,
        "sample": len(groups),
        "ranking_accuracy": accuracy.as_json(),
        "ranking_accuracy_per_token": per_token.as_json(),
        "certain": int((margins[:, 0] > far).sum()),
        "impossible": int((margins[:, 0] < -far).sum()),
        "median_margin": float(np.median(margins[:, 0])),
    }
    sources = [group.source for group in groups]
    impossible = _far("reference-impossible", "rejected", sources, -margins[:, 0], accuracy)
    certain = _far("reference-certain", "chosen", sources, margins[:, 0], accuracy)
    return impossible + certain, {"reference": statistics}


def _far(name: str, side: str, sources: list[Source], margins: np.ndarray, accuracy: Share) -> list[Finding]:
    """The pairs whose margin towards one side is beyond what training moves, the farthest first."""
    far = FAR / BETA
    rows = [row for row in np.argsort(-margins, kind="stable").tolist() if margins[row] > far]
    if not rows:
        return []
    summary = (
        f"sampled pairs whose {side} answer is likelier by more than {far:.0f} nats: {len(rows):,} of {len(margins):,} "
        f"(the reference ranks {accuracy} of the sample right)"
    )
    severity = severity_of(name, len(rows) / len(margins))
    return [Finding(name, len(rows), severity, summary, places(sources[row] for row in rows), details={"nats": far})]
