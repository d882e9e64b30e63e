"""Text from files, options and the command line, prepared for a terminal, a log, JSON or TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_INVISIBLE = re.compile(
    "[\0-\b\v-\x1f\x7f-\x9f"  # control characters, except tab and line feed
    "\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f"  # no width; text direction
    "\ud800-\udfff]"  # bytes of a file name that are not UTF-8, and other characters without an encoding
)
_MAX_SHOWN = 200


def printable(text: str) -> str:
    r"""Return a text in which characters that would control a terminal, or cannot be encoded, are visible.

    ESC becomes the four characters ``\x1b``; the byte 0xE9 of a file name that is not UTF-8 becomes ``\xe9``. Line
    feeds and tabs remain. The result can always be encoded as UTF-8, and different names usually remain different.
    """
    return _INVISIBLE.sub(lambda found: _visible(found[0]), text)


def shortened(text: str, limit: int = _MAX_SHOWN) -> str:
    """Return a text for a message: a long one loses its middle."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} … {text[-limit // 4 :]} ({len(text):,} characters)"


def flow_style(value: Any) -> str:
    """Return a value for a message, written as in an option file: ``{type: Adam, betas: [0.9, null]}``."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {flow_style(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow_style, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _visible(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python read from a file name with `surrogateescape`
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
