"""Folders are restored: results are those of the network, and bad files do not stop the others."""

import csv
import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mcir.inference.batch import FolderSettings, restore_folder
from mcir.inference.batch import problems as problems_module
from mcir.inference.batch import run as folder_module
from mcir.inference.images import Picture, read_picture, write_picture
from mcir.inference.restorer import Restorer
from mcir.metrics import PSNR, SSIM
from mcir.registry import ARCHS
from mcir.weights import load_network
from tests.data.images import noise, save, truncate
from tests.engine.conftest import options as training

ENLARGING = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1.0}
EQUAL = {"type": "NAFNet", "width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1], "middle_blk_num": 1}


def checkpoint(file, section=ENLARGING, seed=0):
    torch.manual_seed(seed)
    torch.save({"params": ARCHS.build(section).state_dict()}, file)
    return file


class Workspace:
    """A folder with images and checkpoints."""

    def __init__(self, root):
        self.root = root
        self.x2 = checkpoint(root / "x2.pth")
        self.x1 = checkpoint(root / "x1.pth", EQUAL)

    def add(self, *names, size=(16, 20), kind=np.uint8, alpha=False, channels=3):
        for number, name in enumerate(names):
            pixels = noise(*size, channels, dtype=kind, seed=number)
            mask = noise(*size, 1, dtype=kind, seed=7)[:, :, 0] if alpha else None
            write_picture(self.root / "in" / name, Picture(pixels, mask))
        return self

    def restore(self, *inputs, status=0, **options):
        settings = {"weights": self.x2, "out": self.root / "out", "device": "cpu", **options}
        inputs = [str(one) for one in inputs] or [str(self.root / "in")]
        assert restore_folder(FolderSettings(inputs=inputs, **settings)) == status

    def expected(self, name, weights=None, **options):
        restorer = Restorer(load_network(weights or self.x2), device="cpu", **options)
        return restorer.pictures([read_picture(self.root / "in" / name)])[0]

    def files(self, below="out"):
        files = (path for path in (self.root / below).rglob("*") if path.is_file())
        return sorted(path.relative_to(self.root / below).as_posix() for path in files)


@pytest.fixture
def space(tmp_path, monkeypatch):
    monkeypatch.setattr(problems_module, "TABLE_WIDTH", 400)  # long temporary paths stay in one line
    return Workspace(tmp_path)


def record_calls(monkeypatch, act=lambda pictures: None):
    """Record how many images are restored together in each call."""
    real, made = Restorer.pictures, []

    def pictures(self, images, progress=None):
        made.append(len(images))
        act(images)
        return real(self, images, progress)

    monkeypatch.setattr(Restorer, "pictures", pictures)
    return made


def equal(one, other):
    assert one.pixels.dtype == other.pixels.dtype
    assert (one.pixels == other.pixels).all()
    assert (one.alpha is None) == (other.alpha is None)
    assert one.alpha is None or (one.alpha == other.alpha).all()
    return True


def problems(text):
    """Return the problems of a table by image; folded lines are joined."""
    rows = {}
    for line in text.splitlines():
        if line.startswith("│"):
            name, reason = (cell[1:-1].rstrip() for cell in line[1:-1].split("│"))
            name = name or list(rows).pop()
            rows[name] = f"{rows[name]} {reason}" if name in rows else reason
    return rows


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["x2", "x1"])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"kind": np.uint16},
        {"channels": 1},
        {"alpha": True},
    ],
)
def test_results_have_the_type_of_the_image(space, network, kind, capsys):
    weights = getattr(space, network)
    space.add("a.png", "sub/b.tif", **kind).restore(weights=weights)
    assert space.files() == ["a.png", "sub/b.tif"]
    for name in space.files():
        assert equal(read_picture(space.root / "out" / name), space.expected(name, weights))
    assert "out: 2 restored, " in capsys.readouterr().out


def test_options_of_the_restorer(space):
    space.add("a.png", size=(40, 40))
    for number, options in enumerate(
        ({"ensemble": True}, {"precision": "bf16"}, {"tile": 24, "overlap": 8}, {"tile": None})
    ):
        space.restore(out=space.root / f"{number}", **options)
        assert equal(read_picture(space.root / f"{number}" / "a.png"), space.expected("a.png", **options))
    assert not (read_picture(space.root / "0/a.png").pixels == read_picture(space.root / "3/a.png").pixels).all()


def test_option_file_and_key(space):
    space.add("a.png")
    torch.manual_seed(1)
    network = ARCHS.build({**ENLARGING, "img_range": 255.0})
    state = network.state_dict()
    other = {key: value * 2 for key, value in state.items()}
    torch.save({"params": state, "params_ema": other}, space.root / "both.pth")
    options = space.root / "x.yml"
    options.write_text(json.dumps({**training(space.root), "network_g": {**ENLARGING, "img_range": 255.0}}))
    space.restore(weights=space.root / "both.pth", opt=options, key="params")
    expected = Restorer(network.eval(), device="cpu").pictures([read_picture(space.root / "in/a.png")])[0]
    assert equal(read_picture(space.root / "out/a.png"), expected)


def test_bits_and_format(space):
    space.add("a.png", "b.bmp").add("deep.png", kind=np.uint16)
    space.restore(format="png", bits=16)
    assert space.files() == ["a.png", "b.png", "deep.png"]
    deep, shallow = read_picture(space.root / "out/b.png"), space.expected("b.bmp")
    assert deep.bits == 16
    assert np.abs(deep.pixels / 257 - shallow.pixels).max() <= 0.5 + 1 / 257
    assert len(np.unique(deep.pixels % 257)) > 100  # not 8-bit values
    space.restore(out=space.root / "small", format="jpg", bits=8, quality=100)
    assert space.files("small") == ["a.jpg", "b.jpg", "deep.jpg"]
    error = read_picture(space.root / "small/deep.jpg").pixels - space.expected("deep.png").pixels / 257
    assert np.abs(error).mean() < 3


@pytest.mark.parametrize(
    "name", ["ü ö.png", "[red]x[/red].png", "a*b?.png", "-o.png", "a\nb.png", "a\udce9.png", "é/ü/ [1].png"]
)
def test_any_name(space, name, capsys):
    space.add(name).add("bad.png")
    (space.root / "in" / name).with_suffix(".jpg").write_bytes(b"none")
    save(space.root / "gt/bad.png", noise(32, 40))
    write_picture(space.root / "gt" / name, Picture(noise(32, 40)))
    space.restore(compare=True, gt=space.root / "gt", status=1)
    assert read_picture(space.root / "out" / name).height == 32
    assert read_picture(space.root / "out/comparisons" / name).width == 4 * 40 + 24
    captured = capsys.readouterr()
    if "\n" not in name and name.isprintable():
        assert name in captured.out
        assert name.replace(".png", ".jpg") in captured.err
    images = json.loads((space.root / "out/metrics.json").read_text("utf-8"))["images"]
    assert {"bad.png", name.replace("\udce9", "\\xe9")} == images.keys()


# -- what fails -------------------------------------------------------------------------------------------------------


def test_bad_files_are_reported_at_the_end(space, capsys):
    space.add("a.png", "cut.png", "z.png")
    truncate(space.root / "in/cut.png", 40)
    (space.root / "in/words.jpg").write_text("no picture")
    (space.root / "in/empty.tif").touch()
    (space.root / "in/dead.png").symlink_to("nowhere")
    space.restore(status=1)
    assert space.files() == ["a.png", "z.png"]
    captured = capsys.readouterr()
    assert "2 restored" in captured.out
    rows = problems(captured.err)
    assert rows.keys() == {str(space.root / "in" / name) for name in ("cut.png", "words.jpg", "empty.tif", "dead.png")}
    assert "empty" in rows[str(space.root / "in/empty.tif")]
    assert all(rows.values())


def test_damage_behind_the_header(space, capsys):
    save(space.root / "in/a.png", noise(64, 64))
    save(space.root / "in/b.png", noise(64, 64))
    data = bytearray((space.root / "in/a.png").read_bytes())
    data[3000:3100] = bytes(100)
    (space.root / "in/a.png").write_bytes(data)
    for batch in (1, 2):
        space.restore(status=1, batch=batch)
        assert space.files() == ["b.png"]
        captured = capsys.readouterr()
        assert "out: 1 restored, 1 failed, " in captured.out
        assert "a.png" in captured.err


def test_formats_that_cannot_hold_a_result_are_found_before_computing(space, capsys, monkeypatch):
    made = record_calls(monkeypatch)
    space.add("a.png").add("deep.png", kind=np.uint16).add("clear.png", alpha=True)
    space.restore(format="jpg", status=1)
    assert space.files() == ["a.jpg"]
    assert made == [1]
    rows = problems(capsys.readouterr().err)
    assert "cannot hold 16 bits per sample; use " in rows[str(space.root / "in/deep.png")]
    assert "cannot hold transparency; use " in rows[str(space.root / "in/clear.png")]
    space.restore(format="jpg", bits=8, status=1)
    assert space.files() == ["a.jpg", "deep.jpg"]
    space.add("both.png", kind=np.uint16, alpha=True).restore(format="jpg", status=1)
    captured = problems(capsys.readouterr().err)[str(space.root / "in/both.png")]
    assert "cannot hold 16 bits per sample and transparency" in captured


def test_images_of_a_failed_batch_are_restored_alone(space, monkeypatch, capsys):
    def fail(pictures):
        if len(pictures) > 1 or any((one.pixels[0, 0] == noise(16, 20, seed=1)[0, 0]).all() for one in pictures):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    made = record_calls(monkeypatch, fail)
    space.add("a.png", "b.png", "c.png").restore(batch=3, status=1)
    assert made == [3, 1, 1, 1]
    assert space.files() == ["a.png", "c.png"]
    assert "can't allocate memory" in capsys.readouterr().err


def test_a_target_that_is_a_folder(space, capsys):
    (space.root / "out/a.png").mkdir(parents=True)
    space.add("a.png", "b.png").restore(status=1)
    assert space.files() == ["b.png"]
    assert "a.png" in capsys.readouterr().err


def test_a_full_disk_stops_the_run(space, monkeypatch):
    real, tried = write_picture, []

    def write(path, picture, quality):
        tried.append(path)
        if len(tried) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, picture, quality)

    monkeypatch.setattr(folder_module, "write_picture", write)
    monkeypatch.setattr(folder_module, "MEMORY_LIMIT", 1)  # one image at a time
    space.add(*(f"{number}.png" for number in range(9)))
    with pytest.raises(ValueError, match=r"No space left on device, after 2 complete results; .* --skip-existing"):
        space.restore()
    assert len(tried) == 3
    assert space.files() == ["0.png", "1.png"]


def test_read_only_output_folder(space, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != space.root / "out" or not mode & os.W_OK)
    computed = record_calls(monkeypatch)
    with pytest.raises(ValueError, match="out: no permission to write to this folder; name another with -o"):
        space.add("a.png").restore()
    assert not computed


def test_an_interrupt_leaves_complete_files(space, monkeypatch):
    made = []

    def interrupt(pictures):
        made.append(pictures)
        if len(made) == 4:
            raise KeyboardInterrupt

    record_calls(monkeypatch, interrupt)
    space.add(*(f"{number}.png" for number in range(9)))
    with pytest.raises(KeyboardInterrupt):
        space.restore()
    assert len(made) == 4
    assert set(space.files()) <= {"0.png", "1.png", "2.png"}
    for name in space.files():
        assert equal(read_picture(space.root / "out" / name), space.expected(name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "--batch: expected at least 1, got 0"),
        ({"quality": 101}, "--quality: expected 1 to 100, got 101"),
        ({"quality": 80}, "--quality applies to JPEG and WebP, and no result"),
        ({"format": "gif"}, "--format: expected one of bmp, .*, webp, got gif"),
        ({"crop_border": 2}, "without --gt"),
        ({"crop_border": -1, "gt": "in"}, "--crop-border: expected at least 0, got -1"),
        ({"weights": Path("none.pth")}, "none.pth: expected a weight file, but the path does not exist"),
        ({"tile": 1}, "tile: expected at least 2"),
    ],
)
def test_invalid_settings_are_found_before_anything_is_written(space, options, message):
    space.add("a.png")
    options = {key: space.root / value if key == "gt" else value for key, value in options.items()}
    with pytest.raises(ValueError, match=message):
        space.restore(**options)
    assert not (space.root / "out").exists()


# -- many images ------------------------------------------------------------------------------------------------------


def test_batches(space, monkeypatch):
    space.add("a.png", "c.png", "e.png").add("b.png", "d.png", size=(20, 16)).add("f.png", channels=1)
    space.restore()
    made = record_calls(monkeypatch)
    space.restore(batch=2, out=space.root / "batched")
    assert sorted(made) == [1, 1, 2, 2]
    assert space.files("batched") == space.files()
    for name in space.files():
        one, other = (read_picture(space.root / each / name).pixels.astype(int) for each in ("out", "batched"))
        assert np.abs(one - other).max() <= 1


def test_existing_results_are_overwritten_or_kept(space, monkeypatch, capsys):
    space.add("a.png", "b.png", "c.png").restore()
    made = record_calls(monkeypatch)
    space.restore()
    assert made == [1, 1, 1]
    os.utime(space.root / "out/a.png", ns=(0, 0))
    (space.root / "out/b.png").write_bytes(b"half")
    (space.root / "out/c.png").unlink()
    capsys.readouterr()
    space.restore(skip_existing=True)
    assert made[3:] == [1, 1]
    assert (space.root / "out/a.png").stat().st_mtime_ns == 0
    captured = capsys.readouterr().out
    assert "2 to restore, 1 exist already" in captured
    assert "2 restored, 1 existed already" in captured
    space.restore(skip_existing=True)
    assert len(made) == 5
    assert equal(read_picture(space.root / "out/b.png"), space.expected("b.png"))


def test_one_file(space):
    space.add("a.png").restore(space.root / "in/a.png", out=space.root / "new" / "better.tif")
    assert space.files("new") == ["better.tif"]
    assert equal(read_picture(space.root / "new/better.tif"), space.expected("a.png"))


# -- evaluation -------------------------------------------------------------------------------------------------------


def truths(space, scale=2):
    for path in (space.root / "in").rglob("*.*"):
        picture = read_picture(path)
        name = path.relative_to(space.root / "in").with_suffix(".png")
        save(space.root / "gt" / name, noise(picture.height * scale, picture.width * scale, seed=99))
    return space.root / "gt"


def tensor(picture):
    return torch.from_numpy(picture.pixels / np.float64(255)).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("border", [None, 0, 3])
@pytest.mark.parametrize("network", ["x2", "x1"])
def test_scores_are_those_of_the_metrics(space, border, network, capsys):
    scale = 2 if network == "x2" else 1
    space.add("a.png", "sub/b.png", size=(30, 32))
    space.restore(gt=truths(space, scale), crop_border=border, weights=getattr(space, network))
    tree = json.loads((space.root / "out/metrics.json").read_text())
    used = {None: scale if scale > 1 else 0}.get(border, border)
    assert tree["crop_border"] == used
    assert (tree["scale"], tree["faults"]) == (scale, {})
    assert list(tree["images"]) == ["a.png", "sub/b.png"]
    for name, row in tree["images"].items():
        output, gt = (tensor(read_picture(space.root / each / name)) for each in ("out", "gt"))
        assert row["psnr"] == pytest.approx(float(PSNR(used)(output, gt)), rel=1e-9)
        assert row["ssim"] == pytest.approx(float(SSIM(used)(output, gt)), rel=1e-9)
    values = [row["psnr"] for row in tree["images"].values()]
    assert tree["mean"]["psnr"] == pytest.approx(sum(values) / 2)
    with (space.root / "out/metrics.csv").open() as lines:
        rows = {row["picture"]: row for row in csv.DictReader(lines)}
    assert float(rows["sub/b.png"]["ssim"]) == tree["images"]["sub/b.png"]["ssim"]
    captured = capsys.readouterr().out
    assert "mean of 2" in captured
    assert f"{values[0]:.2f} dB" in captured


def test_missing_and_wrong_ground_truths_are_found_before_computing(space, monkeypatch, capsys):
    space.add("a.png", "b.png", "c.png", size=(16, 20))
    gt = truths(space)
    (gt / "a.png").unlink()
    save(gt / "b.png", noise(16, 20))
    seen = []
    real = folder_module.Problems.report
    monkeypatch.setattr(folder_module.Problems, "report", lambda self, *item: (seen.append(item), real(self, *item)))
    known = []
    record_calls(monkeypatch, lambda pictures: known.append(len(seen)))
    space.restore(gt=gt, status=1)
    assert known == [2, 2, 2]
    assert space.files() == ["a.png", "b.png", "c.png", "metrics.csv", "metrics.json"]
    tree = json.loads((space.root / "out/metrics.json").read_text())
    assert tree["images"].keys() == {"c.png"}
    assert {os.path.basename(name): reason for name, reason in tree["faults"].items()} == {
        "a.png": f"no ground truth {gt}/a with any extension",
        "b.png": "not measured: the ground truth has 20×16 pixels, the restored image 40×32 (×2)",
    }
    captured = capsys.readouterr().err
    assert "no ground truth" in captured
    assert "not measured" in captured


def test_existing_results_are_measured_and_compared(space, monkeypatch):
    space.add("a.png", "b.png")
    gt = truths(space)
    space.restore(gt=gt, compare=True)
    before = {name: (space.root / "out" / name).read_bytes() for name in space.files()}
    (space.root / "out/b.png").unlink()
    (space.root / "out/comparisons/a.png").unlink()
    made = record_calls(monkeypatch)
    space.restore(gt=gt, compare=True, skip_existing=True)
    assert made == [1]
    assert {name: (space.root / "out" / name).read_bytes() for name in space.files()} == before


def test_results_of_earlier_runs_are_not_measured_for_failed_images(space, monkeypatch):
    space.add("a.png", "b.png")
    gt = truths(space)
    space.restore(gt=gt)
    first = read_picture(space.root / "in/a.png").pixels

    def fail(pictures):
        if (pictures[0].pixels == first).all():
            raise ValueError("not this one")

    record_calls(monkeypatch, fail)
    space.restore(gt=gt, status=1)
    tree = json.loads((space.root / "out/metrics.json").read_text())
    assert tree["images"].keys() == {"b.png"}
    assert tree["faults"] == {str(space.root / "in/a.png"): "not this one"}


def test_ground_truths_are_never_overwritten(space):
    space.add("a.png")
    gt = truths(space)
    with pytest.raises(ValueError, match=r"would overwrite the input \S+gt/a.png"):
        space.restore(gt=gt, out=gt)
    assert equal(read_picture(gt / "a.png"), Picture(noise(32, 40, seed=99)))


def test_comparisons_mirror_the_structure(space):
    space.add("a.png", "sub/b.bmp").restore(compare=True)
    assert space.files() == ["a.png", "comparisons/a.png", "comparisons/sub/b.bmp.png", "sub/b.bmp"]
    assert read_picture(space.root / "out/comparisons/a.png").width == 2 * 40 + 8
    space.restore(compare=True, gt=truths(space))
    assert read_picture(space.root / "out/comparisons/a.png").width == 4 * 40 + 3 * 8


def test_large_images_are_processed_alone(space, monkeypatch):
    monkeypatch.setattr(folder_module, "MEMORY_LIMIT", 1)
    steps = []
    read, write = folder_module.read_picture, folder_module.write_picture
    monkeypatch.setattr(folder_module, "read_picture", lambda path: (steps.append("read"), read(path))[1])
    monkeypatch.setattr(folder_module, "write_picture", lambda *image: (write(*image), steps.append("written"))[0])
    space.add("a.png", "b.png", "c.png").restore(batch=3)
    assert steps == ["read", "written"] * 3


def test_all_settings_are_documented():
    text = FolderSettings.__doc__
    assert all(f" {field.name}: " in text for field in dataclasses.fields(FolderSettings))
