"""Which pictures are found, and where their results go."""

import os
from pathlib import Path

import pytest

from mcir.data.errors import DataError
from mcir.inference.folder.jobs import GroundTruths, Job, find_pictures, place, remove_leftovers


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def unheard(name, reason):
    raise AssertionError(f"{name}: {reason}")


def names_in(*inputs, apart=(), tell=unheard):
    return [one.name for one in find_pictures([str(text) for text in inputs], apart, tell)]


@pytest.fixture
def photos(tmp_path):
    names = "b.png", "a.JPG", "sub/c.tif", "sub/deep er/ü [1].webp", "notes.txt", ".hidden.png", ".cache/d.png"
    return touch(tmp_path / "photos", *names)


# -- finding ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_searched_at_any_depth_for_pictures_that_are_not_hidden(photos):
    assert names_in(photos) == ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]


def test_a_file_is_taken_whatever_its_ending_and_bears_its_own_name(photos):
    assert names_in(photos / "sub/c.tif", photos / "notes.txt") == ["c.tif", "notes.txt"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]),
        ("*.png", ["b.png"]),
        ("[ab].*", ["a.JPG", "b.png"]),
        ("?.png", ["b.png"]),
        ("**/*.tif", ["sub/c.tif"]),
        ("**", ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]),
        ("s*/*", ["sub/c.tif", "sub/deep er/ü [1].webp"]),
        ("sub/*.tif", ["c.tif"]),
    ],
)
def test_a_pattern_keeps_the_structure_below_its_fixed_part(photos, pattern, found):
    assert names_in(photos / pattern) == found


def test_what_is_there_is_no_pattern(tmp_path):
    touch(tmp_path / "in [1]", "a*.png", "ab.png", "1.png")
    assert names_in(tmp_path / "in [1]") == ["1.png", "a*.png", "ab.png"]
    assert names_in(tmp_path / "in [1]" / "a*.png") == ["a*.png"]
    assert names_in(tmp_path / "in [1]" / "a?.png") == ["a*.png", "ab.png"]


def test_a_relative_pattern_starts_here(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert names_in("*.png") == ["b.png"]
    assert names_in("sub") == ["c.tif", "deep er/ü [1].webp"]
    assert names_in(".") == names_in(photos)


def test_what_is_named_twice_is_restored_once_by_its_first_name(photos):
    assert names_in(photos / "b.png", photos, photos / "**/*.png") == [
        "b.png",
        "a.JPG",
        "sub/c.tif",
        "sub/deep er/ü [1].webp",
    ]
    assert names_in(photos / "sub/c.tif", photos)[:1] == ["c.tif"]
    assert "sub/c.tif" not in names_in(photos / "sub/c.tif", photos)


def test_results_and_ground_truths_within_an_input_are_left_out(photos):
    touch(photos, "restored/b.png", "gt/b.png")
    apart = [photos / "restored", photos / "gt"]
    expected = ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]
    assert names_in(photos, apart=apart) == expected
    assert names_in(photos / "*", apart=apart) == expected
    assert names_in(photos / "**/*.png", apart=apart) == ["b.png"]
    as_the_shell_has_it = sorted(path for path in photos.iterdir() if not path.name.startswith("."))
    assert names_in(*as_the_shell_has_it, apart=apart) == ["a.JPG", "b.png", "notes.txt", "c.tif", "deep er/ü [1].webp"]
    assert names_in(photos / "restored", apart=apart) == ["b.png"]  # asked for by its own name: `place` decides


def test_a_link_to_a_folder_is_followed_but_not_in_a_circle(photos, tmp_path):
    touch(tmp_path / "elsewhere", "far.png")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    (photos / "sub/up").symlink_to(photos)
    (tmp_path / "elsewhere/self").symlink_to(".")
    assert names_in(photos) == ["a.JPG", "b.png", "link/far.png", "sub/c.tif", "sub/deep er/ü [1].webp"]


def test_a_folder_that_cannot_be_read_is_told(photos, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    told = []
    assert names_in(photos, tell=lambda *fault: told.append(fault)) == ["a.JPG", "b.png"]
    assert told == [(f"{photos}/sub/", "Permission denied")]


def test_nothing_found_says_where_and_for_what_was_looked(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=rf"no picture found in {tmp_path}, at any depth; looked for \.bmp, .*\.webp"):
        names_in(tmp_path)


def test_what_is_no_file_in_a_folder_is_told(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "dead.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    for text in (tmp_path, tmp_path / "*"):
        told = []
        assert names_in(text, tell=lambda *fault, told=told: told.append(fault)) == ["a.png"]
        assert told == [(f"{tmp_path}/dead.png", "a link to nothing"), (f"{tmp_path}/pipe.png", "not a file")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.png", "none.png: is not there"),
        ("none/*.png", r"none/\*.png: no picture fits this pattern"),
        ("*.tif", r"\*.tif: no picture fits this pattern"),
        ("", "an input is empty"),
        ("dead.png", "dead.png: neither a file nor a folder"),
        ("pipe.png", "pipe.png: neither a file nor a folder"),
    ],
)
def test_an_input_that_is_nothing_is_an_error_beside_others(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(touch(tmp_path, "a.png"))
    (tmp_path / "dead.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=message):
        names_in("a.png", text)


# -- where results go -------------------------------------------------------------------------------------------------


def targets(inputs, out, *more, apart=None, **options):
    found = find_pictures([str(text) for text in inputs], [out] if apart is None else apart, unheard)
    folder, jobs = place(found, out, *more, **options)
    return {job.name: job.target.relative_to(folder).as_posix() for job in jobs}


def test_structure_and_endings_are_kept(photos, tmp_path):
    placed = targets([photos], tmp_path / "out")
    assert placed == {name: name for name in names_in(photos)}


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


# -- ground truths ----------------------------------------------------------------------------------------------------


def jobs_of(*names):
    return [Job(name, Path("in", name), Path("out", name)) for name in names]


def found_in(folder, *names, tell=unheard):
    truths = GroundTruths(folder).of(jobs_of(*names), tell)
    return {job.name: path.relative_to(folder).as_posix() for job, path in truths.items()}


def test_ground_truths_lie_in_the_same_folders_or_in_one(tmp_path):
    touch(tmp_path, "sub/a.png", "b.jpg")
    assert found_in(tmp_path, "sub/a.jpg", "other/b.png") == {"sub/a.jpg": "sub/a.png", "other/b.png": "b.jpg"}
    touch(tmp_path, "a.png")
    assert found_in(tmp_path, "sub/a.jpg", "a.jpg") == {"sub/a.jpg": "sub/a.png", "a.jpg": "a.png"}


def test_the_scale_may_stand_at_the_end_of_a_pictures_name(tmp_path):
    touch(tmp_path, "baby.png", "sub/img_001.png", "matrix4.png")
    found = found_in(tmp_path, "babyx2.png", "sub/img_001x4.png", "matrix4.png")
    assert found == {"babyx2.png": "baby.png", "sub/img_001x4.png": "sub/img_001.png", "matrix4.png": "matrix4.png"}
    touch(tmp_path, "babyx2.png")
    assert found_in(tmp_path, "babyx2.png") == {"babyx2.png": "babyx2.png"}


def test_of_several_the_one_with_the_pictures_ending_is_taken(tmp_path):
    touch(tmp_path, "a.png", "a.jpg", "b.png", "b.tif", "c.png")
    told = []
    found = found_in(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", tell=lambda *fault: told.append(fault))
    assert found == {"a.jpg": "a.jpg", "c.jpg": "c.png"}
    assert told == [
        ("in/b.jpg", "several ground truths, b.png, b.tif"),
        ("in/d.jpg", f"no ground truth {tmp_path}/d (of any ending)"),
    ]


def test_a_wrong_folder_of_ground_truths_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        GroundTruths(tmp_path / "none")
    with pytest.raises(DataError, match="no picture found"):
        GroundTruths(tmp_path)
    touch(tmp_path, "x.png")
    with pytest.raises(DataError, match=r"none of 2 pictures has a ground truth; in/a.png: no ground truth \S+/a "):
        found_in(tmp_path, "a.png", "b.png")


def test_one_ground_truth_for_one_picture(tmp_path):
    touch(tmp_path, "truth.png")
    truths = GroundTruths(tmp_path / "truth.png")
    (job,) = jobs_of("a.jpg")
    assert truths.of([job], unheard) == {job: tmp_path / "truth.png"}
    assert truths.files == [tmp_path / "truth.png"]
    with pytest.raises(DataError, match="is one ground truth for 2 pictures"):
        truths.of(jobs_of("a.jpg", "b.jpg"), unheard)


# -- leftovers --------------------------------------------------------------------------------------------------------


def test_only_what_dead_processes_left_of_these_files_is_removed(tmp_path):
    dead = 2**22 + 1  # above the largest number that Linux gives
    ours, theirs = f".a.png.{dead}", f".a.png.{os.getpid()}"
    touch(tmp_path, "a.png", ours, theirs, f".other.png.{dead}", ".a.png.old", f"a.png.{dead}", f".a.png.{10**30}")
    before = set(os.listdir(tmp_path))
    remove_leftovers([tmp_path / "a.png", tmp_path / "none" / "b.png"])
    assert before - set(os.listdir(tmp_path)) == {ours}
