import pytest

from mcir.config.tree import Node, OptionError, Problem, merge
from mcir.errors import Location

FILE = Location("x.yml", 1)


def tree(value, line=1):
    """Return nodes of plain values, all at one line."""
    if isinstance(value, dict):
        value = {key: tree(entry, line) for key, entry in value.items()}
    elif isinstance(value, list):
        value = [tree(entry, line) for entry in value]
    return Node(value, Location("x.yml", line))


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"d": 3}}}, {"a": {"b": {"c": 1, "d": 3}}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"n": {"type": "A", "x": 1}}, {"n": {"type": "A", "y": 2}}, {"n": {"type": "A", "x": 1, "y": 2}}),
        ({"n": {"type": "A", "x": 1}}, {"n": {"type": "B", "y": 2}}, {"n": {"type": "B", "y": 2}}),
        ({"n": {"type": "A", "x": 1}}, {"n": {"y": 2}}, {"n": {"type": "A", "x": 1, "y": 2}}),
        ({"n": {"type": "A", "w": {"a": 1}}}, {"n": {"w": {"b": 2}}}, {"n": {"type": "A", "w": {"b": 2}}}),
        ({"n": {"w": {"a": 1}}}, {"n": {"type": "A", "w": {"b": 2}}}, {"n": {"type": "A", "w": {"b": 2}}}),
        ({"n": {"type": "A", "of": {"type": "B", "x": 1}}}, {"n": {"of": {"y": 2}}},
         {"n": {"type": "A", "of": {"type": "B", "x": 1, "y": 2}}}),
    ],
)  # fmt: skip
def test_merge_is_deep_but_replaces_lists_nulls_arguments_and_components_of_another_type(below, above, merged):
    below, above = tree(below), tree(above, line=2)
    before = below.plain()
    assert merge(below, above).plain() == merged
    assert below.plain() == before


def test_merged_values_keep_their_locations():
    merged = merge(tree({"a": {"b": 1, "c": 2}}, line=10), tree({"a": {"c": 3}}, line=20))
    assert merged.locate(("a", "b")).line == 10
    assert merged.locate(("a", "c")).line == 20


def test_a_missing_key_has_the_location_of_its_section():
    root = Node({"a": tree({"b": 1}, line=7)}, FILE)
    assert root.locate(("a", "nothing", "below")).line == 7


def test_put_creates_missing_sections():
    root = tree({"a": None})
    root.put(("a", "b", "c"), tree(1, line=5))
    assert root.plain() == {"a": {"b": {"c": 1}}}
    assert root.locate(("a", "b")).line == 5


def test_find_matches_any_key_for_a_star():
    root = tree({"d": {"one": {"x": 1}, "two": {"x": 2, "y": 3}, "three": 4}})
    assert [(path, node.value) for path, node in root.find("d.*.x")] == [(("d", "one", "x"), 1), (("d", "two", "x"), 2)]


def test_moved_values_keep_their_old_paths():
    moved = tree({"a": [1], "b": {"c": 2}}).moved_from(("old",))
    assert moved.locate(("b", "c")).old_key == "old.b.c"
    assert moved.locate(("a", 0)).old_key == "old.a"


def test_problems_are_sorted_by_file_and_line_with_the_command_line_last():
    locations = [
        Location("--set a=1"),
        Location("b.yml", 2),
        Location("a.yml", 10),
        Location("a.yml", 9, old_key="old"),
    ]
    error = OptionError(Problem.at(location, ("k", 0), "wrong.") for location in [*locations, locations[1]])
    assert str(error).splitlines() == [
        "a.yml:9: k.0 (written as 'old'): wrong.",
        "a.yml:10: k.0: wrong.",
        "b.yml:2: k.0: wrong.",
        "--set a=1: k.0: wrong.",
    ]
