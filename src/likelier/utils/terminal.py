"""The rich console of every table and display: whatever reaches the screen is text, wherever it came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from likelier.utils.console import printable


class SafeConsole(Console):
    """A console that reads no markup in text, colours no words by itself, and marks control characters.

    Data, model output and file names can hold escape sequences and `[link=...]`; what rich itself sends to move the
    cursor passes.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
