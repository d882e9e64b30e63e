"""Translation of the option names of BasicSR, NAFNet and the MCIR paper's released code to current names.

Tables list the keys that are renamed, dropped because mcir does not need them, or refused because mcir does not support
them. ``_Translation`` contains what a table cannot express.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mcir.config.tree import Node, Problem, dotted, merge
from mcir.errors import KeyPath, Location
from mcir.registry import DATASETS, METRICS


class Renamed(NamedTuple):
    """A key with a new name; ``*`` matches any key, the same one in both patterns."""

    old: str
    new: str
    value: Callable[[Any], Any] = lambda value: value


class Dropped(NamedTuple):
    """A key that has no effect if its value is harmless; any other value is refused."""

    old: str
    why: str
    is_harmless: Callable[[Any], bool] = lambda value: True


MODEL_TYPES = {
    "SRModel": "RestorationModel",
    "SwinIRModel": "RestorationModel",
    "ImageRestorationModel": "RestorationModel",
}
NAFNET = "ImageRestorationModel"
"""The model class of NAFNet's code."""
RELEASED = {
    "SRNegModel": ("HistoryNegatives", 0.999),
    "SwinIRNegModel": ("HistoryNegatives", 0.999),
    "SRNegModel_Multi": ("HistoryNegatives", 0.01),
    "SwinIRNegModel_Multi": ("HistoryNegatives", 0.01),
    "ImageRestorationModel_FFANet_Neg_Multi": ("HistoryNegatives", 0.01),
    "ImageRestorationModel_FFANet_Neg_Multi_Adaptive_DDP": ("AdaptiveHistoryNegatives", 0.01),
}
"""Kind of negatives, and default fraction of random weights in the first negatives, of each released model class."""

RENAMED = (
    Renamed("datasets.*.use_flip", "datasets.*.use_hflip"),
    Renamed("path.pretrain_model_g", "path.pretrain_network_g"),
    Renamed("path.strict_load", "path.strict_load_g"),
    Renamed("path.param_key", "path.param_key_g"),
    Renamed("path.root", "path.experiments_root", lambda root: f"{root}/experiments"),
    Renamed("complie", "train.compile"),
)


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _has_no_project(wandb: Any) -> bool:
    return not (wandb.get("project") if isinstance(wandb, dict) else wandb)


def _has_no_weights(section: Any) -> bool:
    entries = section if isinstance(section, dict) else {}
    return not any(value for key, value in entries.items() if not key.startswith("strict_load"))


DROPPED = (
    Dropped("datasets.*.phase", "the key of the data set defines its purpose"),
    Dropped("datasets.train.use_shuffle", "training samples are always shuffled", _is(True)),
    Dropped("datasets.*.use_shuffle", "evaluation loads the images in order"),
    Dropped("datasets.*.dataset_enlarge_ratio", "sampling is endless, so there is no pause between epochs"),
    Dropped("datasets.*.prefetch_mode", "the next batch is always prefetched"),
    Dropped("datasets.*.num_prefetch_queue", "the next batch is always prefetched"),
    Dropped("datasets.*.pin_memory", "memory is pinned if there is a GPU"),
    Dropped("datasets.*.persistent_workers", "the loader's processes are always persistent"),
    Dropped("path.ignore_resume_networks", "a training state contains every network"),
    Dropped("path_neg", "negatives start from the network, not from a file", _has_no_weights),
    Dropped("val.pbar", "progress is always shown"),
    Dropped("val.use_pbar", "progress is always shown"),
    Dropped("val.rgb2bgr", "images are RGB everywhere"),
    Dropped("val.use_image", "metrics use images rounded to 8 bit", _is(True)),
    Dropped("val.grids", "evaluation restores whole images", _is(False)),
    Dropped("val.max_minibatch", "whole images are restored one by one"),
    Dropped("val.metrics.*.input_order", "metrics take tensors"),
    Dropped("logger.wandb", "mcir writes TensorBoard logs and JSON lines, not Weights & Biases", _has_no_project),
    Dropped("dist_params.port", "torchrun chooses the port"),
    Dropped("train.update_scaling", "the released code does not use it"),
)
_NORMALIZED = "Images stay in [0, 1]; a network that needs another range, like FFANet, normalizes them. Leave it out."
REFUSED = {
    "train.use_grad_norm": "The released code does not read 'use_grad_norm', so nothing was clipped. Leave it out to "
    "reproduce that, or clip with 'grad_clip: {value}'. Did you mean 'grad_clip'?",
    "datasets.*.mean": _NORMALIZED,
    "datasets.*.std": _NORMALIZED,
    "train.perceptual_contrastive_opt": "The released code does not contain this loss. The negative loss is "
    "'contrastive_opt'.",
}
NAFNET_CLIP = 0.01
"""The norm to which NAFNet's code clips gradients unless ``use_grad_clip: false`` is set."""


def translate(root: Node) -> tuple[list[str], list[Problem]]:
    """Replace old names in a tree by current ones.

    Args:
        root: whole option file; it is changed.

    Returns:
        The changes, one line each, and the problems of what cannot be translated.
    """
    translation = _Translation(root)
    translation.run()
    in_order = sorted(translation.changes, key=lambda change: (change[0].source, change[0].line or 0))
    return [text for _, text in in_order], translation.problems


class _Translation:
    def __init__(self, root: Node) -> None:
        self.root = root
        self.changes: list[tuple[Location, str]] = []
        self.problems: list[Problem] = []
        self.model_type = self.text(("model_type",))

    def run(self) -> None:
        is_released = self.model_type in RELEASED
        new = "ContrastiveModel" if is_released else MODEL_TYPES.get(self.model_type)
        if new:
            self.change_value(("model_type",), new)
        self.apply_tables()
        self.metrics()
        if new:
            self.weights_entry()
        train = self.root.child("train")
        if train and isinstance(train.value, dict):
            self.gradient_clipping(is_released)
            if is_released:
                self.negative_loss()
                self.negatives(*RELEASED[self.model_type])

    def apply_tables(self) -> None:
        for row in DROPPED:
            for path, node in self.find(row.old):
                if row.is_harmless(node.plain()):
                    self.drop(path, node, row.why)
                else:
                    self.refuse(path, f"not supported: {row.why}.")
        for pattern, refusal in REFUSED.items():
            for path, node in self.find(pattern):
                norm = node.value if type(node.value) in (int, float) else 0.05
                self.refuse(path, refusal.format(value=norm))
        for path, node in self.find("path.root"):  # becomes two keys; the other one is in RENAMED
            self.set(("path", "results_root"), Node(f"{node.value}/results", node.location).moved_from(path))
        for renamed in RENAMED:
            for path, node in self.find(renamed.old):
                target = tuple(path[i] if part == "*" else part for i, part in enumerate(renamed.new.split(".")))
                self.move(path, target, Node(renamed.value(node.value), node.location))

    # -- operations -----------------------------------------------------------------------------------------------

    def find(self, pattern: str) -> list[tuple[KeyPath, Node]]:
        """Return the matches of a pattern, without keys that are arguments of their data set's class."""
        return [(path, node) for path, node in self.root.find(pattern) if not self.is_argument(path)]

    def is_argument(self, path: KeyPath) -> bool:
        kind = self.text((*path[:2], "type")) if path[0] == "datasets" and len(path) == 3 else ""
        return kind in DATASETS and path[2] in DATASETS.parameters(kind)

    def text(self, path: KeyPath) -> str:
        """Return the text at a path, or an empty string if there is none."""
        node = self.root.at(path)
        return node.value if node and isinstance(node.value, str) else ""

    def remove(self, path: KeyPath) -> Node:
        section = self.root.at(path[:-1])
        assert section is not None
        node: Node = section.value.pop(path[-1])
        return node

    def report(self, location: Location, path: KeyPath, message: str) -> None:
        self.problems.append(Problem.at(location, path, message))

    def change_value(self, path: KeyPath, value: Any) -> None:
        node = self.root.at(path)
        assert node is not None
        self.changes.append((node.location, f"{dotted(path)}: {node.value} -> {value}"))
        node.value = value

    def drop(self, path: KeyPath, node: Node, why: str) -> None:
        self.remove(path)
        self.changes.append((node.location, f"{dotted(path)} is dropped: {why}"))

    def refuse(self, path: KeyPath, message: str) -> None:
        self.report(self.remove(path).location, path, message)

    def move(self, old: KeyPath, new: KeyPath, node: Node, note: str = "") -> None:
        """Remove ``old`` and set ``node`` at ``new``, where the command line overrides it."""
        self.remove(old)
        self.changes.append((node.location, f"{dotted(old)} -> {dotted(new)}" + (f": {note}" if note else "")))
        self.set(new, node.moved_from(old))

    def set(self, path: KeyPath, node: Node) -> None:
        for depth in range(1, len(path)):
            section = self.root.at(path[:depth])
            if section and section.value is not None and not isinstance(section.value, dict):
                return  # validation reports that this is not a section
        present = self.root.at(path)
        if present and present.location.line is None:  # set on the command line
            self.root.put(path, merge(node, present))
        elif present is None or present.value is None:
            self.root.put(path, node)
        else:
            self.report(node.location, path, f"'{dotted(path)}' is also at {present.location}: keep one of the two.")

    # -- what a table cannot express ------------------------------------------------------------------------------

    def metrics(self) -> None:
        """Rename the metrics; drop ``better``, which the metric's class defines."""
        ssim = "SSIM3D" if self.model_type == NAFNET else "SSIM"  # NAFNet's window also spans the color channels
        for path, _ in self.find("val.metrics.*.type"):
            if new := {"calculate_psnr": "PSNR", "calculate_ssim": ssim}.get(self.text(path)):
                self.change_value(path, new)
        for path, node in self.find("val.metrics.*.better"):
            kind = self.text((*path[:-1], "type"))
            if kind in METRICS:  # otherwise, validation reports it
                better = "higher" if METRICS.get(kind).higher_is_better else "lower"
                if node.value == better:
                    self.drop(path, node, f"for {kind}, {better} is always better")
                else:
                    self.refuse(path, f"For {kind}, {better} is better.")

    def weights_entry(self) -> None:
        """Set BasicSR's default ``params`` for the entry of a weight file."""
        file, key = ("path", "pretrain_network_g"), ("path", "param_key_g")
        node = self.root.at(file)
        if node is not None and node.value is not None and self.root.at(key) is None:
            self.set(key, Node("params", node.location))
            self.changes.append((node.location, "path.param_key_g is set to params, BasicSR's default"))

    def gradient_clipping(self, is_released: bool) -> None:
        """Translate ``use_grad_clip``, a switch or the norm itself; NAFNet's code clips by default."""
        path, target = ("train", "use_grad_clip"), ("train", "grad_clip")
        node = self.root.at(path)
        if node is None:
            if self.model_type == NAFNET and self.root.at(target) is None:
                location = self.root.locate(("model_type",))
                self.root.put(target, Node(NAFNET_CLIP, location))
                self.changes.append((location, f"train.grad_clip is set to {NAFNET_CLIP}: NAFNet's code clips"))
        elif node.value in (False, None):
            self.drop(path, node, "without 'grad_clip' nothing is clipped")
        elif node.value is True:
            norm = 1.0 if is_released else NAFNET_CLIP  # the released code uses the switch as the norm, 1
            self.move(path, target, Node(norm, node.location), f"{norm}, the norm that the switch stands for")
        else:
            self.move(path, target, node)

    def negative_loss(self) -> None:
        """Translate the released losses: ``perceptual_opt`` takes negatives, ``perceptual_pos_opt`` ground truths."""
        path = ("train", "perceptual_opt")
        node = self.root.at(path)
        if node is not None and isinstance(node.value, dict):
            entries = dict(node.value)
            style, kind = entries.pop("style_weight", None), entries.pop("type", Node(None, node.location))
            if style and style.value != 0:
                message = f"The negative loss has no style term: expected 0, got {style.value}."
                self.report(style.location, (*path, "style_weight"), message)
            if kind.value != "PerceptualLoss":
                message = f"{self.model_type} requires PerceptualLoss for the negatives."
                self.report(kind.location, (*path, "type"), message)
            old = {
                "type": Node("SPNLoss", kind.location),
                "vgg_type": Node("vgg19", node.location),  # PerceptualLoss's defaults differ from SPNLoss's
                "perceptual_weight": Node(1.0, node.location),
                **entries,
            }
            section = {{"perceptual_weight": "loss_weight"}.get(key, key): entry for key, entry in old.items()}
            self.move(path, ("train", "contrastive_opt"), Node(section, node.location), "SPNLoss, subtracted")
        positive = self.root.at(("train", "perceptual_pos_opt"))
        if positive is not None:
            self.move(("train", "perceptual_pos_opt"), path, positive)

    def negatives(self, kind: str, default_start: float) -> None:
        """Translate ``neg_iter``, ``neg_decay``, ``neg_start`` and ``neg_t`` to the section ``negatives``."""
        section = ("train", "negatives")
        steps, decay = self.root.at(("train", "neg_iter")), self.root.at(("train", "neg_decay"))
        count = len(steps.value) if steps and isinstance(steps.value, list) else 1
        self.set((*section, "type"), Node(kind, self.root.locate(("model_type",))))
        if kind == "AdaptiveHistoryNegatives":
            self.adaptive(steps or decay)
        else:
            for key, node in (("neg_iter", steps), ("neg_decay", decay)):
                if node is None:
                    self.report(self.root.locate(("train",)), ("train",), f"{self.model_type} requires '{key}'.")
            if steps:
                entries = steps.value[::-1] if isinstance(steps.value, list) else [steps]
                note = "reversed, because the i-th decay belongs to the i-th step from the end" if count > 1 else ""
                self.move(("train", "neg_iter"), (*section, "steps"), Node(entries, steps.location), note)
            if decay:
                self.move(("train", "neg_decay"), (*section, "weight"), self.one_if_equal(decay, count))
        if start := self.root.at(("train", "neg_start")):
            self.move(("train", "neg_start"), (*section, "start"), start)
        else:
            self.set((*section, "start"), Node(default_start, self.root.locate(("model_type",))))

    def one_if_equal(self, decay: Node, count: int) -> Node:
        values = decay.plain()
        if not isinstance(values, list):
            return decay
        if len(values) != count:
            message = f"expected {count} 'neg_decay', one for each 'neg_iter', got {len(values)}."
            self.report(decay.location, ("train", "neg_decay"), message)
        return Node(values[0], decay.location) if len(values) == count and len(set(map(repr, values))) == 1 else decay

    def adaptive(self, counted: Node | None) -> None:
        section = ("train", "negatives")
        if counted and isinstance(counted.value, list):
            self.set((*section, "members"), Node(len(counted.value), counted.location))
            text = f"train.negatives.members is {len(counted.value)}, one for each 'neg_iter'"
            self.changes.append((counted.location, text))
        for key in ("neg_iter", "neg_decay"):
            if node := self.root.at(("train", key)):
                self.drop(("train", key), node, "adaptive negatives use only 'neg_t'")
        if threshold := self.root.at(("train", "neg_t")):
            self.move(("train", "neg_t"), (*section, "threshold"), threshold)
