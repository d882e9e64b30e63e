"""Comparisons of two networks, as users start them: pages, numbers, mistakes, and images that fail."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import mcir
from mcir import cli
from mcir.inference.images import read_picture
from mcir.registry import ARCHS
from tests.data.images import noise, save, smooth
from tests.pages import Page


def checkpoint(file, seed=0, **arguments):
    torch.manual_seed(seed)
    section = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1.0, **arguments}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params": ARCHS.build(section).state_dict()}, file)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a folder with two networks, three images, and their ground truths."""
    monkeypatch.chdir(tmp_path)
    checkpoint("plain.pth")
    checkpoint("spn.pth", 1)
    for number, name in enumerate(("a", "b", "sub/c")):
        gt = smooth(40, 48 + 8 * number, seed=number)
        save(f"gt/{name}.png", gt)
        save(f"lq/{name}.png", cv2.resize(gt, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return tmp_path


def compare(*words, status=0):
    assert cli.main(["compare", *words, "--device", "cpu"]) == status


def data(file="comparison.json"):
    return json.loads(Path(file).read_text("utf-8"))


def test_numbers_equal_those_of_restore(here):
    compare("plain.pth", "spn.pth", "lq", "--gt", "gt")
    found = data()
    for key in ("first", "second"):
        cli.main(["restore", "lq", "-w", found[key]["weights"], "-o", key, "--gt", "gt", "--device", "cpu"])
        restored = json.loads(Path(key, "metrics.json").read_text("utf-8"))
        assert found["crop_border"] == restored["crop_border"] == 2
        for name, scores in {**restored["images"], "mean": restored["mean"]}.items():
            ours = found["mean"] if name == "mean" else found["images"][name]
            assert ours[key] == {metric: scores[metric] for metric in ("psnr", "ssim")}
            assert ours["input"] == {metric: scores[f"{metric}_of_input"] for metric in ("psnr", "ssim")}
    differences = {}
    for name in ("a.png", "b.png", "sub/c.png"):
        first, second = (read_picture(Path(key, name)).pixels.astype(float) for key in ("first", "second"))
        differences[name] = np.abs(first - second).mean()
        assert found["images"][name]["difference"] == pytest.approx(differences[name])
    assert found["mean"]["difference"] == pytest.approx(np.mean(list(differences.values())))
    assert {key: found[key]["name"] for key in ("first", "second")} == {"first": "plain", "second": "spn"}
    assert (found["scale"], found["ground_truth"], found["problems"]) == (2, "gt", {})


def test_the_page_and_the_table(here, capsys):
    compare("without=plain.pth", "with <b>=spn.pth", "lq", "--gt", "gt", "-o", "pages/x.html", "--crop-border", "0")
    page = Page(Path("pages/x.html").read_text("utf-8"))
    captured = capsys.readouterr().out
    found = data("pages/x.json")
    assert captured.startswith("without (EDSR) and with <b> (EDSR), ×2, on cpu: 3 to compare\n")
    assert captured.splitlines()[-2:] == ["pages/x.html", "pages/x.json"]
    for name in ("a.png", "sub/c.png"):
        values = found["images"][name]
        gain = values["second"]["psnr"] - values["first"]["psnr"]
        for text in (name, f"{values['first']['psnr']:.2f}", f"{gain:+.2f}", f"{values['second']['ssim']:.4f}"):
            assert text in page.cells
            assert text in captured
        assert f"with <b>: {values['second']['psnr']:.2f} dB, SSIM {values['second']['ssim']:.4f}" in page.words
    assert "mean of 3" in page.cells and "|without − with <b>|" in page.cells
    assert len(page.pictures) == 3 * 7  # input, two results, ground truth, two errors, divergence
    assert all(address.startswith(("data:", "#section-")) for address in page.addresses)
    better = sum(image["second"]["psnr"] > image["first"]["psnr"] for image in found["images"].values())
    assert f"with <b> has the higher PSNR for {better} of 3 images with a ground truth." in page.words


def test_without_ground_truths_there_are_differences_only(here, capsys):
    compare("plain.pth", "spn.pth", "lq/a.png", "lq/b.png")
    assert data()["images"]["a.png"].keys() == {"difference"}
    page = Page(Path("comparison.html").read_text("utf-8"))
    assert len(page.pictures) == 2 * 4
    assert "PSNR" not in page.text and "PSNR" not in capsys.readouterr().out
    result = mcir.restore("lq/a.png", "spn.pth").pixels
    assert (page.pictures[2] == result).all()


def test_the_images_that_differ_most_are_shown(here):
    compare("plain.pth", "spn.pth", "lq", "--pictures", "2")
    differences = {name: values["difference"] for name, values in data()["images"].items()}
    expected = sorted(differences, key=differences.get)[1:]
    page = Page(Path("comparison.html").read_text("utf-8"))
    assert page.words.count("Images") == 2  # in the contents and above the images
    shown = page.words[len(page.words) - page.words[::-1].index("Images") :]
    assert {name for name in differences if name in shown} == set(expected)
    assert "Of 3 images, those that differ most are shown." in page.words
    compare("plain.pth", "spn.pth", "lq", "--pictures", "0")
    assert not Page(Path("comparison.html").read_text("utf-8")).pictures


def test_checkpoints_of_the_same_name_are_named_by_their_folders(here):
    for run, seed in (("plain", 0), ("spn", 1)):
        checkpoint(f"experiments/{run}/models/net_g_best.pth", seed)
    compare(*(f"experiments/{run}/models/net_g_best.pth" for run in ("plain", "spn")), "lq")
    assert (data()["first"]["name"], data()["second"]["name"]) == ("plain", "spn")
    assert "plain and spn" in Page(Path("comparison.html").read_text("utf-8")).words


def test_images_of_the_same_name_in_two_folders(here):
    save("more/a.png", noise(20, 24))
    compare("plain.pth", "spn.pth", "lq", "more")
    assert {"lq/a.png", "more/a.png"} < data()["images"].keys()


def test_other_architectures_and_16_bits(here):
    torch.save({"params": ARCHS.build({"type": "UNet", "num_feat": 2}).state_dict()}, "unet.pth")
    section = {"type": "NAFNet", "width": 2, "enc_blk_nums": [1], "dec_blk_nums": [1]}
    torch.save({"params": ARCHS.build(section).state_dict()}, "nafnet.pth")
    save("deep/a.png", noise(24, 30, dtype=np.uint16))
    compare("unet.pth", "nafnet.pth", "deep", "--gt", "deep", "--tile", "none")
    first, second = (mcir.restore("deep/a.png", file).pixels / 257 for file in ("unet.pth", "nafnet.pth"))
    assert data()["images"]["a.png"]["difference"] == pytest.approx(np.abs(first - second).mean())
    assert data()["images"]["a.png"]["input"] == {"psnr": "inf", "ssim": 1.0}


# -- mistakes and images that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("plain.pth", "x4.pth", "lq"),
            "same scale and channels, got plain.pth (EDSR, ×2, 3 channels) and x4.pth (EDSR, ×4",
        ),
        (("plain.pth", "grey.pth", "lq"), "and grey.pth (EDSR, ×2, 1 channel)."),
        (("plain.pth", "./plain.pth", "lq"), "Expected two different weight files, got plain.pth twice"),
        (("plain.pth", "none.pth", "lq"), "none.pth: The checkpoint does not exist"),
        (("plain.pth", "lq/a.png", "lq"), "lq/a.png cannot be read"),
        (("plain.pth", "spn.pth", "nothing"), "'nothing': no such file"),
        (("plain.pth", "spn.pth", "lq", "--gt", "nowhere"), "nowhere"),
        (("plain.pth", "spn.pth", "lq", "--gt", "others"), "others: none of 3 images has a ground truth"),
        (("plain.pth", "spn.pth", "lq", "--crop-border", "2"), "--crop-border has no effect without --gt"),
        (("plain.pth", "spn.pth", "lq", "--gt", "gt", "--crop-border", "-1"), "--crop-border: expected at least 0"),
        (("plain.pth", "spn.pth", "lq", "--pictures", "-1"), "--pictures: expected at least 0, got -1"),
        (("plain.pth", "spn.pth", "lq", "-o", "lq"), "expected the path of a page such as comparison.html, got lq"),
        (("plain.pth", "spn.pth", "bad"), "none of 1 images can be read; bad/x.png: not an image"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(here, words, message, capsys, monkeypatch):
    checkpoint("x4.pth", upscale=4)
    checkpoint("grey.pth", num_in_ch=1, num_out_ch=1, rgb_mean=[0.5])
    save("others/other.png", noise(8, 8))
    Path("bad").mkdir()
    Path("bad/x.png").write_text("words")
    monkeypatch.setattr(mcir.Restorer, "pictures", lambda *arguments: pytest.fail("an image was restored"))
    compare(*words, status=1)
    captured = capsys.readouterr()
    assert captured.err.startswith("mcir compare: ")
    assert message in captured.err
    assert not captured.out
    assert not Path("comparison.html").exists()


def test_images_that_fail_are_named_and_the_rest_is_compared(here, capsys):
    Path("lq/bad.png").write_text("words")
    data_of_b = Path("lq/b.png").read_bytes()
    Path("lq/b.png").write_bytes(data_of_b[:-200])  # its header is complete
    Path("gt/a.png").unlink()
    save("gt/sub/c.png", noise(10, 10))
    save("lq/d.png", noise(20, 20))
    save("gt/d.png", noise(40, 40))
    compare("plain.pth", "spn.pth", "lq", "--gt", "gt", status=1)
    found = data()
    assert found["images"].keys() == {"a.png", "d.png", "sub/c.png"}
    assert {name for name, values in found["images"].items() if "first" in values} == {"d.png"}
    assert found["mean"]["first"] == found["images"]["d.png"]["first"]
    reasons = {"lq/a.png": "no ground truth", "lq/b.png": "truncated", "lq/bad.png": "not an image"}
    reasons["lq/sub/c.png"] = "not measured: the ground truth has 10×10 pixels"
    captured = capsys.readouterr().err
    page = Page(Path("comparison.html").read_text("utf-8"))
    assert found["problems"].keys() == reasons.keys() | {"lq/bad.png"}
    for name, reason in reasons.items():
        assert reason in found["problems"][name]
        assert name in captured
        assert f"{name}: {found['problems'][name]}" in page.words
    assert page.cells.count("–") == 2 * 6


def test_if_every_image_fails_there_is_no_page(here, monkeypatch, capsys):
    def fail(*arguments):
        raise RuntimeError("no memory")

    monkeypatch.setattr(mcir.Restorer, "pictures", fail)
    compare("plain.pth", "spn.pth", "lq/a.png", status=1)
    assert "no memory" in capsys.readouterr().err
    assert not Path("comparison.html").exists()
