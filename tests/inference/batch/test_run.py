"""Restoring folders: what comes out is what the network makes, whatever lies among the pictures."""

import csv
import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mcir.inference.batch import run as folder_module
from mcir.inference.batch.run import FolderSettings, restore_folder
from mcir.inference.images import Picture, read_picture, write_picture
from mcir.inference.restorer import Restorer
from mcir.metrics import PSNR, SSIM
from mcir.registry import ARCHS
from mcir.weights import load_network
from tests.data.pictures import noise, save, shorten, smooth
from tests.engine.conftest import options as training

ENLARGING = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1.0}
EQUAL = {"type": "NAFNet", "width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1], "middle_blk_num": 1}


def checkpoint(file, section=ENLARGING, seed=0):
    torch.manual_seed(seed)
    torch.save({"params": ARCHS.build(section).state_dict()}, file)
    return file


class Place:
    """A folder of pictures, checkpoints, and how they are restored."""

    def __init__(self, root):
        self.root = root
        self.sharp = checkpoint(root / "x2.pth")
        self.equal = checkpoint(root / "x1.pth", EQUAL)

    def add(self, *names, size=(16, 20), kind=np.uint8, alpha=False, channels=3):
        for number, name in enumerate(names):
            pixels = noise(*size, channels, dtype=kind, seed=number)
            mask = noise(*size, 1, dtype=kind, seed=7)[:, :, 0] if alpha else None
            write_picture(self.root / "in" / name, Picture(pixels, mask))
        return self

    def restore(self, *inputs, status=0, **options):
        given = {"weights": self.sharp, "out": self.root / "out", "device": "cpu", **options}
        inputs = [str(one) for one in inputs] or [str(self.root / "in")]
        assert restore_folder(FolderSettings(inputs=inputs, **given)) == status

    def expected(self, name, weights=None, **options):
        restorer = Restorer(load_network(weights or self.sharp), device="cpu", **options)
        return restorer.pictures([read_picture(self.root / "in" / name)])[0]

    def there(self, below="out"):
        files = (path for path in (self.root / below).rglob("*") if path.is_file())
        return sorted(path.relative_to(self.root / below).as_posix() for path in files)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "_WIDTH", 400)  # so that long paths of temporary folders stay whole
    return Place(tmp_path)


def calls(monkeypatch, act=lambda pictures: None):
    """Note how many pictures are restored together, each time."""
    real, made = Restorer.pictures, []

    def pictures(self, given, progress=None):
        made.append(len(given))
        act(given)
        return real(self, given, progress)

    monkeypatch.setattr(Restorer, "pictures", pictures)
    return made


def equal(one, other):
    assert one.pixels.dtype == other.pixels.dtype
    assert (one.pixels == other.pixels).all()
    assert (one.alpha is None) == (other.alpha is None)
    assert one.alpha is None or (one.alpha == other.alpha).all()
    return True


def faults(text):
    """Return the reasons by picture of a table; what is folded is put together."""
    rows = {}
    for line in text.splitlines():
        if line.startswith("│"):
            name, reason = (cell[1:-1].rstrip() for cell in line[1:-1].split("│"))
            name = name or list(rows).pop()
            rows[name] = f"{rows[name]} {reason}" if name in rows else reason
    return rows


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["sharp", "equal"])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"kind": np.uint16},
        {"channels": 1},
        {"alpha": True},
    ],
)
def test_what_is_written_is_what_the_network_makes_in_the_pictures_own_kind(place, network, kind, capsys):
    weights = getattr(place, network)
    place.add("a.png", "sub/b.tif", **kind).restore(weights=weights)
    assert place.there() == ["a.png", "sub/b.tif"]
    for name in place.there():
        assert equal(read_picture(place.root / "out" / name), place.expected(name, weights))
    assert "out: 2 restored, " in capsys.readouterr().out


def test_the_network_works_as_asked(place):
    place.add("a.png", size=(40, 40))
    for number, options in enumerate(
        ({"ensemble": True}, {"precision": "bf16"}, {"tile": 24, "overlap": 8}, {"tile": None})
    ):
        place.restore(out=place.root / f"{number}", **options)
        assert equal(read_picture(place.root / f"{number}" / "a.png"), place.expected("a.png", **options))
    assert not (read_picture(place.root / "0/a.png").pixels == read_picture(place.root / "3/a.png").pixels).all()


def test_the_network_may_be_that_of_an_option_file_and_the_weights_under_a_key(place):
    place.add("a.png")
    torch.manual_seed(1)
    network = ARCHS.build({**ENLARGING, "img_range": 255.0})
    state = network.state_dict()
    other = {key: value * 2 for key, value in state.items()}
    torch.save({"params": state, "params_ema": other}, place.root / "both.pth")
    options = place.root / "x.yml"
    options.write_text(json.dumps({**training(place.root), "network_g": {**ENLARGING, "img_range": 255.0}}))
    place.restore(weights=place.root / "both.pth", opt=options, key="params")
    wanted = Restorer(network.eval(), device="cpu").pictures([read_picture(place.root / "in/a.png")])[0]
    assert equal(read_picture(place.root / "out/a.png"), wanted)


def test_bits_and_format_can_be_others(place):
    place.add("a.png", "b.bmp").add("deep.png", kind=np.uint16)
    place.restore(format="png", bits=16)
    assert place.there() == ["a.png", "b.png", "deep.png"]
    deep, shallow = read_picture(place.root / "out/b.png"), place.expected("b.bmp")
    assert deep.bits == 16
    assert np.abs(deep.pixels / 257 - shallow.pixels).max() <= 0.5 + 1 / 257
    assert len(np.unique(deep.pixels % 257)) > 100  # not 8 bits written wide
    place.restore(out=place.root / "small", format="jpg", bits=8, quality=100)
    assert place.there("small") == ["a.jpg", "b.jpg", "deep.jpg"]
    error = read_picture(place.root / "small/deep.jpg").pixels - place.expected("deep.png").pixels / 257
    assert np.abs(error).mean() < 3


def test_quality_matters(place):
    save(place.root / "in/a.jpg", smooth(64, 64))
    sizes = []
    for quality in (20, None):
        place.restore(quality=quality)
        sizes.append((place.root / "out/a.jpg").stat().st_size)
    assert sizes[0] < 0.7 * sizes[1]


@pytest.mark.parametrize(
    "name", ["ü ö.png", "[red]x[/red].png", "a*b?.png", "-o.png", "a\nb.png", "a\udce9.png", "é/ü/ [1].png"]
)
def test_any_name(place, name, capsys):
    place.add(name).add("bad.png")
    (place.root / "in" / name).with_suffix(".jpg").write_bytes(b"none")
    save(place.root / "gt/bad.png", noise(32, 40))
    write_picture(place.root / "gt" / name, Picture(noise(32, 40)))
    place.restore(compare=True, gt=place.root / "gt", status=1)
    assert read_picture(place.root / "out" / name).height == 32
    assert read_picture(place.root / "out/comparisons" / name).width == 4 * 40 + 24
    told = capsys.readouterr()
    if "\n" not in name and name.isprintable():
        assert name in told.out
        assert name.replace(".png", ".jpg") in told.err
    images = json.loads((place.root / "out/metrics.json").read_text("utf-8"))["images"]
    assert {"bad.png", name.replace("\udce9", "�")} == images.keys()


# -- what fails -------------------------------------------------------------------------------------------------------


def test_bad_files_are_told_at_the_end_and_the_others_are_done(place, capsys):
    place.add("a.png", "cut.png", "z.png")
    shorten(place.root / "in/cut.png", 40)
    (place.root / "in/words.jpg").write_text("no picture")
    (place.root / "in/empty.tif").touch()
    (place.root / "in/dead.png").symlink_to("nowhere")
    place.restore(status=1)
    assert place.there() == ["a.png", "z.png"]
    told = capsys.readouterr()
    assert "2 restored" in told.out
    rows = faults(told.err)
    assert rows.keys() == {str(place.root / "in" / name) for name in ("cut.png", "words.jpg", "empty.tif", "dead.png")}
    assert "empty" in rows[str(place.root / "in/empty.tif")]
    assert all(rows.values())


def test_damage_behind_the_header_is_found_when_it_is_read(place, capsys):
    save(place.root / "in/a.png", noise(64, 64))
    save(place.root / "in/b.png", noise(64, 64))
    data = bytearray((place.root / "in/a.png").read_bytes())
    data[3000:3100] = bytes(100)
    (place.root / "in/a.png").write_bytes(data)
    for batch in (1, 2):
        place.restore(status=1, batch=batch)
        assert place.there() == ["b.png"]
        told = capsys.readouterr()
        assert "out: 1 restored, 1 failed, " in told.out
        assert "a.png" in told.err


def test_a_format_that_cannot_hold_a_result_is_told_before_it_is_computed(place, capsys, monkeypatch):
    made = calls(monkeypatch)
    place.add("a.png").add("deep.png", kind=np.uint16).add("clear.png", alpha=True)
    place.restore(format="jpg", status=1)
    assert place.there() == ["a.jpg"]
    assert made == [1]
    rows = faults(capsys.readouterr().err)
    assert "cannot hold 16 bits a sample; write " in rows[str(place.root / "in/deep.png")]
    assert rows[str(place.root / "in/deep.png")].endswith(", or give --bits 8")
    assert "cannot hold transparency; write " in rows[str(place.root / "in/clear.png")]
    place.restore(format="jpg", bits=8, status=1)
    assert place.there() == ["a.jpg", "deep.jpg"]
    place.add("both.png", kind=np.uint16, alpha=True).restore(format="jpg", status=1)
    told = faults(capsys.readouterr().err)[str(place.root / "in/both.png")]
    assert "cannot hold 16 bits a sample and transparency" in told
    assert "--bits" not in told  # which would not be enough


def test_of_a_batch_that_fails_each_is_tried_alone(place, monkeypatch, capsys):
    def fail(given):
        if len(given) > 1 or any((picture.pixels[0, 0] == noise(16, 20, seed=1)[0, 0]).all() for picture in given):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    made = calls(monkeypatch, fail)
    place.add("a.png", "b.png", "c.png").restore(batch=3, status=1)
    assert made == [3, 1, 1, 1]
    assert place.there() == ["a.png", "c.png"]
    assert "can't allocate memory" in capsys.readouterr().err


def test_a_place_that_is_taken_by_a_folder_is_a_fault_of_that_picture(place, capsys):
    (place.root / "out/a.png").mkdir(parents=True)
    place.add("a.png", "b.png").restore(status=1)
    assert place.there() == ["b.png"]
    assert "a.png" in capsys.readouterr().err


def test_a_full_disk_stops_all_at_once(place, monkeypatch):
    real, tried = write_picture, []

    def write(path, picture, quality):
        tried.append(path)
        if len(tried) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, picture, quality)

    monkeypatch.setattr(folder_module, "write_picture", write)
    monkeypatch.setattr(folder_module, "ROOM", 1)  # one after the other
    place.add(*(f"{number}.png" for number in range(9)))
    with pytest.raises(
        ValueError, match=r"No space left on device, after 2 pictures, which are whole; .* --skip-existing"
    ):
        place.restore()
    assert len(tried) == 3
    assert place.there() == ["0.png", "1.png"]


def test_a_folder_that_may_not_be_written_to_is_told_before_anything_is_computed(place, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != place.root / "out" or not mode & os.W_OK)
    computed = calls(monkeypatch)
    with pytest.raises(ValueError, match="out: nothing may be written into this folder; name another with -o"):
        place.add("a.png").restore()
    assert not computed


def test_an_interrupt_leaves_whole_files_only(place, monkeypatch):
    made = []

    def interrupt(given):
        made.append(given)
        if len(made) == 4:
            raise KeyboardInterrupt

    calls(monkeypatch, interrupt)
    place.add(*(f"{number}.png" for number in range(9)))
    with pytest.raises(KeyboardInterrupt):
        place.restore()
    assert len(made) == 4
    assert set(place.there()) <= {"0.png", "1.png", "2.png"}
    for name in place.there():
        assert equal(read_picture(place.root / "out" / name), place.expected(name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "--batch is a number of pictures from 1 on, not 0"),
        ({"quality": 101}, "--quality is from 1 to 100, not 101"),
        ({"quality": 80}, "--quality is of JPEG and WebP, and no result is written as either"),
        ({"format": "gif"}, "--format gif: pictures can be written as bmp, .*, webp"),
        ({"crop_border": 2}, "without --gt"),
        ({"crop_border": -1, "gt": "in"}, "--crop-border is a number of pixels from 0 on, not -1"),
        ({"weights": Path("none.pth")}, "none.pth: there is no such weight file"),
        ({"tile": 1}, "too small"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_written(place, options, message):
    place.add("a.png")
    options = {key: place.root / value if key == "gt" else value for key, value in options.items()}
    with pytest.raises(ValueError, match=message):
        place.restore(**options)
    assert not (place.root / "out").exists()


def test_a_collision_is_told_before_the_network_is_read(place):
    place.add("a.png", "a.bmp")
    with pytest.raises(ValueError, match="is also that of"):
        place.restore(format="png", weights=place.root / "none.pth")


# -- many -------------------------------------------------------------------------------------------------------------


def test_batches_are_of_one_size_and_change_nothing(place, monkeypatch):
    place.add("a.png", "c.png", "e.png").add("b.png", "d.png", size=(20, 16)).add("f.png", channels=1)
    place.restore()
    made = calls(monkeypatch)
    place.restore(batch=2, out=place.root / "batched")
    assert sorted(made) == [1, 1, 2, 2]
    assert place.there("batched") == place.there()
    for name in place.there():
        one, other = (read_picture(place.root / each / name).pixels.astype(int) for each in ("out", "batched"))
        assert np.abs(one - other).max() <= 1


def test_results_that_are_there_are_written_anew_or_kept(place, monkeypatch, capsys):
    place.add("a.png", "b.png", "c.png").restore()
    made = calls(monkeypatch)
    place.restore()
    assert made == [1, 1, 1]
    os.utime(place.root / "out/a.png", ns=(0, 0))
    (place.root / "out/b.png").write_bytes(b"half")
    (place.root / "out/c.png").unlink()
    capsys.readouterr()
    place.restore(skip_existing=True)
    assert made[3:] == [1, 1]
    assert (place.root / "out/a.png").stat().st_mtime_ns == 0
    told = capsys.readouterr().out
    assert "2 to restore, 1 there already" in told
    assert "2 restored, 1 there already" in told
    place.restore(skip_existing=True)
    assert len(made) == 5
    assert equal(read_picture(place.root / "out/b.png"), place.expected("b.png"))


def test_the_results_are_not_restored_again(place):
    place.add("a.png", "sub/b.png")
    for _ in range(2):
        place.restore(out=place.root / "in/restored", compare=True)
    assert place.there("in/restored") == ["a.png", "comparisons/a.png", "comparisons/sub/b.png", "sub/b.png"]


def test_one_picture_to_one_file(place):
    place.add("a.png").restore(place.root / "in/a.png", out=place.root / "new" / "better.tif")
    assert place.there("new") == ["better.tif"]
    assert equal(read_picture(place.root / "new/better.tif"), place.expected("a.png"))


# -- measured ---------------------------------------------------------------------------------------------------------


def truths(place, scale=2):
    for path in (place.root / "in").rglob("*.*"):
        picture = read_picture(path)
        name = path.relative_to(place.root / "in").with_suffix(".png")
        save(place.root / "gt" / name, noise(picture.height * scale, picture.width * scale, seed=99))
    return place.root / "gt"


def tensor(picture):
    return torch.from_numpy(picture.pixels / np.float64(255)).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("border", [None, 0, 3])
@pytest.mark.parametrize("network", ["sharp", "equal"])
def test_psnr_and_ssim_are_those_of_the_metrics(place, border, network, capsys):
    scale = 2 if network == "sharp" else 1
    place.add("a.png", "sub/b.png", size=(30, 32))
    place.restore(gt=truths(place, scale), crop_border=border, weights=getattr(place, network))
    tree = json.loads((place.root / "out/metrics.json").read_text())
    used = {None: scale if scale > 1 else 0}.get(border, border)
    assert tree["crop_border"] == used
    assert (tree["scale"], tree["faults"]) == (scale, {})
    assert list(tree["images"]) == ["a.png", "sub/b.png"]
    for name, row in tree["images"].items():
        output, gt = (tensor(read_picture(place.root / each / name)) for each in ("out", "gt"))
        assert row["psnr"] == pytest.approx(float(PSNR(used)(output, gt)), rel=1e-9)
        assert row["ssim"] == pytest.approx(float(SSIM(used)(output, gt)), rel=1e-9)
    values = [row["psnr"] for row in tree["images"].values()]
    assert tree["mean"]["psnr"] == pytest.approx(sum(values) / 2)
    with (place.root / "out/metrics.csv").open() as lines:
        rows = {row["picture"]: row for row in csv.DictReader(lines)}
    assert float(rows["sub/b.png"]["ssim"]) == tree["images"]["sub/b.png"]["ssim"]
    told = capsys.readouterr().out
    assert "mean of 2" in told
    assert f"{values[0]:.2f} dB" in told


def test_ground_truths_that_are_missing_or_wrong_are_known_before_anything_is_computed(place, monkeypatch, capsys):
    place.add("a.png", "b.png", "c.png", size=(16, 20))
    gt = truths(place)
    (gt / "a.png").unlink()
    save(gt / "b.png", noise(16, 20))
    seen = []
    real = folder_module._Run.tell
    monkeypatch.setattr(folder_module._Run, "tell", lambda self, *fault: (seen.append(fault), real(self, *fault)))
    known = []
    calls(monkeypatch, lambda given: known.append(len(seen)))
    place.restore(gt=gt, status=1)
    assert known == [2, 2, 2]
    assert place.there() == ["a.png", "b.png", "c.png", "metrics.csv", "metrics.json"]
    tree = json.loads((place.root / "out/metrics.json").read_text())
    assert tree["images"].keys() == {"c.png"}
    assert {os.path.basename(name): reason for name, reason in tree["faults"].items()} == {
        "a.png": f"no ground truth {gt}/a (of any ending)",
        "b.png": "not measured: the ground truth has 20×16 pixels, the restored picture 40×32 (×2)",
    }
    told = capsys.readouterr().err
    assert "no ground truth" in told
    assert "not measured" in told


def test_going_on_measures_and_shows_what_is_there_too(place, monkeypatch):
    place.add("a.png", "b.png")
    gt = truths(place)
    place.restore(gt=gt, compare=True)
    before = {name: (place.root / "out" / name).read_bytes() for name in place.there()}
    (place.root / "out/b.png").unlink()
    (place.root / "out/comparisons/a.png").unlink()
    made = calls(monkeypatch)
    place.restore(gt=gt, compare=True, skip_existing=True)
    assert made == [1]
    assert {name: (place.root / "out" / name).read_bytes() for name in place.there()} == before


def test_what_an_earlier_run_left_is_not_measured_for_a_picture_that_fails(place, monkeypatch):
    place.add("a.png", "b.png")
    gt = truths(place)
    place.restore(gt=gt)
    first = read_picture(place.root / "in/a.png").pixels

    def fail(given):
        if (given[0].pixels == first).all():
            raise ValueError("not this one")

    calls(monkeypatch, fail)
    place.restore(gt=gt, status=1)
    tree = json.loads((place.root / "out/metrics.json").read_text())
    assert tree["images"].keys() == {"b.png"}
    assert tree["faults"] == {str(place.root / "in/a.png"): "not this one"}


def test_ground_truths_are_never_overwritten(place):
    place.add("a.png")
    gt = truths(place)
    with pytest.raises(ValueError, match=r"would take the place of \S+gt/a.png, which is read"):
        place.restore(gt=gt, out=gt)
    assert equal(read_picture(gt / "a.png"), Picture(noise(32, 40, seed=99)))


def test_comparisons_mirror_the_structure(place):
    place.add("a.png", "sub/b.bmp").restore(compare=True)
    assert place.there() == ["a.png", "comparisons/a.png", "comparisons/sub/b.bmp.png", "sub/b.bmp"]
    assert read_picture(place.root / "out/comparisons/a.png").width == 2 * 40 + 8
    place.restore(compare=True, gt=truths(place))
    assert read_picture(place.root / "out/comparisons/a.png").width == 4 * 40 + 3 * 8


def test_a_huge_picture_is_alone_in_memory(place, monkeypatch):
    """With no room to read ahead, each picture is read only when the one before is written."""
    monkeypatch.setattr(folder_module, "ROOM", 1)
    steps = []
    read, write = folder_module.read_picture, folder_module.write_picture
    monkeypatch.setattr(folder_module, "read_picture", lambda path: (steps.append("read"), read(path))[1])
    monkeypatch.setattr(folder_module, "write_picture", lambda *given: (write(*given), steps.append("written"))[0])
    place.add("a.png", "b.png", "c.png").restore(batch=3)
    assert steps == ["read", "written"] * 3


def test_settings_are_documented():
    text = FolderSettings.__doc__
    assert all(f" {field.name}: " in text for field in dataclasses.fields(FolderSettings))
