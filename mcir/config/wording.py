"""Text of error messages: expected X, got Y."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticCustomError

from mcir.domains import describe_length, describe_number
from mcir.text import shortened

COMPLETE = "option"
"""Type of the pydantic errors whose messages are ours."""
UNKNOWN_CLASS = "unknown class"
"""Type of the pydantic errors about a class that is not registered; their messages are ours, too."""
OURS = (COMPLETE, UNKNOWN_CLASS)
SECTION = "a section (indented lines 'key: value')"
_WORDS = {"boolean": "true or false", "string": "text", "object": "a mapping"}
_NUMBERS = {"integer": int, "number": float}
_BOUNDS = {"minimum": "ge", "exclusiveMinimum": "gt", "maximum": "le", "exclusiveMaximum": "lt"}
_PLURALS = {
    "an integer": "integers",
    "a number": "numbers",
    "a finite number": "finite numbers",
    "text": "texts",
    "true or false": "booleans",
    "a mapping": "mappings",
}


class JsonSchema(GenerateJsonSchema):
    """Pydantic's generator, without titles of fields. Types that JSON cannot express accept every value."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # declared so by pydantic

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False."""
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        """Return the schema that accepts everything."""
        return {}


def with_article(noun: str) -> str:
    """Return ``a data set`` or ``an optimizer``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def in_words(schema: Mapping[str, Any]) -> str:
    """Return the values that a JSON schema accepts, in words: ``a list of integers or null``."""
    if "component" in schema:
        return f"the section of {with_article(schema['component'])}, {{type: …}}"
    if "$ref" in schema:
        return "a mapping"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(in_words, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        return ("one of " if len(choices) > 1 else "") + ", ".join(map(describe_value, choices))
    if "prefixItems" in schema:
        items = schema["prefixItems"]
        return f"a list of {len(items)} values ({', '.join(map(in_words, items))})"
    kind = schema.get("type", "anything")
    if kind == "array":
        length = describe_length(schema.get("minItems"), schema.get("maxItems"))
        return f"a list of {length} {_plural(in_words(schema.get('items', {})))}".replace("  ", " ")
    if "title" in schema and kind != "object":
        return str(schema["title"])
    if kind in _NUMBERS:
        bounds = {bound: schema[name] for name, bound in _BOUNDS.items() if name in schema}
        return describe_number(_NUMBERS[kind], bounds)
    return _WORDS.get(kind, str(kind))


def _plural(words: str) -> str:
    """Return the plural of the values that :func:`in_words` describes."""
    singular = next((noun for noun in _PLURALS if words == noun or words.startswith(f"{noun} ")), None)
    return words if singular is None else _PLURALS[singular] + words.removeprefix(singular)


def describe_value(value: Any) -> str:
    """Return the text of a value for a message."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(describe_value, value))}]"
        return text if len(text) <= 40 else f"a list of {len(value)} values"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"'{shortened(value)}'" if isinstance(value, str) else shortened(str(value))


def problem(message: str, kind: str = COMPLETE) -> PydanticCustomError:
    """Return an error of the validated value with our own message; ``kind`` is one of ``OURS``."""
    return PydanticCustomError(kind, message)  # type: ignore[arg-type,unused-ignore]  # typed for literals only


def unexpected(expected: str, value: Any, hint: str = "") -> PydanticCustomError:
    """Return the error "expected X, got Y.", followed by a hint."""
    return problem(f"expected {expected}, got {describe_value(value)}.{hint}")
