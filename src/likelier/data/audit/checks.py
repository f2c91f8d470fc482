"""The table of checks, and the audit that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from likelier.data.audit.contradictions import contradictory_labels, contradictory_pairs, intransitive_cycles
from likelier.data.audit.duplicates import exact_duplicates, near_duplicates
from likelier.data.audit.findings import SEVERITIES, Audit, Finding
from likelier.data.audit.garbled import garbled_text
from likelier.data.audit.material import Material, Ranker
from likelier.data.audit.noise import noise, undecided_pairs
from likelier.data.audit.rows import eval_overlap, label_balance, length_statistics, prompt_statistics, unusable_rows
from likelier.data.audit.scores import reference_checks
from likelier.data.audit.shortcuts import length_bias, surface_bias
from likelier.data.audit.tokens import chat_markup, token_checks
from likelier.data.options import ChatOptions
from likelier.data.records import Record, Unusable
from likelier.utils.errors import ConfigError, DataError

Result: TypeAlias = "list[Finding] | tuple[list[Finding], dict[str, Any]]"


@dataclass(frozen=True)
class Check:
    """A family of findings: what is said while it runs, what it needs, and what it does."""

    words: str
    needs: str
    run: Callable[[Material], Result]


NEEDS: dict[str, Callable[[Material], bool]] = {
    "rows": lambda material: True,
    "records": lambda material: bool(material.records),
    "pairs": lambda material: bool(material.pairs),
    "labels": lambda material: bool(material.labels),
    "judgements": lambda material: bool(material.pairs or material.labels),
    "evaluation data": lambda material: material.held_out is not None,
    "tokenizer": lambda material: material.tokenizer is not None and bool(material.records),
    "model": lambda material: material.ranker is not None and material.sample > 0 and bool(material.decided),
}

CHECKS = (
    Check("rows that cannot be used", "rows", unusable_rows),
    Check("lengths", "records", length_statistics),
    Check("prompts", "records", prompt_statistics),
    Check("exact duplicates", "records", exact_duplicates),
    Check("near duplicates", "records", near_duplicates),
    Check("contradictory pairs", "pairs", contradictory_pairs),
    Check("contradictory labels", "labels", contradictory_labels),
    Check("intransitive cycles", "pairs", intransitive_cycles),
    Check("undecided pairs", "pairs", undecided_pairs),
    Check("noise", "judgements", noise),
    Check("length bias", "judgements", length_bias),
    Check("surface bias", "judgements", surface_bias),
    Check("label balance", "labels", label_balance),
    Check("evaluation file", "evaluation data", eval_overlap),
    Check("chat markup", "records", chat_markup),
    Check("garbled text", "records", garbled_text),
    Check("tokens", "tokenizer", token_checks),
    Check("reference", "model", reference_checks),
)

MOST = 100_000  # records that the audit of a run looks at
HELD = 20_000  # records that an audit holds in memory, since it goes through them several times


def audit_records(
    records: Sequence[Record],
    unusable: Iterable[Unusable] = (),
    *,
    held_out: Sequence[Record] | None = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    chat: ChatOptions | None = None,
    ranker: Ranker | None = None,
    score_sample: int = 0,
    show: bool = False,
    name: str = "",
    format: str = "",
    report: Callable[[str], None] = lambda words: None,
) -> Audit:
    """Look at records as training would read them, and at the rows that it would leave out. Prints and changes nothing.

    Args:
        records: of `load_preferences`, as they are.
        unusable: the rows that it left out; their votes, where they were read, tell of the annotators all the same.
        held_out: an evaluation file's records, for `eval-overlap`.
        tokenizer: for everything about tokens; needs `max_length`. With a `ranker`, that one's.
        max_length: tokens of prompt and answer that training would keep.
        chat: how conversations become text.
        ranker: a model that scores `score_sample` pairs (see `reference_checks`).
        show: put text of the data into the findings (`quotes`), which otherwise name places only.
        name: what was audited, and its `format`, to be shown.
        report: called with each check's name before it runs.

    Raises:
        ConfigError: a tokenizer without a length, or a length without a tokenizer.
        DataError: there is nothing to look at.
    """
    tokenizer = ranker.tokenizer if ranker is not None and tokenizer is None else tokenizer
    if (tokenizer is None) != (max_length is None):
        raise ConfigError("a tokenizer and max_length go together: give both or none")
    chat = chat or ChatOptions()
    some = list(records) if len(records) <= HELD else records
    material = Material(
        some, list(unusable), held_out, tokenizer, max_length, chat, ranker, sample=score_sample, show=show
    )
    if not material.rows:
        raise DataError(f"{name or 'the data'}: no rows to look at")
    findings, figures = _checked(material, report)
    statistics = {"records": len(records)} | figures
    return Audit(material.rows, material.usable, material.kind, findings, statistics, name, format)


def _checked(material: Material, report: Callable[[str], None]) -> tuple[tuple[Finding, ...], dict[str, Any]]:
    """The findings of every check that has what it needs, the worst first, and the statistics."""
    findings: list[Finding] = []
    statistics: dict[str, Any] = {}
    for check in CHECKS:
        if NEEDS[check.needs](material):
            report(check.words)
            result = check.run(material)
            found, figures = result if isinstance(result, tuple) else (result, {})
            findings += found
            statistics |= figures
    return tuple(sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))), statistics


def run_audit(train: Sequence[Record], held_out: Sequence[Record], unusable: Iterable[Unusable]) -> dict[str, Any]:
    """Look at the rows that a run trains on, and whether its held-out prompts are among them. Of more than `MOST`
    records an evenly spaced part is looked at, and `records_looked_at` says so.
    """
    step = max(1, -(-len(train) // MOST))
    looked_at = train[::step]
    found = audit_records(looked_at, unusable, held_out=held_out or None).as_json()
    return found if step == 1 else found | {"records_looked_at": len(looked_at)}
