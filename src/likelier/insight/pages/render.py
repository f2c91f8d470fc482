"""Pages: templates over `base.html`, which holds the styles, the head and the foot that all of them share.

No script, nothing fetched; everything that is put into a template is escaped, and control characters become visible.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from likelier.insight.pages.charts import number
from likelier.utils.console import printable
from likelier.utils.redaction import without_secrets
from likelier.utils.versions import __version__

_NAMED = "method|reference|dtype|scheduler|use-votes|truncation|drop|write"  # a word follows them
_FLAG = re.compile(rf"--(?:(?:{_NAMED}) [\w.-]*\w|[a-z][a-z0-9-]*(?: \d[\w.-]*\w|(?: \d)?))")
MOST_TEXT = 10_000  # characters of one value, whatever a file may hold


def render(template_name: str, **values: Any) -> str:
    """A page from a template that stands beside this file.

    It knows `version` and the filters `number`, `percent` and `flags` (flags of the command line as code). A value that
    the template names and nobody gave is an error.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str:
        return files("likelier.insight.pages").joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(source),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": lambda value: number(value, percent=True), "flags": _flags}
    return environment.get_template(template_name).render(version=__version__, **values)


def _flags(text: str) -> Markup:
    """Plain words with the flags in them set as code, each with its value."""
    return Markup(_FLAG.sub(lambda match: f"<code>{match.group()}</code>", str(escape(_visible(text)))))


def _visible(value: Any) -> Any:
    """Text without secrets and with its control characters marked, of bounded length; markup stays as it is."""
    if type(value) is not str:
        return value
    cut = f"… ({len(value) - MOST_TEXT:,} characters more)" if len(value) > MOST_TEXT else ""
    return printable(without_secrets(value[:MOST_TEXT])) + cut
