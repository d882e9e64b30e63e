"""Match ground truths and degraded images by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from mcir.data.storage import Headers, comparable, stem
from mcir.errors import ArgumentError


class FilenameTemplate:
    """A parsed ``filename_tmpl``.

    Args:
        text: name of a degraded image; ``{}`` is the name of its ground truth, and ``*`` matches any characters.

    Attributes:
        has_star: whether there is a ``*``, so that a ground truth may have several degraded images.

    Raises:
        ArgumentError: the text is not a template.
    """

    def __init__(self, text: str) -> None:
        parts = re.split(r"(\{\}|\*)", comparable(text))
        marks = parts[1::2]
        if marks not in (["{}"], ["{}", "*"], ["*", "{}"]):
            raise ArgumentError(
                "filename_tmpl",
                "expected one '{}', like '{}x4', and also one '*' if a ground truth has several degraded "
                f"images, like '{{}}_*', got '{text}'.",
            )
        self._text, self._star_first = text, marks[0] == "*"
        self._before, self._between, self._after = parts[0], "".join(parts[2:-2]), parts[-1]
        self.has_star = "*" in marks

    def fill(self, key: str) -> str:
        """Return the key, without extension, of the degraded image of a ground truth."""
        folder, slash, name = stem(key).rpartition("/")
        return f"{folder}{slash}{self._text.replace('{}', name)}"

    def possible_gt(self, key: str) -> Iterator[str]:
        """Yield the comparable keys, without extension, of all possible ground truths of a degraded image."""
        folder, slash, name = comparable(stem(key)).rpartition("/")
        end = len(name) - len(self._after)
        if not (name.startswith(self._before) and name.endswith(self._after)) or end < len(self._before):
            return
        core = name[len(self._before) : end]
        if not self.has_star:
            yield f"{folder}{slash}{core}"
            return
        for at in range(len(core) - len(self._between) + 1):
            gt_name = core[at + len(self._between) :] if self._star_first else core[:at]
            if gt_name and core.startswith(self._between, at):
                yield f"{folder}{slash}{gt_name}"


def keys_by_stem(storage: Headers) -> dict[str, list[str]]:
    """Group the keys of a storage by their comparable name without extension."""
    found: dict[str, list[str]] = defaultdict(list)
    for key in storage.keys():  # noqa: SIM118 (not a mapping)
        found[comparable(stem(key))].append(key)
    return found


def match_names(
    gt: Headers, lq: Headers, keys: Sequence[str], template: FilenameTemplate, all_used: bool
) -> tuple[list[tuple[str, str]], list[str]]:
    """Match ground truths with their degraded images.

    If several images have the same name, the one with the extension of its partner is used.

    Args:
        gt: ground truths.
        lq: degraded images.
        keys: keys of the ground truths to match.
        template: name of a degraded image, made from the name of its ground truth.
        all_used: whether every degraded image must have a ground truth.

    Returns:
        The pairs of keys, in the order of ``keys``, and a description of each problem.
    """
    by_stem = keys_by_stem(gt)
    groups: dict[str, list[str]] = {key: [] for key in keys}
    problems: list[str] = []
    for key in lq.keys():  # noqa: SIM118 (not a mapping)
        found = [gt_key for name in template.possible_gt(key) for gt_key in by_stem.get(name, ())]
        same = _same_extension(found, key)
        if not found and all_used:
            problems.append(f"{lq.path(key)}: no ground truth")
        elif len(same) > 1:
            problems.append(f"{lq.path(key)}: several ground truths, {', '.join(map(gt.path, found))}")
        elif same and same[0] in groups:
            groups[same[0]].append(key)
    pairs: list[tuple[str, str]] = []
    for key, group in groups.items():
        used = group if template.has_star else _same_extension(group, key)
        if not group:
            problems.append(f"{gt.path(key)}: no degraded image {lq.path(template.fill(key))} (with any extension)")
        elif len({stem(lq_key) for lq_key in used}) < len(used):
            problems.append(f"{gt.path(key)}: several degraded images of one name, {', '.join(map(lq.path, used))}")
        pairs += [(key, lq_key) for lq_key in used]
    return pairs, problems


def _same_extension(candidates: list[str], key: str) -> list[str]:
    """Return the candidates with the extension of ``key``; all of them if none has it, or if there is only one."""
    extension = key[len(stem(key)) :]
    same = [candidate for candidate in candidates if candidate[len(stem(candidate)) :] == extension]
    return same if same and len(candidates) > 1 else candidates
