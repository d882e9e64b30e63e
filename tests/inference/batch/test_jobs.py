"""Each result gets a path, and no result overwrites another file."""

import pytest

from mcir.data.errors import DataError
from mcir.inference.batch.jobs import plan_outputs
from mcir.inference.batch.search import find_images
from tests.inference.batch.conftest import no_report, touch


def targets(inputs, out, *more, excluded=None, **options):
    found = find_images([str(text) for text in inputs], [out] if excluded is None else excluded, no_report)
    folder, jobs = plan_outputs(found, out, *more, **options)
    return {job.name: job.target.relative_to(folder).as_posix() for job in jobs}


def test_structure_and_extensions_are_kept(photos, tmp_path):
    planned = targets([photos], tmp_path / "out")
    assert planned == {name: name for name in ("a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp")}


def test_extension_and_suffix(photos, tmp_path):
    assert targets([photos / "sub"], tmp_path / "out", ".png", "_x2") == {
        "c.tif": "c_x2.png",
        "deep er/ü [1].webp": "deep er/ü [1]_x2.png",
    }
    assert targets([photos / "notes.txt"], tmp_path / "out") == {"notes.txt": "notes.png"}
    for suffix in ("a/b", "../x", "\0"):
        with pytest.raises(DataError, match="without slashes"):
            targets([photos], tmp_path / "out", None, suffix)


def test_comparisons_mirror_the_results(photos, tmp_path):
    found = find_images([str(photos)], [], no_report)
    folder, jobs = plan_outputs(found, tmp_path / "out", compare=True)
    shown = [job.comparison.relative_to(folder / "comparisons").as_posix() for job in jobs]
    assert shown == ["a.JPG.png", "b.png", "sub/c.tif.png", "sub/deep er/ü [1].webp.png"]
    assert all(job.comparison is None for job in plan_outputs(found, tmp_path / "out")[1])


def test_one_file(photos, tmp_path):
    out = tmp_path / "x" / "better.png"
    found = find_images([str(photos / "a.JPG")], [], no_report)
    folder, (job,) = plan_outputs(found, out, compare=True)
    assert (folder, job.target, job.comparison) == (out.parent, out, out.parent / "comparisons/better.png")
    for inputs in ([photos], [photos / "a.JPG", photos / "b.png"], [photos / "b.*"]):
        with pytest.raises(
            DataError, match="expected a folder for several images or a folder of images, got a file name"
        ):
            targets(inputs, out)
    for options in ((".jpg",), (None, "_x2")):
        with pytest.raises(DataError, match="--suffix and --format have no effect on a complete file name"):
            targets([photos / "a.JPG"], out, *options)
    out.mkdir(parents=True)
    assert targets([photos / "a.JPG"], out) == {"a.JPG": "a.JPG"}  # a folder with any name


def test_invalid_outputs(photos, tmp_path):
    with pytest.raises(DataError, match=r"notes.txt: expected a folder, or a file with one of"):
        targets([photos], photos / "notes.txt")
    with pytest.raises(DataError, match=r"b.gif: expected a folder, or a file with one of .bmp, "):
        targets([photos / "b.png"], tmp_path / "b.gif")


def test_results_that_collide(tmp_path):
    touch(tmp_path, "x/a.png", "y/a.png", "x/a.jpg")
    with pytest.raises(DataError, match=rf"y/a.png: its result \S+out/a.png is also the result of {tmp_path}/x/a.png"):
        targets([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    with pytest.raises(DataError, match="also the result of"):
        targets([tmp_path / "x"], tmp_path / "out", ".png")
    assert len(targets([tmp_path / "x"], tmp_path / "out")) == 2
    assert len(targets([tmp_path / "*/a.png"], tmp_path / "out")) == 2
    touch(tmp_path, "z/comparisons/a.png", "z/a.png")
    assert len(targets([tmp_path / "z"], tmp_path / "out")) == 2
    with pytest.raises(DataError, match=r"comparisons/a.png is also the result of"):
        targets([tmp_path / "z"], tmp_path / "out", compare=True)


def test_inputs_are_never_overwritten(photos, tmp_path, monkeypatch):
    before = sorted(photos.rglob("*"))
    with pytest.raises(DataError, match="would overwrite the input"):
        targets([photos], photos)
    with pytest.raises(DataError, match="would overwrite the input"):
        targets([photos / "b.png"], photos / "b.png")
    with pytest.raises(DataError, match="would overwrite the input"):
        targets([photos / "b.png"], photos)
    monkeypatch.chdir(photos)
    with pytest.raises(DataError, match="would overwrite the input"):
        targets(["b.png"], photos / "sub" / "..")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/b.png").symlink_to(photos / "b.png")
    for out in (photos, tmp_path / "links"):
        with pytest.raises(DataError, match="would overwrite the input"):
            targets([tmp_path / "links"], out, excluded=[])
    with pytest.raises(DataError, match=r"would overwrite the input \S+b.png"):
        targets([photos / "sub/c.tif"], photos / "b.png", protected=[photos / "b.png"])
    assert sorted(photos.rglob("*")) == before


def test_results_are_never_among_the_inputs(photos, tmp_path):
    with pytest.raises(DataError, match="would be one of the input images of the next run"):
        targets([photos], photos, None, "_x2")
    with pytest.raises(DataError, match="would be one of the input images"):
        targets([photos / "*.png"], photos, None, "_x2")
    touch(tmp_path / "in", "in/a.png")
    with pytest.raises(DataError, match="would be one of the input images"):
        targets([tmp_path / "in"], tmp_path)
    assert targets([photos / "b.png"], photos, None, "_x2") == {"b.png": "b_x2.png"}  # allowed for files that are named
    assert targets([photos], photos / "restored")
    assert targets([photos / "sub"], photos)["c.tif"] == "c.tif"


def test_links_do_not_lead_results_out_of_the_folder(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=rf"would be written to {tmp_path}/elsewhere/c.tif, through a link"):
        targets([photos], tmp_path / "out")
    (tmp_path / "shortcut").symlink_to(tmp_path / "elsewhere")
    assert targets([photos], tmp_path / "shortcut")  # a link that is named
