"""The report: everything that a run folder tells, as one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from likelier.insight.diagnose import diagnose
from likelier.insight.pages.render import render
from likelier.insight.report.account import (
    demo_command,
    facts,
    figures,
    how_again,
    identities,
    run_file,
    sentence,
    state,
    tiles,
    timing,
)
from likelier.insight.report.answers import Reply, replies
from likelier.insight.report.curves import curves
from likelier.insight.report.curves_of_answers import curves_of_answers
from likelier.insight.report.distributions import distributions
from likelier.insight.report.earned import replies_by_reward, shown_rollouts, tiles_by_reward
from likelier.insight.report.elsewhere import elsewhere_tiles
from likelier.insight.report.examples import clipped, heat_maps, samples
from likelier.insight.verdicts import Verdict
from likelier.runs.account import Finding
from likelier.runs.benchmark import read_benchmark
from likelier.runs.card import Counts
from likelier.runs.folder import RunFolder
from likelier.runs.reader import Run, read_run
from likelier.utils.errors import RunFolderError
from likelier.utils.files import base_names, local, write_output
from likelier.utils.outputs import check_output

MOST_FINDINGS = 20
_HOLD_OUT = "No data were held out: give --eval-fraction 0.1, or --eval-data FILE, to find it here."


def write_report(folder: str | Path, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write a run's report, over an older one but over no other file unless `overwrite`; gives its place.

    Raises `RunFolderError` if there is no run, or the report cannot be written there, `ConfigError` for another file.
    """
    run = read_run(folder)
    file = local(output or Path(folder) / "report.html")
    check_output(file, overwrite=overwrite, page=True)
    write_output(file, report_page(run), mend="name another --output", kind=RunFolderError)
    return file


def report_page(run: Run) -> str:
    """The whole page."""
    verdicts, elsewhere, own = _verdicts(run), read_benchmark(run.folder), run.card.facts.writes_answers
    return render(
        "report.html",
        run=run,
        sentence=clipped(sentence(run)),
        state=state(run),
        replies=_replies(run, verdicts),
        own=own,
        reward_model=run.card.facts.reads_values,
        tiles=[*(tiles_by_reward(run) if own else []), *tiles(run), *elsewhere_tiles(elsewhere)],
        elsewhere=elsewhere,
        verdicts=verdicts,
        figures=figures(run),
        curves=curves_of_answers(run) if own else curves(run),
        rollouts=shown_rollouts(run) if own else [],
        distributions=distributions(run),
        heat_maps=heat_maps(run),
        samples=samples(run),
        left_out=_left_out(run),
        findings=[_finding(one) for one in run.audit.audit.findings[:MOST_FINDINGS]],
        audit_verdict=run.audit.audit.verdict,
        counts=_counts(run),
        timing=timing(run),
        facts=[(name, clipped(words)) for name, words in facts(run)],
        run_file=run_file(run),
        how_again=how_again(run),
        demo_command=demo_command(run),
        identities=[(name, clipped(words)) for name, words in identities(run)],
        stages=_stages(run),
        why_empty=lambda what: why_empty(run, what),
    )


def _verdicts(run: Run) -> list[Verdict]:
    """The diagnosis, the card's local paths in it cut down to their last part."""
    found = diagnose(run)
    said = [
        {"title": one.title, "meaning": one.meaning, "evidence": one.evidence, "advice": one.advice} for one in found
    ]
    shown = base_names({"card": dict(run.card.raw), "said": said})["said"]
    return [replace(one, **words) for one, words in zip(found, shown, strict=True)]


def _replies(run: Run, verdicts: list[Verdict]) -> list[Reply]:
    """What is answered first, in words of bounded length."""
    found = replies_by_reward(run, verdicts) if run.card.facts.writes_answers else replies(run, verdicts)
    return [replace(one, because=clipped(one.because, 400)) for one in found]


def why_empty(run: Run, what: str) -> str:
    """Why a section (`figures`, `items`, `pairs`, `samples`) has nothing to show, and how it comes by it."""
    if run.card.status in ("training", "failed", "interrupted"):
        return "Nothing yet: the run has not come so far, or did not."
    if not run.evaluations and not run.card.data.held_out:
        return _HOLD_OUT
    if what == "pairs" and "rejected" not in (run.detail("end").items or {"rejected": None}):
        return "This method sets no two answers against each other: there is no margin to explain token by token."
    if what in ("pairs", "samples") and run.card.options.eval_prompts == 0:
        return "The policy wrote no answers, because of --eval-prompts 0."
    if what == "pairs" and run.detail("end").when:
        return "The reference could not be asked at the end, so that no token has a log-ratio."
    return "The run folder does not hold it; runs of older versions did not write it."


# --- data ------------------------------------------------------------------------------------------------------


def _left_out(run: Run) -> list[dict[str, Any]]:
    """Why rows were left out, with a few places each."""
    unused = {"severity": "warning", "summary": "rows that could not be used"}
    counted = [Finding(name, count=count) for name, count in run.card.unusable_rows.items()]
    return [_finding(replace(one, **unused)) for one in (run.audit.findings or counted)[:MOST_FINDINGS]]


def _finding(one: Finding) -> dict[str, Any]:
    found = {name: clipped(getattr(one, name), 600) for name in ("name", "summary", "why", "mend", "severity")}
    places = [clipped(base_names(place), 200) for place in one.examples[:5]]
    return found | {"count": "" if one.count is None else one.count, "places": places}


def _counts(run: Run) -> list[list[str]]:
    """Rows used and left out, of what is trained on and what is held out."""
    unread = sum(run.card.unusable_rows.values())
    neither = Counts(unusable=unread) if unread else None
    parts = [
        ("not usable as they stand", neither),
        ("trained on", run.card.data.train),
        ("held out", run.card.data.eval),
    ]
    columns = [
        ("used", "used"),
        ("left out", "unusable"),
        ("prompts cut", "cut_prompts"),
    ]
    if not run.card.facts.writes_answers:
        columns += [("answers cut", "cut_answers"), ("answers without an end", "answers_without_eos")]
    rows = [[name, *(f"{getattr(part, key):,}" for _, key in columns)] for name, part in parts if part]
    return [["", *(name for name, _ in columns)], *rows] if rows else []


# --- stages ----------------------------------------------------------------------------------------------------


def _stages(run: Run) -> list[dict[str, Any]]:
    """The stages of the whole that this run is one of; empty for a run of its own."""
    whole = RunFolder(run.folder.resolve().parent)
    stages = whole.card().stages if whole.card_file.is_file() else ()
    return [
        {
            "name": clipped(stage.name, 100),
            "method": stage.method or "",
            "status": stage.status or "",
            "is_this": stage.folder == run.folder.resolve().name,
        }
        for stage in stages
    ]
