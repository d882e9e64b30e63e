"""Figures 4, 5 and 6: complete, or with missing weights, data sets and images."""

import json
from pathlib import Path

import pytest
import yaml

from mcir.cli import main
from mcir.tables import visual_figures as module
from mcir.tables.commands import VisualFigure
from mcir.tables.published import HOME, read_table
from mcir.tables.visual_figures import Visual, read_visual, reproduce_visual
from tests.pages import Page
from tests.tables.test_reproduce import ROOT, save, save_both

TREE = {
    "name": "fig0",
    "title": "Two images",
    "table": "table_tiny",
    "rows": ["plain + SPN"],
    "pictures": {"Two": [0, 1]},
}


@pytest.fixture
def reproduce(home, table, monkeypatch):
    monkeypatch.setattr(module, "read_table", lambda name: table)

    def run(log=lambda text: None, pictures=None, **settings):
        tree = {**TREE, "pictures": pictures or TREE["pictures"]}
        return reproduce_visual(Visual.model_validate(tree), VisualFigure(**settings), log)

    return run


def results():
    return json.loads(Path("results/fig0.json").read_text()), Page(Path("results/fig0.html").read_text())


def test_images_scores_and_weights(reproduce):
    save_both()
    assert reproduce() == 0
    data, page = results()
    (row,) = data["rows"]
    assert (row["row"], row["against"]) == ("plain + SPN", "plain")
    assert row["weights"]["plain, Two"] == "experiments/plain/models/net_g_2.pth"
    assert len(page.pictures) == 2 * 7
    main(["test", "-opt", "options/sr/plain.yml", "--checkpoint", "experiments/plain/models/net_g_2.pth"])
    tested = json.loads(Path("results/plain/results.json").read_text())["experiments/plain/models/net_g_2.pth"]["Two"]
    for image in ("0", "1"):
        first, second = (row["sets"]["Two"][image][name] for name in ("plain", "plain + SPN"))
        assert first == {metric: tested[metric]["images"][image] for metric in ("psnr", "ssim_y")}
        assert first != second
        assert f"Two: {image}" in page.cells and f"Two: {image}" in page.words
        assert f"{second['psnr'] - first['psnr']:+.2f}" in page.cells
    assert "plain + SPN, Two: experiments/spn_steps_1/models/net_g_2.pth" in page.words


def test_without_weights_the_page_lists_what_is_missing(reproduce):
    save("plain", "pretrained/plain.pth", 3)
    lines = []
    assert reproduce(lines.append) == 1
    data, page = results()
    assert data["rows"][0]["sets"] == {} and not page.pictures
    assert "No image is shown: there is no data set with weights for both rows." in page.words
    assert "plain  (options/sr/plain.yml)  published weights: pretrained/plain.pth" in "\n".join(lines)
    assert "no checkpoint experiments/spn_steps_1/models/net_g_2.pth" in page.text
    save("spn", "experiments/spn_steps_1/models/net_g_2.pth", 1, ["sweep=steps_1"])
    assert reproduce() == 0
    assert results()[0]["rows"][0]["weights"]["plain, Two"] == "pretrained/plain.pth"


def test_missing_sets_and_damaged_images_concern_only_themselves(reproduce, home):
    save_both()
    for name in ("plain", "spn"):
        file = Path(f"options/sr/{name}.yml")
        tree = yaml.safe_load(file.read_text())
        tree["datasets"]["val_2"] = {**tree["datasets"]["val"], "name": "Elsewhere", "dataroot_gt": str(home / "far")}
        file.write_text(yaml.safe_dump(tree))
    lines = []
    assert reproduce(lines.append, {"Elsewhere": [0], "Two": [1]}) == 1
    assert results()[0]["rows"][0]["sets"].keys() == {"Two"}
    assert f"{home}/far is missing" in "\n".join(lines)
    (home / "far").mkdir()
    (home / "far/0.png").write_bytes(b"no image")
    assert reproduce(lines.append, {"Elsewhere": [0], "Two": [1, 9]}) == 1
    data, page = results()
    assert data["rows"][0]["sets"].keys() == {"Two"} and list(data["rows"][0]["sets"]["Two"]) == ["1"]
    assert len(page.pictures) == 7
    (problem,) = data["rows"][0]["problems"]
    assert problem.startswith("Elsewhere: ") and "0.png" in problem and problem.splitlines()[0] in page.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ["plain"]}, "fig0: table_tiny has no row with a reference plain."),
        ({"rows": ["SPN"]}, "has no row with a reference SPN."),
        ({"pictures": {"Three": [0]}}, "has no column Three."),
    ],
)
def test_rows_and_sets_of_other_tables_are_rejected(table, change, message):
    with pytest.raises(ValueError, match=message):
        Visual.model_validate({**TREE, **change}).pairs(table)


@pytest.mark.parametrize("file", sorted(HOME.glob("fig*.yml")), ids=lambda file: file.stem)
def test_the_figures_of_the_paper(file, home, capsys):
    visual = read_visual(file.stem)
    assert visual.name == file.stem
    table = read_table(visual.table)
    for other, row in visual.pairs(table):
        assert row.name == f"{other.name} + SPN" and other.runs and row.runs
    assert main(["reproduce", file.stem, "--options", str(ROOT / "options"), "--results", "out"]) == 1
    output = capsys.readouterr().out
    assert all(f"{row.name}  (" in output for pair in visual.pairs(table) for row in pair)
    assert "not trained" in output
    for name in visual.pictures:
        assert f"datasets/{name.partition('-')[0]}" in output.replace("SOTS", "datasets/SOTS")
    assert visual.title in Path(f"out/{file.stem}.md").read_text()
