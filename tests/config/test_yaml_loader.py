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
