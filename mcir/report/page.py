"""Reports: the same content as Markdown and as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mcir.report.figures import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { border-bottom: 1px solid #ddd; padding: .25rem .7rem }
td { text-align: right; font-variant-numeric: tabular-nums } td:first-child, th:first-child { text-align: left }
figure { display: inline-block; margin: .5rem } figcaption { font-size: .85rem; color: #555; max-width: 34rem }
img { max-width: 100% } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto }
"""


@dataclass
class Section:
    """A part of a report: a heading, paragraphs, a table, figures; ``code`` is shown as it stands.

    The first row of ``table`` are its headings.
    """

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    code: str = ""


@dataclass
class Report:
    """A title and its sections."""

    title: str
    sections: list[Section]

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
        """Return the report as a page; drawings and pictures are in it."""
        parts = [f"<h1>{html.escape(self.title)}</h1>"]
        for section in self.sections:
            parts.append(f"<h2>{html.escape(section.heading)}</h2>")
            parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.paragraphs]
            if section.table:
                head, *rows = section.table
                parts.append("<table><thead>" + _html_row(head, "th") + "</thead><tbody>")
                parts += [_html_row(row, "td") for row in rows]
                parts.append("</tbody></table>")
            if section.code:
                parts.append(f"<pre>{html.escape(section.code)}</pre>")
            for figure in section.figures:
                caption = html.escape(figure.caption)
                parts.append(f"<figure>{figure.markup}<figcaption>{caption}</figcaption></figure>")
        body = "\n".join(parts)
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
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


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
