"""The public API as its users write it: build what is wanted, in loops of their own."""

import inspect
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import mcir

EDSR = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1.0}
LAYERS = {"relu1_1": 1.0}


@pytest.fixture
def batch():
    gt = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"lq": torch.nn.functional.avg_pool2d(gt, 2), "gt": gt}


def test_a_training_loop_of_ones_own_with_negatives_from_history(batch):
    network = mcir.build_network(EDSR)
    negatives = mcir.HistoryNegatives(network, weight=0.5, steps=[1, 2])
    contrast = mcir.SPNLoss(LAYERS, weights="random", loss_weight=0.01)
    pixel = mcir.build_loss({"type": "L1Loss"})
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    fidelity = []
    for iteration in range(1, 21):
        output = network(batch["lq"])
        l_pix = pixel(output, batch["gt"])
        fidelity.append(l_pix.item())
        loss = l_pix + contrast(output, negatives(batch["lq"], batch["gt"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        negatives.update(network, iteration, output, batch["gt"])
    assert fidelity[-1] < 0.9 * fidelity[0]
    assert negatives.updates.tolist() == [20, 10]
    assert not torch.equal(negatives(batch["lq"], batch["gt"])[0], network(batch["lq"]))


def test_a_model_makes_the_steps_itself(batch):
    section = {"network_g": EDSR, "pixel_opt": {"type": "L1Loss"}, "optim_g": {"type": "Adam", "lr": 1e-2}}
    model = mcir.build_model({"type": "RestorationModel", **section})
    assert isinstance(model, mcir.Model)
    psnr = mcir.build_metric({"type": "PSNR", "crop_border": 2})
    before = psnr(model.restore(batch["lq"]), batch["gt"])
    losses = [float(model.training_step(batch, iteration)["l_pix"]) for iteration in range(1, 21)]
    after = psnr(model.restore(batch["lq"]), batch["gt"])
    assert losses[-1] < 0.9 * losses[0]
    assert after.shape == (2,)
    assert (after > before).all()


def test_a_data_set_feeds_a_data_loader_of_ones_own(tmp_path):
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    section = {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path), "degradation": {"type": "BicubicDown"}}
    dataset = mcir.build_dataset({**section, "scale": 2, "gt_size": 16})
    (batch,) = torch.utils.data.DataLoader(dataset, batch_size=3)
    assert batch["gt"].shape == (3, 3, 16, 16)
    assert batch["lq"].shape == (3, 3, 8, 8)
    assert [path.rpartition("/")[2] for path in batch["gt_path"]] == ["0.png", "1.png", "2.png"]


def test_an_option_file_is_loaded_and_checked(tmp_path):
    file = tmp_path / "x.yml"
    data = f"{{type: PairedImageDataset, dataroot_gt: {tmp_path}, degradation: {{type: BicubicDown}}}}"
    lines = ["name: x", "model_type: RestorationModel", "scale: 2", "network_g: {type: EDSR, upscale: 2}"]
    file.write_text("\n".join([*lines, f"datasets: {{val: {data}}}"]))
    options = mcir.load(file)
    assert isinstance(options, mcir.Options)
    assert mcir.build_network(options.network_g).scale == 2
    with pytest.raises(mcir.OptionError, match="Did you mean 'num_feat'"):
        mcir.load(file, ["network_g.num_feats=3"])


@pytest.mark.parametrize("build", ["network", "loss", "dataset", "metric", "model"])
def test_a_name_that_is_unknown_is_refused_with_what_there_is(build):
    with pytest.raises(mcir.RegistryError, match=r"There is no .* 'Nothing'.*Known are .*mcir \("):
        getattr(mcir, f"build_{build}")({"type": "Nothing"})


def test_every_public_name_exists_and_says_what_it_is():
    for name in mcir.__all__:
        assert inspect.getdoc(getattr(mcir, name)), name
    with pytest.raises(AttributeError, match="no attribute 'SPNLos'"):
        _ = mcir.SPNLos


def test_importing_mcir_does_not_import_torch():
    code = "import sys, mcir; assert 'torch' not in sys.modules; mcir.SPNLoss; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
