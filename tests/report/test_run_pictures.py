"""Tests of the page in a browser: mouse, touch and keyboard, and without JavaScript."""

import shutil

import cv2
import numpy as np
import pytest

from mcir.report.run import write_report
from mcir.report.run_pictures import Frame, Layer, slider
from tests.report.runs import NASTY, as_lines, train_line, write_run


@pytest.fixture(scope="module")
def chromium():
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, tmp_path):
    """Open the page of runs. Requests, console messages and errors fail the test."""
    contexts, unexpected = [], []

    def open_page(*folders, **settings):
        write_report(folders, tmp_path / "page.html")
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: unexpected.append(message.text))
        page.on("pageerror", lambda error: unexpected.append(str(error)))
        page.on("dialog", lambda dialog: unexpected.append("a name was run as a script"))
        page.on("request", lambda request: unexpected.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        page.locator("figure").first.scroll_into_view_if_needed()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in unexpected if not text.startswith(("data:", (tmp_path / "page.html").as_uri()))] == []


def brightness(page, share):
    """Return the brightness of the first image on the screen at a fraction of its width, near its lower edge."""
    box = page.locator(".stage").first.bounding_box()
    clip = {"x": box["x"] + share * box["width"] - 4, "y": box["y"] + box["height"] - 12, "width": 8, "height": 8}
    return cv2.imdecode(np.frombuffer(page.screenshot(clip=clip), np.uint8), cv2.IMREAD_COLOR).mean() / 255


def test_the_divider_is_dragged(opened, tmp_path):
    page = opened(write_run(tmp_path / "run"))
    assert (brightness(page, 0.4), brightness(page, 0.6)) == pytest.approx((0, 0.8), abs=0.03)
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 30, steps=3)
    page.mouse.up()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 30)  # the button is released
    assert (brightness(page, 0.6), brightness(page, 0.9)) == pytest.approx((0, 0.8), abs=0.03)


def test_touch_moves_the_divider(opened, tmp_path):
    page = opened(write_run(tmp_path / "run"), has_touch=True, viewport={"width": 375, "height": 800})
    box = page.locator(".stage").bounding_box()
    page.touchscreen.tap(box["x"] + 0.25 * box["width"], box["y"] + 20)
    assert (brightness(page, 0.15), brightness(page, 0.4)) == pytest.approx((0, 0.8), abs=0.03)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_keyboard_controls_everything(opened, tmp_path):
    page = opened(write_run(tmp_path / "run"))
    page.locator(".wide").first.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "cut"
    page.keyboard.press("Home")
    assert brightness(page, 0.1) == pytest.approx(0.8, abs=0.03)
    page.keyboard.press("End")
    assert brightness(page, 0.9) == pytest.approx(0, abs=0.03)
    page.keyboard.press("Home")
    page.keyboard.press("Tab")  # the time
    for press, iteration, level in (("ArrowLeft", "300", 0.6), ("Home", "100", 0.2), ("ArrowRight", "200", 0.4)):
        page.keyboard.press(press)
        assert page.locator("output").inner_text() == iteration
        assert brightness(page, 0.9) == pytest.approx(level, abs=0.03)
    assert "output at 200: psnr 32.00\N{NO-BREAK SPACE}dB" in page.locator(".frame.right").inner_text()


def test_any_two_images_can_be_compared(opened, tmp_path):
    page = opened(write_run(tmp_path / "run"))
    page.locator("select.left").select_option("ground truth")
    page.locator("select.right").select_option("bicubic")
    assert (brightness(page, 0.3), brightness(page, 0.7)) == pytest.approx((1, 0), abs=0.03)
    page.locator("select.left").select_option("bicubic")  # the same on both sides
    assert (brightness(page, 0.3), brightness(page, 0.7)) == pytest.approx((0, 0), abs=0.03)


def test_two_runs_at_the_same_iteration(opened, tmp_path):
    page = opened(write_run(tmp_path / "short", until=200), write_run(tmp_path / "long"))
    assert "short at 200" in page.locator(".frame.left").inner_text()  # its last
    assert "long at 400" in page.locator(".frame.right").inner_text()
    page.locator(".time input").fill("0")
    assert "short at 100" in page.locator(".frame.left").inner_text()
    assert "long at 100" in page.locator(".frame.right").inner_text()


def test_a_curve_shows_its_values_under_the_pointer(opened, tmp_path):
    page = opened(write_run(tmp_path / "run"))
    figure = page.locator("figure", has_text="photographs: psnr").last
    figure.scroll_into_view_if_needed()
    box = figure.locator("svg").bounding_box()
    legend = figure.locator(".legend")
    assert legend.inner_text().split() == ["bicubic", "30", "psnr", "33"]
    at = box["x"] + (72 + 548 / 3 + 9) / 640 * box["width"]  # a third of the way from 100 to 400
    page.mouse.move(at, box["y"] + 50)
    assert legend.inner_text().split()[:2] == ["iteration", "200"]
    assert float(legend.inner_text().split()[-1]) == pytest.approx(31, abs=1e-3)
    assert figure.locator(".cursor").get_attribute("d")
    page.mouse.move(2, 2)
    assert legend.inner_text().split() == ["bicubic", "30", "psnr", "33"]
    assert not figure.locator(".cursor").get_attribute("d")


def test_a_logarithmic_curve_shows_its_values_under_the_pointer(opened, tmp_path):
    folder = write_run(tmp_path / "run")
    lines = (folder / "results.jsonl").read_text().replace('"l_pix": 0.1,', '"l_pix": 10.0,')
    (folder / "results.jsonl").write_text(lines)
    page = opened(folder)
    figure = page.locator("figure", has_text="l_pix")
    figure.scroll_into_view_if_needed()
    box = figure.locator("svg").bounding_box()
    page.mouse.move(box["x"] + 72 / 640 * box["width"], box["y"] + 50)
    legend = figure.locator(".legend").inner_text().split()
    assert legend[:2] == ["iteration", "10"] and float(legend[-1]) == pytest.approx(10, rel=0.02)


def test_names_are_escaped_and_both_colour_schemes_are_readable(opened, tmp_path):
    folder = write_run(tmp_path / NASTY.replace("/", "_"), image=NASTY.replace("/", "_"), data_set="<img src=x>")
    for scheme in ("light", "dark"):
        page = opened(folder, color_scheme=scheme)
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).background]"
        )
        levels = [sum(map(int, text.partition("(")[2].partition(")")[0].split(","))) / 765 for text in (ink, paper)]
        assert abs(levels[0] - levels[1]) > 0.7
        assert (levels[1] > 0.5) == (scheme == "light")


def boxes_of(locator):
    return [locator.nth(number).bounding_box() for number in range(locator.count())]


@pytest.mark.parametrize("width", [360, 390, 1280, 1920])
def test_a_table_scrolls_in_its_own_box_and_keeps_its_first_column(opened, tmp_path, width):
    page = opened(write_run(tmp_path / "run"), viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = page.locator(".wide").first
    names, last = box.locator("td:first-child").first, box.locator("td:last-child").first
    assert (last.bounding_box()["x"] > width) == (width < 400)
    box.evaluate("box => { box.scrollLeft = box.scrollWidth }")
    for cell in (names, last):
        assert cell.bounding_box()["x"] >= 0
        assert cell.bounding_box()["x"] + cell.bounding_box()["width"] <= width
    assert page.get_by_role("columnheader", name="gain").count() == 1
    assert page.get_by_role("row", name="photographs psnr bicubic 30.00 dB").get_by_role("cell").count() == 8


CONTRASTS = """
() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const paper = node => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  const tags = "h1, h2, p, dt, dd, small, a, td, th, del, ins, .status, figcaption, pre";
  for (const node of document.querySelectorAll(tags)) {
    if (node.closest(".slider")) continue;  // on top of images
    const levels = [luminance(parse(getComputedStyle(node).color)), luminance(paper(node))].sort((a, b) => b - a);
    const name = node.tagName + "." + node.className;
    found[name] = Math.min(found[name] ?? 21, (levels[0] + .05) / (levels[1] + .05));
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(opened, tmp_path, scheme):
    page = opened(write_run(tmp_path / "one"), write_run(tmp_path / "two"), color_scheme=scheme)
    found = page.evaluate(CONTRASTS)
    assert {"DEL.", "INS.", "P.note", "TD.", "A."} <= found.keys()
    assert not {name: ratio for name, ratio in found.items() if ratio < 4.5}


def test_the_contents_lead_to_every_section(opened, tmp_path):
    page = opened(write_run(tmp_path / "run"), viewport={"width": 390, "height": 800}, java_script_enabled=False)
    links = page.locator("nav a")
    assert links.count() == page.locator("h2").count() > 5
    links.filter(has_text="Speed and memory").click()
    assert abs(page.locator("h2", has_text="Speed and memory").bounding_box()["y"]) < 200


@pytest.mark.parametrize("width", [360, 390, 900])
def test_no_text_of_a_drawing_overlaps_another_or_the_edge(opened, tmp_path, width):
    folder = write_run(tmp_path / "run")
    records = [train_line(at, lr=at * 4e-7, grad_norm=-at * 1e-8, memory_mib=at * 2e4) for at in range(10, 401, 10)]
    (folder / "results.jsonl").write_text(as_lines(records))
    page = opened(folder, viewport={"width": width, "height": 800})
    for drawing in page.locator("svg").all():
        edge, texts = drawing.bounding_box(), boxes_of(drawing.locator("text"))
        assert len(texts) > 6
        for number, box in enumerate(texts):
            assert box["x"] > edge["x"] - 1 and box["x"] + box["width"] < edge["x"] + edge["width"] + 1
            assert not [other for other in texts[:number] if overlap(box, other)]


def overlap(one, other):
    return all(
        one[side] + one[length] > other[side] + 1 and other[side] + other[length] > one[side] + 1
        for side, length in (("x", "width"), ("y", "height"))
    )


def test_without_javascript_all_images_are_in_a_row(opened, tmp_path):
    page = opened(write_run(tmp_path / "run"), java_script_enabled=False)
    frames = page.locator(".frame")
    boxes = [frames.nth(number).bounding_box() for number in range(frames.count())]
    assert len(boxes) == 6 and len({box["y"] for box in boxes}) == 1
    assert [box["x"] for box in boxes] == sorted({box["x"] for box in boxes})
    assert [text.partition(":")[0] for text in frames.all_inner_texts()] == [
        "bicubic", "ground truth", "output at 400", "output at 300", "output at 200", "output at 100"
    ]  # fmt: skip
    assert not page.locator(".controls").is_visible() and not page.locator(".divider").is_visible()


def test_a_folded_section_opens(opened, tmp_path):
    page = opened(write_run(tmp_path / "run"))
    assert not page.locator("pre").is_visible()
    page.locator("summary").click()
    assert "total_iter: 400" in page.locator("pre").inner_text()


def test_images_of_one_iteration_have_no_time_slider():
    layers = [Layer("a", [Frame(b"", "a")]), Layer("b", [Frame(b"", "b", 5)])]
    figure = slider(layers, 0, 1, (300, 400), "c")
    assert 'class="time"' not in figure.markup and "--width: 400; --height: 300" in figure.markup
    assert "enlarged" not in figure.markup
    small = slider(layers, 0, 1, (60, 50), "c").markup
    assert "--width: 200; --height: 240" in small and "enlarged" in small
