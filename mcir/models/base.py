"""The base class of all models: a network, its losses and its optimizer, and one training step.

A model knows nothing about files, logs or data sets. Subclasses build the losses and compute them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mcir.communicator import Communicator, SingleProcess, set_communicator
from mcir.models.criteria import Criteria
from mcir.models.ema import EMA
from mcir.models.gradients import GradientRatioWeight, LossGradients
from mcir.models.optim import Schedule, build_optimizer, clip_gradient
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import (
    ARCHS,
    SCHEDULERS,
    ArchSection,
    ArgumentError,
    OptimizerSection,
    SchedulerSection,
)
from mcir.weights import derived_keys, match_state_dict, mismatch_error

Batch: TypeAlias = dict[str, Any]
"""``lq`` and ``gt``: float32 in [0, 1], (B, C, H, W) and (B, C, sH, sW); ``lq_path`` and ``gt_path``: B strings."""

_SMALLEST_SCALE = 2.0**-16
"""Below this loss scale, gradients that are not finite are not a matter of fp16's range. The scale starts at 2¹⁶."""


@dataclass(kw_only=True, eq=False)
class Model(ABC):
    """A network and how it is trained; the fields are the keys of the option file.

    A subclass is also a dataclass. It adds its options as fields, builds its losses in ``__post_init__`` and computes
    them in ``losses``.

    Attributes:
        parts: all modules on the device: the network, its moving average, the losses, the negatives.
        criteria: the losses by name.
        network: the network in training.
        ema: the moving average of the network, if there is one.
        optimizer: the optimizer, after :meth:`configure_optimizer`.
        total_iter: number of iterations of the training, set by the trainer. If it is None, values that depend on the
            length of the training stay constant.
        watch_gradients: whether steps also return norms, ratios and cosines of the gradients of the losses.
    """

    views: ClassVar[int] = 1
    """Number of noisy views of each image in ``lq`` during training; if above 1, ``lq`` is (B, views, C, H, W)."""
    restore_options: ClassVar[tuple[str, ...]] = ()
    """Training options that also change how images are restored."""

    network_g: ArchSection
    """Network."""
    optim_g: OptimizerSection | None = None
    """Optimizer: any of torch.optim by name. Required for training."""
    scheduler: SchedulerSection | None = None
    """Learning rate as a function of the iteration. Default: constant."""
    warmup_iter: int = -1
    """Number of iterations in which the learning rate rises linearly from 0; -1: no warm-up."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the network; 0: no moving average."""
    grad_clip: float | None = None
    """Maximum L2 norm of the gradient; longer gradients are scaled down to it."""
    accumulation_steps: int = 1
    """Number of equal parts in which a batch is processed, for 1/n of the memory. The step is that of the whole
    batch."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the networks in training. Losses are accumulated in float32, and images are restored in float32.
    fp16 scales the loss to keep gradients in range and skips steps whose gradients overflow; feature networks of losses
    then run in bf16."""
    channels_last: bool = False
    """Use the channels-last memory layout, which is faster on most machines."""
    compile: bool = False
    """Compile the network with torch.compile."""
    seed: int = 0
    """Seed for the initial weights."""

    parts: nn.ModuleDict = field(init=False, repr=False)
    criteria: Criteria = field(init=False, repr=False)
    network: nn.Module = field(init=False, repr=False)
    ema: EMA | None = field(init=False, repr=False, default=None)
    optimizer: torch.optim.Optimizer | None = field(init=False, repr=False, default=None)
    total_iter: int | None = field(init=False, repr=False, default=None)
    watch_gradients: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        """Build the network, its moving average and the learning-rate schedule."""
        if not 0 <= self.ema_decay < 1:
            raise ArgumentError("ema_decay", f"expected a number in [0, 1), got {self.ema_decay}.")
        if self.accumulation_steps < 1:
            message = f"expected a positive integer, got {self.accumulation_steps}."
            raise ArgumentError("accumulation_steps", message)
        if self.grad_clip is not None and not self.grad_clip > 0:
            message = f"expected a norm above 0, got {self.grad_clip}. Omit it to disable clipping."
            raise ArgumentError("grad_clip", message)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = ARCHS.build(self.network_g, key="network_g")
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.criteria = Criteria(require_batch_means=self.accumulation_steps > 1)
        self._ratio_weights: dict[str, GradientRatioWeight] = {}
        self.parts = nn.ModuleDict({"network_g": self.network, "criteria": self.criteria})
        if self.ema_decay:
            self.parts["ema"] = self.ema = EMA(self.network)
        constant = {"type": "MultiStepLR", "milestones": []}
        self.schedule: Schedule = SCHEDULERS.build(self.scheduler or constant, key="scheduler")
        self._forward: nn.Module = self.network
        if self.compile:
            self._forward = torch.compile(self.network)  # type: ignore[assignment]
        self._communicator: Communicator = SingleProcess()
        self._synchronized: list[Tensor] = []

    # -- setup ----------------------------------------------------------------------------------------------------

    @property
    def spec(self) -> NetworkSpec:
        """The facts about the network, or the defaults if it does not state any."""
        return spec_of(self.network) or NetworkSpec()

    @property
    def trained_part(self) -> nn.Module:
        """The module that training changes: here the whole network."""
        return self.network

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device) -> "Model":
        """Move every part to a device."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        self.parts.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        return self

    def fix_gradient_ratio(self, name: str, ratio: float) -> None:
        """Keep the ratio of the gradients of a loss and the first loss, both at the output, by weighting the loss.

        Raises:
            ArgumentError: there is no other loss, or the ratio is not a finite number above 0.
        """
        if len(self.criteria) < 2:
            message = f"the gradient ratio of {name} requires another loss, for example 'train.pixel_opt'."
            raise ArgumentError("balance", message)
        self._ratio_weights[name] = GradientRatioWeight(ratio).to(self.device)
        self.parts[f"balance_{name}"] = self._ratio_weights[name]

    def parallelize(self, communicator: Communicator) -> None:
        """Train in several processes: gradients are averaged in the backward pass, and every part can communicate."""
        self._forward = communicator.wrap(self._forward)
        self._communicator = communicator
        set_communicator(self.parts, communicator)
        persistent = self.trained_part.state_dict().keys() - derived_keys(self.trained_part)
        buffers = self.trained_part.named_buffers()
        self._synchronized = [buffer for name, buffer in buffers if name in persistent and buffer.is_floating_point()]

    def configure_optimizer(self) -> None:
        """Build the optimizer, once, when the model is on its device and its weights are loaded.

        The first training step and loading a state do it for a model that has no optimizer yet.

        Raises:
            ValueError: the model cannot train.
        """
        self.require_trainable()
        assert self.optim_g is not None and self.optimizer is None, "the optimizer is built once"
        self.optimizer = build_optimizer(self.optim_g, self.trained_part.parameters())
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def require_trainable(self) -> None:
        """Check, before any data is read, that the model has everything that training needs.

        Raises:
            ValueError: an option that training requires is missing.
        """
        if self.optim_g is None:
            raise ArgumentError(
                "optim_g", f"{type(self).__name__}: training requires 'train.optim_g', for example {{type: Adam}}."
            )

    def example_batch(
        self, images: int, lq_size: tuple[int, int], gt_size: tuple[int, int] | None = None, stored: int = 0
    ) -> Batch:
        """Return a batch of black images as the model needs it for training, on its device.

        Args:
            images: batch size B.
            lq_size: (H, W) of the degraded images.
            gt_size: (H, W) of the ground truths. Default: ``lq_size``.
            stored: number K of stored negatives of each image that come with the data set.
        """
        channels, gt_size = self.spec.in_channels, gt_size or lq_size
        shapes: dict[str, tuple[int, ...]] = {"lq": (channels, *lq_size), "gt": (channels, *gt_size)}
        if self.views > 1:
            shapes = {"lq": (self.views, channels, *lq_size)}
        if stored:
            shapes["negatives"] = (stored, channels, *gt_size)
        names = [f"{number}.png" for number in range(images)]
        black = {key: torch.zeros(images, *shape, device=self.device) for key, shape in shapes.items()}
        return {**black, "lq_path": names, "gt_path": names}

    # -- one step -------------------------------------------------------------------------------------------------

    def before_step(self, batch: Batch, iteration: int) -> None:  # noqa: B027 (most models need no preparation)
        """Prepare the step of the 1-based ``iteration``; here there is nothing to prepare."""

    def inputs(self, batch: Batch) -> Tensor:
        """Return the input of the network in training: here the degraded images."""
        images: Tensor = batch["lq"]
        return images

    def enter_training(self) -> None:
        """Set the network to training mode."""
        self.network.train()

    @abstractmethod
    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the scalar losses by name, including their weights. Training minimises their sum."""

    def after_step(self, output: Tensor, batch: Batch, iteration: int) -> None:
        """Update what follows the network: here its moving average."""
        if self.ema is not None:
            self.ema.update(self.network, self.ema_decay)

    def compute_losses(self, batch: Batch, iteration: int = 1) -> dict[str, Tensor]:
        """Run the network on a batch as in training and return the losses, with their graph, without making a step."""
        self.before_step(batch, iteration)
        self.enter_training()
        return self._losses(self._output(batch), batch)

    def training_step(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Make the step of the 1-based ``iteration`` and return its scalars, detached and still on the device.

        The scalars are the losses by name, ``grad_norm`` (before clipping) and ``lr``; in fp16 also ``loss_scale``, the
        factor of the loss. If ``watch_gradients`` is set or a gradient ratio is fixed, the scalars of
        :class:`~mcir.models.gradients.LossGradients` are added.

        An fp16 step whose gradients overflow is skipped: network and optimizer do not change, ``grad_norm`` is 0, and
        the next step uses half the scale. Everything else proceeds as usual: schedule, averages and negatives, which
        follow a network that did not change. Therefore no step waits for the device, and all processes stay equal.
        Gradients that are still not finite at a scale below 1/65536 are reported in ``grad_norm``.

        Raises:
            ValueError: the model cannot train, or the batch cannot be divided into ``accumulation_steps`` parts.
        """
        if self.optimizer is None:
            self.configure_optimizer()
        assert self.optimizer is not None
        rate = self._set_learning_rate(self.optimizer, iteration)
        self.before_step(batch, iteration)
        self.enter_training()
        self.optimizer.zero_grad(set_to_none=True)
        cuts = len(self.criteria) > 1 and (self.watch_gradients or bool(self._ratio_weights))
        gradients = LossGradients(self.criteria, self._ratio_weights) if cuts else None
        scalars: dict[str, Tensor] = {}
        outputs = []
        for part, is_last in self._split(batch):
            wrapper = self._forward if isinstance(self._forward, DistributedDataParallel) and not is_last else None
            with nullcontext() if wrapper is None else wrapper.no_sync():  # average gradients once
                output, losses = self._backward(part, gradients)
            for name, loss in losses.items():
                scalars[name] = scalars.get(name, 0.0) + loss / self.accumulation_steps
            outputs.append(output)
        scale = self._scaler.scale(torch.ones((), device=self.device))
        more = {} if gradients is None else gradients.finish(scale, self._communicator.mean)
        scalars["grad_norm"] = self._optimizer_step(self.optimizer, scale)
        if self._scaler.is_enabled():
            scalars["loss_scale"] = scale
            more = {name: value.nan_to_num(0.0, 0.0, 0.0) for name, value in more.items()}  # the step may be skipped
        for buffer in self._synchronized:  # running statistics: each process has seen other images
            buffer.copy_(self._communicator.mean(buffer))
        self.after_step(outputs[0] if len(outputs) == 1 else torch.cat(outputs), batch, iteration)
        scalars["lr"] = torch.tensor(rate)
        return scalars | more

    def after_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Pass the mean metrics of the first validation set to the losses that depend on them."""
        for loss in self.criteria.observers:
            loss.observe(metrics)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the networks run in the chosen precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def autocast_losses(self) -> AbstractContextManager[Any]:
        """Return the context in which the losses run: in bf16 also if the networks run in fp16.

        A small loss weight, divided by millions of features, gives gradients below fp16's range.
        """
        return nullcontext() if self.precision == "fp32" else torch.autocast(self.device.type, torch.bfloat16)

    def _output(self, batch: Batch) -> Tensor:
        with self.autocast():
            output: Tensor = self._forward(self.inputs(batch))
        return output

    def _losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        try:
            with self.autocast_losses():
                return self.losses(output, batch)
        finally:
            self.criteria.clear_features()

    def _backward(self, batch: Batch, gradients: LossGradients | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run (a part of) a batch forward and backward; return the output and the losses, detached."""
        output = self._output(batch)
        if gradients is None:
            losses = self._losses(output, batch)
            self._scaled(torch.stack([loss.float() for loss in losses.values()]).sum()).backward()  # type: ignore[no-untyped-call]
        else:
            leaf = output.detach().requires_grad_()
            losses, gradient = gradients.backward(self._losses(leaf, batch), leaf, self._scaled)
            output.backward(gradient)  # type: ignore[no-untyped-call]
        return output.detach(), {name: loss.detach() for name, loss in losses.items()}

    def _scaled(self, loss: Tensor) -> Tensor:
        return self._scaler.scale(loss.float() / self.accumulation_steps)

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, iteration: int) -> float:
        for group, base_rate in zip(optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = self.schedule(base_rate, iteration, self.warmup_iter)
        return float(optimizer.param_groups[0]["lr"])

    def _optimizer_step(self, optimizer: torch.optim.Optimizer, scale: Tensor) -> Tensor:
        """Clip the gradient, make the optimizer's step and return the L2 norm before clipping; 0 for a skipped step."""
        self._scaler.unscale_(optimizer)
        norm = clip_gradient(list(self.trained_part.parameters()), self.grad_clip)
        self._scaler.step(optimizer)
        self._scaler.update()
        if not self._scaler.is_enabled():
            return norm
        return norm.masked_fill(~norm.isfinite() & (scale >= _SMALLEST_SCALE), 0)

    def _split(self, batch: Batch) -> Iterator[tuple[Batch, bool]]:
        """Yield the equal parts of a batch and whether each is the last."""
        parts, size = self.accumulation_steps, len(batch["lq"])
        if size % parts:
            raise ValueError(f"The batch size must be a multiple of accumulation_steps = {parts}, got {size}.")
        step = size // parts
        for start in range(0, size, step):
            yield {key: value[start : start + step] for key, value in batch.items()}, start + step == size

    # -- restoring ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1] to (B, C, sH, sW) with the moving average, if there is one."""
        network = self.network if self.ema is None else self.ema
        network.eval()
        output: Tensor = network(lq)
        return output

    # -- state ----------------------------------------------------------------------------------------------------

    def stateful(self) -> dict[str, Any]:
        """Return the parts whose state a resumed run needs, by name; a subclass adds its own."""
        if self.optim_g is not None and self.optimizer is None:
            self.configure_optimizer()
        parts: dict[str, Any] = {"network_g": self.network}
        if self.ema is not None:
            parts["ema"] = self.ema
        if self.optimizer is not None:
            parts["optimizer"] = self.optimizer
            if self._scaler.is_enabled():
                parts["loss_scale"] = self._scaler
        parts |= {name: loss for name, loss in self.criteria.items() if loss.state_dict()}
        return parts | {f"balance_{name}": weight for name, weight in self._ratio_weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as references to the live tensors."""
        return {name: part.state_dict() for name, part in self.stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state; it may be of another ``precision``, in which case the loss scale starts anew.

        Raises:
            ValueError: the state belongs to a model with other parts, or its tensors do not fit.
        """
        own, state = self.stateful(), dict(state)
        if not ("loss_scale" in state and "loss_scale" in own):
            own.pop("loss_scale", None)
            state.pop("loss_scale", None)
        if state.keys() != own.keys():
            raise ValueError(f"The state has the parts {sorted(state)}, but {type(self).__name__} has {sorted(own)}.")
        for name, part in own.items():
            try:
                part.load_state_dict(state[name])
            except (RuntimeError, KeyError) as error:
                raise ValueError(f"The state of '{name}' does not fit: {error}") from error

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return the network's weights as ``params`` and those of its moving average, if any, as ``params_ema``."""
        weights = {"params": self.network.state_dict()}
        if self.ema is not None:
            weights["params_ema"] = self.ema.network.state_dict()
        return weights

    def load_weights(self, weights: Mapping[str, Tensor], strict: bool = True) -> list[str]:
        """Load pretrained weights into the network and its moving average.

        Returns the keys that only one side has or whose shapes differ. With ``strict`` there are none.

        Raises:
            WeightsError: ``strict`` is set, and keys or shapes differ.
        """
        fits, mismatches = match_state_dict(self.network, weights)
        if strict and mismatches:
            raise mismatch_error(self.network, weights, mismatches)
        self.network.load_state_dict(fits, strict=False)
        if self.ema is not None:
            self.ema.update(self.network, decay=0.0)
        return mismatches
