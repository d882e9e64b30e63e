"""Dense contrastive losses compared with official numbers and with loops over the formulas."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mcir.losses import DenseCLLoss, PixContrastLoss, VADeRLoss
from mcir.losses import dense as module
from mcir.losses.dense import Projected

GOLDEN = Path(__file__).parents[1] / "golden" / "rcl"
SMALL = {"hidden": 4, "dim": 5}


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def view(cells, image=None):
    """Return a view whose features and projections are the same tensor."""
    return Projected(cells, cells, image)


def pair(seed=0, dtype=torch.float64, side=3):
    """Return two random views of three images with D = 5."""
    shapes = ((3, 4, side, side), (3, 5, side, side), (3, 5, 1, 1))
    parts = [random(*shape, seed=seed + number, dtype=dtype) for number, shape in enumerate(shapes * 2)]
    return Projected(*parts[:3]), Projected(*parts[3:])


def queues(size=7):
    return {name: F.normalize(random(size, 5, seed=n), dim=1) for n, name in enumerate(("cells", "image"), start=20)}


BOXES = torch.tensor([[[0, 0, 12, 12], [3, 4, 15, 16]], [[5, 0, 17, 12], [0, 9, 12, 21]], [[0, 0, 12, 12]] * 2]).float()
KINDS = {
    "vader": VADeRLoss(pixels=9, **SMALL),
    "densecl": DenseCLLoss(grid=3, dense_share=0.3, **SMALL),
    "pixcontrast": PixContrastLoss(grid=3, **SMALL),
}


# -- official numbers -------------------------------------------------------------------------------------------------


def test_vader_equals_the_reference_value():
    known = golden("vader")
    query, key = (view(known[name].transpose(1, 2)[..., None]) for name in ("z_query", "z_key"))
    loss = VADeRLoss(temperature=float(known["tau"]))(query, key, None, {"cells": known["bank"]})
    assert math.isclose(loss, known["loss"], rel_tol=1e-8)  # the stored vectors have length 1 to within 4e-8
    stored = (known["z_query"].flatten(0, 1), known["z_key"].flatten(0, 1), known["bank"], float(known["tau"]))
    assert math.isclose(module._queue_info_nce(*stored), known["loss"], rel_tol=1e-12)


def test_densecl_equals_the_official_value_gradient_matches_and_keys():
    known = golden("densecl")
    query_neck = {name: known[f"neck_q.{name}"].requires_grad_() for name in neck_names(known)}
    key_neck = {name: known[f"neck_k_after.{name}"] for name in query_neck}
    query, key = through_neck(known["feat_q"], query_neck), through_neck(known["feat_k"], key_neck)
    loss = DenseCLLoss()
    assert torch.equal(loss.matches(query.features, key.features), known["match_index"])
    value = loss(query, key, None, {"image": known["queue"].T, "cells": known["queue2"].T})
    expected = known["loss_contra_single_weighted"] + known["loss_contra_dense_weighted"]
    torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=0)
    value.backward()
    for name, weight in query_neck.items():
        torch.testing.assert_close(weight.grad, known[f"grad_neck_q.{name}"], rtol=1e-4, atol=1e-6)
    for name, official in (("image", "queue_after"), ("cells", "queue2_after")):
        torch.testing.assert_close(loss.new_keys(key)[name], known[official].T[:4], rtol=1e-5, atol=1e-6)


def neck_names(known):
    return [key.removeprefix("neck_q.") for key in known if key.startswith("neck_q.")]


def through_neck(features, neck):
    """Apply the official neck: two linear layers to the mean, and two 1×1 convolutions to the feature map."""
    pooled = F.linear(features.mean(dim=(2, 3)), neck["mlp.0.weight"], neck["mlp.0.bias"]).relu()
    image = F.linear(pooled, neck["mlp.2.weight"], neck["mlp.2.bias"])
    cells = F.conv2d(F.conv2d(features, neck["mlp2.0.weight"], neck["mlp2.0.bias"]).relu(), neck["mlp2.2.weight"])
    return Projected(features, cells + neck["mlp2.2.bias"][:, None, None], image[..., None, None])


@pytest.mark.parametrize("distance", [0.5, 0.7])
def test_pixcontrast_equals_the_official_positives_and_the_reference_value(distance):
    known = golden("pixcontrast")
    boxes = torch.stack([known["coord1"], known["coord2"]], dim=1)[..., [1, 0, 3, 2]]  # stored with the column first
    loss = PixContrastLoss(max_distance=distance)
    assert torch.equal(loss.positives(boxes, (6, 6)), known[f"pos_mask12.T{distance}"])
    assert torch.equal(loss.positives(boxes.flip(1), (6, 6)), known[f"pos_mask21.T{distance}"])
    first, second = view(known["feat1"].double()), view(known["feat2"].double())
    for one, other, both, way in ((first, second, boxes, "12"), (second, first, boxes.flip(1), "21")):
        expected = known[f"pixcontrast.image_loss{way}.T{distance}.tau0.3"]
        for number in range(3):
            alone = [Projected(*(part[number : number + 1] for part in each[:2])) for each in (one, other)]
            assert math.isclose(loss(*alone, both[number : number + 1], {}), expected[number], rel_tol=1e-6)
    twice = [
        Projected(*map(torch.cat, zip(*each, strict=True)))
        for each in ((first[:2], second[:2]), (second[:2], first[:2]))
    ]
    whole = loss(*twice, torch.cat([boxes, boxes.flip(1)]), {})
    assert math.isclose(whole, known[f"pixcontrast.loss.T{distance}.tau0.3"], rel_tol=1e-6)


# -- formulas as loops ------------------------------------------------------------------------------------------------


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def info_nce(query, positives, others, tau):
    good = sum(math.exp(cosine(query, one) / tau) for one in positives)
    return -math.log(good / (good + sum(math.exp(cosine(query, one) / tau) for one in others)))


def literal_vader(loss, query, key, boxes, queues):
    terms = []
    for image in range(3):
        for row in range(query.cells.shape[2]):
            for column in range(query.cells.shape[3]):
                here = (image, slice(None), row, column)
                terms.append(info_nce(query.cells[here], [key.cells[here]], queues["cells"], loss.temperature))
    return sum(terms) / len(terms)


def literal_densecl(loss, query, key, boxes, queues):
    image_terms = [info_nce(query.image[n, :, 0, 0], [key.image[n, :, 0, 0]], queues["image"], 0.2) for n in range(3)]
    cell_terms = []
    locations = [(row, column) for row in range(3) for column in range(3)]
    for image in range(3):
        for row, column in locations:
            own = query.features[image, :, row, column]
            there = max(locations, key=lambda location: cosine(own, key.features[image, :, location[0], location[1]]))
            positive = key.cells[image, :, there[0], there[1]]
            cell_terms.append(info_nce(query.cells[image, :, row, column], [positive], queues["cells"], 0.2))
    return 0.7 * sum(image_terms) / 3 + 0.3 * sum(cell_terms) / len(cell_terms)


def literal_pixcontrast(loss, query, key, boxes, queues):
    images = []
    locations = [(row, column) for row in range(3) for column in range(3)]
    for image in range(3):
        one, other = boxes[image].tolist()
        diagonals = [math.hypot(box[2] - box[0], box[3] - box[1]) / 3 for box in (one, other)]
        terms = []
        for own in locations:
            close = []
            for location in locations:
                ours = [one[axis] + (own[axis] + 0.5) / 3 * (one[axis + 2] - one[axis]) for axis in (0, 1)]
                theirs = [other[axis] + (location[axis] + 0.5) / 3 * (other[axis + 2] - other[axis]) for axis in (0, 1)]
                close.append(math.dist(ours, theirs) / max(diagonals) < 0.7)
            keys = [key.cells[image, :, row, column] for row, column in locations]
            positives = [one_key for one_key, near in zip(keys, close, strict=True) if near]
            others = [one_key for one_key, near in zip(keys, close, strict=True) if not near]
            if positives:
                terms.append(info_nce(query.cells[image, :, own[0], own[1]], positives, others, 0.3))
        images.append(sum(terms) / len(terms) if terms else 0.0)
    return sum(images) / 3


LITERAL = {"vader": literal_vader, "densecl": literal_densecl, "pixcontrast": literal_pixcontrast}
APART = torch.tensor([[0.0, 0, 12, 12], [11, 11, 23, 23]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boxes", [BOXES, torch.stack([BOXES[0], APART, BOXES[1][:, [0, 3, 2, 1]]])])
def test_value_equals_a_loop_over_the_formula(kind, boxes):
    query, key = pair()
    value = KINDS[kind](query, key, boxes, queues())
    assert value.shape == () and value.dtype == torch.float64
    assert math.isclose(value, LITERAL[kind](KINDS[kind], query, key, boxes, queues()), rel_tol=1e-6)


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_only_projected_queries_get_a_gradient_and_it_is_correct(kind):
    query, key = pair()
    leaves = [part.clone().requires_grad_() for part in (*query, *key)]

    def value(cells, image):
        return KINDS[kind](Projected(leaves[0], cells, image), Projected(*leaves[3:]), BOXES, queues())

    assert torch.autograd.gradcheck(value, (leaves[1], leaves[2]))
    value(leaves[1], leaves[2]).backward()
    assert leaves[1].grad.any()
    assert [leaf.grad is not None for leaf in leaves] == [False, True, kind == "densecl", False, False, False]


def test_an_image_without_positives_has_loss_zero_and_no_gradient():
    query, key = pair()
    cells = query.cells.requires_grad_()
    boxes = torch.stack([BOXES[0], APART, BOXES[2]])
    KINDS["pixcontrast"](query, key, boxes, {}).backward()
    assert cells.grad.isfinite().all()
    assert [bool(cells.grad[number].any()) for number in range(3)] == [True, False, True]


def test_logits_against_the_queue_are_computed_in_parts(monkeypatch):
    query, key = pair()
    found = []
    for chunk in (2**24, 20):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        cells = query.cells.clone().requires_grad_()
        value = KINDS["densecl"](query._replace(cells=cells), key, BOXES, queues())
        value.backward()
        found.append((value.detach(), cells.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-15)


# -- locations --------------------------------------------------------------------------------------------------------


def coordinates(box, side=12):
    """Return a patch whose two channels are the coordinates of its pixels in the image."""
    begin, end = torch.tensor(box[:2]), torch.tensor(box[2:])
    lines = [begin[axis] + (torch.arange(side) + 0.5) / side * (end - begin)[axis] for axis in (0, 1)]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))


@pytest.mark.parametrize("flipped", [False, True])
def test_vader_samples_the_same_pixels_of_both_patches_from_their_overlap(flipped):
    boxes = BOXES.clone()
    if flipped:
        boxes[:, 1] = boxes[:, 1][:, [0, 3, 2, 1]]
    first, second = (torch.stack([coordinates(box) for box in boxes[:, number].tolist()]) for number in (0, 1))
    loss = VADeRLoss(pixels=2000)
    one, other = loss.regions(first, second, boxes, np.random.default_rng(0))
    assert one.shape == (3, 2, 2000, 1)
    torch.testing.assert_close(one, other)
    for number, (top, left, bottom, right) in enumerate([(3, 4, 12, 12), (5, 9, 12, 12), (0, 0, 12, 12)]):
        drawn = {tuple(location) for location in (one[number, :, :, 0].T - 0.5).round().int().tolist()}
        assert drawn == {(row, column) for row in range(top, bottom) for column in range(left, right)}
    again = loss.regions(first, second, boxes, np.random.default_rng(0))
    assert torch.equal(again[0], one)
    assert not torch.equal(loss.regions(first, second, boxes, np.random.default_rng(1))[0], one)


def test_patches_without_overlap_are_rejected():
    boxes = torch.stack([BOXES[0], torch.tensor([[0.0, 0, 12, 12], [12, 0, 24, 12]])])
    patches = torch.zeros(2, 3, 12, 12)
    with pytest.raises(
        ValueError,
        match=r"two patches that overlap, got the boxes \[\[0.0, 0.0, 12.0, 12.0\], \[12.0, 0.0, 24.0, 12.0\]\]",
    ):
        VADeRLoss().regions(patches, patches, boxes, np.random.default_rng(0))


@pytest.mark.parametrize("loss", [DenseCLLoss(grid=3), PixContrastLoss(grid=3)])
def test_a_grid_contains_the_means_of_the_cells(loss):
    first, second = random(2, 3, 12, 6), random(2, 3, 12, 6, seed=1)
    one, other = loss.regions(first, second, BOXES, np.random.default_rng(0))
    for pooled, patch in ((one, first), (other, second)):
        torch.testing.assert_close(pooled[:, :, 1, 2], patch[:, :, 4:8, 4:6].mean(dim=(2, 3)))
    with pytest.raises(ValueError, match=r"expected patches of at least 3×3 for a grid of 3, got 12×2"):
        loss.regions(first[..., :2], second[..., :2], BOXES, np.random.default_rng(0))


def test_cells_at_the_maximum_distance_are_negatives():
    boxes = torch.tensor([[[0.0, 0, 6, 8], [3, 4, 9, 12]]])  # cells with a diagonal of 10 at a distance of 5
    assert not PixContrastLoss(max_distance=0.5).positives(boxes, (1, 1)).any()
    assert PixContrastLoss(max_distance=0.5001).positives(boxes, (1, 1)).all()
