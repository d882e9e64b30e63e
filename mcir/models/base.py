"""Base class of all models: a network, its losses, its optimizer, and the training step.

Models do not access files, loggers or data sets. Subclasses build and compute the losses.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from mcir.communicator import Communicator, SingleProcess, set_communicator
from mcir.errors import ArgumentError, KeyPath, locate_errors
from mcir.models.batch import Batch, split_batch
from mcir.models.criteria import Criteria
from mcir.models.gradients import GradientRatioWeight, LossGradients, describe_ratios
from mcir.models.network import NetworkModel
from mcir.models.optim import build_optimizer, optimizer_step
from mcir.models.schedules import Schedule
from mcir.models.state import OptimizerState, load_parts, not_finite
from mcir.network_call import call_network
from mcir.network_spec import measured_spec
from mcir.registry import SCHEDULERS
from mcir.weights import derived_keys


@dataclass(kw_only=True, eq=False)
class Model(NetworkModel, ABC):
    """A network with its losses, its optimizer and its training options.

    A subclass is also a dataclass. It adds its options as fields, which are keys of the option file, builds its losses
    in ``__post_init__`` and computes them in ``losses``.

    Attributes:
        parts: all modules that ``to`` moves: the network, its moving average, the losses and the negatives.
        criteria: the losses by name.
        network: the network to train.
        ema: the moving average of the network, if there is one.
        optimizer: the optimizer, after :meth:`configure_optimizer`.
        total_iter: total number of training iterations, set by the trainer. If it is None, values that depend on it
            stay constant.
        is_between_steps: whether the state of the model is that after a complete step. During the forward and backward
            pass it is, too, unless the network has running statistics.
        watch_gradients: whether a step also returns the gradient norms, ratios and cosines of the losses.
    """

    views: ClassVar[int] = 1
    """Number of noisy views of each image in ``lq`` during training; if above 1, ``lq`` is (B, views, C, H, W)."""

    criteria: Criteria = field(init=False, repr=False)
    optimizer: torch.optim.Optimizer | None = field(init=False, repr=False, default=None)
    total_iter: int | None = field(init=False, repr=False, default=None)
    is_between_steps: bool = field(init=False, repr=False, default=True)
    watch_gradients: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        """Build the network, its moving average and the learning-rate schedule."""
        super().__post_init__()
        self.criteria = Criteria(require_batch_means=self.accumulation_steps > 1)
        self._ratio_weights: dict[str, GradientRatioWeight] = {}
        self.parts["criteria"] = self.criteria
        constant = {"type": "MultiStepLR", "milestones": []}
        self.schedule: Schedule = SCHEDULERS.build(self.scheduler or constant, key="scheduler")
        self._forward: nn.Module = self.network
        if self.compile:
            self._forward = torch.compile(self.network)  # type: ignore[assignment]
        self._communicator: Communicator = SingleProcess()
        self._synchronized: list[Tensor] = []

    # -- setup ----------------------------------------------------------------------------------------------------

    @property
    def trained_part(self) -> nn.Module:
        """The module to train, by default the whole network."""
        return self.network

    def to(self, device: torch.device) -> "Model":
        """Move every part to a device."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        self.parts.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        return self

    def fix_gradient_ratio(self, name: str, ratio: float) -> None:
        """Adapt the weight of a loss to keep the ratio of its gradient norm at the output to that of the first loss.

        Raises:
            ArgumentError: there is only one loss, or the ratio is not a finite number above 0.
        """
        if len(self.criteria) < 2:
            message = f"the gradient ratio of {name} requires another loss, for example 'train.pixel_opt'."
            raise ArgumentError("balance", message)
        self._ratio_weights[name] = GradientRatioWeight(ratio).to(self.device)
        self.parts[f"balance_{name}"] = self._ratio_weights[name]

    def parallelize(self, communicator: Communicator) -> None:
        """Average gradients over several processes, and pass the communicator to all parts."""
        self._forward = communicator.wrap(self._forward)
        self._communicator = communicator
        set_communicator(self.parts, communicator)
        persistent = self.trained_part.state_dict().keys() - derived_keys(self.trained_part)
        buffers = self.trained_part.named_buffers()
        self._synchronized = [buffer for name, buffer in buffers if name in persistent and buffer.is_floating_point()]

    def configure_optimizer(self) -> None:
        """Build the optimizer. Call this once, after the model is moved to its device and its weights are loaded.

        If it was not called, the first training step, or saving or loading a state, calls it.

        Raises:
            ValueError: an option that training requires is missing.
        """
        self.require_trainable()
        assert self.optim_g is not None and self.optimizer is None, "the optimizer is built once"
        self.optimizer = build_optimizer(self.optim_g, self.trained_part.parameters())
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def require_trainable(self) -> None:
        """Check that all options are set that training requires. The trainer calls this before it reads any data.

        Raises:
            ValueError: an option that training requires is missing.
        """
        if self.optim_g is None:
            message = f"{type(self).__name__}: training requires 'train.optim_g', for example {{type: Adam}}."
            raise ArgumentError("optim_g", message)

    def example_batch(
        self, images: int, lq_size: tuple[int, int], gt_size: tuple[int, int] | None = None, stored: int = 0
    ) -> Batch:
        """Return a training batch of black images on the device of the model.

        Args:
            images: batch size B.
            lq_size: (H, W) of the degraded images.
            gt_size: (H, W) of the ground truths. Default: ``lq_size``.
            stored: number K of stored negatives per image.
        """
        with locate_errors(key="network_g"):
            channels = measured_spec(self.network).in_channels
        gt_size = gt_size or lq_size
        shapes: dict[str, tuple[int, ...]] = {"lq": (self.views, channels, *lq_size)}
        if self.views == 1:
            shapes = {"lq": (channels, *lq_size), "gt": (channels, *gt_size)}
        if stored:
            shapes["negatives"] = (stored, channels, *gt_size)
        names = [f"{number}.png" for number in range(images)]
        black = {key: torch.zeros(images, *shape, device=self.device) for key, shape in shapes.items()}
        return {**black, "lq_path": names, "gt_path": names}

    # -- one step -------------------------------------------------------------------------------------------------

    def before_step(self, batch: Batch, iteration: int) -> None:
        """Prepare the step of the 1-based ``iteration``. By default, nothing is done."""

    def inputs(self, batch: Batch) -> Tensor:
        """Return the input of the network for a training batch, by default the degraded images."""
        images: Tensor = batch["lq"]
        return images

    def enter_training(self) -> None:
        """Set the network to training mode."""
        self.network.train()

    @abstractmethod
    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the scalar losses by name, including their weights. Training minimizes their sum."""

    def after_backward(self, output: Tensor, batch: Batch) -> None:
        """Update the parts that depend on the weights that computed ``output``. By default, nothing is done."""

    def after_step(self, output: Tensor, batch: Batch, iteration: int) -> None:
        """Update the parts that depend on the new weights, by default the moving average."""
        if self.ema is not None:
            self.ema.update(self.network, self.ema_decay)

    def compute_losses(self, batch: Batch, iteration: int = 1) -> dict[str, Tensor]:
        """Run the network in training mode and return the losses with their graph, without an optimizer step."""
        self.before_step(batch, iteration)
        self.enter_training()
        return self._losses(self._output(batch), batch)

    def training_step(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Train on a batch in the 1-based ``iteration`` and return the scalars to log, detached, without a device sync.

        The scalars are the losses by name, ``grad_norm`` (before clipping) and ``lr``; in fp16 also ``loss_scale``. If
        ``watch_gradients`` is set or a gradient ratio is fixed, the scalars of
        :class:`~mcir.models.gradients.LossGradients` are added.

        If the gradients of an fp16 step overflow, the network and the optimizer do not change, ``grad_norm`` is 0, and
        the next step uses half the loss scale. The schedule, the moving average and the negatives are updated in any
        case, so that no device sync is needed. At loss scales below 1/65536, ``grad_norm`` reports gradients that are
        not finite.

        Raises:
            ValueError: an option that training requires is missing, the batch size is not a multiple of
                ``accumulation_steps``, or a parameter is not used and DistributedDataParallel does not expect this.
        """
        if self.optimizer is None:
            self.configure_optimizer()
        assert self.optimizer is not None
        for group, base_rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = self.schedule(base_rate, iteration, self.warmup_iter)
        self.is_between_steps = not self._synchronized
        self.before_step(batch, iteration)
        self.enter_training()
        self.optimizer.zero_grad(set_to_none=True)
        per_loss = len(self.criteria) > 1 and (self.watch_gradients or bool(self._ratio_weights))
        gradients = LossGradients(self.criteria, self._ratio_weights) if per_loss else None
        scalars: dict[str, Tensor] = {}
        outputs = []
        for part, is_last in split_batch(batch, self.accumulation_steps):
            # DDP averages the accumulated gradients once, in the last part
            with self._forward.no_sync() if isinstance(self._forward, DDP) and not is_last else nullcontext():
                output, losses = self._backward(part, gradients)
            for name, loss in losses.items():
                scalars[name] = scalars.get(name, 0.0) + loss / self.accumulation_steps
            outputs.append(output)
        self.is_between_steps = False
        scale = self._scaler.scale(torch.ones((), device=self.device))
        gradient_scalars = {} if gradients is None else gradients.finish(scale, self._communicator.mean)
        for buffer in self._synchronized:  # running statistics, which differ because the processes get other images
            buffer.copy_(self._communicator.mean(buffer))
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        self.after_backward(output, batch)
        parameters = list(self.trained_part.parameters())
        if isinstance(self._forward, DDP) and not self._forward.find_unused_parameters:
            self._require_gradients(parameters)
        scalars["grad_norm"] = optimizer_step(self.optimizer, parameters, self.grad_clip, self._scaler)
        if self._scaler.is_enabled():
            scalars["loss_scale"] = scale
            gradient_scalars = {name: value.nan_to_num(0.0, 0.0, 0.0) for name, value in gradient_scalars.items()}
        self.after_step(output, batch, iteration)
        self.is_between_steps = True
        scalars["lr"] = torch.tensor(float(self.optimizer.param_groups[0]["lr"]))
        return scalars | gradient_scalars

    def risky_options(self) -> dict[KeyPath, str]:
        """Return the key paths of options whose values are known to fail, with the reason. By default, none."""
        return {}

    def describe_gradients(self, scalars: Mapping[str, Tensor]) -> list[str]:
        """Return a line about each gradient ratio in the scalars of a step. This waits for the device."""
        return describe_ratios(self.criteria, self._ratio_weights, scalars)

    def after_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Pass the mean metrics of the first validation set to the losses that depend on them."""
        for loss in self.criteria.observers:
            loss.observe(metrics)

    def autocast(self, fp16: torch.dtype = torch.float16) -> AbstractContextManager[Any]:
        """Return the autocast context of ``precision``. ``fp16`` is the dtype for precision fp16."""
        dtype = fp16 if self.precision == "fp16" else torch.bfloat16
        return nullcontext() if self.precision == "fp32" else torch.autocast(self.device.type, dtype)

    def _output(self, batch: Batch) -> Tensor:
        with self.autocast():
            images = self.inputs(batch)
            with locate_errors(key="network_g"):
                return call_network(self._forward, images)

    def _losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        try:
            # a small loss weight, divided by millions of features, gives gradients below fp16's range
            with self.autocast(fp16=torch.bfloat16):
                return self.losses(output, batch)
        finally:
            self.criteria.clear_features()

    def _backward(self, batch: Batch, gradients: LossGradients | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the forward and backward pass on (a part of) a batch; return the output and the losses, detached."""
        output = self._output(batch)
        if gradients is None:
            losses = self._losses(output, batch)
            self._scaled(torch.stack([loss.float() for loss in losses.values()]).sum()).backward()  # type: ignore[no-untyped-call]
        else:
            leaf = output.detach().requires_grad_()
            losses, gradient = gradients.backward(self._losses(leaf, batch), leaf, self._scaled)
            output.backward(gradient)  # type: ignore[no-untyped-call]
        return output.detach(), {name: loss.detach() for name, loss in losses.items()}

    def _require_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Check that all parameters have gradients, without which the processes would wait for each other."""
        if all(parameter.grad is not None for parameter in parameters if parameter.requires_grad):
            return
        trained = self.trained_part.named_parameters()
        unused = [name for name, parameter in trained if parameter.requires_grad and parameter.grad is None]
        listed = ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if len(unused) > 5 else "")
        raise ArgumentError(
            "network_g",
            f"the step does not use all parameters of the network: {listed}. Training in several processes then "
            "requires 'find_unused_parameters: true' in the section 'dist_params'.",
        )

    def _scaled(self, loss: Tensor) -> Tensor:
        return self._scaler.scale(loss.float() / self.accumulation_steps)

    # -- state ----------------------------------------------------------------------------------------------------

    def stateful(self) -> dict[str, Any]:
        """Return the parts whose state is saved for resuming, by name. Subclasses add their own."""
        if self.optim_g is not None and self.optimizer is None:
            self.configure_optimizer()
        parts: dict[str, Any] = {"network_g": self.network}
        if self.ema is not None:
            parts["ema"] = self.ema
        if self.optim_g is not None and self.optimizer is not None:
            parts["optimizer"] = OptimizerState(self.optimizer, self.optim_g)
            if self._scaler.is_enabled():
                parts["loss_scale"] = self._scaler
        parts |= {name: loss for name, loss in self.criteria.items() if loss.state_dict()}
        return parts | {f"balance_{name}": weight for name, weight in self._ratio_weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming. The tensors are references and not copies."""
        return {name: part.state_dict() for name, part in self.stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Load a state, and return the names of the parts whose state is not used because the options have changed.

        Options override the state: hyperparameters of the optimizer are ignored. If only one of state and model uses
        fp16, the loss scale starts anew, and so do the moments of another kind of optimizer.

        Raises:
            ValueError: the state has other parts than this model, or tensors with other names or shapes.
        """
        return load_parts(self.stateful(), state)

    def not_finite(self) -> list[str]:
        """Return the names of weights in the state that are NaN or infinite. This waits for the device."""
        return not_finite(self.stateful())
