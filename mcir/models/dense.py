"""Dense contrastive pre-training with VADeR, DenseCL or PixContrast: the baselines of residual contrastive learning.

These methods train a backbone whose features are compared position by position. As in arXiv:2106.10070 the backbone is
the restoration network, and its features are its output image.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mcir.communicator import Communicator, DistributedModule
from mcir.errors import ArgumentError
from mcir.losses.dense import DenseLoss, Projected
from mcir.models.batch import Batch
from mcir.models.momentum import MomentumEncoder, Queue, momentum_at
from mcir.models.negatives.base import build_seeded, child_seed, generator
from mcir.models.self_supervised import SelfSupervisedModel
from mcir.network_call import call_network
from mcir.registry import LOSSES, MODELS, LossSection


class Projector(nn.Module):
    """Projection head: 1×1 convolution, optional batch norm, ReLU, 1×1 convolution.

    Args:
        channels: input channels.
        hidden: hidden channels.
        dim: output channels.
        norm: whether to use a batch norm.
        images: whether to also project the mean of each image, with a second head.
    """

    def __init__(self, channels: int, hidden: int, dim: int, norm: bool = False, images: bool = False) -> None:
        super().__init__()
        self.cells = _head(channels, hidden, dim, norm)
        self.image = _head(channels, hidden, dim, norm) if images else None

    def forward(self, features: Tensor) -> Projected:
        """Project features (B, C, h, w)."""
        image = None if self.image is None else self.image(features.mean(dim=(2, 3), keepdim=True))
        return Projected(features, self.cells(features), image)


def _head(channels: int, hidden: int, dim: int, norm: bool) -> nn.Sequential:
    norms = [nn.BatchNorm2d(hidden)] if norm else []
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), *norms, nn.ReLU(), nn.Conv2d(hidden, dim, 1))


class DenseContrast(DistributedModule):
    """A dense contrastive loss with its projector, its key encoder and its queues.

    Args:
        loss: dense contrastive loss, which also has the options of the other parts.
        network: encoder of the queries; the key encoder starts as its copy.
        channels: output channels of the network.
        seed: seed for the initial projector and queues, and for random sampling in each step.
    """

    def __init__(self, loss: DenseLoss, network: nn.Module, channels: int, seed: int) -> None:
        super().__init__()
        self.loss = loss
        self.seed = seed
        arguments = (channels, loss.hidden, loss.dim, loss.projector_norm, loss.projects_images)
        self.projector = build_seeded(child_seed(seed, 0), lambda: Projector(*arguments), network)
        self.key_network = MomentumEncoder(network)
        self.key_projector = MomentumEncoder(self.projector)
        seeds = {name: child_seed(seed, number) for number, name in enumerate(loss.queues, start=1)}
        self._queues = {name: Queue(loss.queue_size, loss.dim, seed) for name, seed in seeds.items()}
        self.queues = nn.ModuleDict(self._queues)
        self._rng: np.random.Generator = generator(seed, 0)
        self._new_keys: list[dict[str, Tensor]] = []

    def update_key_encoder(self, network: nn.Module, decay: float) -> None:
        """Move the key encoder towards the network and the projector."""
        self.key_network.update(network, decay)
        self.key_projector.update(self.projector, decay)

    def start_step(self, network: nn.Module, iteration: int, total: int | None) -> None:
        """Update the key encoder and seed the random generator for the 1-based ``iteration`` of ``total``."""
        momentum_iter = total if self.loss.momentum_iter is None else self.loss.momentum_iter
        self.update_key_encoder(network, momentum_at(self.loss.momentum, iteration - 1, momentum_iter or 0))
        self._rng = generator(self.seed, iteration, self.communicator.rank)
        self._new_keys = []

    def forward(self, output: Tensor, keys: Tensor, boxes: Tensor, project: nn.Module) -> Tensor:
        """Return the loss of (a part of) a batch as a scalar.

        Args:
            output: output of the network for the queries, (B, C, H, W).
            keys: output of the key encoder for the paired patches, (B, C, H, W).
            boxes: positions of query and key patches, (B, 2, 4).
            project: the projector, or its wrapper that averages gradients over processes.
        """
        query, key = self.loss.regions(output, keys, boxes, self._rng)
        projected: Projected = self.key_projector(key)
        self._new_keys.append(self.loss.new_keys(projected))
        queues = {name: queue.keys for name, queue in self._queues.items()}
        value: Tensor = self.loss(project(query), projected, boxes, queues)
        return value

    def finish_step(self) -> None:
        """Add the keys of all parts of the batch to the queues."""
        for name, queue in self._queues.items():
            queue.enqueue(torch.cat([keys[name] for keys in self._new_keys]))
        self._new_keys = []


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class DenseContrastiveModel(SelfSupervisedModel):
    """A network that is pre-trained with a dense contrastive loss on pairs of overlapping noisy patches.

    The first patch of a pair is the query and the second is the key. If the loss is symmetric, each patch is both. The
    projector is trained with the network. Weight files contain only the network.
    """

    contrastive_opt: LossSection | None = None
    """Dense contrastive loss: VADeRLoss, DenseCLLoss or PixContrastLoss. Its options also define the projector, the
    momentum and the queues."""
    consistency_opt: LossSection | None = None
    """Additional loss between output and noisy input, as in the '+' variants of the methods."""

    def __post_init__(self) -> None:
        """Build the losses, the projector, the key encoder and the queues.

        Raises:
            ArgumentError: ``contrastive_opt`` is not a dense contrastive loss.
        """
        super().__post_init__()
        if self.contrastive_opt:
            loss = LOSSES.build(self.contrastive_opt, key="contrastive_opt")
            if not isinstance(loss, DenseLoss):
                known = [name for name in LOSSES.names() if issubclass(LOSSES.get(name), DenseLoss)]
                message = f"expected {', '.join(known)}, got {self.contrastive_opt['type']}."
                raise ArgumentError("contrastive_opt", message)
            contrast = DenseContrast(loss, self.network, self.spec.in_channels, self.seed)
            self.criteria.add("l_contrast", contrast, option="contrastive_opt")
            self._project: nn.Module = contrast.projector
        if self.consistency_opt:
            self.criteria.add("l_consist", self.consistency_opt, option="consistency_opt")

    @property
    def _contrast(self) -> DenseContrast:
        contrast = self.criteria["l_contrast"]
        assert isinstance(contrast, DenseContrast)
        return contrast

    def parallelize(self, communicator: Communicator) -> None:
        """Prepare training in several processes, in which the gradients of the projector are averaged, too."""
        super().parallelize(communicator)
        self._project = communicator.wrap(self._contrast.projector)

    def require_trainable(self) -> None:
        """Check that there is an optimizer and a contrastive loss."""
        super().require_trainable()
        if "l_contrast" not in self.criteria:
            raise ArgumentError(
                "contrastive_opt",
                "DenseContrastiveModel: training requires 'train.contrastive_opt', for example {type: DenseCLLoss}.",
            )

    @property
    def trained_part(self) -> nn.Module:
        """The network and the projector."""
        if "l_contrast" not in self.criteria:
            return self.network
        return nn.ModuleList([self.network, self._contrast.projector])

    def example_batch(
        self, images: int, lq_size: tuple[int, int], gt_size: tuple[int, int] | None = None, stored: int = 0
    ) -> Batch:
        """Return a batch of black images; both patches of a pair have the same position."""
        boxes = torch.tensor([0.0, 0.0, *lq_size], device="cpu").expand(images, 2, 4)  # the loss reads the values
        return {**super().example_batch(images, lq_size, gt_size, stored), "boxes": boxes}

    def before_step(self, batch: Batch, iteration: int) -> None:
        """Update the key encoder.

        Raises:
            ValueError: the batch has no positions of the patches.
        """
        if "boxes" not in batch:
            raise ValueError(
                "DenseContrastiveModel: the batch has no positions of the patches ('boxes'). Use NoisyPatchPairs as "
                "'datasets.train'."
            )
        self._contrast.start_step(self.network, iteration, self.total_iter)

    def inputs(self, batch: Batch) -> Tensor:
        """Return the queries, (B, C, P, P), or (2B, C, P, P) if the loss is symmetric."""
        return self._split_pairs(self.pairs(batch))[0]

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the contrastive loss and, if there is one, the consistency loss."""
        queries, paired = self._split_pairs(self.pairs(batch))
        with self.autocast():
            keys = call_network(self._contrast.key_network, paired)
        boxes = torch.stack(self._split_pairs(batch["boxes"]), dim=1)
        losses = {"l_contrast": self.criteria.evaluate("l_contrast", output, keys, boxes, self._project)}
        if "l_consist" in self.criteria:
            losses["l_consist"] = self.criteria.evaluate("l_consist", output, queries)
        return losses

    def _split_pairs(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """Split pairs (B, 2, …) into queries and keys."""
        first, second = both.unbind(dim=1)
        if self._contrast.loss.symmetric:
            return torch.cat([first, second]), torch.cat([second, first])
        return first, second

    def after_step(self, output: Tensor, batch: Batch, iteration: int) -> None:
        """Update the moving average and the queues."""
        super().after_step(output, batch, iteration)
        self._contrast.finish_step()

    def load_weights(self, weights: Mapping[str, Tensor], strict: bool = True) -> list[str]:
        """Load pretrained weights, also into the key encoder."""
        mismatches = super().load_weights(weights, strict)
        if "l_contrast" in self.criteria:
            self._contrast.update_key_encoder(self.network, decay=0.0)
        return mismatches
