"""Training with released option files, against the released code in float64, in every iteration."""

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml

from mcir.config import load
from mcir.models import AdaptiveHistoryNegatives, HistoryNegatives
from mcir.registry import MODELS
from tests.golden.deterministic import deterministic_state_dict, uniform, vgg_state_dict

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/spn_training/spn_training.json").read_text())["cases"]
LAYERS = {"relu1_2": 0.2, "relu2_2": 0.3, "relu3_3": 0.5}


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(vgg_state_dict("vgg16", 16), file)
    return file


def batch_of(case, iteration):
    seed = case["seed0"] + 2 * iteration
    gt = 0.5 * uniform(seed, (2, 3, 32, 32)).double() + 0.25
    noise = uniform(seed + 1, (2, 3, 16, 16)).double() - 0.5
    lq = torch.nn.functional.avg_pool2d(gt, 2) + 0.1 * noise
    return {"lq": lq, "gt": gt, "lq_path": ["a", "b"], "gt_path": ["a", "b"]}


def model_of(case, vgg_file, folder):
    """Return the model of a released option file, without changes to the file."""
    section = {"type": "BundledPhotos", "split": "train", "gt_size": 32, "batch_size_per_gpu": 2}
    tree = {
        "name": "trajectory",
        "model_type": case["official"].rpartition(" ")[2],
        "scale": 2,
        "num_gpu": 0,
        "datasets": {"train": section},
        "network_g": case["network"],
        "train": case["train"],
    }
    (folder / "released.yml").write_text(yaml.safe_dump(tree))
    options = load(folder / "released.yml", [f"train.contrastive_opt.weights={vgg_file}"])
    model = MODELS.build(options.model_section())
    model.parts.double()
    for name, buffer in model.parts.named_buffers():
        if name.endswith((".mean", ".std")):  # the reference has these constants in float64
            buffer.copy_(exact_constant(name, case).view_as(buffer))
    start_at_golden_weights(model, case["train"]["neg_start"])
    return model


def exact_constant(name, case):
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    values = imagenet[name.rpartition(".")[2]] if name.startswith("criteria.l_neg") else case["network"]["rgb_mean"]
    return torch.tensor(values, dtype=torch.float64)


def start_at_golden_weights(model, start):
    shapes = {key: tuple(value.shape) for key, value in model.network.state_dict().items()}
    model.network.load_state_dict(deterministic_state_dict(shapes))
    model.ema.update(model.network, decay=0.0)
    assert isinstance(model.negative_source, HistoryNegatives | AdaptiveHistoryNegatives)
    for number, member in enumerate(model.negative_source.members):
        prefixed = deterministic_state_dict({f"neg{number}.{key}": shape for key, shape in shapes.items()})
        member.network.load_state_dict({key.partition(".")[2]: value for key, value in prefixed.items()})
        member.update(model.network, decay=start)


def vector(module):
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def norm(module):
    return float(torch.stack([parameter.detach().square().sum() for parameter in module.parameters()]).sum().sqrt())


@pytest.mark.parametrize("name", GOLDEN)
def test_every_iteration_equals_the_released_code(name, vgg_file, tmp_path):
    case = GOLDEN[name]
    model = model_of(case, vgg_file, tmp_path)
    count = len(model.negative_source.members)
    weight = case["train"]["perceptual_opt"]["perceptual_weight"]
    assert len(case["log_f64"]) == case["iterations"]
    for row in case["log_f64"]:
        scalars = model.training_step(batch_of(case, row["iter"]), row["iter"])
        assert float(scalars["lr"]) == pytest.approx(row["lr"], rel=1e-6)
        assert float(scalars["l_pix"]) == pytest.approx(row["losses"]["l_pix"], rel=1e-9)
        released_negative = row["losses"].get("l_neg", row["losses"].get("l_percep"))  # sum over negatives
        assert -float(scalars["l_neg"]) * count == pytest.approx(released_negative, rel=1e-8), weight
        clip = model.grad_clip or float("inf")
        assert min(float(scalars["grad_norm"]), clip) == pytest.approx(row["grad_l2_after_clip"], rel=3e-6)
        assert norm(model.network) == pytest.approx(row["param_l2"], rel=1e-10)
        assert norm(model.ema) == pytest.approx(row["ema_param_l2"], rel=1e-10)
        assert [norm(member) for member in model.negative_source.members] == pytest.approx(
            row["neg_param_l2"], rel=1e-10
        )


def literal_adaptive_run(model, case, iterations):
    """Yield the sum over negatives, the weights and the members after each step of the released adaptive variant.

    Each negative passes the VGG on its own, and a member is updated before the optimizer step.
    """
    network, members = copy.deepcopy(model.network), copy.deepcopy(model.negative_source.members)
    vgg, train, updates = model.criteria["l_neg"].features.network, case["train"], 0
    optimizer = torch.optim.Adam(network.parameters(), **{k: v for k, v in train["optim_g"].items() if k != "type"})
    for iteration in range(1, iterations + 1):
        batch = batch_of(case, iteration)
        output = network(batch["lq"])
        with torch.no_grad():
            negatives = [member.network(batch["lq"]) for member in members]
        distances = [
            train["perceptual_opt"]["perceptual_weight"]
            * sum(w * (vgg(output)[name] - vgg(negative)[name]).abs().mean() for name, w in LAYERS.items())
            for negative in negatives
        ]
        loss = (output - batch["gt"]).abs().mean() - sum(distances) / len(distances)
        if (2 * (output - batch["gt"])).detach().std(dim=[1, 2, 3]).mean() > train["neg_t"]:
            member = members[updates % len(members)].network
            with torch.no_grad():
                for old, new in zip(member.parameters(), network.parameters(), strict=True):
                    old.mul_(0.001).add_(new, alpha=0.999)
            updates += 1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield float(sum(distances).detach()), updates, vector(network), vector(members)


def test_adaptive_negatives_equal_a_literal_step_of_the_released_code(vgg_file, tmp_path):
    case = copy.deepcopy(GOLDEN["multi3"])
    case["official"] = "ImageRestorationModel_FFANet_Neg_Multi_Adaptive_DDP"
    case["train"] |= {"neg_t": 0.53, "scheduler": {"type": "MultiStepLR", "milestones": []}}
    model = model_of(case, vgg_file, tmp_path)
    assert isinstance(model.negative_source, AdaptiveHistoryNegatives)
    seen = []
    for iteration, (distances, updates, weights, members) in enumerate(literal_adaptive_run(model, case, 12), start=1):
        scalars = model.training_step(batch_of(case, iteration), iteration)
        assert -3 * float(scalars["l_neg"]) == pytest.approx(distances, rel=1e-10)
        assert int(model.negative_source.updates.sum()) == updates
        torch.testing.assert_close(vector(model.network), weights, rtol=0, atol=1e-12)
        torch.testing.assert_close(vector(model.negative_source), members, rtol=0, atol=1e-12)
        seen.append(updates)
    assert 3 < seen[-1] < 12  # all members are updated, and the threshold matters
