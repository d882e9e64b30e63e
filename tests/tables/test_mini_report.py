"""The answer of the mini reproduction: paired, adjusted for the number of comparisons, and said as it is."""

import math
import re

import pytest

from mcir.tables.mini_report import METHODS, Conditions, compare, tell
from mcir.tables.paired_stats import holm, mean_interval, paired_test
from tests.tables.pages import Page


def record(method, seed, psnr, task="sr", seconds=1.0, ratio=0.125):
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "fingerprint": f"{task}{method}{seed}",
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


CLEAR = [0.30, 0.32, 0.28, 0.31, 0.29]
NOISE = [0.3, -0.2, 0.1, -0.3, 0.2]


def records(**gains):
    plain = [30.0, 29.0, 31.0, 30.5, 28.0]
    rows = [record("plain", seed, psnr) for seed, psnr in enumerate(plain)]
    for method, of_seed in gains.items():
        rows += [record(method, seed, plain[seed] + gain, seconds=2.0) for seed, gain in enumerate(of_seed)]
    return rows


def test_comparisons_are_paired_and_adjusted_for_their_number():
    found = compare(records(spn=CLEAR, cr=NOISE))
    assert [part.method for part in found] == ["spn", "cr"]
    for part, gains in zip(found, (CLEAR, NOISE), strict=True):
        assert part.gains == pytest.approx(gains)
        assert part.interval.mean == pytest.approx(mean_interval(gains).mean)
        assert part.p == pytest.approx(paired_test(gains))
        assert (part.slowdown, part.ratio) == (2.0, 0.125)
    assert [part.adjusted for part in found] == pytest.approx(holm([paired_test(CLEAR), paired_test(NOISE)]))


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
    (found,) = compare(records(spn=gains))
    assert found.verdict() == verdict
    text = tell(records(spn=gains), Conditions())[0].as_markdown()
    assert f": {verdict}" in text
    assert ("Nothing here is significant" in text) == ("significantly" not in verdict)


def test_a_gain_that_is_significant_only_alone_is_not_called_so():
    faint = [0.3, 0.1, 0.25, 0.02, 0.2]
    assert 0.025 < paired_test(faint) < 0.05
    (alone,) = compare(records(spn=faint))
    assert alone.verdict() == "significantly better"
    among = compare(records(spn=faint, cr=NOISE, random=NOISE))
    assert among[0].verdict() == "not significant once all comparisons are counted"


def test_a_seed_that_diverged_is_counted_and_left_out():
    (found,) = compare(records(spn=[math.nan, *CLEAR[1:]]))
    assert (found.diverged, len(found.gains)) == (1, 4)
    assert found.verdict() == "no verdict: of 5 pairs, 1 has no finite numbers"
    assert not found.is_significant
    report, data = tell(records(spn=[math.nan, *CLEAR[1:]]), Conditions())
    assert "; 1 seed diverged" in report.as_markdown() and data["comparisons"][0]["diverged"] == 1
    Page(report.as_html())


def test_the_report_shows_losses_as_losses():
    report, data = tell(records(spn=[-gain for gain in CLEAR]), Conditions())
    page = Page(report.as_html())
    assert "-0.300" in page.cells and "0 of 5" in page.cells and "2.00" in page.cells
    assert data["comparisons"][0]["mean_gain"] == pytest.approx(-0.3)


def test_of_one_the_words_are_singular():
    one = tell([record("plain", 0, 30.0), record("spn", 0, 30.1)], Conditions())[0].as_markdown()
    assert "2 trainings on" in one and ", 1 seed each" in one and "for the one comparison of this page" in one
    assert "for all 2 comparisons" in tell(records(spn=CLEAR, cr=NOISE), Conditions())[0].as_markdown()
    alone = tell([record("plain", 0, 30.0)], Conditions())[0].as_markdown()
    assert "1 training on" in alone and "comparison" not in alone


def test_drawings_bear_names_that_a_person_reads():
    gains = {method: CLEAR for method in METHODS if method != "plain"}
    figures = tell(records(**gains), Conditions())[0].sections[1].figures
    for figure in figures:
        names = re.findall(r"<(?:text|span)[^>]*>([^<]*[A-Za-z]{2}[^<]*)</", figure.markup)
        assert {"SPN, ratio 0.1", "random network"} <= set(names) and not [name for name in names if "_" in name]
        assert all(len(name) < 17 for name in names)  # at 12 pixels a letter of 7, a bar of five has 112


def test_a_row_says_its_gradient_ratio_and_whether_it_tests_anything():
    rows = records(spn=NOISE, random=NOISE) + records(**{"spn_balanced_0.1": CLEAR})[len(CLEAR) :]
    for row in rows:
        row["ratio"] = {"spn": 0.0002, "random": 0.00099, "spn_balanced_0.1": 0.001}.get(row["method"])
    report, data = tell(rows, Conditions())
    text = report.as_markdown()
    assert "not significant, at a gradient ratio of 0.0002, which tests nothing." in text
    assert "significantly better, at a gradient ratio of 0.001." in text
    assert "2 rows, of “+ SPN, the paper's λ = 1e-4” and “+ a random frozen network" in text and "None was." in text
    assert "moved single seeds by -0.300 … +0.300 dB" in text
    cells = Page(report.as_html()).cells
    assert cells.count("not significant; tests nothing") == 2 and cells.count("significantly better") == 1
    assert [part["tests_nothing"] for part in data["comparisons"]] == [True, True, False]
    strong = tell(records(spn=CLEAR, random=NOISE), Conditions())[0].as_markdown()
    assert "nothing: it is" not in strong and "None was." not in strong and "single seeds" not in strong


def test_the_smallest_difference_that_could_be_seen_is_where_the_test_turns():
    (found,) = compare(records(spn=NOISE))
    centred = [gain - sum(NOISE) / len(NOISE) for gain in NOISE]
    for tests in (1, 15):
        smallest = found.smallest(tests)
        assert paired_test([gain + 1.001 * smallest for gain in centred]) < 0.05 / tests
        assert paired_test([gain + 0.999 * smallest for gain in centred]) > 0.05 / tests
    assert f"{found.smallest():.3f} / {found.smallest():.3f}" in tell(records(spn=NOISE), Conditions())[0].as_markdown()
    data = tell(records(spn=NOISE, cr=CLEAR), Conditions())[1]["comparisons"][0]
    assert data["smallest_difference"] == pytest.approx(found.smallest())
    assert data["smallest_difference_holm"] == pytest.approx(found.smallest(2))


def test_one_seed_shows_nothing_however_large_the_difference():
    (found,) = compare([record("plain", 0, 30.0), record("spn", 0, 40.0)])
    assert found.smallest() is None
    text = tell([record("plain", 0, 30.0), record("spn", 0, 40.0)], Conditions())[0].as_markdown()
    assert "“Could show”" not in text and "| – | not significant |" in text
