"""Old names: the one module that knows the vocabulary of BasicSR, NAFNet and the MCIR paper's released code.

Tables say what is renamed, what is dropped because mcir has no need of it, and what is refused because it asks for
something that would not happen. What takes more than a row is the released code's negatives, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mcir.config.tree import Node, Problem, dotted, merge
from mcir.registry import DATASETS, METRICS, KeyPath, Location


class Renamed(NamedTuple):
    """A key that has another name today; ``*`` stands for any key, the same in both patterns."""

    old: str
    new: str
    value: Callable[[Any], Any] = lambda value: value


class Dropped(NamedTuple):
    """A key that is not needed, as long as its value is harmless; any other value is refused."""

    old: str
    why: str
    harmless: Callable[[Any], bool] = lambda value: True
    refusal: str = ""


class Release(NamedTuple):
    """A model class of the paper's released code, which keeps its own negatives."""

    negatives: str
    start: float
    """The share of random weights in the first negatives, if the file does not say it."""


MODEL_TYPES = {
    "SRModel": "RestorationModel",
    "SwinIRModel": "RestorationModel",
    "ImageRestorationModel": "RestorationModel",
}
NAFNET = "ImageRestorationModel"
"""The model class of NAFNet's code."""
_SINGLE, _MULTI = Release("HistoryNegatives", 0.999), Release("HistoryNegatives", 0.01)
RELEASED = {
    "SRNegModel": _SINGLE,
    "SwinIRNegModel": _SINGLE,
    "SRNegModel_Multi": _MULTI,
    "SwinIRNegModel_Multi": _MULTI,
    "ImageRestorationModel_FFANet_Neg_Multi": _MULTI,
    "ImageRestorationModel_FFANet_Neg_Multi_Adaptive_DDP": Release("AdaptiveHistoryNegatives", 0.01),
}

RENAMED = (
    Renamed("datasets.*.use_flip", "datasets.*.use_hflip"),
    Renamed("path.pretrain_model_g", "path.pretrain_network_g"),
    Renamed("path.strict_load", "path.strict_load_g"),
    Renamed("path.param_key", "path.param_key_g"),
    Renamed("path.root", "path.experiments_root", lambda root: f"{root}/experiments"),
    Renamed("complie", "train.compile"),
)
METRIC_TYPES = {"calculate_psnr": "PSNR", "calculate_ssim": "SSIM"}
NAFNET_METRIC_TYPES = {**METRIC_TYPES, "calculate_ssim": "SSIM3D"}
"""NAFNet's code gives BasicSR's name to a similarity whose window reaches over the colours."""


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _without_project(wandb: Any) -> bool:
    return not (wandb.get("project") if isinstance(wandb, dict) else wandb)


def _nothing(section: Any) -> bool:
    entries = section if isinstance(section, dict) else {}
    return not any(value for key, value in entries.items() if not key.startswith("strict_load"))


DROPPED = (
    Dropped("datasets.*.phase", "the data set's key says what it is for"),
    Dropped(
        "datasets.train.use_shuffle",
        "training samples are always shuffled",
        _is(True),
        "Training samples are always shuffled.",
    ),
    Dropped("datasets.*.use_shuffle", "evaluation goes through the images in order"),
    Dropped("datasets.*.dataset_enlarge_ratio", "the stream of samples is endless, so no epoch's end costs time"),
    Dropped("datasets.*.prefetch_mode", "the next batch is always made ready ahead"),
    Dropped("datasets.*.num_prefetch_queue", "the next batch is always made ready ahead"),
    Dropped("datasets.*.pin_memory", "memory is pinned where there is a GPU"),
    Dropped("datasets.*.persistent_workers", "the loader's processes always live on"),
    Dropped("path.ignore_resume_networks", "a training state holds every network"),
    Dropped(
        "path_neg", "negatives begin from the network", _nothing, "Negatives begin from the network, not from a file."
    ),
    Dropped("val.pbar", "progress is always shown"),
    Dropped("val.use_pbar", "progress is always shown"),
    Dropped("val.rgb2bgr", "images are RGB throughout and files are written as such"),
    Dropped("val.use_image", "metrics see images rounded to 8 bit", _is(True), "Metrics see images rounded to 8 bit."),
    Dropped("val.grids", "whole images are restored", _is(False), "Evaluation restores whole images."),
    Dropped("val.max_minibatch", "whole images are restored one by one"),
    Dropped("val.metrics.*.input_order", "metrics take tensors"),
    Dropped(
        "logger.wandb",
        "no project is named",
        _without_project,
        "Weights & Biases is not supported; TensorBoard and JSON lines are written.",
    ),
    Dropped("dist_params.port", "torchrun chooses the port"),
    Dropped("train.update_scaling", "the released code does nothing with it"),
)
_NORMALISED = (
    "Images stay in [0, 1]; a network that wants them otherwise, like FFANet, normalises them itself. Leave it out."
)
REFUSED = {
    "train.use_grad_norm": "No released code reads 'use_grad_norm': nothing was clipped. Leave it out to train as they "
    "did, or clip with 'grad_clip: {value}'. Did you mean 'grad_clip'?",
    "datasets.*.mean": _NORMALISED,
    "datasets.*.std": _NORMALISED,
    "train.perceptual_contrastive_opt": "The released code does not hold the loss that this asks for. The negative "
    "loss is 'contrastive_opt'.",
}
NAFNET_CLIP = 0.01
"""NAFNet's code clips to this norm unless ``use_grad_clip: false`` forbids it."""


def translate(root: Node) -> tuple[list[str], list[Problem]]:
    """Replace the old names in a tree by today's.

    Args:
        root: the whole option file; it is changed.

    Returns:
        What was changed, one line each, and what cannot be translated.
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
        old = root.child("model_type")
        self.model_type = old.value if old and isinstance(old.value, str) else ""

    def run(self) -> None:
        released = RELEASED.get(self.model_type)
        new = "ContrastiveModel" if released else MODEL_TYPES.get(self.model_type)
        if new:
            self.change_value(("model_type",), new)
        metric_types = NAFNET_METRIC_TYPES if self.model_type == NAFNET else METRIC_TYPES
        for path, node in self.found("val.metrics.*.type"):
            if isinstance(node.value, str) and node.value in metric_types:
                self.change_value(path, metric_types[node.value])
        for row in DROPPED:
            for path, node in self.found(row.old):
                self.drop(path, node, row.why) if row.harmless(node.plain()) else self.refuse(path, row.refusal)
        for pattern, refusal in REFUSED.items():
            for path, node in self.found(pattern):
                norm = node.value if type(node.value) in (int, float) else 0.05
                self.refuse(path, refusal.format(value=norm))
        for path, node in self.found("path.root"):  # one old key, two of today's
            self.set(("path", "results_root"), Node(f"{node.value}/results", node.location).moved_from(path))
        for renamed in RENAMED:
            for path, node in self.found(renamed.old):
                target = tuple(path[i] if part == "*" else part for i, part in enumerate(renamed.new.split(".")))
                self.move(path, target, Node(renamed.value(node.value), node.location))
        self.metrics()
        if new:
            self.weights_entry()
        train = self.root.child("train")
        if train and isinstance(train.value, dict):
            self.gradient_clipping(released)
            if released:
                self.negative_loss()
                self.negatives(released)

    # -- steps ----------------------------------------------------------------------------------------------------

    def found(self, pattern: str) -> list[tuple[KeyPath, Node]]:
        """Return what matches a pattern, without the arguments of data sets that take them under the old name."""
        return [(path, node) for path, node in self.root.find(pattern) if not self.is_argument(path)]

    def is_argument(self, path: KeyPath) -> bool:
        kind = self.root.at((*path[:2], "type")) if path[0] == "datasets" and len(path) == 3 else None
        known = kind and isinstance(kind.value, str) and kind.value in DATASETS
        return bool(known and kind and path[2] in DATASETS.parameters(kind.value))

    def remove(self, path: KeyPath) -> Node:
        section = self.root.at(path[:-1])
        assert section is not None
        node: Node = section.value.pop(path[-1])
        return node

    def change_value(self, path: KeyPath, value: Any) -> None:
        node = self.root.at(path)
        assert node is not None
        self.changes.append((node.location, f"{dotted(path)}: {node.value} -> {value}"))
        node.value = value

    def drop(self, path: KeyPath, node: Node, why: str) -> None:
        self.remove(path)
        self.changes.append((node.location, f"{dotted(path)} is dropped: {why}"))

    def refuse(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem.at(self.remove(path).location, path, message))

    def move(self, old: KeyPath, new: KeyPath, node: Node, note: str = "") -> None:
        """Remove ``old`` and set ``node`` at ``new``; what the command line says there already goes above it."""
        self.remove(old)
        self.changes.append((node.location, f"{dotted(old)} -> {dotted(new)}" + (f": {note}" if note else "")))
        self.set(new, node.moved_from(old))

    def set(self, path: KeyPath, node: Node) -> None:
        for depth in range(1, len(path)):
            section = self.root.at(path[:depth])
            if section and section.value is not None and not isinstance(section.value, dict):
                return  # the check of types says that this is no section
        present = self.root.at(path)
        if present and present.location.line is None:  # said on the command line
            self.root.put(path, merge(node, present))
        elif present is None or present.value is None:
            self.root.put(path, node)
        else:
            message = f"'{dotted(path)}' stands at {present.location} already: keep one of the two."
            self.problems.append(Problem.at(node.location, path, message))

    # -- what a table cannot say ----------------------------------------------------------------------------------

    def metrics(self) -> None:
        """``better`` is a fact of the metric."""
        for path, node in self.found("val.metrics.*.better"):
            kind = self.root.at((*path[:-1], "type"))
            if kind is None or not isinstance(kind.value, str) or kind.value not in METRICS:
                continue  # the check of types says what is wrong
            better = "higher" if METRICS.get(kind.value).higher_is_better else "lower"
            if node.value == better:
                self.drop(path, node, f"{kind.value} knows that {better} is better")
            else:
                self.refuse(path, f"Of {kind.value} {better} is better.")

    def weights_entry(self) -> None:
        """BasicSR reads ``params`` unless told otherwise."""
        file, key = ("path", "pretrain_network_g"), ("path", "param_key_g")
        node = self.root.at(file)
        if node is not None and node.value is not None and self.root.at(key) is None:
            self.set(key, Node("params", node.location))
            self.changes.append((node.location, "path.param_key_g is set to params, which BasicSR reads unasked"))

    def gradient_clipping(self, released: Release | None) -> None:
        """``use_grad_clip`` is a switch or the norm itself; NAFNet's code clips unless told not to."""
        path, target = ("train", "use_grad_clip"), ("train", "grad_clip")
        node = self.root.at(path)
        if node is None:
            if self.model_type == NAFNET and self.root.at(target) is None:
                place = self.root.locate(("model_type",))
                self.root.put(target, Node(NAFNET_CLIP, place))
                self.changes.append((place, f"train.grad_clip is set to {NAFNET_CLIP}: NAFNet's code clips unasked"))
        elif node.value in (False, None):
            self.drop(path, node, "without 'grad_clip' nothing is clipped")
        elif node.value is True:
            norm = 1.0 if released else NAFNET_CLIP  # the release hands the switch on as the norm
            self.move(path, target, Node(norm, node.location), f"{norm}, the norm that the switch stood for")
        else:
            self.move(path, target, node)

    def negative_loss(self) -> None:
        """The release calls the loss towards the negatives ``perceptual_opt``, the one to the truth ``…_pos_opt``."""
        path = ("train", "perceptual_opt")
        node = self.root.at(path)
        if node is not None and isinstance(node.value, dict):
            entries = dict(node.value)
            kind, style = entries.pop("type", None), entries.pop("style_weight", None)
            if style and style.value != 0:
                message = "The negative loss has no style term: it must be 0."
                self.problems.append(Problem.at(style.location, (*path, "style_weight"), message))
            if kind is None or kind.value != "PerceptualLoss":
                message = f"{self.model_type} compares with the negatives by PerceptualLoss."
                self.problems.append(Problem.at(kind.location if kind else node.location, (*path, "type"), message))
            given = {
                "type": Node("SPNLoss", kind.location if kind else node.location),
                "vgg_type": Node("vgg19", node.location),  # PerceptualLoss' defaults, which are not SPNLoss'
                "perceptual_weight": Node(1.0, node.location),
                **entries,
            }
            section = {{"perceptual_weight": "loss_weight"}.get(key, key): entry for key, entry in given.items()}
            self.move(path, ("train", "contrastive_opt"), Node(section, node.location), "SPNLoss, subtracted")
        positive = self.root.at(("train", "perceptual_pos_opt"))
        if positive is not None:
            self.move(("train", "perceptual_pos_opt"), path, positive)

    def negatives(self, released: Release) -> None:
        """``neg_iter``, ``neg_decay``, ``neg_start`` and ``neg_t`` become the section ``negatives``."""
        section = ("train", "negatives")
        steps, decay = self.root.at(("train", "neg_iter")), self.root.at(("train", "neg_decay"))
        count = len(steps.value) if steps and isinstance(steps.value, list) else 1
        self.set((*section, "type"), Node(released.negatives, self.root.locate(("model_type",))))
        if released.negatives == "AdaptiveHistoryNegatives":
            self.adaptive(steps or decay)
        else:
            for key, node in (("neg_iter", steps), ("neg_decay", decay)):
                if node is None:
                    place = self.root.locate(("train",))
                    self.problems.append(Problem.at(place, ("train",), f"{self.model_type} needs '{key}'."))
            if steps:
                entries = steps.value[::-1] if isinstance(steps.value, list) else [steps]
                note = "reversed, for the i-th decay belongs to the i-th step from the end" if count > 1 else ""
                self.move(("train", "neg_iter"), (*section, "steps"), Node(entries, steps.location), note)
            if decay:
                self.move(("train", "neg_decay"), (*section, "weight"), self.one_if_equal(decay, count))
        start = self.root.at(("train", "neg_start"))
        if start:
            self.move(("train", "neg_start"), (*section, "start"), start)
        else:
            self.set((*section, "start"), Node(released.start, self.root.locate(("model_type",))))

    def one_if_equal(self, decay: Node, count: int) -> Node:
        values = decay.plain()
        if not isinstance(values, list):
            return decay
        if len(values) != count:
            message = f"{count} 'neg_iter' need {count} 'neg_decay', not {len(values)}."
            self.problems.append(Problem.at(decay.location, ("train", "neg_decay"), message))
        return Node(values[0], decay.location) if len(values) == count and len(set(map(repr, values))) == 1 else decay

    def adaptive(self, counted: Node | None) -> None:
        section = ("train", "negatives")
        if counted and isinstance(counted.value, list):
            self.set((*section, "members"), Node(len(counted.value), counted.location))
            text = f"train.negatives.members is {len(counted.value)}, one for each 'neg_iter'"
            self.changes.append((counted.location, text))
        for key in ("neg_iter", "neg_decay"):
            node = self.root.at(("train", key))
            if node:
                self.drop(("train", key), node, "the adaptive negatives follow 'neg_t' alone")
        threshold = self.root.at(("train", "neg_t"))
        if threshold:
            self.move(("train", "neg_t"), (*section, "threshold"), threshold)
