"""Words around numbers."""

from mcir.tables.formatting import counted, digits_of, signed


def test_numbers_in_words():
    assert (signed(0.126, 2), signed(-0.126, 2), signed(-0.001, 2)) == ("+0.13", "-0.13", "0.00")
    assert (digits_of("psnr_y"), digits_of("ssim")) == (2, 4)


def test_one_is_singular():
    assert [counted(number, "seed") for number in (0, 1, 2, 1000)] == ["0 seeds", "1 seed", "2 seeds", "1,000 seeds"]
