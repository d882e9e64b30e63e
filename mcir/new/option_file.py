"""Render the option file from its values, with comments."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from mcir.config.yaml_loader import StrictDumper, write
from mcir.text import printable

_TEMPLATE = "option_file.yml.jinja"


def render(values: Mapping[str, Any]) -> str:
    """Return the text of an option file.

    Args:
        values: values of the template, by name. They are written as YAML.
    """
    return _environment().get_template(_TEMPLATE).render(values) + "\n"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(  # noqa: S701 (no HTML: `finalize` quotes every value for YAML)
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, finalize=_in_one_line
    )
    environment.filters |= {"text": _comment, "block": _block}
    return environment


def _in_one_line(value: Any) -> Any:
    """Return a value as YAML in one line."""
    if isinstance(value, Markup | jinja2.Undefined):
        return value
    text: str = yaml.dump(
        value, Dumper=StrictDumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _comment(text: str) -> Markup:
    """Mark a text as a part of a comment."""
    return Markup(printable(text).replace("\n", " "))  # noqa: S704 (no HTML)


def _block(section: Mapping[str, Any]) -> Markup:
    """Return a section as indented YAML."""
    lines = write(dict(section)).splitlines()
    return Markup("\n".join(f"  {line}" for line in lines))  # noqa: S704 (no HTML)
