"""Sphinx extension: write formulas as MathML when the pages are built, so that they need no script and no network."""

import re
from typing import TYPE_CHECKING

from docutils import nodes
from latex2mathml.converter import convert

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata
    from sphinx.writers.html5 import HTML5Translator

_FIXES = {
    "<mo>&#x02016;</mo>": '<mo stretchy="false">&#x02016;</mo>',  # only the left bar of a norm would stretch
    "<mo>&#x0007C;</mo>": '<mo stretchy="false">&#x0007C;</mo>',
    '<mo accent="true">&#x02015;</mo>': '<mo stretchy="true">&#x000AF;</mo>',  # the other character does not stretch
}


def setup(app: "Sphinx") -> "ExtensionMetadata":
    """Register the renderer of formulas."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def visit_inline(writer: "HTML5Translator", node: nodes.math) -> None:
    """Write a formula in a line of text."""
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(writer: "HTML5Translator", node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    writer.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def mathml(latex: str, display: str) -> str:
    """Return a formula as MathML.

    Raises:
        ValueError: the converter does not know a command of the formula.
    """
    text = convert(latex, display=display)
    for written, better in _FIXES.items():
        text = text.replace(written, better)
    unknown = re.findall(r"\\[a-zA-Z]+", text)
    if unknown:
        raise ValueError(f"latex2mathml does not know {', '.join(sorted(set(unknown)))} in the formula {latex}")
    return text
