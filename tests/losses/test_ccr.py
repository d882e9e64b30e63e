"""CCR and its curriculum compared with the formula and with official numbers."""

import math

import pytest
import torch

from mcir.losses import CurricularContrastiveRegularization
from tests.losses.helpers import stacks, value_and_grad
from tests.losses.test_cr import FACTS, TINY, check_golden, literal


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_and_gradient_equal_the_formula_at_every_step_of_the_curriculum(dtype: torch.dtype) -> None:
    loss = CurricularContrastiveRegularization(difficulties=[20.0, 30.0], **TINY).to(dtype)
    images = stacks(3, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    for psnr, weights in ((0.0, (0.75, 0.75, 6.0)), (25.0, (1.25, 0.75, 6.0)), (31.0, (1.25, 1.25, 6.0))):
        loss.observe({"psnr": psnr})
        value, gradient = value_and_grad(loss, *images)
        normalized = [weight / sum(weights) for weight in weights]
        expected, reference = value_and_grad(lambda *x, weights=normalized: literal(loss, *x, weights), *images)
        assert value.dtype == dtype
        assert math.isclose(value.item(), expected.item(), rel_tol=tolerance)
        assert (gradient - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize(("case", "psnr"), [("c2pnet_ccr_d0", 0.0), ("c2pnet_ccr_d33", 33.0)])
def test_value_and_gradient_equal_the_official_ones(vgg19: str, case: str, psnr: float) -> None:
    """The official weights of the negatives are float32; one of fourteen differs by 4.5e-8."""
    assert FACTS["cases"][case]["difficulty"] == psnr
    loss = CurricularContrastiveRegularization(weights=vgg19, loss_weight=1.0)
    loss.observe({"psnr": psnr})
    check_golden(case, loss, 5e-8)


@pytest.mark.parametrize("kind", ["its", "ots"])
@pytest.mark.parametrize("psnr", ["0", "18", "31.5", "35", "37", "41"])
def test_curriculum_weights_equal_the_official_ones(kind: str, psnr: str) -> None:
    facts = FACTS["cases"]["c2pnet_curriculum_weights"]
    loss = CurricularContrastiveRegularization(difficulties=facts[f"{kind}_difficulties"], **TINY)
    loss.observe({"psnr": float(psnr)})
    weights = loss.negative_weights(torch.zeros(7, 1, 3, 4, 4, dtype=torch.float64))
    expected = torch.tensor(facts["table"][f"{kind}_psnr_{psnr}"], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)


def test_without_the_input_the_weights_depend_on_the_difficulties_only() -> None:
    loss = CurricularContrastiveRegularization(difficulties=[20.0, 30.0], curriculum=0.5, **TINY)
    loss.observe({"psnr": 25.0, "ssim": 0.9})
    assert loss.negative_weights(torch.zeros(2, 1, 3, 4, 4)).tolist() == [0.75, 0.25]


def test_the_best_psnr_is_used_and_saved() -> None:
    loss = CurricularContrastiveRegularization(**TINY)
    for psnr in (18.0, 31.5, 17.0, float("nan")):
        loss.observe({"psnr": psnr})
    assert list(loss.state_dict()) == ["best_psnr"]
    other = CurricularContrastiveRegularization(**TINY)
    other.load_state_dict(loss.state_dict())
    assert other.best_psnr == 31.5
    stack = torch.zeros(7, 1, 3, 4, 4)
    assert torch.equal(other.negative_weights(stack), loss.negative_weights(stack))
    assert loss.negative_weights(stack)[0] > loss.negative_weights(stack)[3]


def test_the_number_of_negatives_must_match_the_difficulties() -> None:
    with pytest.raises(ValueError, match=r"expected 6 negatives, one per difficulty, or 7 .*; got 2"):
        CurricularContrastiveRegularization(**TINY)(*stacks(2, dtype=torch.float32))
