"""Translation of the option names of BasicSR, NAFNet and the MCIR paper's released code to current names.

``legacy_names`` contains tables of keys, ``_Translation`` what a table cannot express. ``legacy_parts`` finds classes
that mcir does not have.
"""

from __future__ import annotations

from typing import Any

from mcir.config.legacy_names import (
    DROPPED,
    IGNORED,
    NAFNET,
    NAFNET_CLIP,
    OTHER_METRICS,
    REFUSED,
    RELEASED,
    RENAMED,
    RESTORATION_MODELS,
)
from mcir.config.legacy_parts import missing_parts
from mcir.config.tree import Node, OptionError, Problem, dotted, merge
from mcir.errors import KeyPath, Location
from mcir.registry import DATASETS, METRICS


def translate(root: Node) -> tuple[list[str], list[Problem]]:
    """Replace old names in a tree by current ones.

    Args:
        root: whole option file; it is changed.

    Returns:
        The changes, one line each, and the problems of what cannot be translated.

    Raises:
        OptionError: the file needs classes that mcir does not have; the message is one line.
    """
    if missing := missing_parts(root):
        raise OptionError([missing])
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
        is_old = is_released or self.model_type in RESTORATION_MODELS
        if is_old:
            self.change_value(("model_type",), "ContrastiveModel" if is_released else "RestorationModel")
            self.ignored_keys()
        self.metrics(is_old)
        self.apply_tables()
        self.folders()
        if is_old:
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
                if row.has_no_effect(node.plain()):
                    self.drop(path, node, row.why)
                else:
                    self.refuse(path, f"not supported: {row.why}.")
        for pattern, refusal in REFUSED.items():
            for path, node in self.find(pattern):
                self.refuse(path, refusal.format(value=_norm(node)))
        for old, new in RENAMED.items():
            for path, node in self.find(old):
                target = tuple(path[i] if part == "*" else part for i, part in enumerate(new.split(".")))
                self.move(path, target, node)

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
            message = f"'{dotted(path)}' is also set at {present.location}. Remove one of the two."
            self.report(node.location, path, message)

    # -- what a table cannot express ------------------------------------------------------------------------------

    def ignored_keys(self) -> None:
        """Remove keys that have no effect on the numbers of a run."""
        for pattern, why in IGNORED.items():
            for path, node in self.find(pattern):
                self.remove(path)
                self.changes.append((node.location, f"{dotted(path)} is ignored: {why.format(value=_norm(node))}"))

    def folders(self) -> None:
        """Replace the parent folder of all runs by those of trainings and of tests."""
        for path, node in self.find("path.root"):
            self.move(path, ("path", "experiments_root"), Node(f"{node.value}/experiments", node.location))
            self.set(("path", "results_root"), Node(f"{node.value}/results", node.location).moved_from(path))

    def metrics(self, is_old: bool) -> None:
        """Rename the metrics, and drop keys that a metric's class defines.

        ``better`` is the direction of the metric. ``use_image`` is whether images are rounded to 8 bits.
        """
        names = {"calculate_psnr": "PSNR", "calculate_ssim": "SSIM"}
        if self.model_type == NAFNET:
            names["calculate_ssim"] = "SSIM3D"  # the window also spans the colour channels
        rounds = self.root.at(("val", "use_image"))
        if is_old and rounds and type(rounds.value) is bool:
            kind = "PSNR" if rounds.value else "FloatPSNR"
            self.drop(("val", "use_image"), rounds, f"the metric decides, like {kind}, whether images are rounded")
            names = names if rounds.value else {name: f"Float{metric}" for name, metric in names.items()}
        for path, node in self.find("val.metrics.*"):
            kind = self.text((*path, "type"))
            if kind in names:
                self.change_value((*path, "type"), names[kind])
            elif is_old and kind in OTHER_METRICS:
                self.drop(path, node, f"mcir does not have the metric {kind}")
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
            renamed = {"perceptual_weight": "loss_weight"}
            section = {renamed.get(key, key): entry.moved_from((*path, key)) for key, entry in old.items()}
            self.move(path, ("train", "contrastive_opt"), Node(section, node.location), "SPNLoss, subtracted")
        positive = self.root.at(("train", "perceptual_pos_opt"))
        if positive is not None:
            self.move(("train", "perceptual_pos_opt"), path, positive)

    def negatives(self, kind: str, default_start: float) -> None:
        """Translate ``neg_iter``, ``neg_decay``, ``neg_start`` and ``neg_t`` to the section ``negatives``."""
        section, at_model = ("train", "negatives"), self.root.locate(("model_type",))
        old = {key: self.root.at(("train", key)) for key in ("neg_iter", "neg_decay")}
        steps = old["neg_iter"] or old["neg_decay"]
        count = len(steps.value) if steps and isinstance(steps.value, list) else 1
        self.set((*section, "type"), Node(kind, at_model))
        if kind == "HistoryNegatives":
            for key, node in old.items():
                if node is None:
                    self.report(self.root.locate(("train",)), ("train",), f"{self.model_type} requires '{key}'.")
                else:
                    self.history(key, node, count)
        else:
            if steps and isinstance(steps.value, list):
                self.set((*section, "members"), Node(count, steps.location))
                text = f"train.negatives.members is {count}, one for each 'neg_iter'"
                self.changes.append((steps.location, text))
            for key, node in old.items():
                if node:
                    self.drop(("train", key), node, "adaptive negatives use only 'neg_t'")
            if threshold := self.root.at(("train", "neg_t")):
                self.move(("train", "neg_t"), (*section, "threshold"), threshold)
        if start := self.root.at(("train", "neg_start")):
            self.move(("train", "neg_start"), (*section, "start"), start)
        else:
            self.set((*section, "start"), Node(default_start, at_model))

    def history(self, key: str, node: Node, count: int) -> None:
        """Translate ``neg_iter`` or ``neg_decay`` of negatives with fixed steps; equal decays become one number."""
        path = ("train", key)
        if key == "neg_iter":
            entries = node.value[::-1] if isinstance(node.value, list) else [node]
            note = "reversed, because the i-th decay belongs to the i-th step from the end" if count > 1 else ""
            self.move(path, ("train", "negatives", "steps"), Node(entries, node.location), note)
            return
        values = node.plain()
        if isinstance(values, list) and len(values) != count:
            message = f"expected {count} values of 'neg_decay', one for each 'neg_iter', got {len(values)}."
            self.report(node.location, path, message)
        elif isinstance(values, list) and len(set(map(repr, values))) == 1:
            node = Node(values[0], node.location)
        self.move(path, ("train", "negatives", "weight"), node)


def _norm(node: Node) -> Any:
    """Return the norm in a switch or a norm, for a message."""
    return node.value if type(node.value) in (int, float) else 0.05
