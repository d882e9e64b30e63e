"""The model: how ONE training step is made from a network, losses and an optimizer.

A model knows nothing of files, logs or ranks. Subclasses say what the losses are; the mechanics of the step are here.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from mcir.communicator import Communicator, SingleProcess, set_communicator
from mcir.losses import share_features
from mcir.models.ema import EMA
from mcir.models.gradients import Balance, LossGradients
from mcir.models.optim import Schedule, build_optimizer
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import ARCHS, LOSSES, SCHEDULERS, ArchSection, LossSection, OptimizerSection, SchedulerSection
from mcir.weights import derived_keys, match_state_dict, mismatch_error

Batch: TypeAlias = dict[str, Any]
"""``lq`` and ``gt``: float32 in [0, 1], (B, C, H, W) and (B, C, sH, sW); ``lq_path`` and ``gt_path``: B strings."""

_SMALLEST_SCALE = 2.0**-16
"""Of the loss in fp16; it begins at 2¹⁶ and halves whenever gradients overflow."""


@dataclass(kw_only=True, eq=False)
class Model(ABC):
    """A network and how it is trained; the fields are the option file's keys.

    A subclass is a dataclass too: it adds its own options as fields, extends ``__post_init__`` to build what they ask
    for, and says in ``losses`` what is minimised.
    """

    views: ClassVar[int] = 1
    """Noisy views of each image that ``lq`` holds in training: (B, views, C, H, W) where there are several."""
    restores_by: ClassVar[tuple[str, ...]] = ()
    """Training options that decide how images are restored, too."""

    network_g: ArchSection
    """The network."""
    optim_g: OptimizerSection | None = None
    """The optimizer: any of torch.optim by name. Without one the model restores but does not train."""
    scheduler: SchedulerSection | None = None
    """The learning rate over the iterations; constant without it."""
    warmup_iter: int = -1
    """Before this iteration the learning rate rises linearly from 0; -1: no warm-up."""
    ema_decay: float = 0.0
    """Share of its past that the moving average of the network keeps at each iteration; 0: no moving average."""
    grad_clip: float | None = None
    """Largest L2 norm of the gradient; a longer one is scaled down to it."""
    accumulation_steps: int = 1
    """Each batch is computed in this many equal parts, for 1/n of the memory; the step is that of the whole batch."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the networks in training; what losses compare is summed up in float32, and restoring is float32.
    fp16 scales the loss to keep gradients in its range and skips a step whose gradients leave it; feature networks of
    losses then have bf16."""
    channels_last: bool = False
    """Memory layout of images and convolutions; faster on most machines."""
    compile: bool = False
    """Compile the network with torch.compile."""
    seed: int = 0
    """Of the initial weights: the same in every process."""

    parts: nn.ModuleDict = field(init=False, repr=False)
    """Every module that lives on the device: the network, its average, losses, negatives."""
    network: nn.Module = field(init=False, repr=False)
    optimizer: torch.optim.Optimizer | None = field(init=False, repr=False, default=None)
    total_iter: int | None = field(init=False, repr=False, default=None)
    """Iterations of the training, which whoever trains says; without, what would rise or fall with them stays."""
    watch_gradients: bool = field(init=False, repr=False, default=False)
    """Whether the next steps tell what each of several losses asks of the output; it costs a little, so at times."""

    def __post_init__(self) -> None:
        """Build the network, its moving average, the optimizer and the schedule."""
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is a share in [0, 1), not {self.ema_decay}.")
        if self.accumulation_steps < 1:
            raise ValueError(f"accumulation_steps is at least 1, not {self.accumulation_steps}.")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip is a length above 0, not {self.grad_clip}; leave it out to clip nothing.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = ARCHS.build(self.network_g, key="network_g")
        self.parts = nn.ModuleDict({"network_g": self.network})
        self._feature_cache = share_features(self.parts)
        self._watch = LossGradients()
        self._ranks: Communicator = SingleProcess()
        if self.ema_decay:
            self.parts["ema"] = EMA(self.network)
        self.schedule: Schedule = SCHEDULERS.build(
            self.scheduler or {"type": "MultiStepLR", "milestones": []}, key="scheduler"
        )
        self.to(self.device)

    # -- where it lives -------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device) -> "Model":
        """Move every part to ``device`` and begin the optimizer anew there; call before the first step."""
        memory_format = torch.channels_last if self.channels_last else torch.preserve_format
        self.parts.to(device=device)
        if self.channels_last:
            self.parts.to(memory_format=memory_format)
        self._forward: nn.Module = self.network
        self._statistics: list[Tensor] = []
        if self.compile:
            self._forward = torch.compile(self.network)  # type: ignore[assignment]
        if self.optim_g:
            self.optimizer = build_optimizer(self.optim_g, self.trained_parameters())
            self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        return self

    def parallelize(self, ranks: Communicator) -> None:
        """Train over several processes: the forward pass averages gradients over them, and every part knows them."""
        self._forward = ranks.wrap(self._forward)
        self._ranks = ranks
        set_communicator(self.parts, ranks)
        changing = self.trained_part.state_dict().keys() - derived_keys(self.trained_part)
        self._statistics = [
            buffer
            for name, buffer in self.trained_part.named_buffers()
            if name in changing and buffer.is_floating_point()
        ]

    def require_trainable(self) -> None:
        """Check, before data is read, that the model has all it needs to train.

        Raises:
            ValueError: the optimizer is missing; a subclass says what else it needs.
        """
        if self.optim_g is None:
            raise ValueError(f"{type(self).__name__} needs 'train.optim_g' to train, like {{type: Adam, lr: 1e-4}}.")

    # -- what it is made of ---------------------------------------------------------------------------------------

    @property
    def trained_part(self) -> nn.Module:
        """The part of the network that training changes: here all of it."""
        return self.network

    def add_loss(
        self, part: str, loss: LossSection | nn.Module, balance: float | None = None, contrasts: bool = False
    ) -> None:
        """Make a loss a part of the model, which shares feature networks with those that are there.

        Args:
            part: its name, also that of its value.
            loss: its section in the option file, or the loss itself; the first argument is the network's output.
            balance: the ratio to the first loss, of their gradients at the output, at which it is held.
            contrasts: a loss of a section is given negatives and positives beside the output, rather than one image.

        Raises:
            ValueError: the section does not fit, the loss compares something else, the batch is divided and the loss is
                no mean over the batch, or there is no first loss to be in balance with.
        """
        built: nn.Module
        if isinstance(loss, nn.Module):
            built = loss
        else:
            key = next((name for name, value in vars(self).items() if value is loss), part)
            built = LOSSES.build(loss, key=key)
            _require_kind(key, loss["type"], built, contrasts)
        if self.accumulation_steps > 1 and not getattr(built, "is_batch_mean", True):
            raise ValueError(f"{part}: with accumulation_steps > 1 a loss must be a mean over the batch; this is none.")
        self.parts[part] = built.to(self.device)
        self._feature_cache = share_features(self.parts)
        held = None
        if balance is not None:
            if not self._watch.names:
                raise ValueError(f"balance holds {part} at a ratio to another loss, like 'train.pixel_opt': give one.")
            held = self.parts[f"balance_{part}"] = Balance(balance).to(self.device)
        self._watch.attach(part, built, held)

    def example(
        self, images: int, lq_size: tuple[int, int], gt_size: tuple[int, int] | None = None, stored: int = 0
    ) -> Batch:
        """Return a batch of black images as the model trains on, on its device.

        Args:
            images: B, how many.
            lq_size: (H, W) of a degraded image, or of a view of it.
            gt_size: (H, W) of a ground truth; that of ``lq`` without.
            stored: K, the stored negatives of an image that the data set brings.
        """
        channels = (spec_of(self.network) or NetworkSpec()).in_channels
        shapes: dict[str, tuple[int, ...]] = {"lq": (*([self.views] if self.views > 1 else []), channels, *lq_size)}
        if self.views == 1:
            shapes["gt"] = (channels, *(gt_size or lq_size))
        if stored:
            shapes["negatives"] = (stored, channels, *(gt_size or lq_size))
        names = [f"{number}.png" for number in range(images)]
        black = {key: torch.zeros(images, *shape, device=self.device) for key, shape in shapes.items()}
        return {**black, "lq_path": names, "gt_path": names}

    # -- one step -------------------------------------------------------------------------------------------------

    def inputs(self, batch: Batch) -> Tensor:
        """Return what the network is given in training: here the degraded images."""
        images: Tensor = batch["lq"]
        return images

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return what the optimizer moves: here the parameters of the trained part."""
        return list(self.trained_part.parameters())

    def enter_training(self) -> None:
        """Bring the network into training mode."""
        self.network.train()

    @abstractmethod
    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the named scalar losses, weights included, whose sum is minimised."""

    def training_step(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Make the step of the 1-based ``iteration`` and return its scalars, detached and still on the device.

        The scalars are the losses by name, ``grad_norm`` (before clipping) and ``lr``; in fp16 also ``loss_scale``,
        the factor that kept the gradients in range. Where ``watch_gradients`` is set or losses are held in balance,
        also what :meth:`~mcir.models.gradients.LossGradients.tell` returns.

        An fp16 step whose gradients overflow is skipped: the network and the optimizer stay as they are, ``grad_norm``
        is 0, and the next step is made with half the scale. All that counts iterations goes on: schedule, averages and
        negatives, which follow a network that stood still. So they need not ask the device whether a step was made,
        and are the same in every process. Gradients that are not finite at a scale below 1/65536 are no matter of
        range; ``grad_norm`` says so.

        Raises:
            ValueError: the model cannot train, or the batch cannot be divided into ``accumulation_steps`` parts.
        """
        self.require_trainable()
        assert self.optimizer is not None
        rate = self._set_learning_rate(self.optimizer, iteration)
        self.enter_training()
        self.optimizer.zero_grad(set_to_none=True)
        self._watch.begin(self.watch_gradients)
        scalars: dict[str, Tensor] = {}
        outputs = []
        for part, is_last in self._divide(batch):
            with nullcontext() if is_last else self._without_sync():
                with self.autocast():
                    output = self._forward(self.inputs(part))
                with self.autocast_of_losses():
                    try:
                        losses = self.losses(output, part)
                    finally:
                        self._feature_cache.clear()
                total = torch.stack([loss.float() for loss in losses.values()]).sum() / self.accumulation_steps
                self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
            self._watch.collect()
            for name, loss in losses.items():
                scalars[name] = scalars.get(name, 0.0) + loss.detach() / self.accumulation_steps
            outputs.append(output.detach())
        scale = self._scaler.scale(torch.ones((), device=self.device)) if self._scaler.is_enabled() else None
        seen = self._watch.tell(1.0 if scale is None else scale, self._ranks.mean)
        if scale is not None:  # a step that is skipped tells nothing
            seen = {name: value.nan_to_num(0.0, 0.0, 0.0) for name, value in seen.items()}
        scalars |= self._step(self.optimizer, scale)
        for statistic in self._statistics:  # of a batch norm, say: each process has seen other images
            statistic.copy_(self._ranks.mean(statistic))
        self.after_step(outputs[0] if len(outputs) == 1 else torch.cat(outputs), batch, iteration)
        scalars["lr"] = torch.tensor(rate)
        return scalars | seen

    def after_step(self, output: Tensor, batch: Batch, iteration: int) -> None:
        """Let what follows the network follow it: here, its moving average."""
        if self.ema is not None:
            self.ema.update(self.network, self.ema_decay)

    @property
    def follows_psnr(self) -> bool:
        """Whether training depends on :meth:`after_evaluation`; here it does not."""
        return False

    def after_evaluation(self, psnr: float) -> None:  # noqa: B027 (most models have nothing that follows it)
        """Take note of the PSNR in dB on the first validation set; here nothing follows it."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the networks run at the chosen precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def autocast_of_losses(self) -> AbstractContextManager[Any]:
        """Return the context in which losses run, and what they compare with: bf16 also where the network has fp16.

        Of a small weight over millions of features the derivative with respect to one of them leaves fp16's range.
        """
        return nullcontext() if self.precision == "fp32" else torch.autocast(self.device.type, torch.bfloat16)

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, iteration: int) -> float:
        for group, base_rate in zip(optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = self.schedule(base_rate, iteration, self.warmup_iter)
        return float(optimizer.param_groups[0]["lr"])

    def _step(self, optimizer: torch.optim.Optimizer, scale: Tensor | None) -> dict[str, Tensor]:
        """Move the network along its gradient, clipped, and return what is told of it.

        Args:
            optimizer: what moves it.
            scale: by which the loss was multiplied in fp16.
        """
        self._scaler.unscale_(optimizer)
        told = {"grad_norm": self._clip_gradient()}
        if scale is not None:
            told["loss_scale"] = scale
            skipped = ~told["grad_norm"].isfinite() & (told["loss_scale"] >= _SMALLEST_SCALE)
            told["grad_norm"] = told["grad_norm"].masked_fill(skipped, 0)
        self._scaler.step(optimizer)
        self._scaler.update()
        return told

    def _clip_gradient(self) -> Tensor:
        """Scale the gradient down to ``grad_clip`` if it is longer, and return its L2 norm before."""
        if self.grad_clip is not None:
            before: Tensor = nn.utils.clip_grad_norm_(self.trained_parameters(), self.grad_clip)
            return before
        gradients = [parameter.grad for parameter in self.trained_parameters() if parameter.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return norm

    def _divide(self, batch: Batch) -> Iterator[tuple[Batch, bool]]:
        """Yield the equal parts of a batch, and of each whether it is the last."""
        count, size = self.accumulation_steps, len(batch["lq"])
        if size % count:
            raise ValueError(f"A batch of {size} cannot be divided into accumulation_steps = {count} equal parts.")
        share = size // count
        for start in range(0, size, share):
            yield {key: value[start : start + share] for key, value in batch.items()}, start + share == size

    def _without_sync(self) -> AbstractContextManager[Any]:
        """Return the context in which gradients are not yet averaged over processes."""
        postpone: Callable[[], AbstractContextManager[Any]] = getattr(self._forward, "no_sync", nullcontext)
        return postpone()

    # -- its use --------------------------------------------------------------------------------------------------

    @property
    def ema(self) -> EMA | None:
        """The moving average of the network, if one is kept."""
        if "ema" not in self.parts:
            return None
        average = self.parts["ema"]
        assert isinstance(average, EMA)
        return average

    @torch.no_grad()
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images: ``lq`` (B, C, H, W) in [0, 1] to (B, C, sH, sW), by the moving average where there is one."""
        network = self.network if self.ema is None else self.ema
        network.eval()
        output: Tensor = network(lq)
        return output

    # -- its state ------------------------------------------------------------------------------------------------

    def stateful(self) -> dict[str, Any]:
        """Return every part whose state a resumed run needs, by name; a subclass adds its own.

        Of the losses and their balances these are the ones that have a state.
        """
        parts: dict[str, Any] = {"network_g": self.network, "ema": self.ema, "optimizer": self.optimizer}
        if self._scaler.is_enabled():
            parts["loss_scale"] = self._scaler
        losses = [*self._watch.names, *(f"balance_{name}" for name in self._watch.balances)]
        parts |= {name: self.parts[name] for name in losses if self.parts[name].state_dict()}
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as references to the live tensors."""
        return {name: part.state_dict() for name, part in self.stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; one of another ``precision`` fits, too, and the scale of fp16's loss begins anew.

        Raises:
            ValueError: the state is of a model with other parts, or its tensors do not fit.
        """
        own = self.stateful()
        if "loss_scale" not in state or "loss_scale" not in own:
            own.pop("loss_scale", None)
            state = {name: part for name, part in state.items() if name != "loss_scale"}
        if state.keys() != own.keys():
            raise ValueError(f"The state holds {sorted(state)}, but this {type(self).__name__} needs {sorted(own)}.")
        for name, part in own.items():
            try:
                part.load_state_dict(state[name])
            except (RuntimeError, KeyError) as error:
                raise ValueError(f"The state of '{name}' does not fit: {error}") from error

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return the network's weights as ``params`` and, with a moving average, ``params_ema``."""
        weights = {"params": self.network.state_dict()}
        if self.ema is not None:
            weights["params_ema"] = self.ema.network.state_dict()
        return weights

    def load_weights(self, weights: Mapping[str, Tensor], strict: bool = True) -> list[str]:
        """Start from trained weights: the network takes them over, and its average begins there.

        Returns the keys that only one side has or that differ in shape, which is empty when ``strict``.

        Raises:
            WeightsError: ``strict`` and the keys or shapes differ; the message names the first ten, and what the
                weights look like.
        """
        fits, mismatches = match_state_dict(self.network, weights)
        if strict and mismatches:
            raise mismatch_error(self.network, weights, mismatches)
        self.network.load_state_dict(fits, strict=False)
        if self.ema is not None:
            self.ema.update(self.network, keep=0.0)
        return mismatches


def _require_kind(key: str, name: str, loss: nn.Module, contrasts: bool) -> None:
    """Check that a loss can be given what it gets at the place ``key``.

    Raises:
        ValueError: it compares something else.
    """
    signature = inspect.signature(loss.forward)
    try:
        signature.bind(*(("output", "negatives", "positives") if contrasts else ("output", "image")))
        fits = contrasts or "negatives" not in signature.parameters
    except TypeError:
        fits = False
    if not fits:
        wanted = (
            "negatives and positives, as SPNLoss does"
            if contrasts
            else "one other image, as L1Loss or PerceptualLoss do"
        )
        raise ValueError(
            f"{key}: a loss here compares the output with {wanted}; {name} takes {', '.join(signature.parameters)}."
        )
