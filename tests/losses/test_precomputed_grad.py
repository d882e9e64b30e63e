import pytest
import torch

from mcir.losses.precomputed_grad import check_stack, sum_of_absolute_differences, with_slopes


def test_known_slopes_are_the_derivative() -> None:
    features = [torch.rand(2, 3, requires_grad=True), torch.rand(4, requires_grad=True)]
    slopes = [torch.rand(2, 3), torch.rand(4)]
    value = with_slopes(torch.tensor(5.0), [2.0, -1.0], slopes, features)
    assert value == 5
    (3 * value).backward()
    torch.testing.assert_close(features[0].grad, 6 * slopes[0])
    torch.testing.assert_close(features[1].grad, -3 * slopes[1])
    assert not with_slopes(torch.tensor(5.0), [], [], []).requires_grad


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    feature = torch.rand(3, requires_grad=True)
    value = with_slopes(torch.tensor(1.0), [1.0], [torch.rand(3)], [feature])
    (gradient,) = torch.autograd.grad(value, feature, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_differences_are_summed_in_at_least_float32(dtype: torch.dtype) -> None:
    a, b = torch.rand(2, 5, 3, 4, 4).to(dtype)
    total = sum_of_absolute_differences(a, b)
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(total.double(), (a.double() - b.double()).abs().sum(), rtol=1e-6, atol=0)


def test_a_stack_of_another_shape_is_named() -> None:
    output = torch.rand(2, 3, 4, 4)
    check_stack("X", "negatives", output, output[None])
    with pytest.raises(
        ValueError, match=r"X: for an output of \(2, 3, 4, 4\) the negatives are \(N, 2, 3, 4, 4\) with"
    ):
        check_stack("X", "negatives", output, output)
    check_stack("X", "positives", output, [output, output])
    for wrong in ([], [output, output[:1]]):
        with pytest.raises(ValueError, match=r"the positives are \(P, 2, 3, 4, 4\) with P ≥ 1, not \["):
            check_stack("X", "positives", output, wrong)
