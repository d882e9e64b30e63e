"""Reports, which are written as Markdown or as a self-contained HTML page."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mcir.atomic import write_atomically
from mcir.report.figures import Figure
from mcir.report.option_changes import OptionChange
from mcir.text import printable

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Card:
    """A key number at the top of a page: what it is, its value, and a remark, which may be empty."""

    label: str
    value: str
    remark: str = ""


@dataclass
class Section:
    """A part of a report.

    Attributes:
        heading: heading of the section.
        paragraphs: plain text above the table.
        table: rows of cells; the first row contains the headings.
        figures: drawings and images, in the HTML page only.
        code: text in a fixed-width font.
        changes: options that differ; the old value is red, the new one green.
        notes: plain text below everything else.
        is_text_table: whether the table contains text rather than numbers.
        folded: whether the section is initially closed.
    """

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    code: str = ""
    changes: Sequence[OptionChange] = ()
    notes: list[str] = field(default_factory=list)
    is_text_table: bool = False
    folded: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether the section has only a heading."""
        return not (self.paragraphs or self.table or self.figures or self.code or self.changes or self.notes)

    def as_markdown(self) -> str:
        """Return the section without its figures; an empty string if it has no other content."""
        parts = list(self.paragraphs)
        if self.table:
            head, *rows = self.table
            parts.append("\n".join([_row(head), "|---" + "|---:" * (len(head) - 1) + "|", *map(_row, rows)]))
        if self.code:
            parts.append(f"```\n{self.code}\n```")
        if self.changes:
            parts.append("\n".join(f"- {change}" for change in self.changes))
        parts += self.notes
        return "\n\n".join([f"## {self.heading}", *parts]) if parts else ""


@dataclass
class Report:
    """A title and sections. Empty sections are left out.

    Attributes:
        title: title of the page.
        sections: sections in order.
        status: short text next to the title.
        cards: key numbers below the title, in the HTML page only.
        interactive: whether the page contains the script for image sliders and for the values of curves.
    """

    title: str
    sections: Sequence[Section]
    status: str = ""
    cards: Sequence[Card] = ()
    interactive: bool = False

    def __post_init__(self) -> None:
        """Leave out empty sections."""
        self.sections = [section for section in self.sections if not section.is_empty]

    def as_markdown(self) -> str:
        """Return the report as Markdown, without figures."""
        parts = filter(None, [f"# {self.title}", *(part.as_markdown() for part in self.sections)])
        return printable("\n\n".join(parts)) + "\n"

    def as_html(self) -> str:
        """Return the report as an HTML page that contains all its resources and fetches none."""
        style, script = (Markup((_FOLDER / name).read_text("utf-8")) for name in ("page.css", "page.js"))  # noqa: S704
        return printable(render("page.html.jinja", report=self, style=style, script=script))

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write ``folder/name.md`` and ``folder/name.html`` and return both paths.

        Raises:
            OSError: a file cannot be written.
        """
        files = [folder / f"{name}.md", folder / f"{name}.html"]
        for file, text in zip(files, (self.as_markdown(), self.as_html()), strict=True):
            write_atomically(file, text.encode())
        return files


def render(template: str, **values: Any) -> Markup:
    """Render a template of this package; every value that is not ``Markup`` is escaped."""
    return Markup(_environment().get_template(template).render(values))  # noqa: S704


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
