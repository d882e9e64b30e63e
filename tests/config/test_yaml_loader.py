import math

import pytest

from mcir.config.tree import OptionError
from mcir.config.yaml_loader import read_file, read_value
from mcir.config.yaml_loader import write as dump
from mcir.errors import Location

HERE = Location("--set x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e5", 1e5),
        ("1E+2", 100.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2.5e-3", -2.5e-3),
        ("!!float 5e3", 5e3),
        ("!!float 5", 5.0),
        ("3", 3),
        ("-7", -7),
        ("010", 10),
        ("!!int 4", 4),
        ("true", True),
        ("FALSE", False),
        ("!!bool false", False),
        ("no", "no"),
        ("Off", "Off"),
        ("yes", "yes"),
        ("y", "y"),
        ("12:30:45", "12:30:45"),
        ("2024-02-29", "2024-02-29"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1e", "1e"),
        (".", "."),
        ("e5", "e5"),
        ("=", "="),
        ("'1e-4'", "1e-4"),
        ("!!str 5", "5"),
        ("~", None),
        ("null", None),
        ("", None),
        ("!!null ~", None),
        ("[1, [2., a]]", [1, [2.0, "a"]]),
        ("{a: 1e-3, b: ~}", {"a": 1e-3, "b": None}),
        ("'{}'", "{}"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    read = read_value(text, HERE).plain()
    assert read == value
    assert type(read) is type(value)


def test_infinities_and_nan():
    assert read_value("[.inf, -.Inf, +.INF]", HERE).plain() == [math.inf, -math.inf, math.inf]
    assert math.isnan(read_value(".NaN", HERE).plain())


def test_every_value_has_its_line(write):
    root = read_file(write("# first\na: 1\nb:\n  c: [x,\n    y]\n  d: 2\n"))
    lines = {
        path: root.locate(path)._replace(key="") for path in [("a",), ("b",), ("b", "c"), ("b", "c", 1), ("b", "d")]
    }
    assert {path: str(place) for path, place in lines.items()} == {
        ("a",): "x.yml:2",
        ("b",): "x.yml:3",
        ("b", "c"): "x.yml:4",
        ("b", "c", 1): "x.yml:5",
        ("b", "d"): "x.yml:6",
    }


def test_keys_are_always_text(write):
    assert read_file(write("1: a\nno: b\n")).plain() == {"1": "a", "no": "b"}


def test_anchors_and_merge_keys(write):
    text = "base: &base {a: 1, b: 2}\nown:\n  b: 3\n  <<: *base\nsame: *base\n"
    assert read_file(write(text)).plain() == {
        "base": {"a": 1, "b": 2},
        "own": {"a": 1, "b": 3},
        "same": {"a": 1, "b": 2},
    }


def test_a_byte_order_mark_is_ignored(write):
    assert read_file(write(b"\xef\xbb\xbfname: x\n")).plain() == {"name": "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yml: The file is empty."),
        ("# only a comment\n", "x.yml: The file is empty."),
        ("- a\n- b\n", "x.yml:1: expected a mapping with lines 'key: value', got a list."),
        ("hello\n", "x.yml:1: expected a mapping with lines 'key: value', got the single value 'hello'."),
        ("a: 1\nb: 2\na: 3\n", "x.yml:3: Duplicate key 'a', first in line 1."),
        ("a: {b: 1, b: 2}\n", "x.yml:1: Duplicate key 'b', first in line 1."),
        ("a:\n\tb: 1\n  \tc: 2\n", "x.yml:2: The indentation contains a tab. YAML requires spaces.\n"
         "x.yml:3: The indentation contains a tab. YAML requires spaces."),
        ("a: 1\nb:\t2\n", "x.yml:2: Invalid YAML: found character '\\t' that cannot start any token. A value that "
         "starts with this character needs quotes. Indent with spaces, not tabs."),
        ("a: 1\nb:2\nc: 3\n", "x.yml:3: Invalid YAML: could not find expected ':'. Write 'key: value', "
         "with a space after the colon."),
        ("a: [1, 2\nb: 3\n", "x.yml:2: Invalid YAML: expected ',' or ']', but got ':'. A bracket is not closed, or a "
         "comma is missing."),
        ("a: 1\n---\nb: 2\n", "x.yml:2: Invalid YAML: but found another document. An option file is one document: "
         "remove '---'."),
        ("a: 1\nb: !!python/object/apply:os.getcwd []\n", "x.yml:2: The tag !!python/object/apply:os.getcwd is not "
         "supported."),
        ("a: !mine 1\n", "x.yml:1: The tag !mine is not supported."),
        ("a: !!set {b}\n", "x.yml:1: The tag !!set is not supported."),
        ("a: !!float big\nb: !!int 5.5\n", "x.yml:1: 'big' "
         "does not match the tag !!float.\nx.yml:2: '5.5' does not match the tag !!int."),
        ("? [a, b]\n: 1\n", "x.yml:1: A key must be a name, not a list or a mapping."),
        ("a: &a [*a]\n", "x.yml:1: An alias contains itself."),
        ("a: *b\n", "x.yml:1: Invalid YAML: found undefined alias 'b'. An alias *name repeats a value that is "
         "marked with &name above."),
        (b"a: 1\n# caf\xe9\n", "x.yml:2: The file is not UTF-8 text (byte 0xe9). Save it as UTF-8."),
        ("a: 1\nb: \x07\n", "x.yml:2: The character U+0007 is not allowed in YAML."),
    ],
)  # fmt: skip
def test_invalid_files_are_reported_with_the_line(write, text, message):
    with pytest.raises(OptionError) as caught:
        read_file(write(text))
    assert str(caught.value) == message


def test_a_missing_file_comes_with_the_closest_name(write):
    write("a: 1", "train_edsr.yml")
    write("a: 1", "other.yml")
    with pytest.raises(
        OptionError, match=r"^train_esdr.yml: The file does not exist. Did you mean 'train_edsr.yml'\?$"
    ):
        read_file("train_esdr.yml")
    with pytest.raises(OptionError, match="is a folder"):
        read_file(".")


@pytest.mark.parametrize(
    "value",
    ["1e5", "1e-4", ".5", "no", "true", "~", "", "null", "2024-02-29", "12:30", "<<", "a: b", "# x", "{}", " x ", "é",
     "\n", 1e-8, 1e22, 5e3, 1.0, -3, True, None, [], {}, [[1, 2.5], {"a": []}], math.inf],
)  # fmt: skip
def test_values_survive_writing_and_reading(write, value):
    text = dump({"key": value, "list": [value], "after": 1})
    assert read_file(write(text)).plain() == {"key": value, "list": [value], "after": 1}


# -- limits -----------------------------------------------------------------------------------------------------------


def bomb(levels, width=10, merge=False):
    """Aliases of aliases: `width ** levels` values in a few lines."""
    lines = ["a0: &a0 {k0: 1}"]
    for level in range(1, levels):
        uses = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} {{<<: [{uses}], k{level}: 1}}" if merge else f"a{level}: &a{level} [{uses}]")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(28), "has more than 50,000 values"),
        (bomb(28, merge=True), "has more than 50,000 values"),
        ("a:\n" + "- x\n" * 60_000, "has more than 50,000 values"),
        (bomb(60, width=1), "nested in more than 50 levels"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested in more than 50 levels"),
        ("a: " + "{a: " * 5000 + "}" * 5000, "nested in more than 50 levels"),
        ("a: " + "- " * 5000, "nested in more than 50 levels|not allowed"),
        ("".join(" " * depth + "a:\n" for depth in range(1000)), "nested in more than 50 levels"),
        ("a: " + "9" * 5000, r"expected an integer between -2\^63 and 2\^64 - 1, got 999"),
        ("a: -" + "1" * 400, "expected an integer"),
        ("a: 1" + "0" * 400 + ".0", "expected a number below 1.8e308"),
        ("a: 1e999", "expected a number below 1.8e308 or .inf, got 1e999."),
        ('a: "\\UFFFFFFFF"', "the code of a character, or a version, is too large"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1", "is too large"),
        ("a: " + "x" * 2**20, "is too large"),
    ],
)
def test_limits(write, text, message):
    with pytest.raises(OptionError, match=message) as caught:
        read_file(write(text))
    assert len(str(caught.value)) < 500
    assert str(caught.value).startswith("x.yml")


def test_large_but_possible_values(write):
    text = f"big: {2**64 - 1}\nsmall: {-(2**63)}\nfloat: 1e308\ndeep: {'[' * 48}1{']' * 48}\nmany: [{'1, ' * 10_000}]\n"
    values = read_file(write(text)).plain()
    assert (values["big"], values["small"], values["float"]) == (2**64 - 1, -(2**63), 1e308)
    assert len(values["many"]) == 10_000


def test_thousands_of_problems_are_listed_in_part(write):
    with pytest.raises(OptionError) as caught:
        read_file(write("".join(f"a{number}: !x 1\n" for number in range(2000))))
    assert len(caught.value.problems) == 2000
    assert str(caught.value).endswith("\n… and 1,900 more problems.")


# -- characters that nobody sees --------------------------------------------------------------------------------------

NBSP, ZERO, COLON, BOM, RIGHT = "\u00a0", "\u200b", "\uff1a", "\ufeff", "\u202e"


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (f"a: 1\nb:{NBSP}32\nc: 3\n", ["2: Column 3 contains NO-BREAK SPACE (U+00A0)"]),
        (f"a:\n{NBSP}{NBSP}b: 1\n", ["2: Column 1 contains NO-BREAK SPACE (U+00A0)", "2: Column 2 contains NO-BREAK"]),
        (f"name{COLON} x\nb: 1\n", ["1: Column 5 contains FULLWIDTH COLON (U+FF1A)"]),
        (f"name{COLON} x\n", ["1: Column 5 contains FULLWIDTH COLON (U+FF1A)"]),
        (f"a: [gt_size{COLON}32]\n", ["1: Column 12 contains FULLWIDTH COLON (U+FF1A)"]),
        (f"a: 1\nb: 32{ZERO}\n", ["2: Column 6 contains ZERO WIDTH SPACE (U+200B)"]),
        (f"a{ZERO}: 1\n", ["1: Column 2 contains ZERO WIDTH SPACE (U+200B)"]),
        (f"a: one\n  two{NBSP}x\n", ["2: Column 6 contains NO-BREAK SPACE (U+00A0)"]),
        (f"a: 1\n{BOM}b: 2\n", ["2: Column 1 contains ZERO WIDTH NO-BREAK SPACE (U+FEFF)"]),
        (f"a: x{RIGHT}y\n", ["1: Column 5 contains RIGHT-TO-LEFT OVERRIDE (U+202E)"]),
        ("a: 1\u3000\n", ["1: Column 5 contains IDEOGRAPHIC SPACE (U+3000)"]),
        ("a: b\u2028c\n", ["1: Column 5 contains LINE SEPARATOR (U+2028)"]),
    ],
)
def test_invisible_characters_are_reported_with_line_and_column(write, text, places):
    with pytest.raises(OptionError) as caught:
        read_file(write(text))
    lines = str(caught.value).splitlines()
    assert len(lines) == len(places)
    for line, place in zip(lines, places, strict=True):
        assert line.startswith(f"x.yml:{place}"), line


@pytest.mark.parametrize(
    "text",
    [
        f"a: 'x{NBSP}{ZERO}{COLON}'\nb: \"{RIGHT}\"\n# {NBSP}{ZERO}{BOM}\nc: |\n  x{NBSP}\nd: 1  # {ZERO}\n",
        f"a: 照片{COLON}一\nb: é ü 👩\n",
    ],
)
def test_quotes_comments_and_ordinary_letters_are_allowed(write, text):
    read_file(write(text))


def test_only_characters_outside_quotes_are_blamed_for_a_syntax_error(write):
    with pytest.raises(OptionError) as caught:
        read_file(write(f"a: 'x{NBSP}'  # {ZERO}\nb: [1\n"))
    assert "A bracket is not closed" in str(caught.value)


@pytest.mark.parametrize("escape", ["\\0", "\\e[31m", "\\ud800", "\\x07", "\\x9b"])
def test_no_value_contains_control_characters(write, escape):
    for text in (f'a: "{escape}"\n', f'"{escape}": 1\n', f'a: [{{b: "x{escape}"}}]\n'):
        with pytest.raises(OptionError, match=r"x.yml:1: The value contains .* which no option can use"):
            read_file(write(text))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: %b", "needs quotes"),
        ("a: 'b", "A quote is not closed."),
        ('a: "b', "A quote is not closed."),
        ("a: {b: 1", "A bracket is not closed"),
        ("a: b: c", "A value that contains ': ' needs quotes."),
        ("a:\n   b: 1\n  c: 2\n", "The indentation does not match"),
    ],
)
def test_hints(write, text, hint):
    with pytest.raises(OptionError, match="Invalid YAML: ") as caught:
        read_file(write(text))
    assert hint in str(caught.value)
