import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mcir.losses import ContrastiveRegularization, CurricularContrastiveRegularization
from tests.golden.deterministic import vgg_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
FACTS = json.loads((GOLDEN / "contrast.json").read_text())
LAYERS = {"relu1_1": 0.2, "conv2_1": 0.3, "pool2": 0.5}
TINY: dict[str, Any] = {"layer_weights": LAYERS, "weights": "random"}


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(vgg_state_dict("vgg19", 30), file)
    return str(file)


def images(negatives: int, positives: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    stack = torch.rand(1 + negatives + positives, 2, 3, 12, 10, dtype=dtype, generator=generator)
    return stack[0], stack[1 : 1 + negatives], stack[1 + negatives :]


def literal(
    loss: ContrastiveRegularization, output: Tensor, negatives: Tensor, positives: Tensor, shares: list[float]
) -> Tensor:
    """Every feature computed where the formula has it, with one graph over all."""
    total = output.new_zeros(())
    for layer, weight in loss.layer_weights.items():
        anchor = loss.features(output)[layer]
        near = sum((anchor - loss.features(p.detach())[layer]).abs().mean() for p in positives) / len(positives)
        far = sum(
            share * (anchor - loss.features(n.detach())[layer]).abs().mean()
            for share, n in zip(shares, negatives, strict=True)
        )
        total = total + weight * near / (far + loss.eps)
    return loss.loss_weight * total


def value_and_gradient(function: Any, output: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    leaf = output.clone().requires_grad_()
    value = function(leaf, *others)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize(("count", "positives"), [(1, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_cr_equals_the_literal_formula(count: int, positives: int, dtype: torch.dtype, tolerance: float) -> None:
    loss = ContrastiveRegularization(**TINY).to(dtype)
    stacks = images(count, positives, dtype)
    value, gradient = value_and_gradient(loss, *stacks)
    expected, reference = value_and_gradient(lambda *x: literal(loss, *x, [1 / count] * count), *stacks)
    assert value.dtype == dtype and value.shape == ()
    assert math.isclose(value.item(), expected.item(), rel_tol=tolerance)
    assert (gradient - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ccr_equals_the_literal_formula_by_its_curriculum(dtype: torch.dtype) -> None:
    loss = CurricularContrastiveRegularization([20.0, 30.0], **TINY).to(dtype)
    stacks = images(3, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    for psnr, weights in ((0.0, (0.75, 0.75, 6.0)), (25.0, (1.25, 0.75, 6.0)), (31.0, (1.25, 1.25, 6.0))):
        loss.observe(psnr)
        value, gradient = value_and_gradient(loss, *stacks)
        shares = [weight / sum(weights) for weight in weights]
        expected, reference = value_and_gradient(lambda *x, shares=shares: literal(loss, *x, shares), *stacks)
        assert value.dtype == dtype
        assert math.isclose(value.item(), expected.item(), rel_tol=tolerance)
        assert (gradient - reference).abs().max() <= tolerance * reference.abs().max()


def check_golden(name: str, loss: ContrastiveRegularization, tolerance: float) -> None:
    facts = FACTS["cases"][name]
    with np.load(GOLDEN / f"{name}.npz") as golden:
        arrays = {key: torch.from_numpy(golden[key]) for key in golden}
    negatives = torch.cat([arrays["negs"], arrays["inp"][None]]) if "negs" in arrays else arrays["n"][None]
    for dtype, near in ((torch.float32, 3e-6), (torch.float64, tolerance)):
        stacks = (arrays["a"].to(dtype), negatives.to(dtype), arrays["p"][None].to(dtype))
        value, gradient = value_and_gradient(loss.to(dtype), *stacks)
        assert math.isclose(value.item(), facts["value_f64"], rel_tol=near)
        assert math.isclose(gradient.norm().item(), facts["grad_l2_f64"], rel_tol=near)
        rest = gradient.flatten()[:: FACTS["gradient_step"]] - arrays["grad"]
        assert rest.abs().max() <= 3e-6 * arrays["grad"].abs().max()


def test_cr_is_the_official_one(vgg19: str) -> None:
    check_golden("aecr_cr", ContrastiveRegularization(weights=vgg19, loss_weight=1.0), 1e-12)


@pytest.mark.parametrize(("case", "psnr"), [("c2pnet_ccr_d0", 0.0), ("c2pnet_ccr_d33", 33.0)])
def test_ccr_is_the_official_one(vgg19: str, case: str, psnr: float) -> None:
    """Whose weights are float32: one in fourteen is off by 4.5e-8."""
    assert FACTS["cases"][case]["difficulty"] == psnr
    loss = CurricularContrastiveRegularization(weights=vgg19, loss_weight=1.0)
    loss.observe(psnr)
    check_golden(case, loss, 5e-8)


@pytest.mark.parametrize("kind", ["its", "ots"])
@pytest.mark.parametrize("psnr", ["0", "18", "31.5", "35", "37", "41"])
def test_curriculum_weights_are_the_official_ones(kind: str, psnr: str) -> None:
    facts = FACTS["cases"]["c2pnet_curriculum_weights"]
    loss = CurricularContrastiveRegularization(facts[f"{kind}_difficulties"], **TINY)
    loss.observe(float(psnr))
    shares = loss.shares(torch.zeros(7, 1, 3, 4, 4, dtype=torch.float64))
    expected = torch.tensor(facts["table"][f"{kind}_psnr_{psnr}"], dtype=torch.float64)
    torch.testing.assert_close(shares, expected, rtol=1e-12, atol=0)


def test_without_the_input_only_the_difficulties_count() -> None:
    loss = CurricularContrastiveRegularization([20.0, 30.0], curriculum=0.5, **TINY)
    loss.observe(25.0)
    assert loss.shares(torch.zeros(2, 1, 3, 4, 4)).tolist() == [0.75, 0.25]


def test_only_the_best_psnr_counts_and_it_is_kept() -> None:
    loss = CurricularContrastiveRegularization(**TINY)
    for psnr in (18.0, 31.5, 17.0, float("nan")):
        loss.observe(psnr)
    assert list(loss.state_dict()) == ["best_psnr"]
    other = CurricularContrastiveRegularization(**TINY)
    other.load_state_dict(loss.state_dict())
    assert other.best_psnr == 31.5
    stack = torch.zeros(7, 1, 3, 4, 4)
    assert torch.equal(other.shares(stack), loss.shares(stack))
    assert loss.shares(stack)[0] > loss.shares(stack)[3]


@pytest.mark.parametrize("kind", [ContrastiveRegularization, CurricularContrastiveRegularization])
def test_each_branch_gets_the_gradient_that_it_should(kind: type[ContrastiveRegularization]) -> None:
    """The output from attraction alone, from repulsion alone and from both; nobody else from anything."""
    loss = kind(**TINY).double()
    output, negatives, positives = images(6)
    negatives.requires_grad_()
    positives.requires_grad_()
    shares = loss.shares(negatives).tolist()

    def gradient(near: bool, far: bool) -> Tensor:
        """With one of the two distances held where it is."""
        leaf = output.clone().requires_grad_()
        total = leaf.new_zeros(())
        for layer, weight in loss.layer_weights.items():
            anchor = loss.features(leaf)[layer]
            a, b = (anchor if moves else anchor.detach() for moves in (near, far))
            attract = (a - loss.features(positives[0].detach())[layer]).abs().mean()
            repel = sum(
                share * (b - loss.features(n.detach())[layer]).abs().mean()
                for share, n in zip(shares, negatives, strict=True)
            )
            total = total + weight * attract / (repel + loss.eps)
        (loss.loss_weight * total).backward()
        assert leaf.grad is not None
        return leaf.grad

    _, both = value_and_gradient(loss, output, negatives, positives)
    attraction, repulsion = gradient(True, False), gradient(False, True)
    assert attraction.norm() > 0 and repulsion.norm() > 0
    torch.testing.assert_close(both, attraction + repulsion, rtol=1e-9, atol=1e-14)
    assert negatives.grad is None and positives.grad is None
    assert not list(loss.parameters()) and not any(buffer.requires_grad for buffer in loss.buffers())
    assert not loss(output, negatives, positives).requires_grad


def test_descending_comes_nearer_to_the_positive_than_to_the_negatives() -> None:
    loss = ContrastiveRegularization(**TINY).double()
    output, negatives, positives = images(2)
    value, gradient = value_and_gradient(loss, output, negatives, positives)
    with torch.no_grad():
        assert loss(output - 0.01 * gradient / gradient.abs().max(), negatives, positives) < value
    assert loss(positives[0], negatives, positives) == 0


def test_memory_does_not_grow_with_the_negatives() -> None:
    loss = ContrastiveRegularization(**TINY)
    kept: list[int] = []
    for count in (1, 6):
        found: dict[int, int] = {}

        def keep(tensor: Tensor, found: dict[int, int] = found) -> Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        output, negatives, positives = images(count, dtype=torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            assert loss(output.clone().requires_grad_(), negatives, positives).requires_grad
        kept.append(sum(found.values()))
    assert kept[0] == kept[1]


def test_under_autocast_the_features_are_compared_in_float32() -> None:
    loss = ContrastiveRegularization(**TINY)
    stacks = images(2, dtype=torch.float32)
    expected, reference = value_and_gradient(loss, *stacks)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(loss, *stacks)
    assert value.dtype == gradient.dtype == torch.float32
    assert value != expected and math.isclose(value.item(), expected.item(), rel_tol=0.02)
    assert torch.cosine_similarity(gradient.flatten(), reference.flatten(), dim=0) > 0.9


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ContrastiveRegularization, {"eps": 0.0}, "eps is a finite number above 0, not 0.0"),
        (ContrastiveRegularization, {"eps": math.inf}, "eps is a finite number above 0, not inf"),
        (CurricularContrastiveRegularization, {"eps": math.nan}, "eps is a finite number above 0, not nan"),
        (CurricularContrastiveRegularization, {"difficulties": [30.0, math.nan]}, "difficulties are finite numbers"),
        (CurricularContrastiveRegularization, {"curriculum": math.nan}, "curriculum is a share in"),
        (CurricularContrastiveRegularization, {"input_weight": math.inf}, "input_weight is a number above 0"),
        (ContrastiveRegularization, {"layer_weights": {}}, "layer_weights names no layer"),
        (ContrastiveRegularization, {"loss_weight": math.inf}, "the weight of loss_weight is a finite number"),
        (CurricularContrastiveRegularization, {"difficulties": []}, "at least one kind"),
        (CurricularContrastiveRegularization, {"curriculum": 1.5}, "curriculum is a share in"),
        (CurricularContrastiveRegularization, {"input_weight": 0.0}, "input_weight is a number above 0"),
    ],
)
def test_arguments_are_checked(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**{**TINY, **arguments})


def test_images_are_checked() -> None:
    loss = ContrastiveRegularization(**TINY)
    output, negatives, positives = images(2, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"needs positives, such as \[gt\]"):
        loss(output, negatives)
    with pytest.raises(ValueError, match=r"the positives are \(P, 2, 3, 12, 10\) with P ≥ 1, not \(2, 3, 12, 10\)"):
        loss(output, negatives, positives[0])
    with pytest.raises(ValueError, match=r"with P ≥ 1, not \[\(2, 3, 12, 10\), \(1, 3, 12, 10\)\]"):
        loss(output, negatives, [positives[0], positives[0, :1]])
    assert torch.equal(loss(output, negatives, [positives[0]]), loss(output, negatives, positives[:1]))
    with pytest.raises(ValueError, match=r"6 difficulties are for 6 negatives, or 7 .* not 2"):
        CurricularContrastiveRegularization(**TINY)(output, negatives, positives)
