"""Options that differ are named with their sections, one line each."""

import pytest

from mcir.report.option_changes import changed_options

BEFORE = """
train:
  total_iter: 300
  ema_decay: 0.9
  grad_clip: null
  optim_g: {type: Adam, betas: [0.9, 0.99]}
  contrastive_opt: {type: SPNLoss}
name: a
"""
NOW = """
name: a
train:
  total_iter: 60
  ema_decay: 0.9
  grad_clip: true
  optim_g: {type: Adam, betas: [0.9, 0.5]}
  contrastive_opt: null
  note: "é: [x]"
"""


def test_each_option_is_one_line():
    assert [str(change) for change in changed_options(BEFORE, NOW)] == [
        "train.total_iter: 300 → 60",
        "train.grad_clip: null → true",
        "train.optim_g.betas: [0.9, 0.99] → [0.9, 0.5]",
        "train.contrastive_opt: nothing → null",
        "train.note: nothing → 'é: [x]'",
        "train.contrastive_opt.type: SPNLoss → nothing",
    ]
    assert changed_options(NOW, NOW) == []


@pytest.mark.parametrize("damaged", ["\ufffd", "a: [", "- a", "", "[" * 100_000, "a: !!python/object:os.system x"])
def test_a_damaged_text_has_no_options(damaged):
    assert [str(change) for change in changed_options(damaged, "b: 1")] == ["b: nothing → 1"]


def test_texts_that_expand_are_bounded():
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 40)]
    changes = changed_options("\n".join(lines), "a: " + "x" * 10_000)
    assert len(changes) <= 20_001 and max(len(str(change)) for change in changes) < 500
