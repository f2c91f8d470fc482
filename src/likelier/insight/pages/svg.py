"""What matplotlib draws, as part of a page: colours from the page's style sheet, text as text, numbers on hovering."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from likelier.utils.console import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 420, 265
SERIES_COLOURS = 8
_PAINTS = ("--soft", "--line", *(f"--s{number}" for number in range(SERIES_COLOURS)))
_PAINT = re.compile(r"#0001([0-9a-f]{2})")
_FONT = re.compile(r"\s*font-family:[^;]*;?")
_LONG = re.compile(r"-?\d+\.\d{2,}")
_TURNED = re.compile(r"rotate\(-?0 [^)]*\)")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "likelier",
    "text.parse_math": False,
    "font.size": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 5),
    "path.simplify": False,
}


@dataclass(frozen=True)
class Hover:
    """A part of the drawing that tells its numbers: left, top, width and height in the drawing's units."""

    words: str
    left: float
    top: float
    width: float
    height: float


def paint(name: str) -> str:
    """A colour that stands for a variable of the page's style sheet, such as `--s0`, until the drawing is finished."""
    return f"#0001{_PAINTS.index(name):02x}"


def drawing_style() -> Any:
    """The context in which every chart is drawn: matplotlib's defaults, whatever the user's own file says, and ours."""
    from matplotlib import style

    colours = {name: paint("--soft") for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")}
    return style.context(["default", _STYLE | colours | {"axes.edgecolor": paint("--line")}])


def new_figure(height: float = HEIGHT) -> tuple[Figure, Any]:
    """An empty drawing and its axes, without background."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    axes.grid(visible=True, axis="y", color=paint("--line"), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    return figure, axes


def written(figure: Figure) -> str:
    """The drawing as matplotlib writes it; after this its layout is final."""
    stream = StringIO()
    figure.canvas.print_svg(stream, metadata={"Date": None})  # type: ignore[attr-defined]
    return stream.getvalue()


def embedded(svg: str, label: str, hovers: Iterable[Hover] = ()) -> Markup:
    """The drawing as an element of a page: scalable, named for those who cannot see it, with ids of its own."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): _plain(value) for name, value in element.attrib.items() if value}
    for name in ("metadata", "defs/style/.."):
        for useless in root.findall(name):
            root.remove(useless)
    _rename_ids(root, hashlib.sha256(f"{label}\n{svg}".encode("utf-8", "replace")).hexdigest()[:8])
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": printable(label)}
    root.extend(_hover_element(hover) for hover in hovers)
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
    return Markup(re.sub(r">\s+<", "><", text))


def _local(name: str) -> str:
    """A name without its namespace: inside HTML the parser knows it."""
    return name.rpartition("}")[2]


def _plain(value: str) -> str:
    """An attribute with variables for colours, the page's own font, and numbers no longer than the eye can see."""
    value = _PAINT.sub(lambda match: f"var({_PAINTS[int(match.group(1), 16)]})", value)
    value = _FONT.sub("", _TURNED.sub("", value)).replace("\n", "")
    return _LONG.sub(lambda match: f"{float(match.group()):.1f}".removesuffix(".0"), value)


def _rename_ids(root: ElementTree.Element, prefix: str) -> None:
    """Keep only the ids that something refers to, and make them this drawing's own."""
    values = " ".join(value for element in root.iter() for value in element.attrib.values())
    used = set(re.findall(r"#([\w-]+)", values))
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", f"{prefix}-{name}")
        for key, value in element.attrib.items():
            element.set(key, re.sub(r"#([\w-]+)", rf"#{prefix}-\1", value))


def _hover_element(hover: Hover) -> ElementTree.Element:
    box = {"x": hover.left, "y": hover.top, "width": hover.width, "height": hover.height}
    element = ElementTree.Element("rect", {name: f"{value:.1f}" for name, value in box.items()} | {"class": "hover"})
    ElementTree.SubElement(element, "title").text = printable(hover.words)
    return element
