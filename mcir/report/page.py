"""Reports: the same content as Markdown and as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from mcir.report.figures import Figure

_NOTHING_FROM_OUTSIDE = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'none'"
)


@dataclass
class Section:
    """A part of a report: a heading, paragraphs, a table, figures; ``code`` is shown as it stands.

    The first row of ``table`` are its headings; it holds numbers, or else ``words``. A ``folded`` section is opened by
    who wants to read it.
    """

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    code: str = ""
    words: bool = False
    folded: bool = False

    def as_html(self) -> str:
        """Return the section as a part of a page."""
        heading = f"<h2>{html.escape(self.heading)}</h2>"
        parts = [f"<details><summary>{heading}</summary>" if self.folded else heading]
        parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in self.paragraphs]
        if self.table:
            head, *rows = self.table
            kind = "words" if self.words else "numbers"
            parts.append(f'<div class="wide"><table class="{kind}" role="table"><thead role="rowgroup">')
            parts += [_html_row(head, "th", "columnheader"), '</thead><tbody role="rowgroup">']
            parts += [_html_row(row, "td", "cell", head) for row in rows]
            parts.append("</tbody></table></div>")
        if self.code:
            parts.append(f"<pre>{html.escape(self.code)}</pre>")
        if self.figures:
            parts.append('<div class="figures">')
            for figure in self.figures:
                caption = f"<figcaption>{html.escape(figure.caption)}</figcaption>"
                parts.append(f'<figure class="{figure.kind}">{figure.markup}{caption}</figure>')
            parts.append("</div>")
        return "\n".join([*parts, "</details>"] if self.folded else parts)


@dataclass
class Report:
    """A title and its sections.

    ``status`` stands beside the title; a ``live`` page has a script of its own, by which curves tell their values under
    the pointer and pictures are compared.
    """

    title: str
    sections: list[Section]
    status: str = ""
    live: bool = False

    def as_markdown(self) -> str:
        """Return the report as Markdown; figures stand only in the page."""
        lines = [f"# {self.title}", ""]
        for section in self.sections:
            if section.paragraphs or section.table or section.code:
                lines += [f"## {section.heading}", ""]
            for paragraph in section.paragraphs:
                lines += [paragraph, ""]
            if section.table:
                head, *rows = section.table
                lines += [_row(head), "|---" + "|---:" * (len(head) - 1) + "|", *map(_row, rows), ""]
            if section.code:
                lines += ["```", section.code, "```", ""]
        return "\n".join(lines)

    def as_html(self) -> str:
        """Return the report as a page; drawings and pictures are in it, and it may fetch nothing."""
        title, beside = html.escape(self.title), Path(__file__).parent
        style = (beside / "page.css").read_text(encoding="utf-8")
        status = f' <span class="status">{html.escape(self.status)}</span>' if self.status else ""
        parts = [f"<header><h1>{title}</h1>{status}</header>", *(section.as_html() for section in self.sections)]
        if self.live:
            parts.append(f"<script>{(beside / 'page.js').read_text(encoding='utf-8')}</script>")
        body = "\n".join(parts)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_NOTHING_FROM_OUTSIDE}">'
            f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
            f"<style>{style}</style></head>\n<body>\n{body}\n</body></html>\n"
        )

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write ``folder/name.md`` and ``folder/name.html`` and return them.

        Raises:
            OSError: they cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{name}.md", folder / f"{name}.html"]
        for file, text in zip(files, (self.as_markdown(), self.as_html()), strict=True):
            file.write_text(text, encoding="utf-8")
        return files


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html_row(cells: Sequence[str], tag: str, role: str, heads: Sequence[str] = ()) -> str:
    """Return a row of a table, which stays one to a screen reader when a narrow screen shows its cells as blocks.

    ``heads`` are the headings of the cells, which stand in each of the blocks.
    """
    parts = (
        f'<{tag} role="{role}" data-head="{html.escape(head)}">{html.escape(cell)}</{tag}>'
        for cell, head in zip_longest(cells, heads, fillvalue="")
    )
    return f'<tr role="row">{"".join(parts)}</tr>'
