"""Consoles and progress bars of rich, which show names from files and options as they are."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import TextWrapper
from typing import Any

import rich.console
import rich.progress
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from mcir.text import printable


class Console(rich.console.Console):
    """A console of rich that shows every text as it is, with visible control characters.

    Args:
        options: options of rich's console, without those for markup, emoji and highlighting.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print_wrapped(self, content: str | Text | Table, style: str = "") -> None:
        """Print a text or a table. At a terminal, the lines of a string break between words.

        Paths remain whole. A ``Text`` is not wrapped, so that a command in it can be copied.
        """
        if self.is_terminal and not self.is_dumb_terminal and isinstance(content, str):
            content = "\n".join(self._wrapped(line) for line in printable(content).split("\n"))
        self.print(content, style=style, soft_wrap=True)

    def _wrapped(self, line: str) -> str:
        indent = line[: len(line) - len(line.lstrip())]
        wrapper = TextWrapper(self.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        wrapper.expand_tabs = wrapper.replace_whitespace = False
        return wrapper.fill(line)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text with visible control characters."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render an object to segments, of which only those of rich itself control the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class TextColumn(rich.progress.TextColumn):
    """A column of a progress bar that shows its text as it is."""

    def __init__(self, text_format: str) -> None:
        super().__init__(text_format, markup=False)
