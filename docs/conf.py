"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "mcir"
author = "The mcir developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "mcir"
language = "en_GB"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "class"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False


def _keep_bars(app: "Sphinx", what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let the |·| of a formula stand: to reStructuredText it is the name of something to put in."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "``".join(parts)


def setup(app: "Sphinx") -> None:
    """Connect what is ours."""
    app.connect("autodoc-process-docstring", _keep_bars)
