"""Evaluations: kept for the same weights, protocol and version, made of the sets that are here, told when they fail."""

import json
from pathlib import Path

import pytest
import yaml

from mcir.tables import evaluated as module
from mcir.tables.evaluated import evaluate
from mcir.tables.plan import Settings, plan
from mcir.tables.reproduce import make
from tests.tables.test_reproduce import save, trained


@pytest.fixture
def asked(monkeypatch):
    """The evaluations that were made."""
    files, of_tester = [], module.Tester.test
    monkeypatch.setattr(module.Tester, "test", lambda self, names: files.append(names[0]) or of_tester(self, names))
    return files


def results_of(table, **settings):
    return evaluate(plan(table, Settings(rows=["plain"], **settings))[0], False, lambda _: None)


@pytest.mark.parametrize("change", ["metrics", "data", "version"])
def test_known_results_are_of_the_same_protocol_and_version(home, table, asked, change, monkeypatch):
    save("plain", "experiments/plain/models/net_g_2.pth", 0)
    first = results_of(table).score("Two", "psnr")
    assert results_of(table).score("Two", "psnr") == first and len(asked) == 1
    overrides = {"metrics": ["val.metrics.psnr.crop_border=4"], "data": ["datasets.val.max_images=1"], "version": []}
    if change == "version":
        monkeypatch.setattr(module.mcir, "__version__", "another")
    again = results_of(table, overrides=overrides[change])
    assert len(asked) == 2
    assert (again.score("Two", "psnr") == first) == (change == "version")


def test_sets_that_are_here_are_evaluated_and_the_row_is_not_whole(home, table, asked):
    save("plain", "experiments/plain/models/net_g_2.pth", 0)
    file = Path("options/sr/plain.yml")
    tree = yaml.safe_load(file.read_text())
    tree["datasets"]["val_2"] = {**tree["datasets"]["val"], "name": "Elsewhere", "dataroot_gt": str(home / "far")}
    file.write_text(yaml.safe_dump(tree))
    said = []
    assert make(table, Settings(rows=["plain"]), said.append) == 1
    cells = json.loads(Path("results/table_tiny.json").read_text())["rows"][0]["sets"]
    assert cells["Two"]["psnr"]["ours"] > 0 and cells["Elsewhere"]["psnr"]["ours"] is None
    assert f"{home}/far is missing" in "\n".join(said)
    (home / "pictures").rename(home / "far")
    (home / "pictures").symlink_to(home / "far")
    assert make(table, Settings(rows=["plain"]), said.append) == 0
    cells = json.loads(Path("results/table_tiny.json").read_text())["rows"][0]["sets"]
    assert cells["Elsewhere"]["psnr"]["ours"] == cells["Two"]["psnr"]["ours"] and len(asked) == 2
    assert [line for line in said if "evaluates" in line][-1].endswith("net_g_2.pth on Elsewhere")


def test_a_damaged_checkpoint_is_a_problem_of_its_row_alone(home, table):
    trained()
    file = Path("experiments/plain/models/net_g_2.pth")
    file.write_bytes(file.read_bytes()[:500])
    said = []
    assert make(table, Settings(), said.append) == 1
    plain, pushed, _ = json.loads(Path("results/table_tiny.json").read_text())["rows"]
    assert plain["sets"]["Two"]["psnr"]["ours"] is None and pushed["sets"]["Two"]["psnr"]["ours"] > 0
    assert str(file) in plain["problems"][0] and pushed["problems"] == []
    assert f"plain: {plain['problems'][0]}" in "\n".join(said)


@pytest.mark.parametrize("text", ['{"a": ', "[1]", '{"a": 1, "b": {"set": "Two"}}'])
def test_damaged_results_are_made_anew(home, table, asked, text):
    save("plain", "experiments/plain/models/net_g_2.pth", 0)
    first = results_of(table).sets
    Path("results/plain/evaluated.json").write_text(text)
    assert results_of(table).sets == first and len(asked) == 2
