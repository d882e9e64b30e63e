"""Tests of the page of one or several runs, complete or with missing files."""

import os
import re
from pathlib import Path

import pytest

from mcir.report import progress, run_pictures
from mcir.report.run import write_report
from tests.pages import Page
from tests.report.runs import NASTY, START, as_lines, compared, train_line, val_line, write_run


class RunPage(Page):
    void_tags = (*Page.void_tags, "input")

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            assert values["src"].startswith("data:image/jpeg;base64,")
            self.tags.append(tag)
            return
        super().handle_starttag(tag, attributes)


def page_of(*folders, running=lambda folder: False):
    file = folders[0].parent / "page.html"
    write_report(folders, file, running)
    text = file.read_text(encoding="utf-8")
    assert sorted(path.name for path in file.parent.glob("*page.html*")) == ["page.html"]
    return text, RunPage(text.replace("\N{NO-BREAK SPACE}", " "))


def captions(text):
    return re.findall(r"<figcaption>([^<]*)</figcaption>", text)


def test_the_page_of_a_complete_run(tmp_path):
    text, page = page_of(write_run(tmp_path / "spn", device="NVIDIA H200", git="abc1234-dirty"))
    assert "finished: 400 iterations" in page.text
    assert "photographs: psnr 33.00 dB at iteration 400, +3.00 dB over bicubic (30.00 dB); the best value." in page.text
    row = ["photographs", "psnr", "bicubic 30.00 dB", "33.00 dB", "400", "+3.00 dB", "33.00 dB", "400"]
    assert row == page.cells[8:16]
    assert captions(text) == [
        "photographs: cat",
        "photographs: psnr",
        "photographs: ssim",
        "l_pix: pixel loss",
        "lr: learning rate",
        "grad_norm: norm of the gradient",
        "images_per_s: speed",
        "data_time: time spent waiting for data",
        "memory_mib: memory",
    ]
    cards = re.findall(r"<dt>([^<]+)</dt><dd><b>([^<]+)</b>", text.replace("\N{NO-BREAK SPACE}", " "))
    assert cards == [
        ("last psnr", "33.00 dB"),
        ("gain in psnr", "+3.00 dB"),
        ("best iteration", "400"),
        ("speed", "40 images/s"),
    ]
    assert page.text.count("l_pix: Distance between output and ground truth") == 1
    assert "NVIDIA H200" in page.cells and "abc1234, with uncommitted changes" in page.cells
    assert "total_iter: 400" in page.text and "2026-11-21 12:00:00" in page.text
    assert text.count("<img ") == 6  # input, ground truth, four times
    assert "What is missing" not in text
    assert text.count("output at 200: psnr 32.00\N{NO-BREAK SPACE}dB, ssim 0.9100") == 2  # caption and alternative text


def test_the_page_is_self_contained_and_may_fetch_nothing(tmp_path):
    text, page = page_of(write_run(tmp_path / "run"))
    assert all(re.fullmatch(r"#section-\d+", address) for address in page.addresses) and "link" not in page.tags
    assert "default-src 'none'; img-src data:;" in text
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_names_and_values_are_escaped(tmp_path):
    folder = write_run(tmp_path / "<b>run", image=NASTY.replace("/", "_"), data_set="<i>set")
    (folder / "options.yml").write_text(NASTY)
    records = [train_line(1, **{f"l_{NASTY}": 1.0, NASTY: 2.0}), {**val_line(1, 30.0, NASTY), "given": NASTY}]
    with (folder / "results.jsonl").open("a") as file:
        file.write(as_lines(records))
    start = dict.fromkeys(("started", "device", "git", "torch", "network"), NASTY)
    (folder / "environment.jsonl").write_text(as_lines([{**START, **start, "iteration": 0, "changes": [NASTY]}]))
    for folders in ([folder], [folder, write_run(tmp_path / NASTY.replace("/", "_"))]):
        text, page = page_of(*folders)
        assert page.tags.count("script") == 1  # our own
        assert "<b>run" not in text and "<i>set" not in text
        assert NASTY in page.text


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", until=10)
    with pytest.raises(ValueError, match=r"run: expected the path of a file such as .*, got a folder"):
        write_report([folder], folder)
    monkeypatch.setattr(Path, "replace", lambda self, target: os.close(-1))
    with pytest.raises(OSError, match="Bad file"):
        write_report([folder], tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_name_that_is_not_valid_unicode(tmp_path):
    folder = write_run(tmp_path / "cafe").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    assert "<h1>caf\\xe9</h1>" in page_of(folder)[0]


def test_a_running_and_a_stopped_run(tmp_path):
    folder = write_run(tmp_path / "run", until=250)
    assert "running: iteration 250 of 400" in page_of(folder, running=lambda path: path == folder)[1].text
    assert "stopped at iteration 250 of 400" in page_of(folder)[1].text


def test_a_resumed_run_shows_when_and_what_changed(tmp_path):
    folder = write_run(tmp_path / "run")
    again = {**START, "iteration": 200, "started": "later", "processes": 4, "changes": ["-  lr: 0.1", "+  lr: 0.2"]}
    (folder / "environment.jsonl").write_text(as_lines([{**START, "iteration": 0}, again]))
    text, page = page_of(folder)
    assert "run: started later from iteration 200; processes 4, before 1; options: -  lr: 0.1; +  lr: 0.2." in page.text
    assert "mark where the run was resumed" in page.text
    assert text.count('stroke-dasharray="1 4"') == text.count("data-frame=")


def test_missing_files_are_listed(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    _, page = page_of(bare)
    for file in ("environment.jsonl", "options.yml", "results.jsonl", "No validation is recorded"):
        assert file in page.text
    folder = write_run(tmp_path / "begun", until=50)
    text, page = page_of(folder)
    assert "No validation is recorded" in page.text and "l_pix: pixel loss" in captions(text) and "<img" not in text


def test_gradient_curves_and_other_values(tmp_path):
    folder = write_run(tmp_path / "run")
    seen = {"l_neg": -1.0, "l_mine": 2.0, "grad_l_neg": 1.0, "ratio_l_neg": 0.1, "weight_l_neg": 0.5, "accuracy": 0.7}
    with (folder / "results.jsonl").open("a") as file:
        file.write(as_lines([train_line(410, **seen)]))
    text, _ = page_of(folder)
    for caption in (
        "l_neg: contrastive loss",
        "grad_l_neg: gradient of l_neg",
        "ratio_l_neg: gradient of l_neg relative to the first loss",
        "weight_l_neg: weight of l_neg",
        "l_mine",
        "accuracy",
    ):
        assert captions(text).count(caption) == 1


def test_a_loss_that_spans_decades_gets_a_logarithmic_axis(tmp_path):
    folder = write_run(tmp_path / "run")  # l_pix falls from 0.1 to 0.0025: not enough
    assert "&#34;logarithmic&#34;: true" not in page_of(folder)[0]
    with (folder / "results.jsonl").open("a") as file:
        file.write(as_lines([train_line(5, l_pix=9.0)]))
    assert page_of(folder)[0].count("&#34;logarithmic&#34;: true") == 1


@pytest.mark.parametrize(
    ("lost", "layers", "chosen"),
    [
        (["gt.jpg"], ["bicubic", "output"], [0, 1]),
        (["input.jpg"], ["ground truth", "output"], [0, 1]),
        (["input.jpg", "gt.jpg"], ["output"], [0, 0]),
        (["200.jpg"], ["bicubic", "ground truth", "output"], [0, 2]),
    ],
)
def test_available_images_are_shown_and_the_others_are_listed(tmp_path, lost, layers, chosen):
    folder = write_run(tmp_path / "run")
    for name in lost:
        (folder / "progress" / "photographs" / "cat" / name).write_bytes(b"no picture")
    text, page = page_of(folder)
    assert text.count("<img ") == 6 - len(lost) and "photographs: cat" in captions(text)
    assert re.findall(r"<option [^>]*>([^<]+)", text) == 2 * layers
    assert [int(value) for value in re.findall(r'<option value="(\d)" selected', text)] == chosen
    assert all(f"progress/photographs/cat/{name}" in page.text.partition("What is missing")[2] for name in lost)


def test_either_of_two_runs_provides_the_references(tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    (one / "progress" / "photographs" / "cat" / "gt.jpg").unlink()
    (other / "progress" / "photographs" / "cat" / "input.jpg").unlink()
    text, page = page_of(one, other)
    assert re.findall(r"<option [^>]*>([^<]+)", text) == 2 * ["bicubic", "ground truth", "one", "two"]
    assert re.findall(r'<option value="(\d)" selected', text) == ["2", "3"]
    assert "one: progress/photographs/cat/gt.jpg: missing." in page.text


def test_two_runs_share_their_drawings(tmp_path):
    plain, spn = write_run(tmp_path / "plain", until=300), write_run(tmp_path / "spn", gain=0.25)
    (spn / "options.yml").write_text("name: spn\ntrain:\n  total_iter: 400\n  balance: 0.1\n")
    text, page = page_of(plain, spn)
    assert "plain · spn" in page.words
    assert "plain, stopped at iteration 300 of 400. photographs: psnr 32.00 dB" in page.text
    rows = [page.cells[at : at + 10] for at in range(0, 50, 10)]
    assert rows[0][-1] == "difference to plain" and rows[1][-1] == "–"
    assert rows[3][0] == "spn" and rows[3][-1] == "+0.25 dB at 300"  # only one was evaluated at 400
    figure = next(part for part in text.split("<figure") if ">photographs: psnr<" in part)
    assert re.findall(r'<polyline [^>]*data-name="(\w+)"', figure) == ["plain", "spn"]
    assert figure.count('stroke-dasharray="6 4"') == 1  # the same input
    assert '<option value="2" selected>plain</option>' in text and '<option value="3" selected>spn</option>' in text
    changes = re.findall(r"<li><span>([\w.]+):</span> <del>(\S+)</del> → <ins>(\S+)</ins>", text)
    assert changes == [("name", "plain", "spn"), ("train.balance", "nothing", "0.1")]
    assert "All options of spn" in page.text


def test_runs_with_different_sets(tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "two", data_set="haze", image="dog")
    bare = tmp_path / "bare"
    bare.mkdir()
    text, page = page_of(one, other, bare)
    assert {"photographs: cat", "haze: dog", "photographs: psnr", "haze: psnr"} <= set(captions(text))
    assert "bare: options.yml: the options are not recorded." in page.text


def test_runs_of_the_same_name_are_shown_with_their_path(tmp_path):
    folders = [write_run(tmp_path / root / "run") for root in ("a", "b")]
    write_report(folders, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert f">{folders[0]}</td>" in text and f">{folders[1]}</td>" in text
    write_report([folders[0], folders[0] / ".." / "run"], tmp_path / "page.html")  # the same one
    assert "finished: 400 iterations</span>" in (tmp_path / "page.html").read_text()


def test_different_baselines_are_two_lines(tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    lines = (other / "results.jsonl").read_text().replace('{"psnr": 30.0, "ssim": 0.85}', '{"psnr": 28.0, "ssim": 0.8}')
    (other / "results.jsonl").write_text(lines)
    _, page = page_of(one, other)
    assert "bicubic (one)" in page.text and "bicubic (two)" in page.text


@pytest.mark.parametrize(("limit", "images", "times"), [(10**9, 3, 20), (0, 1, 2)])
def test_the_number_of_images_is_bounded(tmp_path, monkeypatch, limit, images, times):
    folder = write_run(tmp_path / "run", until=10)
    for data_set, name in (("one", "a"), ("one", "b"), ("two", "c")):
        for iteration in range(1, 26):
            progress.store_images(folder, data_set, name, iteration, compared(0.5, side=12))
    monkeypatch.setattr(run_pictures, "_MAX_BYTES", limit)
    text, page = page_of(folder)
    assert text.count("<img ") == images * (times + 2)
    assert ("of 3 images are shown" in page.text) == (images < 3)


def test_every_set_gets_one_image_before_any_gets_two(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", until=10)
    for data_set, name in (("one", "a"), ("one", "b"), ("two", "c")):
        progress.store_images(folder, data_set, name, 1, compared(0.5))
    size = (folder / "progress" / "one" / "a" / "1.jpg").stat().st_size
    monkeypatch.setattr(run_pictures, "_MAX_BYTES", 2 * 7 * (size + 50))
    assert captions(page_of(folder)[0])[:2] == ["one: a", "two: c"]
