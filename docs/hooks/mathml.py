"""Formulas become MathML while the site is built: browsers draw it themselves, without a script or a font to fetch.

`pymdownx.arithmatex` marks them; here each mark's LaTeX is converted. A formula that cannot be converted whole fails
the build and is named with its page.
"""

import html
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])</(?P=tag)>', re.DOTALL
)

_THIN = '<mspace width="0.167em" />'
_NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
_PARTS = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3, "mroot": 2}
_FUNCTION = r"<mi>(?:log|ln|exp|max|min|KL)</mi>"


def _with_spaces(mathml: str) -> str:
    """A thin space between a function's name and what it stands beside, which MathML leaves to the author."""
    before = re.sub(rf"(</m[in]>|</msu[bp]>|&#x00029;</mo>)(?={_FUNCTION})", rf"\1{_THIN}", mathml)
    return re.sub(rf"({_FUNCTION})(?=<(?!mo\b|/))", rf"\1{_THIN}", before)


def _check(latex: str, tree: ElementTree.Element) -> None:
    """Raises `ValueError` for what latex2mathml lets pass: an unknown command, a missing part, an open brace."""
    text = "".join(tree.itertext())
    if "\\" in text:
        raise ValueError(f"unknown command in {text!r}")
    for name, parts in _PARTS.items():
        if any(len(element) != parts for element in tree.iter(f"{_NAMESPACE}{name}")):
            raise ValueError(f"a part of {name} is missing")
    bare = re.sub(r"\\[{}]", "", latex)
    if bare.count("{") != bare.count("}"):
        raise ValueError("a brace is not closed")


def to_mathml(latex: str, *, block: bool) -> str:
    """MathML of a formula. Raises `ValueError` where a part of it is not known."""
    try:
        mathml = convert(latex, display="block" if block else "inline")
        tree = ElementTree.fromstring(mathml)
    except Exception as error:  # latex2mathml raises many kinds
        raise ValueError(f"{type(error).__name__}: {error}") from error
    _check(latex, tree)
    return _with_spaces(mathml)


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """Convert every marked formula of a page."""

    def converted(match: re.Match[str]) -> str:
        block = match["block"] is not None
        latex = html.unescape(match["block"] if block else match["inline"]).strip()
        try:
            mathml = to_mathml(latex, block=block)
        except ValueError as error:
            raise PluginError(f"{page.file.src_uri}: the formula {latex!r} cannot be converted: {error}") from error
        return f'<div class="formula">{mathml}</div>' if block else mathml

    made = _MARKED.sub(converted, content)
    if 'class="arithmatex"' in made:
        raise PluginError(f"{page.file.src_uri}: a formula was left unconverted")
    return made
