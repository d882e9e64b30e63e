"""What the demo does for a visitor, without the web."""

import io
import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import mcir
from mcir.data.codec import decode
from mcir.inference.batch.scores import score
from mcir.inference.demo.service import DAMAGES, PHOTOS, DemoService, Facts, Refusal, photograph
from mcir.inference.demo.shelf import Shelf
from mcir.inference.images import Picture, read_picture, write_picture


@pytest.fixture
def workshop(checkpoints, tmp_path):
    return DemoService(checkpoints, Shelf(tmp_path / "shelf"), 0.1, device="cpu")


@pytest.fixture
def put(tmp_path):
    """Put a picture, or bytes, on the shelf."""

    def put(name, content):
        file = tmp_path / "shelf" / "upload" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content) if isinstance(content, bytes) else write_picture(file, content)
        return str(file)

    return put


def noise(height=30, width=40, channels=3, dtype=np.uint8, alpha=False):
    generator = np.random.default_rng(0)
    values = generator.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)
    return Picture(values, alpha=np.ascontiguousarray(values[::-1, :, 0]) if alpha else None)


def png_header(width, height):
    """The bytes of a PNG file whose header promises much."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 100))]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_facts_of_a_network(workshop):
    network = mcir.load_network(workshop._files["double"])
    assert workshop.facts("double") == Facts("EDSR", 2, sum(value.numel() for value in network.parameters()))
    assert workshop.facts("same").scale == 1
    with pytest.raises(Refusal, match="no such network"):
        workshop.facts("../double")


def test_networks_are_loaded_once_and_a_few_are_kept(checkpoints, tmp_path, monkeypatch):
    loaded = []

    def load(file):
        loaded.append(file)
        return mcir.load_network(file)

    monkeypatch.setattr("mcir.inference.demo.service.load_network", load)
    files = {str(number): checkpoints["same"] for number in range(5)}
    workshop = DemoService(files, Shelf(tmp_path), 1)
    for name in "0110":
        workshop.facts(name)
    assert len(loaded) == 2
    for name in "2303":  # 1 was used longest ago when 3 came
        workshop.facts(name)
    assert len(loaded) == 4
    workshop.facts("1")
    assert len(loaded) == 5


def test_trying_all_networks_leaves_the_first_ones_loaded(checkpoints, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "mcir.inference.demo.service.load_network", lambda file: loaded.append(file) or mcir.load_network(file)
    )
    workshop = DemoService({str(number): checkpoints["same"] for number in range(5)}, Shelf(tmp_path), 1)
    workshop.check()
    assert len(loaded) == 5
    for name in "012":
        workshop.facts(name)
    assert len(loaded) == 5


def test_a_checkpoint_that_cannot_be_loaded_is_told_without_its_place(tmp_path, caplog):
    file = tmp_path / "secret-place" / "bad.pth"
    file.parent.mkdir()
    file.write_bytes(b"no weights")
    with pytest.raises(Refusal) as refused:
        DemoService({"bad": file}, Shelf(tmp_path), 1).facts("bad")
    assert str(refused.value) == "The network 'bad' cannot be loaded."
    assert str(file) in caplog.text


@pytest.mark.parametrize("ensemble", [False, True])
def test_the_result_is_that_of_the_library(ensemble, workshop, put, checkpoints):
    given = noise(alpha=True)
    outcome = workshop.restore(put("né 1.png", given), "double", ensemble=ensemble)
    expected = mcir.restore(put("né 1.png", given), checkpoints["double"], ensemble=ensemble)
    result = read_picture(outcome.result)
    assert outcome.result.name == "né_1-double.png"
    np.testing.assert_array_equal(result.pixels, expected.pixels)
    np.testing.assert_array_equal(result.alpha, expected.alpha)
    assert (outcome.size, outcome.restored) == ((40, 30), (80, 60))
    assert 0 < outcome.seconds < 60


@pytest.mark.parametrize(
    ("channels", "dtype", "alpha"), [(1, np.uint8, False), (3, np.uint16, True), (1, np.uint16, False)]
)
def test_the_result_keeps_kind_and_profile_and_the_views_are_plain(channels, dtype, alpha, workshop, put):
    profile = b"a profile" * 20
    given = replace(noise(channels=channels, dtype=dtype, alpha=alpha), icc=profile)
    outcome = workshop.restore(put("a.png", given), "double")
    result, before, after = (read_picture(file) for file in (outcome.result, outcome.before, outcome.after))
    assert (result.channels, result.pixels.dtype, result.alpha is not None) == (channels, dtype, alpha)
    for view in (before, after):
        assert (view.width, view.height, view.bits, view.alpha) == (80, 60, 8, None)
    assert result.icc == before.icc == after.icc == profile


def test_views_are_the_enlarged_input_and_the_output_on_white(workshop, put):
    given = noise(alpha=True)
    outcome = workshop.restore(put("a.png", given), "same")
    share = given.alpha[:, :, None] / 255
    for file, picture in ((outcome.before, given), (outcome.after, read_picture(outcome.result))):
        expected = picture.pixels * share + 255 * (1 - share)
        assert np.abs(read_picture(file).pixels - expected).max() <= 0.5 + 1e-4
    flat = Picture(np.full((20, 20, 3), 90, np.uint8))
    before = read_picture(workshop.restore(put("flat.png", flat), "double").before)
    assert before.pixels.shape == (40, 40, 3)
    assert (before.pixels == 90).all()


def test_a_ground_truth_is_compared(workshop, put):
    given, truth = noise(dtype=np.uint16), noise(61, 81)  # a pixel more at the bottom and right is left out
    file = put("a.png", given)
    result = str(workshop.restore(file, "double").result)
    expected = score(given.pixels, read_picture(result).pixels, truth.pixels, 2)
    assert workshop.measure(file, result, put("truth.png", truth)) == expected
    for size in ((60, 82), (58, 80), (62, 80)):
        with pytest.raises(Refusal, match=r"No comparison is possible: .*the restored picture 80×60"):
            workshop.measure(file, result, put("truth.png", noise(*size)))
    small = put("small.png", noise(4, 5))
    with pytest.raises(Refusal, match="SSIM takes at least 11×11"):
        workshop.measure(small, str(workshop.restore(small, "double").result), put("truth.png", noise(8, 10)))


@pytest.mark.parametrize("size", [(61, 80), (60, 81), (15, 20), (60, 40), (30, 80)])
def test_a_result_of_another_picture_is_not_compared(size, workshop, put):
    given, other = put("a.png", noise()), put("other.png", noise(*size))
    with pytest.raises(Refusal, match="This result is not that of the picture"):
        workshop.measure(given, other, other)


def test_a_picture_that_would_become_too_large_is_refused_by_its_header(workshop, put, monkeypatch):
    file = put("a.png", noise(160, 160))
    assert workshop.admit(file, "same") == workshop.admit(file) == (160, 160)
    with pytest.raises(Refusal, match=r"160×160 pixels, restored 320×320\. At most 0\.1 megapixels"):
        workshop.admit(file, "double")
    monkeypatch.setattr("mcir.inference.demo.service.probe_picture", None)
    monkeypatch.setattr("mcir.inference.demo.service.read_picture", None)
    for kind in ("png", "jpg", "bmp", "tif", "webp", "ppm"):
        data = io.BytesIO()
        Image.new("RGB", (400, 300)).save(data, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()))
        with pytest.raises(Refusal, match="400×300"):
            workshop.restore(put(f"a.{kind}", data.getvalue()), "same")


def test_a_bomb_is_not_decoded(workshop, put, monkeypatch):
    """One without an end would be decoded to see whether it is whole."""
    monkeypatch.setattr("mcir.data.codec.decode_to_the_end", None)
    with pytest.raises(Refusal, match="100000×100000"):
        workshop.preview(put("bomb.png", png_header(100_000, 100_000)), "same")
    jpeg = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(jpeg, "JPEG")
    with pytest.raises(Refusal, match="5000×5000"):
        workshop.preview(put("bomb.jpg", jpeg.getvalue()[:-2]), "same")


@pytest.mark.parametrize(("side", "message"), [(20_000, "20000×20000"), (1, "uncommonly small tiles")])
def test_a_tiff_of_small_size_and_other_tiles_is_not_decoded(side, message, workshop, put, monkeypatch):
    monkeypatch.setattr("mcir.inference.demo.service.probe_picture", None)
    entries = [
        (256, 64),
        (257, 64),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, side),
        (323, side),
        (324, 8),
        (325, 4),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    file = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    with pytest.raises(Refusal, match=message):
        workshop.preview(put("bomb.tif", file), "same")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0"],
)
def test_what_is_no_picture_is_refused_without_its_place(content, workshop, put, tmp_path):
    for name in ("a.png", "a.eps", "a.svg"):
        for call in (workshop.preview, workshop.restore):
            with pytest.raises(Refusal, match=rf"cannot be read as a picture: {re.escape(name)}") as refused:
                call(put(name, content), "same")
            assert str(tmp_path) not in str(refused.value)


def test_a_damaged_picture_is_refused_when_it_is_dropped(workshop, put):
    data = io.BytesIO()
    Image.fromarray(noise(100, 100).pixels).save(data, "PNG")
    with pytest.raises(Refusal, match=r"cannot be read as a picture: a\.png"):
        workshop.preview(put("a.png", data.getvalue()[:9000]), "same")


def test_only_files_of_visitors_are_read(workshop, put, tmp_path):
    outside = tmp_path / "outside.png"
    write_picture(outside, noise())
    given = put("a.png", noise())
    (tmp_path / "shelf" / "link.png").symlink_to(outside)
    for path in (str(outside), f"{tmp_path}/shelf/../outside.png", f"{tmp_path}/shelf/link.png", "none.png", ""):
        for call in (
            lambda path: workshop.restore(path, "same"),
            lambda path: workshop.measure(path, given, given),
            lambda path: workshop.measure(given, path, given),
            lambda path: workshop.measure(given, given, path),
            lambda path: workshop.preview(path, "same"),
        ):
            with pytest.raises(Refusal, match="not here any more"):
                call(path)


def test_a_preview_stands_for_the_file_that_a_browser_cannot_show(workshop, put):
    given = noise(dtype=np.uint16)
    plain, tiff = put("a.png", given), put("a.tif", given)
    assert workshop.preview(plain, "same") == plain
    shown = workshop.preview(tiff, "same")
    assert shown.endswith("a.tif.preview.png")
    assert read_picture(shown).bits == 8
    of_tiff, of_png = (read_picture(workshop.restore(file, "same").result) for file in (shown, plain))
    assert of_tiff.bits == 16
    np.testing.assert_array_equal(of_tiff.pixels, of_png.pixels)
    assert workshop.measure(shown, plain, shown).psnr_of_input == np.inf


def test_examples_show_what_a_network_is_for(workshop):
    gt = photograph("cat")
    given, wanted = workshop.example("cat", "double", "noise")
    given, wanted = read_picture(given), read_picture(wanted)
    assert (given.height, given.width) == (gt.shape[0] // 2, gt.shape[1] // 2)
    np.testing.assert_array_equal(wanted.pixels, gt[: gt.shape[0] // 2 * 2, : gt.shape[1] // 2 * 2])
    seen = set()
    for damage in DAMAGES:
        given, wanted = workshop.example("coffee", "same", damage)
        np.testing.assert_array_equal(read_picture(wanted).pixels, photograph("coffee"))
        pixels = read_picture(given).pixels
        assert pixels.shape == photograph("coffee").shape
        assert (pixels != photograph("coffee")).mean() > 0.05
        seen.add(pixels.tobytes())
        assert workshop.photo_of(given) == "coffee"
    assert len(seen) == len(DAMAGES)
    assert workshop.photo_of("/elsewhere/cat-x2.png") is None


@pytest.mark.parametrize(("photo", "damage"), [("dog", "noise"), ("../cat", "noise"), ("cat", "fire"), ("", "")])
def test_other_examples_are_refused(photo, damage, workshop):
    with pytest.raises(Refusal, match="no such example"):
        workshop.example(photo, "same", damage)


def test_every_photograph_is_there():
    assert all(photograph(title).shape[2] == 3 for title in PHOTOS)


def test_what_the_network_refuses_is_told(workshop, put, monkeypatch):
    restorer = workshop._restorer("same")

    def refuse(pictures):
        raise ValueError("the memory of cpu is not enough")

    monkeypatch.setattr(restorer, "pictures", refuse)
    with pytest.raises(Refusal, match="This cannot be done: the memory of cpu is not enough"):
        workshop.restore(put("a.png", noise()), "same")


def test_a_name_is_safe_in_any_file_system(workshop, put, checkpoints, tmp_path):
    shop = DemoService({"../a b\n": checkpoints["same"]}, Shelf(tmp_path / "shelf"), 1)
    outcome = shop.restore(put("語" * 60 + ".png", noise()), "../a b\n")
    assert outcome.result.parent.parent == tmp_path / "shelf"
    assert re.fullmatch(r"語+-a_b\.png", outcome.result.name)
    assert decode(outcome.result.read_bytes(), "").shape == (30, 40, 3)
