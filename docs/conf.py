"""Sphinx settings. Build the pages with ``sphinx-build -W docs docs/_build``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "mcir"
author = "The mcir developers"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "commands",
    "mathml",
]
html_math_renderer = "mathml"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "mcir"
html_show_copyright = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["style.css"]
language = "en_GB"
smartquotes = False  # quotes and dashes are also parts of commands
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "class"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False


def _escape_bars(app: "Sphinx", what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape the bars of absolute values in docstrings, which mark substitutions in reStructuredText."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "``".join(parts)


def setup(app: "Sphinx") -> None:
    """Register the changes to docstrings."""
    app.connect("autodoc-process-docstring", _escape_bars)
