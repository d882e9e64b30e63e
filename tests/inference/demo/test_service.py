"""The demo's operations without the web page."""

import io
import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms

import mcir
from mcir.data.reader import decode
from mcir.inference.batch.scores import score
from mcir.inference.demo.service import DEGRADATIONS, PHOTOS, DemoService, RequestError, photograph
from mcir.inference.images import Picture, read_picture, write_picture
from tests.inference.images.test_writing import huge_tiff

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def service(checkpoints, tmp_path):
    return DemoService(checkpoints, tmp_path / "files", 0.1, device="cpu")


@pytest.fixture
def put(tmp_path):
    """Write an image, or bytes, as an uploaded file."""

    def put(name, content):
        file = tmp_path / "files" / "upload" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content) if isinstance(content, bytes) else write_picture(file, content)
        return str(file)

    return put


def noise(height=30, width=40, channels=3, dtype=np.uint8, alpha=False):
    generator = np.random.default_rng(0)
    values = generator.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)
    return Picture(values, alpha=np.ascontiguousarray(values[::-1, :, 0]) if alpha else None)


def png_header(width, height):
    """Return a PNG file with a huge size in its header."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 100))]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_restorers_of_networks(service):
    assert (service.restorer("double").architecture, service.restorer("double").scale) == ("EDSR", 2)
    assert service.restorer("same").scale == 1
    with pytest.raises(RequestError, match="no such network"):
        service.restorer("../double")


def test_networks_are_loaded_once_and_a_few_are_kept(checkpoints, tmp_path, monkeypatch):
    loaded = []

    def load(file):
        loaded.append(file)
        return mcir.load_network(file)

    monkeypatch.setattr("mcir.inference.demo.service.load_network", load)
    files = {str(number): checkpoints["same"] for number in range(5)}
    service = DemoService(files, tmp_path, 1)
    for name in "0110":
        service.restorer(name)
    assert len(loaded) == 2
    for name in "2303":  # 3 replaced 1, the least recently used
        service.restorer(name)
    assert len(loaded) == 4
    service.restorer("1")
    assert len(loaded) == 5


def test_trying_all_networks_leaves_the_first_ones_loaded(checkpoints, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "mcir.inference.demo.service.load_network", lambda file: loaded.append(file) or mcir.load_network(file)
    )
    service = DemoService({str(number): checkpoints["same"] for number in range(5)}, tmp_path, 1)
    service.check()
    assert len(loaded) == 5
    for name in "012":
        service.restorer(name)
    assert len(loaded) == 5


def test_an_invalid_checkpoint_is_reported_without_its_path(tmp_path, caplog):
    file = tmp_path / "secret-folder" / "bad.pth"
    file.parent.mkdir()
    file.write_bytes(b"no weights")
    with pytest.raises(RequestError) as caught:
        DemoService({"bad": file}, tmp_path, 1).restorer("bad")
    assert str(caught.value) == "The network 'bad' cannot be loaded."
    assert str(file) in caplog.text


@pytest.mark.parametrize("ensemble", [False, True])
def test_the_result_equals_that_of_the_library(ensemble, service, put, checkpoints):
    source = noise(alpha=True)
    restoration = service.restore(put("né 1.png", source), "double", ensemble=ensemble)
    expected = mcir.restore(put("né 1.png", source), checkpoints["double"], ensemble=ensemble)
    result = read_picture(restoration.result)
    assert restoration.result.name == "né_1-double.png"
    np.testing.assert_array_equal(result.pixels, expected.pixels)
    np.testing.assert_array_equal(result.alpha, expected.alpha)
    assert (restoration.size, restoration.restored) == ((40, 30), (80, 60))
    assert 0 < restoration.seconds < 60


@pytest.mark.parametrize(
    ("channels", "dtype", "alpha"), [(1, np.uint8, False), (3, np.uint16, True), (1, np.uint16, False)]
)
def test_the_result_keeps_type_and_profile_and_the_views_are_opaque(channels, dtype, alpha, service, put):
    profile = PROFILE
    source = replace(noise(channels=channels, dtype=dtype, alpha=alpha), icc=profile)
    restoration = service.restore(put("a.png", source), "double")
    result, before, after = (read_picture(file) for file in (restoration.result, restoration.before, restoration.after))
    assert (result.channels, result.pixels.dtype, result.alpha is not None) == (channels, dtype, alpha)
    for view in (before, after):
        assert (view.width, view.height, view.bits, view.alpha) == (80, 60, 8, None)
    assert result.icc == before.icc == after.icc == profile


def test_views_are_the_enlarged_input_and_the_output_on_white(service, put):
    source = noise(alpha=True)
    restoration = service.restore(put("a.png", source), "same")
    share = source.alpha[:, :, None] / 255
    for file, picture in ((restoration.before, source), (restoration.after, read_picture(restoration.result))):
        expected = picture.pixels * share + 255 * (1 - share)
        assert np.abs(read_picture(file).pixels - expected).max() <= 0.5 + 1e-4
    flat = Picture(np.full((20, 20, 3), 90, np.uint8))
    before = read_picture(service.restore(put("flat.png", flat), "double").before)
    assert before.pixels.shape == (40, 40, 3)
    assert (before.pixels == 90).all()


def test_a_ground_truth_is_compared(service, put):
    source, truth = noise(dtype=np.uint16), noise(61, 81)  # the extra row and column are ignored
    file = put("a.png", source)
    result = str(service.restore(file, "double").result)
    expected = score(source.pixels, read_picture(result).pixels, truth.pixels, 2)
    assert service.measure(file, result, put("truth.png", truth)) == expected
    for size in ((60, 82), (58, 80), (62, 80)):
        with pytest.raises(RequestError, match=r"The images cannot be compared: .*the restored image 80×60"):
            service.measure(file, result, put("truth.png", noise(*size)))
    small = put("small.png", noise(4, 5))
    with pytest.raises(RequestError, match="SSIM needs at least 11×11"):
        service.measure(small, str(service.restore(small, "double").result), put("truth.png", noise(8, 10)))


@pytest.mark.parametrize("size", [(61, 80), (60, 81), (15, 20), (60, 40), (30, 80)])
def test_a_result_of_another_image_is_not_compared(size, service, put):
    source, other = put("a.png", noise()), put("other.png", noise(*size))
    with pytest.raises(RequestError, match="This result does not belong to the image"):
        service.measure(source, other, other)


def test_an_image_that_would_become_too_large_is_rejected_by_its_header(service, put, monkeypatch):
    file = put("a.png", noise(160, 160))
    assert service.check_image(file, "same") == service.check_image(file) == (160, 160)
    with pytest.raises(
        RequestError, match=r"160×160 pixels, restored 320×320\. The limit of this demo is 0\.1 megapixels"
    ):
        service.check_image(file, "double")
    monkeypatch.setattr("mcir.inference.demo.service.probe_picture", None)
    monkeypatch.setattr("mcir.inference.demo.service.read_picture", None)
    for kind in ("png", "jpg", "bmp", "tif", "webp", "ppm"):
        data = io.BytesIO()
        Image.new("RGB", (400, 300)).save(data, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()))
        with pytest.raises(RequestError, match="400×300"):
            service.restore(put(f"a.{kind}", data.getvalue()), "same")


def test_a_huge_image_is_not_decoded(service, put, monkeypatch):
    """Other truncated files are decoded to find out whether they are complete."""
    monkeypatch.setattr("mcir.data.reader.EncodedImage", None)
    with pytest.raises(RequestError, match="10000000000 pixels"):
        service.preview(put("huge.png", png_header(100_000, 100_000)), "same")
    jpeg = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(jpeg, "JPEG")
    with pytest.raises(RequestError, match="5000×5000"):
        service.preview(put("huge.jpg", jpeg.getvalue()[:-2]), "same")


def test_a_small_tiff_with_huge_tiles_is_not_decoded(service, put, monkeypatch):
    monkeypatch.setattr("mcir.inference.demo.service.probe_picture", None)
    with pytest.raises(RequestError, match="20000×20000"):
        service.preview(put("huge.tif", huge_tiff(8, 64, 64, tile=20_000)), "same")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0"],
)
def test_files_that_are_not_images_are_rejected_without_their_path(content, service, put, tmp_path):
    for name in ("a.png", "a.eps", "a.svg"):
        for call in (service.preview, service.restore):
            with pytest.raises(RequestError, match=rf"cannot be read as an image: {re.escape(name)}") as caught:
                call(put(name, content), "same")
            assert str(tmp_path) not in str(caught.value)


def test_a_damaged_image_is_rejected_when_it_is_uploaded(service, put):
    data = io.BytesIO()
    Image.fromarray(noise(100, 100).pixels).save(data, "PNG")
    with pytest.raises(RequestError, match=r"cannot be read as an image: a\.png"):
        service.preview(put("a.png", data.getvalue()[:9000]), "same")


def test_only_uploaded_files_are_read(service, put, tmp_path):
    outside = tmp_path / "outside.png"
    write_picture(outside, noise())
    source = put("a.png", noise())
    (tmp_path / "files" / "link.png").symlink_to(outside)
    for path in (str(outside), f"{tmp_path}/files/../outside.png", f"{tmp_path}/files/link.png", "none.png", ""):
        for call in (
            lambda path: service.restore(path, "same"),
            lambda path: service.measure(path, source, source),
            lambda path: service.measure(source, path, source),
            lambda path: service.measure(source, source, path),
            lambda path: service.preview(path, "same"),
        ):
            with pytest.raises(RequestError, match="no longer available"):
                call(path)


def test_a_preview_represents_a_file_that_browsers_cannot_show(service, put):
    source = noise(dtype=np.uint16)
    plain, tiff = put("a.png", source), put("a.tif", source)
    assert service.preview(plain, "same") == plain
    shown = service.preview(tiff, "same")
    assert shown.endswith("a.tif.preview.png")
    assert read_picture(shown).bits == 8
    of_tiff, of_png = (read_picture(service.restore(file, "same").result) for file in (shown, plain))
    assert of_tiff.bits == 16
    np.testing.assert_array_equal(of_tiff.pixels, of_png.pixels)
    assert service.measure(shown, plain, shown).psnr_of_input == np.inf


def test_examples_match_the_task_of_the_network(service):
    gt = photograph("cat")
    source, expected = service.example("cat", "double", "noise")
    source, expected = read_picture(source), read_picture(expected)
    assert (source.height, source.width) == (gt.shape[0] // 2, gt.shape[1] // 2)
    np.testing.assert_array_equal(expected.pixels, gt[: gt.shape[0] // 2 * 2, : gt.shape[1] // 2 * 2])
    seen = set()
    for degradation in DEGRADATIONS:
        source, expected = service.example("coffee", "same", degradation)
        np.testing.assert_array_equal(read_picture(expected).pixels, photograph("coffee"))
        pixels = read_picture(source).pixels
        assert pixels.shape == photograph("coffee").shape
        assert (pixels != photograph("coffee")).mean() > 0.05
        seen.add(pixels.tobytes())
        assert service.photo_of(source) == "coffee"
    assert len(seen) == len(DEGRADATIONS)
    assert service.photo_of("/elsewhere/cat-x2.png") is None


@pytest.mark.parametrize(("photo", "degradation"), [("dog", "noise"), ("../cat", "noise"), ("cat", "fire"), ("", "")])
def test_other_examples_are_rejected(photo, degradation, service):
    with pytest.raises(RequestError, match="no such example"):
        service.example(photo, "same", degradation)


def test_every_photograph_is_there():
    assert all(photograph(title).shape[2] == 3 for title in PHOTOS)


def test_the_error_of_a_network_is_shown(service, put, monkeypatch):
    restorer = service.restorer("same")

    def fail(pictures, progress):
        raise ValueError("not enough memory on cpu")

    monkeypatch.setattr(restorer, "pictures", fail)
    with pytest.raises(RequestError, match="The image cannot be restored: not enough memory on cpu"):
        service.restore(put("a.png", noise()), "same")


def test_a_name_is_safe_in_any_file_system(put, checkpoints, tmp_path):
    service = DemoService({"../a b\n": checkpoints["same"]}, tmp_path / "files", 1)
    restoration = service.restore(put("語" * 60 + ".png", noise()), "../a b\n")
    assert restoration.result.is_relative_to(tmp_path / "files")
    assert re.fullmatch(r"語+-a_b\.png", restoration.result.name)
    assert decode(restoration.result.read_bytes(), "").shape == (30, 40, 3)
