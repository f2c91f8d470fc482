"""An audit as one HTML file: no script, nothing fetched, everything from the data escaped."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from likelier.data.audit.catalogue import entry_of
from likelier.data.audit.findings import SEVERITIES, Audit
from likelier.insight.audit.charts import charts_of
from likelier.insight.audit.figures import figure_tables
from likelier.utils.console import printable
from likelier.utils.redaction import without_secrets
from likelier.utils.versions import __version__

_WITH_VALUE = "method|use-votes|truncation|drop|write|flip-probability|desirable-weight|undesirable-weight"
_FLAG = re.compile(rf"--(?:(?:{_WITH_VALUE}) [\w.-]*\w|[a-z][\w-]*\w)")
_RULES = "how much simple rules know"


def as_html(audit: Audit) -> str:
    """The whole page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_visible, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["flags"] = _with_flags
    source = files("likelier.insight.audit").joinpath("page.html").read_text(encoding="utf-8")
    template = environment.from_string(source)
    tables = dict(figure_tables(audit))
    return template.render(
        audit=audit,
        entry_of=entry_of,
        tiles=_tiles(audit),
        counts={level: len([one for one in audit.findings if one.severity == level]) for level in SEVERITIES[::-1]},
        charts=charts_of(audit.statistics),
        rules=[_rule(row) for row in tables.pop(_RULES, [])[1:]],
        tables=tables,
        version=__version__,
    )


def _with_flags(text: str) -> Any:
    """Plain words with the flags in them set as code."""
    from markupsafe import Markup, escape

    return Markup(_FLAG.sub(lambda match: f"<code>{match.group()}</code>", str(escape(_visible(text)))))


def _visible(value: Any) -> Any:
    """Text with its control characters marked; what is markup already stays as it is."""
    return printable(without_secrets(value)) if type(value) is str else value


def _tiles(audit: Audit) -> list[tuple[str, str]]:
    left_out = audit.rows - audit.usable
    tiles = [
        ("rows", f"{audit.rows:,}"),
        ("usable", f"{audit.usable:,}"),
        ("left out", f"{left_out:,}"),
        (audit.kind, f"{audit.statistics['records']:,}"),
    ]
    if "prompts" in audit.statistics:
        tiles.append(("distinct prompts", f"{audit.statistics['prompts']['distinct']:,}"))
    if "noise" in audit.statistics:
        tiles.append(("noise ceiling", f"{audit.statistics['noise']['ceiling']:.1%}"))
    return tiles


def _rule(row: list[str]) -> dict[str, Any]:
    """A rule's share and interval as places from 0 to 100."""
    name, value, interval, cases = row
    low, high = (float(word.rstrip("%")) for word in interval.split(" to "))
    return {"name": name, "value": float(value.rstrip("%")), "low": low, "high": high, "words": value, "of": cases}
