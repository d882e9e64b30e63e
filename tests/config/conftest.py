"""A complete option file, which each test changes in one place."""

import pytest

GOOD = """\
name: quick
model_type: ContrastiveModel
scale: 2
datasets:
  train:
    type: PairedImageDataset
    dataroot_gt: gt
    dataroot_lq: lq
    gt_size: 96
    batch_size_per_gpu: 4
network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, upscale: 2}
train:
  total_iter: 5e3
  optim_g: {type: Adam, lr: 1e-4, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [2000, 3000]}
  pixel_opt: {type: L1Loss}
  contrastive_opt: {type: SPNLoss}
  negatives: {type: HistoryNegatives}
val: {metrics: {psnr: {type: PSNR, crop_border: 2}}}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file to the temporary current folder and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="x.yml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


@pytest.fixture
def good():
    return GOOD


@pytest.fixture
def problems(write):
    """Load an invalid option file and return the lines of the message."""
    from mcir.config import OptionError, load

    def problems(text, **arguments):
        with pytest.raises(OptionError) as caught:
            load(write(text), **arguments)
        return str(caught.value).splitlines()

    return problems
