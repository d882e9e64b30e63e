"""Where results go."""

import os

import pytest

from mcir.data.errors import DataError
from mcir.inference.batch.jobs import place, remove_leftovers
from mcir.inference.batch.search import find_pictures
from tests.inference.batch.conftest import touch, unheard


def targets(inputs, out, *more, apart=None, **options):
    found = find_pictures([str(text) for text in inputs], [out] if apart is None else apart, unheard)
    folder, jobs = place(found, out, *more, **options)
    return {job.name: job.target.relative_to(folder).as_posix() for job in jobs}


def test_structure_and_endings_are_kept(photos, tmp_path):
    placed = targets([photos], tmp_path / "out")
    assert placed == {name: name for name in ("a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp")}


def test_endings_and_suffix(photos, tmp_path):
    assert targets([photos / "sub"], tmp_path / "out", ".png", "_x2") == {
        "c.tif": "c_x2.png",
        "deep er/ü [1].webp": "deep er/ü [1]_x2.png",
    }
    assert targets([photos / "notes.txt"], tmp_path / "out") == {"notes.txt": "notes.png"}
    for suffix in ("a/b", "../x", "\0"):
        with pytest.raises(DataError, match="without a slash"):
            targets([photos], tmp_path / "out", None, suffix)


def test_comparisons_mirror_the_results(photos, tmp_path):
    found = find_pictures([str(photos)], [], unheard)
    folder, jobs = place(found, tmp_path / "out", compare=True)
    shown = [job.comparison.relative_to(folder / "comparisons").as_posix() for job in jobs]
    assert shown == ["a.JPG.png", "b.png", "sub/c.tif.png", "sub/deep er/ü [1].webp.png"]
    assert all(job.comparison is None for job in place(found, tmp_path / "out")[1])


def test_a_file_for_a_file(photos, tmp_path):
    out = tmp_path / "x" / "better.png"
    found = find_pictures([str(photos / "a.JPG")], [], unheard)
    folder, (job,) = place(found, out, compare=True)
    assert (folder, job.target, job.comparison) == (out.parent, out, out.parent / "comparisons/better.png")
    for inputs in ([photos], [photos / "a.JPG", photos / "b.png"], [photos / "b.*"]):
        with pytest.raises(DataError, match="is the name of one picture; for a folder or several files name a folder"):
            targets(inputs, out)
    for options in ((".jpg",), (None, "_x2")):
        with pytest.raises(DataError, match="leave out --suffix and --format"):
            targets([photos / "a.JPG"], out, *options)
    out.mkdir(parents=True)
    assert targets([photos / "a.JPG"], out) == {"a.JPG": "a.JPG"}  # a folder, whatever its name


def test_a_place_that_cannot_be_is_told(photos, tmp_path):
    with pytest.raises(DataError, match=r"notes.txt: is a file; name a folder"):
        targets([photos], photos / "notes.txt")
    with pytest.raises(DataError, match=r"pictures of this kind are not written; those that are: .bmp, "):
        targets([photos / "b.png"], tmp_path / "b.gif")


def test_results_that_collide_are_told_before_anything_else(tmp_path):
    touch(tmp_path, "x/a.png", "y/a.png", "x/a.jpg")
    with pytest.raises(DataError, match=rf"y/a.png: its result \S+out/a.png is also that of {tmp_path}/x/a.png"):
        targets([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    with pytest.raises(DataError, match="also that of"):
        targets([tmp_path / "x"], tmp_path / "out", ".png")
    assert len(targets([tmp_path / "x"], tmp_path / "out")) == 2
    assert len(targets([tmp_path / "*/a.png"], tmp_path / "out")) == 2
    touch(tmp_path, "z/comparisons/a.png", "z/a.png")
    assert len(targets([tmp_path / "z"], tmp_path / "out")) == 2
    with pytest.raises(DataError, match=r"comparisons/a.png is also that of"):
        targets([tmp_path / "z"], tmp_path / "out", compare=True)


def test_no_input_is_ever_overwritten(photos, tmp_path, monkeypatch):
    before = sorted(photos.rglob("*"))
    with pytest.raises(DataError, match="would take the place of the picture"):
        targets([photos], photos)
    with pytest.raises(DataError, match="would take the place of the picture"):
        targets([photos / "b.png"], photos / "b.png")
    with pytest.raises(DataError, match="would take the place of the picture"):
        targets([photos / "b.png"], photos)
    monkeypatch.chdir(photos)
    with pytest.raises(DataError, match="would take the place of the picture"):
        targets(["b.png"], photos / "sub" / "..")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/b.png").symlink_to(photos / "b.png")
    for out in (photos, tmp_path / "links"):
        with pytest.raises(DataError, match="would take the place of the picture"):
            targets([tmp_path / "links"], out, apart=[])
    with pytest.raises(DataError, match=r"would take the place of \S+b.png, which is read"):
        targets([photos / "sub/c.tif"], photos / "b.png", keep=[photos / "b.png"])
    assert sorted(photos.rglob("*")) == before


def test_results_never_lie_among_the_pictures_of_a_folder_input(photos, tmp_path):
    with pytest.raises(DataError, match="would lie among the pictures and be restored itself the next time"):
        targets([photos], photos, None, "_x2")
    with pytest.raises(DataError, match="would lie among the pictures"):
        targets([photos / "*.png"], photos, None, "_x2")
    touch(tmp_path / "in", "in/a.png")
    with pytest.raises(DataError, match="would lie among the pictures"):
        targets([tmp_path / "in"], tmp_path)
    assert targets([photos / "b.png"], photos, None, "_x2") == {"b.png": "b_x2.png"}  # who names files may
    assert targets([photos], photos / "restored")
    assert targets([photos / "sub"], photos)["c.tif"] == "c.tif"


def test_links_do_not_lead_results_out_of_their_folder(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=rf"would be written elsewhere, to {tmp_path}/elsewhere/c.tif, by a link"):
        targets([photos], tmp_path / "out")
    (tmp_path / "shortcut").symlink_to(tmp_path / "elsewhere")
    assert targets([photos], tmp_path / "shortcut")  # the person's own words


def test_only_what_dead_processes_left_of_these_files_is_removed(tmp_path):
    dead = 2**22 + 1  # above the largest number that Linux gives
    ours, theirs = f".a.png.{dead}", f".a.png.{os.getpid()}"
    touch(tmp_path, "a.png", ours, theirs, f".other.png.{dead}", ".a.png.old", f"a.png.{dead}", f".a.png.{10**30}")
    before = set(os.listdir(tmp_path))
    remove_leftovers([tmp_path / "a.png", tmp_path / "none" / "b.png"])
    assert before - set(os.listdir(tmp_path)) == {ours}
