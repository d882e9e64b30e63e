"""The report of the small studies: paired, adjusted for the number of comparisons, and the same for either sign."""

import json
import math
import re
from statistics import fmean

import pytest

from mcir.checked_json import as_json
from mcir.tables.commands import Mini, RclMini
from mcir.tables.mini_report import compare_methods, mini_report
from mcir.tables.paired_stats import holm, paired_test
from mcir.tables.published import read_table
from mcir.tables.study import read_study
from tests.pages import Page

STUDY, RCL = read_study("mini"), read_study("rcl-mini")


def text_of(report):
    return " ".join(text for section in report.sections for text in (*section.paragraphs, *section.notes))


# -- mini -------------------------------------------------------------------------------------------------------------

CLEAR = [0.30, 0.32, 0.28, 0.31, 0.29]
NOISE = [0.3, -0.2, 0.1, -0.3, 0.2]


def record(method, seed, psnr, seconds=1.0, ratio=0.125):
    return {
        "task": "sr",
        "method": method,
        "seed": seed,
        "fingerprint": f"{method}{seed}",
        "psnr": psnr,
        "ssim": 0.9,
        "psnr_of_input": 20.0,
        "images": {},
        "curve": [[1, 19.0], [2, psnr]],
        "ratio": None if method == "plain" else ratio,
        "training_seconds": seconds,
        "seconds": seconds + 1,
        "device": "cpu",
        "torch": "2",
    }


def records(**gains):
    plain = [30.0, 29.0, 31.0, 30.5, 28.0]
    rows = [record("plain", seed, psnr) for seed, psnr in enumerate(plain)]
    for method, values in gains.items():
        rows += [record(method, seed, plain[seed] + gain, seconds=2.0) for seed, gain in enumerate(values)]
    return rows


def report(found, **settings):
    return mini_report(STUDY, Mini(**settings), found)


def test_comparisons_are_paired_and_adjusted_for_their_number():
    found = compare_methods(STUDY, records(spn=CLEAR, cr=NOISE))
    assert [part.method for part in found] == ["spn", "cr"]
    for part, gains in zip(found, (CLEAR, NOISE), strict=True):
        assert part.difference.gains == pytest.approx(gains)
        assert part.difference.p == pytest.approx(paired_test(gains))
        assert (part.slowdown, part.ratio) == (2.0, 0.125)
    expected = holm([paired_test(CLEAR), paired_test(NOISE)])
    assert [part.difference.adjusted for part in found] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        (CLEAR, "significantly better"),
        ([-gain for gain in CLEAR], "significantly worse"),
        (NOISE, "not significant"),
        ([math.nan] * 5, "no seed ended with finite numbers"),
    ],
)
def test_verdicts(gains, verdict):
    found, data = report(records(spn=gains))
    assert data["comparisons"][0]["verdict"] == verdict
    text = found.as_markdown()
    assert f": {verdict}" in text
    assert ("No difference is significant" in text) == ("significantly" not in verdict)
    Page(found.as_html())


def test_a_gain_that_is_significant_only_alone_is_not_called_significant():
    faint = [0.3, 0.1, 0.25, 0.02, 0.2]
    assert 0.025 < paired_test(faint) < 0.05
    assert compare_methods(STUDY, records(spn=faint))[0].difference.verdict() == "significantly better"
    among = compare_methods(STUDY, records(spn=faint, cr=NOISE, random=NOISE))
    assert among[0].difference.verdict() == "not significant after correction for all comparisons"


def test_a_seed_that_diverged_is_counted_and_left_out():
    found, data = report(records(spn=[math.nan, *CLEAR[1:]]))
    assert data["comparisons"][0]["diverged"] == 1
    assert data["comparisons"][0]["verdict"] == "no verdict: of 5 pairs, 1 has no finite numbers"
    assert "; 1 seed diverged" in found.as_markdown()


def test_losses_are_shown_as_losses():
    found, data = report(records(spn=[-gain for gain in CLEAR]))
    page = Page(found.as_html())
    assert "-0.300" in page.cells and "0 of 5" in page.cells and "2.00" in page.cells
    assert data["comparisons"][0]["mean_gain"] == pytest.approx(-0.3)


def test_numbers_and_nouns_agree():
    one = report([record("plain", 0, 30.0), record("spn", 0, 30.1)])[0].as_markdown()
    assert "2 trainings on" in one and ", 1 seed each" in one and "for the 1 comparison on this page" in one
    assert "| 1 | 1.00 | 0.12 | not significant |" in one and "| – |" in one  # a single seed shows nothing
    alone = report([record("plain", 0, 30.0)])[0].as_markdown()
    assert "1 training on" in alone and "comparison" not in alone


def test_figures_have_short_names():
    gains = {method: CLEAR for method in STUDY.methods if method != "plain"}
    for figure in report(records(**gains))[0].sections[1].figures:
        names = re.findall(r"<(?:text|span)[^>]*>([^<]*[A-Za-z]{2}[^<]*)</", figure.markup)
        assert {"SPN, ratio 0.1", "random network"} <= set(names) and not [name for name in names if "_" in name]
        assert all(len(name) < 17 for name in names)  # at 12 pixels a letter of 7, a bar of five has 112


def test_losses_that_are_too_weak_are_named():
    rows = records(spn=NOISE, random=NOISE) + records(**{"spn_balanced_0.1": CLEAR})[len(CLEAR) :]
    for row in rows:
        row["ratio"] = {"spn": 0.0002, "random": 0.00099, "spn_balanced_0.1": 0.001}.get(row["method"])
    found, data = report(rows)
    text = found.as_markdown()
    assert "not significant, at a gradient ratio of 0.0002, too weak to have an effect." in text
    assert "significantly better, at a gradient ratio of 0.001." in text
    assert "2 rows, of “+ SPN, the paper's λ = 1e-4” and “+ a random frozen" in text
    assert "changed single seeds by -0.300 … +0.300 dB" in text
    cells = Page(found.as_html()).cells
    assert cells.count("not significant; too weak to have an effect") == 2
    assert [part["tests_nothing"] for part in data["comparisons"]] == [True, True, False]
    strong = report(records(spn=CLEAR, random=NOISE))[0].as_markdown()
    assert "too weak" not in strong and "single seeds" not in strong


# -- rcl-mini ---------------------------------------------------------------------------------------------------------

AS_IN_THE_PAPER = {"RCL-EMD": 30.0, "N2N": 29.0, "N2S": 28.0, "DenseCL+": 20.0, "random": 15.0, "oracle": 30.5}
NUMBERS = {"steps": 1200, "batch": 16, "patch": 48, "proxy_steps": 500, "proxy_rate": 1e-2}


def rcl_records(means, task="denoise", noise=None):
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
        for seed, gap in enumerate((0.01, -0.02, 0.0))
    ]


def rcl_report(found, **settings):
    common = {"psnr": 12.0, "psnr_of_input": 29.5, "seconds": 60.0, "torch": "2", "seed": 0}
    rows = [("RCL-EMD", ""), ("N2N", ""), ("oracle", "denoise")]
    pretrained = [{"method": method, "task": task, "fingerprint": method, **common} for method, task in rows]
    written, data = mini_report(RCL, RclMini(**settings), found, pretrained, NUMBERS)
    json.loads(as_json(data))
    return written, text_of(written), data


def test_differences_are_rcl_minus_the_other_method():
    found = rcl_records(AS_IN_THE_PAPER, noise={"N2N": 3}) + rcl_records(AS_IN_THE_PAPER, "sr")
    parts = compare_methods(RCL, found)
    others = [method for method in AS_IN_THE_PAPER if method != "RCL-EMD"]
    assert [(part.task, part.method) for part in parts] == [(t, m) for t in ("denoise", "sr") for m in others]
    assert parts[0].difference.gains == pytest.approx([1.0 - 2 * gap for gap in (0.01, -0.02, 0.0)])
    assert [part.difference.adjusted for part in parts] == holm([part.difference.p for part in parts])
    assert parts[0].difference.verdict() == "significantly better"
    assert parts[4].difference.verdict() == "significantly worse"  # the oracle is better


def test_the_order_is_next_to_the_papers():
    _, text, data = rcl_report(rcl_records(AS_IN_THE_PAPER))
    assert "Order here: oracle 30.50 > RCL-EMD 30.00 > N2N 29.00 > N2S 28.00 > DenseCL+ 20.00 > random 15.00." in text
    order = "Order in the paper: oracle > RCL-EMD > N2N > N2S > DenseCL+. "
    assert order + "10 of 10 pairs have the same order here." in text
    assert data["orders"]["denoise"][0] == "oracle"
    _, text, _ = rcl_report(rcl_records({**AS_IN_THE_PAPER, "N2N": 30.25}))
    assert "9 of 10 pairs have the same order here; the others: N2N − RCL-EMD = +0.250 dB." in text
    _, text, _ = rcl_report(rcl_records(AS_IN_THE_PAPER, "sr"))
    assert "RCL-EMD > oracle > N2N > N2S. 5 of 6 pairs have the same order" in text
    _, text, _ = rcl_report(rcl_records({"RCL-EMD": 30.0, "random": 20.0}))
    assert "Order here" in text and "Order in the paper" not in text


def test_methods_that_are_not_better_than_the_input_are_named():
    _, text, _ = rcl_report(rcl_records(AS_IN_THE_PAPER))
    assert (
        "The degraded images themselves have 29.50 dB; these methods are not better: N2N, N2S, DenseCL+, random."
        in text
    )
    _, text, _ = rcl_report(rcl_records({"RCL-EMD": 31.0, "N2N": 30.0}))
    assert "29.50 dB; every method is better." in text


def test_a_method_that_diverged_comes_last_and_has_no_verdict():
    found = rcl_records(AS_IN_THE_PAPER)
    next(row for row in found if row["method"] == "N2S")["psnr"] = math.nan
    written, text, data = rcl_report(found)
    assert data["orders"]["denoise"][-1] == "N2S" and "no verdict: of 3 pairs, 1 has no finite numbers" in text
    assert "N2S" in Page(written.as_html()).cells


def test_the_conditions_are_in_the_report():
    written, text, data = rcl_report(rcl_records(AS_IN_THE_PAPER))
    assert "1,200 steps" in text and "ResNet50 with random weights" in text and "numbers mean nothing" not in text
    assert data["proxy_rate"] == 0.01 and data["resnet"] == "random"
    page = Page(written.as_html())
    assert page.tags.count("svg") == 1 and "29.997 ± 0.015" in page.cells
    _, text, _ = rcl_report(rcl_records(AS_IN_THE_PAPER), features="imagenet", quick=True)
    assert "random weights" not in text and "numbers mean nothing" in text


def test_the_papers_order_names_known_methods():
    named = {name for chains in RCL.paper.values() for chain in chains for group in chain for name in group}
    assert named <= set(RCL.methods)


@pytest.mark.parametrize(("task", "table", "columns"), [("denoise", "rcl-table1", 3), ("sr", "rcl-table2", 1)])
def test_the_papers_order_is_that_of_its_numbers(task, table, columns):
    published = read_table(table)
    names = [column.name for column in published.columns][:columns]
    numbers = {row.name: [row.number(name, "psnr") for name in names] for row in published.rows}
    means = {row: fmean(number.value for number in found) for row, found in numbers.items() if all(found)}
    means.pop("SL (Den)", None)  # not a method of the study
    (chain,) = RCL.paper[task]
    order = [name for group in chain for name in group]
    assert sorted(means, key=means.get, reverse=True) == [name for name in order if name != "consistency"]
