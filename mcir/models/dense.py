"""Dense contrastive pre-training, by VADeR, DenseCL or PixContrast: the baselines of residual contrastive learning.

They train a backbone whose features are compared place by place. As in arXiv:2106.10070 the backbone is the restoration
network, and its features are the image that it makes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcir.communicator import Communicator, DistributedModule
from mcir.losses.dense import DenseLoss, Projected
from mcir.models.base import Batch
from mcir.models.momentum import MomentumEncoder, Queue, momentum_at
from mcir.models.negatives.base import build_seeded, generator, stream
from mcir.models.self_supervised import SelfSupervisedModel
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import LOSSES, MODELS, LossSection


class Projector(nn.Module):
    """Where features are compared: 1×1 convolution, batch normalisation where asked for, ReLU, 1×1 convolution.

    Args:
        channels: of the features.
        hidden: channels within.
        dim: channels out.
        norm: normalise over the batch.
        images: project the mean of each image, too, by weights of its own.
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
    normalise = [nn.BatchNorm2d(hidden)] if norm else []
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), *normalise, nn.ReLU(), nn.Conv2d(hidden, dim, 1))


class DenseContrast(DistributedModule):
    """A dense contrastive loss with all that it needs beside the network: its projector, the key encoder and queues.

    Args:
        loss: says what it needs.
        network: the encoder of the queries; the key encoder begins as its copy.
        channels: that the network puts out.
        seed: of the projector, the queues and what is drawn.
    """

    def __init__(self, loss: DenseLoss, network: nn.Module, channels: int, seed: int) -> None:
        super().__init__()
        self.loss = loss
        self.seed = seed
        arguments = (channels, loss.hidden, loss.dim, loss.projector_norm, loss.projects_images)
        self.projector = build_seeded(stream(seed, 0), lambda: Projector(*arguments), network)
        self.key_network = MomentumEncoder(network)
        self.key_projector = MomentumEncoder(self.projector)
        self.queues = nn.ModuleDict(
            {name: Queue(loss.queue_size, loss.dim, stream(seed, n)) for n, name in enumerate(loss.queues, start=1)}
        )
        self._draw: np.random.Generator = generator(seed, 0)
        self._keys: list[dict[str, Tensor]] = []

    def follow(self, network: nn.Module, keep: float) -> None:
        """Move the key encoder towards ``network`` and the projector, keeping the share ``keep`` of its past."""
        self.key_network.update(network, keep)
        self.key_projector.update(self.projector, keep)

    def begin(self, network: nn.Module, iteration: int, total: int | None) -> None:
        """Begin the step of the 1-based ``iteration`` of ``total``: the key encoder moves before it makes keys."""
        rises_in = total if self.loss.momentum_iter is None else self.loss.momentum_iter
        self.follow(network, momentum_at(self.loss.momentum, iteration - 1, rises_in or 0))
        self._draw = generator(self.seed, iteration, self.communicator.rank)
        self._keys = []

    def forward(self, output: Tensor, keys: Tensor, boxes: Tensor, project: nn.Module) -> Tensor:
        """Return the loss of a batch, or of a part of it, as a scalar.

        Args:
            output: of the network for the queries, (B, C, H, W).
            keys: of the key encoder for the other patches, alike.
            boxes: of both (B, 2, 4), as batches have them.
            project: the projector, as its gradients are to be averaged.
        """
        query, key = self.loss.regions(output, keys, boxes, self._draw)
        known: Projected = self.key_projector(key)
        self._keys.append(self.loss.enqueued(known))
        value: Tensor = self.loss(project(query), known, boxes, {name: queue.keys for name, queue in self._queues()})
        return value

    def end(self) -> None:
        """End the step: the queues take in the keys of all its parts."""
        for name, queue in self._queues():
            queue.enqueue(torch.cat([keys[name] for keys in self._keys]))
        self._keys = []

    def _queues(self) -> list[tuple[str, Queue]]:
        return [(name, queue) for name, queue in self.queues.items() if isinstance(queue, Queue)]


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class DenseContrastiveModel(SelfSupervisedModel):
    """A network that is pre-trained on pairs of overlapping noisy patches, by a dense contrastive loss.

    The first patch of a pair is the query and the second the key, or each is both where the loss is symmetric. What the
    loss needs beside the network is trained with it, and thrown away afterwards: weight files hold the network alone.
    """

    contrastive_opt: LossSection | None = None
    """Dense contrastive loss: VADeRLoss, DenseCLLoss or PixContrastLoss; its options decide projector, momentum and
    queues, too."""
    consistency_opt: LossSection | None = None
    """Second loss, between the output and the noisy patch that it was made of: the '+' variants."""

    def __post_init__(self) -> None:
        """Build the losses and what they need.

        Raises:
            ValueError: ``contrastive_opt`` is no dense contrastive loss.
        """
        super().__post_init__()
        if self.contrastive_opt:
            loss = LOSSES.build(self.contrastive_opt, key="contrastive_opt")
            if not isinstance(loss, DenseLoss):
                known = [name for name in LOSSES.names() if issubclass(LOSSES.get(name), DenseLoss)]
                raise ValueError(
                    f"contrastive_opt of DenseContrastiveModel is one of {', '.join(known)}, "
                    f"not {self.contrastive_opt['type']}."
                )
            channels = (spec_of(self.network) or NetworkSpec()).in_channels
            self.add_loss("l_contrast", DenseContrast(loss, self.network, channels, self.seed))
            self._project: nn.Module = self._contrast.projector
            self.to(self.device)  # the optimizer moves the projector, too
        if self.consistency_opt:
            self.add_loss("l_consist", self.consistency_opt)

    @property
    def _contrast(self) -> DenseContrast:
        contrast = self.parts["l_contrast"]
        assert isinstance(contrast, DenseContrast)
        return contrast

    def parallelize(self, ranks: Communicator) -> None:
        """Train over several processes; the projector's gradients are averaged, too."""
        super().parallelize(ranks)
        self._project = ranks.wrap(self._contrast.projector)

    def require_trainable(self) -> None:
        """Check that there is a contrastive loss, too."""
        super().require_trainable()
        if "l_contrast" not in self.parts:
            raise ValueError("DenseContrastiveModel needs 'train.contrastive_opt' to train, like {type: DenseCLLoss}.")

    @property
    def trained_part(self) -> nn.Module:
        """The network and the projector."""
        if "l_contrast" not in self.parts:
            return self.network
        return nn.ModuleList([self.network, self._contrast.projector])

    def example(
        self, images: int, lq_size: tuple[int, int], gt_size: tuple[int, int] | None = None, stored: int = 0
    ) -> Batch:
        """Return a batch of black images whose patches lie in the same place."""
        boxes = torch.tensor([0.0, 0.0, *lq_size], device="cpu").expand(images, 2, 4)
        return {**super().example(images, lq_size, gt_size, stored), "boxes": boxes}

    def training_step(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Move the key encoder, then make the step; see :meth:`~mcir.models.base.Model.training_step`."""
        self.require_trainable()
        if "boxes" not in batch:
            raise ValueError(
                "DenseContrastiveModel needs to know where the two patches of a pair lie, 'boxes': take "
                "NoisyPatchPairs as 'datasets.train'."
            )
        self._contrast.begin(self.network, iteration, self.total_iter)
        return super().training_step(batch, iteration)

    def inputs(self, batch: Batch) -> Tensor:
        """Return the patches that are queries, (B, C, P, P), or (2B, C, P, P) where the loss is symmetric."""
        return self._ordered(self.pairs(batch))[0]

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the contrastive loss and, where asked for, the consistency of the output with its input."""
        queries, others = self._ordered(self.pairs(batch))
        with self.autocast():
            keys = self._contrast.key_network(others)
        boxes = torch.stack(self._ordered(batch["boxes"]), dim=1)
        losses = {"l_contrast": self.parts["l_contrast"](output, keys, boxes, self._project)}
        if "l_consist" in self.parts:
            losses["l_consist"] = self.parts["l_consist"](output, queries)
        return losses

    def _ordered(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """Return what there is of queries, and of their keys, from both patches of pairs (B, 2, …)."""
        first, second = both.unbind(dim=1)
        if self._contrast.loss.symmetric:
            return torch.cat([first, second]), torch.cat([second, first])
        return first, second

    def after_step(self, output: Tensor, batch: Batch, iteration: int) -> None:
        """Let the queues take in the keys, too."""
        super().after_step(output, batch, iteration)
        self._contrast.end()

    def load_weights(self, weights: Any, strict: bool = True) -> list[str]:
        """Start from trained weights, the key encoder too."""
        mismatches = super().load_weights(weights, strict)
        if "l_contrast" in self.parts:
            self._contrast.follow(self.network, keep=0.0)
        return mismatches
