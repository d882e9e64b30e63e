"""Tests of the guard, which reports the first iteration with NaN or infinite scalars."""

import pytest
import torch

from mcir.engine.guard import FiniteGuard, NotFiniteError


def scalars(l_pix=0.1, grad_norm=1.0, lr=1e-3):
    return {"l_pix": torch.tensor(l_pix), "grad_norm": torch.tensor(grad_norm), "lr": torch.tensor(lr)}


def test_finite_scalars_pass():
    guard = FiniteGuard()
    guard.check()
    guard.record(1, scalars(), ["a.png"])
    guard.record(2, scalars(l_pix=1e38), ["b.png"])
    guard.check()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_bad_iteration_is_named_with_its_images(value):
    guard = FiniteGuard()
    guard.record(7, scalars(), ["good.png"])
    guard.record(8, scalars(grad_norm=value), ["one.png", "two.png"])
    guard.record(9, scalars(l_pix=value, grad_norm=value), ["later.png"])
    with pytest.raises(NotFiniteError) as caught:
        guard.check()
    message = str(caught.value)
    assert message.startswith("Iteration 8: NaN or infinite values of grad_norm.")
    assert message.endswith("Images of the batch:\n  one.png\n  two.png")
    assert "l_pix" not in message
    assert (caught.value.iteration, caught.value.scalars) == (8, ["grad_norm"])


def test_all_bad_scalars_of_an_iteration_are_named():
    guard = FiniteGuard()
    guard.record(3, scalars(l_pix=float("nan"), grad_norm=float("nan")), ["a.png"])
    with pytest.raises(NotFiniteError, match="NaN or infinite values of l_pix, grad_norm"):
        guard.check()


def test_a_check_starts_a_new_record():
    guard = FiniteGuard()
    guard.record(1, scalars(l_pix=float("nan")), ["a.png"])
    with pytest.raises(NotFiniteError):
        guard.check()
    guard.record(2, scalars(), ["b.png"])
    guard.check()


def test_recording_does_not_read_the_values():
    """Reading a value of the meta device is an error, so the host waits only in ``check``."""
    guard = FiniteGuard()
    guard.record(1, {"l_pix": torch.zeros((), device="meta"), "lr": torch.tensor(0.1)}, ["a.png"])
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        guard.check()
