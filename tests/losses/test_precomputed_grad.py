"""Gradients that are computed together with the value."""

import pytest
import torch

from mcir.losses.precomputed_grad import attach_grad, sum_of_absolute_differences


def test_the_attached_gradient_is_returned_by_backward() -> None:
    features = [torch.rand(2, 3, requires_grad=True), torch.rand(4, requires_grad=True)]
    grads = [torch.rand(2, 3), torch.rand(4)]
    value = attach_grad(torch.tensor(5.0), [2.0, -1.0], grads, features)
    assert value == 5
    (3 * value).backward()
    torch.testing.assert_close(features[0].grad, 6 * grads[0])
    torch.testing.assert_close(features[1].grad, -3 * grads[1])
    assert not attach_grad(torch.tensor(5.0), [], [], []).requires_grad


def test_second_derivatives_raise_an_error() -> None:
    feature = torch.rand(3, requires_grad=True)
    value = attach_grad(torch.tensor(1.0), [1.0], [torch.rand(3)], [feature])
    (gradient,) = torch.autograd.grad(value, feature, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_differences_are_summed_in_at_least_float32(dtype: torch.dtype) -> None:
    a, b = torch.rand(2, 5, 3, 4, 4).to(dtype)
    total = sum_of_absolute_differences(a, b)
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(total.double(), (a.double() - b.double()).abs().sum(), rtol=1e-6, atol=0)
