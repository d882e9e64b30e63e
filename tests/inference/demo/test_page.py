"""The page in a real browser: upload, restore, compare, download."""

import re
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import ImageCms

import mcir
from mcir.data.reader import decode
from mcir.inference.batch.scores import score
from mcir.inference.images import Picture, read_picture, write_picture
from tests.inference.demo.conftest import serving

SLIDER = "#slider img"

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def page(browser, server):
    """The page in a new context; requests to other hosts and script errors fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    requests, errors = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(server.address)
    tab.wait_for_selector("#restore")
    yield tab
    context.close()
    remote = [url for url in requests if urlsplit(url).scheme not in ("data", "blob")]
    remote = [url for url in remote if not url.startswith(server.address)]
    assert len(requests) > 5
    assert (remote, errors) == ([], [])


@pytest.fixture
def put(tmp_path):
    def put(name, height, width, dtype=np.uint8, **others):
        generator = np.random.default_rng(height)
        coarse = generator.integers(0, np.iinfo(dtype).max, (height // 4 + 1, width // 4 + 1, 3), dtype, endpoint=True)
        pixels = np.ascontiguousarray(coarse.repeat(4, 0).repeat(4, 1)[:height, :width])
        alpha = np.ascontiguousarray(pixels[:, ::-1, 0]) if others.pop("alpha", False) else None
        write_picture(tmp_path / name, Picture(pixels, alpha, **others))
        return tmp_path / name

    return put


def until(page, expression):
    """Wait until a JavaScript expression is true."""
    end = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def press(page, element):
    """Click after a short pause: Gradio may lose an event while it finishes the previous one."""
    page.wait_for_timeout(400)
    page.click(element)


def drop(page, element, file):
    page.wait_for_timeout(400)
    page.set_input_files(f"#{element} input[type=file]", file)
    page.wait_for_selector(f"#{element} img")


def draw(page, element, file):
    """Drop a file onto the current image."""
    page.wait_for_timeout(400)
    put = "([name, values]) => { const transfer = new DataTransfer(); \
        transfer.items.add(new File([new Uint8Array(values)], name, {type: 'image/png'})); return transfer }"
    transfer = page.evaluate_handle(put, [file.name, list(file.read_bytes())])
    page.dispatch_event(f"#{element} .upload-container", "drop", {"dataTransfer": transfer})


def restored(page):
    """Press the button, and return the caption of the result."""
    press(page, "#restore")
    page.wait_for_selector("#result p")
    until(page, f"[...document.querySelectorAll('{SLIDER}')].filter(i => i.naturalWidth).length == 2")
    return page.inner_text("#result")


def shown(page):
    """Return the two images of the slider as sent to the browser."""
    addresses = page.eval_on_selector_all(SLIDER, "images => images.map(image => image.src)")
    return [decode(page.request.get(address).body(), "") for address in addresses]


def downloaded(page, folder):
    with page.expect_download() as download:
        page.click("#download")
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def measured(page):
    """Return the metrics, or the message in their place."""
    return page.wait_for_selector("#metrics :is(table, p)").inner_text()


def remove(page, element):
    press(page, f"#{element} button[aria-label='Remove Image']")
    page.wait_for_selector(f"#{element} img", state="detached")


def assert_no_result(page):
    """Check that the result and its texts disappear."""
    for element in (SLIDER, "#result p", "#metrics :is(table, p)", "#download"):
        page.wait_for_selector(element, state="hidden")


def error_message(page):
    message = page.wait_for_selector(".toast-body").inner_text()
    page.click(".toast-close")
    page.wait_for_selector(".toast-body", state="detached")
    return message


def choose(page, name):
    press(page, "#network input")
    page.get_by_role("option", name=name).click()


def test_an_image_is_restored_compared_and_downloaded(page, put, checkpoints, tmp_path):
    file, truth = put("a garden.png", 60, 90), put("truth.png", 120, 180)
    network = mcir.load_network(checkpoints["double"])
    parameters = sum(value.numel() for value in network.parameters())
    assert f"EDSR · enlarges ×2 · {parameters:,} parameters" in page.inner_text("#network")
    drop(page, "picture", file)
    page.click("#compare button")
    drop(page, "truth", truth)
    caption, text = restored(page), measured(page)
    expected, source = mcir.restore(file, network), read_picture(file)
    scores = score(source.pixels, expected.pixels, read_picture(truth).pixels, 2)
    assert re.fullmatch(r"double · 90×60 → 180×120 pixels · \d+\.\d\d s", caption)
    for number in (f"{scores.psnr_of_input:.2f} dB", f"{scores.psnr:.2f} dB", f"{scores.ssim:.4f}"):
        assert number in text
    assert f"{scores.ssim - scores.ssim_of_input:+.4f}" in text
    before, after = shown(page)
    assert before.shape == after.shape == (120, 180, 3)
    np.testing.assert_array_equal(after, expected.pixels)
    result = downloaded(page, tmp_path)
    assert result.name == "a_garden-double.png"
    np.testing.assert_array_equal(read_picture(result).pixels, expected.pixels)


def test_the_second_network_restores_at_the_same_size(page, put, checkpoints):
    file = put("a.png", 60, 90)
    drop(page, "picture", file)
    assert not page.is_visible("#damage")
    choose(page, "same")
    page.wait_for_selector("#network :text('keeps the size')")
    page.wait_for_selector("#damage")
    press(page, "#eight input")
    assert re.match(r"same, mean of eight · 90×60 pixels", restored(page))
    after = shown(page)[1]
    np.testing.assert_array_equal(after, mcir.restore(file, checkpoints["same"], ensemble=True).pixels)


def test_an_example_follows_the_network(page, put):
    """The photographs exceed the limit of this demo when enlarged, which it reports."""
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#truth img")
    size = "image => [image.naturalWidth, image.naturalHeight]"
    page.wait_for_selector("#picture img[src*='cat-x2']")
    assert page.eval_on_selector("#picture img", size) == [225, 150]
    press(page, "#restore")
    assert "450×300. The limit of this demo is 0.1 megapixels" in error_message(page)
    choose(page, "same")
    page.wait_for_selector("#picture img[src*='cat-noise']")
    page.wait_for_selector("#truth img[src*='cat-truth-noise']")
    press(page, "#damage :text('rain')")
    page.wait_for_selector("#picture img[src*='cat-rain']")
    remove(page, "picture")
    drop(page, "picture", put("own.png", 60, 90))
    page.wait_for_selector("#truth img", state="detached")
    restored(page)
    page.wait_for_timeout(400)
    assert page.locator("#metrics :is(table, p)").count() == 0


def test_a_result_disappears_when_its_inputs_change(page, put, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    file = put("a.png", 60, 90)
    drop(page, "picture", file)
    page.click("#compare button")
    drop(page, "truth", put("truth.png", 60, 90))
    choose(page, "same")
    page.wait_for_selector("#damage")
    for change in (
        lambda: choose(page, "double"),
        lambda: choose(page, "same"),
        lambda: press(page, "#eight input"),
        lambda: press(page, "#damage :text('rain')"),
        lambda: remove(page, "picture"),
    ):
        restored(page)
        measured(page)
        change()
        assert_no_result(page)
    drop(page, "picture", file)
    restored(page)
    draw(page, "picture", put("b.png", 40, 60))
    assert_no_result(page)
    page.wait_for_selector("#picture img[src*='b.png']")
    assert restored(page).startswith("same, mean of eight · 60×40 pixels")
    draw(page, "picture", tmp_path / "notes.png")
    assert "cannot be read as an image: notes.png" in error_message(page)
    assert_no_result(page)
    press(page, "#restore")
    assert "Upload an image first" in error_message(page)


def test_a_choice_during_a_restoration_discards_it(browser, checkpoints, tmp_path, put):
    """Choosing another network during a restoration discards the running one."""
    with serving(checkpoints, tmp_path) as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(server.address)
        page.wait_for_selector("#restore")
        drop(page, "picture", put("large.png", 800, 800))
        press(page, "#eight input")
        press(page, "#restore")
        page.wait_for_selector("#slider :text('processing')")
        choose(page, "same")
        page.wait_for_selector("#network :text('keeps the size')")
        press(page, "#eight input")
        assert restored(page).startswith("same · 800×800 pixels")


def test_a_ground_truth_is_compared_when_it_is_uploaded(page, put, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    drop(page, "picture", put("a.png", 60, 90))
    page.click("#compare button")
    drop(page, "truth", put("half.png", 30, 45))
    caption = restored(page)
    text = "The images cannot be compared: the ground truth has 45×30 pixels, the restored image 180×120 (×2)."
    assert measured(page) == text
    assert downloaded(page, tmp_path).name == "a-double.png"
    remove(page, "truth")
    page.wait_for_selector("#metrics p", state="hidden")
    drop(page, "truth", put("truth.tif", 120, 180))
    assert "PSNR" in page.wait_for_selector("#metrics table").inner_text()
    draw(page, "truth", tmp_path / "notes.png")
    assert "cannot be read as an image: notes.png" in error_message(page)
    page.wait_for_selector("#metrics table", state="hidden")
    assert page.inner_text("#result") == caption
    assert len(shown(page)) == 2


def test_invalid_and_too_large_files_are_rejected(page, put, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "heavy.png").write_bytes(bytes(2**20))
    picture = "#picture input[type=file]"
    for file, message in (
        (put("large.png", 200, 300), "300×200 pixels, restored 600×400. The limit of this demo is 0.1 megapixels"),
        (tmp_path / "notes.png", "This file cannot be read as an image: notes.png"),
        (tmp_path / "notes.txt", "Invalid file type"),
        (tmp_path / "heavy.png", "exceed the maximum allowed size"),
    ):
        page.wait_for_selector(picture, state="attached")
        page.set_input_files(picture, file)
        text = error_message(page)
        assert message in text
        assert str(tmp_path) not in text and "mcir-demo" not in text
    press(page, "#restore")
    assert "Upload an image first" in error_message(page)


def test_a_16_bit_tiff_is_shown_and_restored_at_full_depth(page, put, checkpoints, tmp_path):
    file = put("a.tif", 40, 60, np.uint16, alpha=True, icc=PROFILE)
    drop(page, "picture", file)
    until(page, "document.querySelector('#picture img').naturalWidth == 60")
    restored(page)
    assert shown(page)[1].shape == (80, 120, 3)
    result, expected = read_picture(downloaded(page, tmp_path)), mcir.restore(file, checkpoints["double"])
    assert (result.bits, result.icc) == (16, PROFILE)
    np.testing.assert_array_equal(result.pixels, expected.pixels)
    np.testing.assert_array_equal(result.alpha, expected.alpha)


def test_the_slider_zooms_and_fills_the_window(page, put):
    drop(page, "picture", put("a.png", 60, 90))
    restored(page)
    box = page.locator(SLIDER).first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    for _ in range(8):
        page.mouse.wheel(0, -100)
    width = f"document.querySelector('{SLIDER}').getBoundingClientRect().width"
    until(page, f"{width} > {1.2 * box['width']}")
    page.click("#slider button[title=Undo]")
    until(page, f"Math.abs({width} - {box['width']}) < 2")
    page.click("#slider button[title=Fullscreen]")
    until(page, f"{width} > 1200")


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_the_window(width, page, put):
    page.set_viewport_size({"width": width, "height": 800})
    drop(page, "picture", put("a.png", 40, 60))
    restored(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    left, right = (page.locator(element).bounding_box() for element in ("#picture", "#slider"))
    assert (right["y"] > left["y"] + left["height"]) is (width < 800)


def test_the_page_names_the_project_and_offers_examples(page):
    assert page.title() == "mcir: restore an image"
    assert page.inner_text("#head").startswith("mcir\n")
    assert page.inner_text("#or") == "or try an example"
    assert page.locator("#examples button").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_button_scrolls_to_the_result(scheme, page, put):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    press(page, "#restore")
    assert "choose one of the examples" in error_message(page)
    assert page.evaluate("scrollY") == 0
    drop(page, "picture", put("a.png", 60, 90))
    assert page.locator("#slider").bounding_box()["y"] > 500
    restored(page)
    until(page, "Math.abs(document.querySelector('#slider').getBoundingClientRect().top - 16) < 2")
    for element in ("#slider", "#result", "#download"):
        box = page.locator(element).bounding_box()
        assert 0 <= box["y"] < box["y"] + box["height"] <= 844


def test_in_a_wide_window_the_page_does_not_scroll(page, put):
    drop(page, "picture", put("a.png", 60, 90))
    restored(page)
    page.wait_for_timeout(400)
    assert page.evaluate("scrollY") == 0


@pytest.mark.parametrize(("scheme", "grey"), [("light", 255), ("light", 128), ("dark", 40), ("dark", 0)])
def test_the_divider_is_visible_on_any_picture(scheme, grey, page, tmp_path):
    """Both networks are untrained, so the picture before the restoration is measured."""
    page.emulate_media(color_scheme=scheme)
    write_picture(tmp_path / "flat.png", Picture(np.full((60, 90, 3), grey, np.uint8)))
    drop(page, "picture", tmp_path / "flat.png")
    restored(page)
    box = page.locator("#slider .inner").bounding_box()
    clip = {"x": box["x"] - 10, "y": box["y"] + 20, "width": 12 + box["width"], "height": 8}
    row = decode(page.screenshot(clip=clip), "").mean((0, 2))
    assert abs(row[:6] - grey).max() < 4
    assert abs(row[8:] - grey).max() > 100


def test_visitors_do_not_see_each_others_images(page, browser, server, put):
    drop(page, "picture", put("a.png", 40, 60))
    restored(page)
    with browser.new_context() as context:
        other = context.new_page()
        other.goto(server.address)
        other.wait_for_selector("#restore")
        assert other.locator(SLIDER).count() == other.locator("#picture img").count() == 0
