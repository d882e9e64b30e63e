"""The table of a proxy evaluation."""

import statistics

from mcir.tables.proxy_plan import ProxySettings
from mcir.tables.proxy_report import Result, summary, tell


def result(weights, labels, trial, psnr, ssim=0.5):
    return Result("print", weights, "sr", False, labels, trial, psnr, ssim, 20.0, 0.4, {"0": psnr}, 1.0)


def test_an_infinite_value_has_no_deviation():
    (row,) = summary([result("a", 10, 0, 30.0), result("a", 10, 1, float("inf"))])
    assert row["psnr"] == float("inf") and row["psnr_std"] is None


def test_means_and_deviations():
    results = [result("a", 10, 0, 30.0), result("a", 10, 1, 32.0), result("b", None, 0, 31.0)]
    first, second = summary(results)
    assert (first["psnr"], first["psnr_std"], first["trials"]) == (31.0, statistics.stdev([30, 32]), 2)
    assert (second["psnr"], second["psnr_std"], second["labels"]) == (31.0, None, None)
    table = tell(results, ProxySettings(task="sr")).sections[0].table
    assert table[1:] == [
        ["bicubic enlargement", "", "20.00", "0.4000", ""],
        ["a", "10", "31.00 ± 1.41", "0.5000 ± 0.0000", "2"],
        ["b", "all", "31.00", "0.5000", "1"],
    ]
