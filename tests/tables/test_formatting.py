"""Numbers in reports and messages."""

from mcir.tables.formatting import counted, decimals, deviation, mean_of, signed


def test_numbers():
    assert (signed(0.126, 2), signed(-0.126, 2), signed(-0.001, 2)) == ("+0.13", "-0.13", "0.00")
    assert (decimals("psnr_y"), decimals("ssim")) == (2, 4)
    assert (mean_of([30.0, 32.0], 2), mean_of([30.0], 2)) == ("31.00 ± 1.41", "30.00")
    assert deviation([30.0, float("inf")]) is None


def test_one_is_singular():
    assert [counted(number, "seed") for number in (0, 1, 2, 1000)] == ["0 seeds", "1 seed", "2 seeds", "1,000 seeds"]
