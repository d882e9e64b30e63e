"""A validation of one image per set before the training, so that mistakes are found at the start, not hours later."""

import torch
from torch import Tensor

from mcir.data import DataError, to_device
from mcir.data.loader import collate
from mcir.engine.evaluation import EvaluationSet, errors_of_image
from mcir.models import Model
from mcir.network_spec import spec_of
from mcir.seeding import unchanged_generators

_LARGE = 192
_PERIOD = 64


def dry_validation(part: EvaluationSet, model: Model) -> None:
    """Restore and measure the smallest image of an evaluation set.

    The network restores at most about 192 × 192 pixels of the image, with the remainders of height and width divided by
    64. The metrics measure the whole image. No random generator changes.

    Raises:
        DataError: the image cannot be read, restored or measured; the message names it.
    """
    dataset = part.dataset
    index = dataset.smallest() if hasattr(dataset, "smallest") else 0
    with unchanged_generators(part.dist.device):
        batch = to_device(collate([dataset[index]]), part.dist.device)
        with errors_of_image(batch["gt_path"][0]):
            _restore_part(model, batch["lq"], batch["gt"])
            part.measure_input(index, batch["lq"], batch["gt"])


def _restore_part(model: Model, lq: Tensor, gt: Tensor) -> None:
    """Restore a part of an image, and check the shape of the output."""
    spec = spec_of(model.network)
    if spec is not None and lq.shape[1] != spec.in_channels:
        raise DataError(f"network_g expects {spec.in_channels} channels, but the degraded image has {lq.shape[1]}.")
    height, width = (length if length < _LARGE else _LARGE - _PERIOD + length % _PERIOD for length in lq.shape[-2:])
    try:
        with torch.no_grad():
            output = model.restore(lq[..., :height, :width])
    except RuntimeError as error:
        message = str(error).partition("\n")[0]
        raise DataError(f"network_g cannot restore an image of the shape {tuple(lq.shape[1:])}: {message}") from error
    scale = gt.shape[-1] / lq.shape[-1]
    expected = (1, gt.shape[1], round(height * scale), round(width * scale))
    if tuple(output.shape) != expected:
        raise DataError(
            f"expected an output of the shape {expected} for an input {tuple(lq[..., :height, :width].shape)}, as the "
            f"ground truth, got {tuple(output.shape)}. Check 'scale', 'color' and the network."
        )
