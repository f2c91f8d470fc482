"""A comparison as a page: what stands in the way first, the figures, the frontier, the courses."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from likelier.insight.compare.curves import charts
from likelier.insight.compare.frontier import BEFORE, Frontier, gain_words
from likelier.insight.compare.text import Findings, paired_table
from likelier.insight.pages.charts import Point, scatter_chart
from likelier.insight.pages.render import render
from likelier.insight.pages.svg import SERIES_COLOURS
from likelier.utils.errors import ConfigError
from likelier.utils.files import base_names, write_output


def as_html(found: Findings) -> str:
    """The whole page, on which local paths are cut down to their last part."""
    comparison = found.comparison
    cards = [dict(run.card.raw) for run in comparison.runs]
    return render(
        "compare.html",
        comparison=comparison,
        found=found,
        cautions=base_names({"cards": cards, "cautions": found.cautions})["cautions"],
        folders={one.name: [base_names(str(run.folder)) for run in one.runs] for one in comparison.subjects},
        paired=paired_table(found.paired) if found.paired else [],
        frontiers=[(_picture(one, len(comparison.subjects)), one) for one in found.frontiers],
        charts=charts(comparison),
    )


def _picture(frontier: Frontier, subjects: int) -> Markup:
    """Every run a point; of one colour are the runs of a setting, or of a method where settings are too many."""
    by_setting = subjects <= SERIES_COLOURS
    points = []
    for name, run, kl, error, gain in frontier.runs:
        bounds = (None, None) if error is None else (kl - error, kl + error)
        group = name if by_setting else run.method
        points.append(Point(f"{name} ({run.name})", kl, gain, group, x_low=bounds[0], x_high=bounds[1]))
    if len({point.group for point in points}) < SERIES_COLOURS:
        points += [Point(BEFORE, one.kl, one.gain, BEFORE) for one in frontier.places if one.name == BEFORE]
    share = frontier.measure.kind == "share"
    return scatter_chart(
        frontier.title[0].upper() + frontier.title[1:],
        "KL to the reference, nats an answer",
        gain_words(frontier.measure),
        points,
        percent=share,
        note="Every run is a point; the bar is the standard error of its KL. Up and to the left is better.",
        named=False,
    )


def write_page(found: Findings, path: Path) -> None:
    """Write the page. Raises `ConfigError` where it cannot be written."""
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder; name a file, such as {path / 'compare.html'}")
    write_output(path, as_html(found))
