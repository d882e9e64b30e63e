"""Text for terminals, logs and JSON."""

import os
import unicodedata

import pytest

from mcir.text import flow_style, printable, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[2J.png", "\\x1b[31mred\\x1b[2J.png"),
        ("a\rb\x07\x9b", "a\\x0db\\x07\\x9b"),
        (os.fsdecode(b"caf\xe9.png"), "caf\\xe9.png"),
        ("\ud800", "\\ud800"),
        ("gpj\u202egnp", "gpj\\u202egnp"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_characters_that_control_a_terminal_are_visible(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text", ["", "a\n\tb", "é ü ß 照片", "e\u0301", "👩\u200d🔬", "[red]x[/red]", "a\\x1b", "a\u202fb"]
)
def test_other_text_is_unchanged(text):
    assert printable(text) == text


def test_every_character_can_be_printed():
    text = printable("".join(map(chr, range(0x110000))))
    text.encode()
    assert {character for character in text if unicodedata.category(character) in ("Cc", "Cs")} == {"\n", "\t"}


def test_long_texts_are_shortened():
    assert shortened("a" * 200) == "a" * 200
    short = shortened("a" * 100_000 + "z")
    assert len(short) < 200
    assert short.startswith("aaa")
    assert short.endswith("az (100,001 characters)")


def test_values_are_written_as_in_an_option_file():
    value = {"type": "Adam", "betas": (0.9, None), "nested": {"fused": True}}
    assert flow_style(value) == "{type: Adam, betas: [0.9, null], nested: {fused: true}}"
    assert flow_style({}) == "{}"
