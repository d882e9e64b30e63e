"""The answer of the small RCL reproduction: the order found beside the paper's, and differences said as they are."""

import json
import math

import pytest

from mcir.engine.loggers import as_json
from mcir.tables.config_diff import compared
from mcir.tables.paired_stats import holm
from mcir.tables.rcl_mini_report import METHODS, PAPER, Conditions, compare, tell
from tests.tables.pages import Page

CONDITIONS = Conditions("the bundled photographs", "random", False, 1200, 16, 48, 500, 1e-2)
AS_IN_THE_PAPER = {"RCL-EMD": 30.0, "N2N": 29.0, "N2S": 28.0, "DenseCL+": 20.0, "random": 15.0, "oracle": 30.5}
SPREAD = (0.01, -0.02, 0.0)


def records(means, task="denoise", noise=None):
    return [
        {
            "method": method,
            "seed": seed,
            "task": task,
            "fingerprint": f"{task}{method}{seed}",
            "psnr": mean + gap * (noise or {}).get(method, 1),
            "ssim": 0.9,
            "psnr_of_input": 29.5,
            "seconds": 30.0,
        }
        for method, mean in means.items()
        for seed, gap in enumerate(SPREAD)
    ]


def pretrained():
    common = {"psnr": 12.0, "psnr_of_input": 29.5, "seconds": 60.0, "torch": "2"}
    rows = [("RCL-EMD", ""), ("N2N", ""), ("oracle", "denoise")]
    return [{"method": method, "task": task, "seed": 0, "fingerprint": method, **common} for method, task in rows]


def told(found, conditions=CONDITIONS):
    report, data = tell(pretrained(), found, conditions)
    json.loads(as_json(data))
    return report, " ".join(text for section in report.sections for text in section.paragraphs), data


def test_differences_are_rcl_minus_the_other_seed_by_seed():
    found = records(AS_IN_THE_PAPER, noise={"N2N": 3}) + records(AS_IN_THE_PAPER, "sr")
    parts = compare(found)
    others = [method for method in METHODS if method != "RCL-EMD"]
    assert [(part.task, part.method) for part in parts] == [(t, m) for t in ("denoise", "sr") for m in others]
    gains = [1.0 - 2 * gap for gap in SPREAD]
    assert parts[0].gains == pytest.approx(gains)
    assert parts[0].p == pytest.approx(compared([gains])[0].p)
    assert [part.adjusted for part in parts] == holm([part.p for part in parts])  # all ten of the page
    assert parts[0].verdict() == "significantly better"
    assert parts[4].verdict() == "significantly worse"  # the oracle is above


def test_the_order_is_told_next_to_the_papers():
    _, text, data = told(records(AS_IN_THE_PAPER))
    assert "Found: oracle 30.50 > RCL-EMD 30.00 > N2N 29.00 > N2S 28.00 > DenseCL+ 20.00 > random 15.00." in text
    assert "Paper: RCL-EMD > N2N > N2S > DenseCL+. By the means, 6 of 6 pairs stand in that order here." in text
    assert "Where the paper has random, oracle is not known here." in text
    assert data["orders"]["denoise"][0] == "oracle"
    _, text, _ = told(records({**AS_IN_THE_PAPER, "N2N": 30.25}))
    assert "5 of 6 pairs stand in that order here; otherwise N2N is +0.250 dB from RCL-EMD." in text
    _, text, _ = told(records(AS_IN_THE_PAPER, "sr"))
    assert "Paper: RCL-EMD > N2N; RCL-EMD > oracle. By the means, 1 of 2 pairs stand" in text
    _, text, _ = told(records({"RCL-EMD": 30.0, "random": 20.0}))
    assert "Of the paper's order of these methods nothing is known here." in text


def test_what_is_no_better_than_the_input_is_named():
    _, text, _ = told(records(AS_IN_THE_PAPER))
    assert "The noisy images themselves have 29.50 dB; no better: N2N, N2S, DenseCL+, random." in text
    _, text, _ = told(records({"RCL-EMD": 31.0, "N2N": 30.0}))
    assert "29.50 dB; every method is above that." in text


def test_what_is_not_significant_is_said_whatever_the_sign():
    for sign in (1, -1):
        _, text, _ = told(records({"RCL-EMD": 30.0, "N2N": 30.0 - sign * 0.01}, noise={"N2N": 9}))
        assert "not significant" in text and "at this size no difference to RCL-EMD has been shown" in text
    _, text, _ = told(records(AS_IN_THE_PAPER, noise={"N2N": 3}))
    assert "at this size no difference" not in text and "RCL-EMD against N2N: +1.007 dB" in text


def test_a_method_that_diverged_comes_last_and_has_no_verdict():
    found = records(AS_IN_THE_PAPER)
    next(record for record in found if record["method"] == "N2S")["psnr"] = math.nan
    report, text, data = told(found)
    assert data["orders"]["denoise"][-1] == "N2S" and "no verdict: of 3 pairs, 1 has no finite numbers" in text
    assert "N2S" in Page(report.as_html()).cells


def test_the_page_says_under_which_conditions():
    report, text, _ = told(records(AS_IN_THE_PAPER))
    assert "1,200 steps" in text and "ResNet50 with random weights" in text and "numbers mean nothing" not in text
    page = Page(report.as_html())
    assert page.tags.count("svg") == 1 and "29.997 ± 0.015" in page.cells
    quick = Conditions("the images of x", "imagenet", True, 2, 4, 16, 2, 1e-2)
    _, text, _ = told(records(AS_IN_THE_PAPER), quick)
    assert "random weights" not in text and "numbers mean nothing" in text


def test_the_papers_chains_name_methods_that_are_known():
    from mcir.tables.rcl_mini import known_methods

    named = {name for chains in PAPER.values() for chain in chains for link in chain for name in link}
    assert named <= set(known_methods())
