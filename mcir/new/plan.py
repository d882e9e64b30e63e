"""The choices for a training, and its option file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from mcir.config.files import FOR_EDITORS, schema_path, shipped
from mcir.config.load import read_with_bases
from mcir.data.split import shuffled
from mcir.device import cpu_count
from mcir.new.duration import format_duration
from mcir.new.folders import Usable, counted
from mcir.new.option_file import render
from mcir.new.schedule import UNKNOWN, Schedule, Timing
from mcir.new.tasks import Network, Task

_VAL_IMAGES = 16
_SHORT_S = 3600.0
_FEW_IMAGES = 5
_WAITING = 0.3
Contrastive = Literal["spn", "none"]


@dataclass(frozen=True)
class Data:
    """The images of a training, divided into training and validation images.

    Attributes:
        gt: folder of the ground truths.
        lq: folder of the degraded images; None: they are made by a degradation.
        filename_tmpl: name of a degraded image.
        scale: size of a ground truth / size of its degraded image.
        train: names of the training images.
        val: names of the validation images.
        sizes: (height, width) of every image, by name.
    """

    gt: str
    lq: str | None
    filename_tmpl: str
    scale: int
    train: list[str]
    val: list[str]
    sizes: Mapping[str, tuple[int, int]]

    @property
    def is_shared(self) -> bool:
        """Whether the only image is used for training and for validation."""
        return self.train == self.val


def split(gt: str, lq: str | None, usable: Usable, scale: int) -> Data:
    """Divide images into training and validation images: a fifth, at least 1 and at most 16, are for validation.

    The choice depends only on the names. A single image is used for both.
    """
    names = usable.names
    order = [names[index] for index in shuffled(names, seed=0)]
    count = max(1, min(_VAL_IMAGES, len(names) // 5))
    val = sorted(order[-count:])
    train = sorted(order[:-count]) or val
    return Data(gt, lq, usable.filename_tmpl, scale, train, val, dict(zip(names, usable.sizes, strict=True)))


@dataclass(frozen=True)
class Plan:
    """The choices for a training.

    Attributes:
        task: task of the network.
        data: images.
        network: network and its training parameters.
        device: kind of the device.
        budget: time in seconds; None: the published recipe.
        contrastive: contrastive method.
        has_imagenet: whether the ImageNet weights of the VGG are available.
        schedule: iterations and intervals.
        val_size: side of the square that is used of each validation image; None: whole images.
        parameters: number of parameters of the network.
        memory: memory that a training step needs in bytes, estimated.
        timing: measured times; None: the network needs more memory than this machine has.
    """

    task: Task
    data: Data
    network: Network
    device: str
    budget: float | None
    contrastive: Contrastive
    has_imagenet: bool
    schedule: Schedule = UNKNOWN
    val_size: int | None = None
    parameters: int = 0
    memory: int = 0
    timing: Timing | None = None

    @property
    def validated_pixels(self) -> int:
        """Number of ground-truth pixels of a validation."""
        sides = (self.data.sizes[name] for name in self.data.val)
        return sum(height * width if self.val_size is None else self.val_size**2 for height, width in sides)

    @property
    def gt_size(self) -> int:
        """Side of the crops of ground truths: that of the network, or less if most images are smaller."""
        sides = sorted(min(self.data.sizes[name]) for name in self.data.train)
        unit = self.network.multiple * self.data.scale
        common = sides[len(sides) // 4]
        return max(unit, min(self.network.crop * self.data.scale, common // unit * unit))

    @property
    def spn_base(self) -> str:
        """Name of the option file with SPN that fits the machine and the budget."""
        return self._spn(self.has_imagenet)

    def _spn(self, has_imagenet: bool) -> str:
        is_short = self.budget is not None and self.budget < _SHORT_S
        return f"_base_/spn{'_short' * is_short}{'' if has_imagenet else '_random'}.yml"

    def best(self, name: str) -> str:
        """Return the path of the best network of a run."""
        return f"experiments/{name}/models/net_g_best.pth"

    def warnings(self, is_synthetic: bool) -> list[str]:
        """Return what a user should know before the training."""
        found = [self.task.notice] if is_synthetic else []
        if self.data.is_shared:
            found.append(
                "There is only one image, which is used for training and for validation. The validation therefore does "
                "not show how the network works on other images."
            )
        elif len(self.data.train) < _FEW_IMAGES:
            few = counted(len(self.data.train), "image")
            found.append(f"With only {few} for training, the network may not work well on other images.")
        if self.contrastive == "spn" and not self.has_imagenet:
            found.append(
                "The ImageNet weights of the VGG are not on this machine and cannot be downloaded, so SPN uses random "
                "features."
            )
        if self.timing is None:
            found.append("A step needs more memory than is free. Reduce batch_size_per_gpu or gt_size.")
        elif self.timing.waiting > _WAITING:
            found.append(
                f"The network waits for images in {self.timing.waiting:.0%} of the time. `mcir prepare subimages` cuts "
                "large images into parts that are faster to read; use the folder of the parts instead."
            )
        return found

    def text(self, file: str, command: str, gt: str, lq: str | None, train_list: str, val_list: str) -> str:
        """Return the text of the option file.

        Args:
            file: path of the option file.
            command: command that writes it.
            gt: path of the ground truths, as it is written to the file.
            lq: path of the degraded images.
            train_list: path of the list of training images.
            val_list: path of the list of validation images.
        """
        name = Path(file).stem
        names = {"file": shlex.quote(file), "command": command, "name": name, "best": shlex.quote(self.best(name))}
        names["for_editors"] = FOR_EDITORS + schema_path().as_uri()
        return render({**names, **self._values(gt, lq, train_list, val_list)})

    def _values(self, gt: str, lq: str | None, train_list: str, val_list: str) -> dict[str, Any]:
        data, network, schedule = self.data, self.network, self.schedule
        smallest = min(min(data.sizes[name]) for name in data.train)
        recipe = _recipe(network) if self.budget is None else {}
        on_luma = {} if data.scale == 1 else {"crop_border": data.scale, "test_y_channel": True}
        metrics = {name: {"type": name.upper(), **on_luma} for name in ("psnr", "ssim")}
        budget = "the published number" if self.budget is None else f"fits into {format_duration(self.budget)}"
        return {
            "title": f"{network.title}, trained to {self.task.goal}",
            "budget": budget,
            "scale": data.scale,
            "gt": gt,
            "lq": lq,
            "filename_tmpl": data.filename_tmpl,
            "degradation": dict(self.task.degradation),
            "degraded": self.task.degraded,
            "train_list": train_list,
            "val_list": val_list,
            "train_count": counted(len(data.train), "image"),
            "val_count": counted(len(data.val), "image") + (", the same as for training" if data.is_shared else ""),
            "gt_size": self.gt_size,
            "pads": smallest < self.gt_size,
            "rotates": self.task.rotates,
            "batch": network.batch,
            "workers": self.workers,
            "val_size": self.val_size,
            "network_g": network.network_g(data.scale),
            "network_title": network.title,
            "recipe": network.recipe if self.budget is None else "",
            "contrastive": self.contrastive == "spn",
            "spn": self.spn_base,
            "spn_imagenet": self._spn(has_imagenet=True),
            "random_features": self.contrastive == "spn" and not self.has_imagenet,
            "total": schedule.total_iter,
            "val_freq": schedule.val_freq,
            "print_freq": schedule.print_freq,
            "save_checkpoint_freq": schedule.save_checkpoint_freq,
            "ema_decay": round(min(0.999, max(0.9, 1 - 10 / schedule.total_iter)), 4),
            "lr": network.lr,
            "eta_min": network.lr / 100,
            "precision": self._precision(recipe),
            "train": dict(network.train) or {"total_iter": recipe.get("train", {}).get("total_iter")},
            "metrics": {} if "metrics" in recipe.get("val", {}) else metrics,
        }

    @property
    def workers(self) -> int:
        """Number of processes that read images."""
        return min(8, cpu_count()) if self.device == "cuda" else min(1, cpu_count() - 1)

    def _precision(self, recipe: Mapping[str, Any]) -> str:
        """Return the number format; empty: the default or that of the recipe."""
        if self.budget is None:
            return "fp32" if self.device != "cuda" and "precision" in recipe.get("train", {}) else ""
        return "bf16" if self.device == "cuda" and torch.cuda.is_bf16_supported() else ""


def _recipe(network: Network) -> dict[str, Any]:
    recipe: dict[str, Any] = read_with_bases(shipped() / network.recipe).plain()
    return recipe


def published(network: Network) -> Network:
    """Return a network with the batch size of its recipe."""
    return replace(network, batch=_recipe(network)["datasets"]["train"]["batch_size_per_gpu"])


def published_schedule(network: Network) -> Schedule:
    """Return the length and the intervals of the recipe of a network; the time is unknown (0)."""
    recipe = _recipe(network)
    total = network.train.get("total_iter") or recipe["train"]["total_iter"]
    val_freq = recipe.get("val", {}).get("val_freq", 5000)
    return Schedule(total, val_freq, min(5000, val_freq), 100, 0.0)


def relative(path: str, folder: Path) -> str:
    """Return a path as an option file in a folder names it: relative paths are relative to the folder.

    Raises:
        ValueError: the path contains a variable, which would be replaced.
    """
    text = path if Path(path).is_absolute() else Path(os.path.relpath(path, folder)).as_posix()
    if "$" in text or text.startswith("~"):
        raise ValueError(f"{path}: expected a path without '$' and without '~' at its start, which are replaced.")
    return text


def name_lines(names: Sequence[str]) -> bytes:
    """Return the content of a list of images."""
    return b"".join(os.fsencode(f"{name}\n") for name in names)
