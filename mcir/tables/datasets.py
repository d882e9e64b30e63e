"""The data sets of evaluations: which of them exist, which are missing, and where to get those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcir.config import DatasetOptions, Options
from mcir.data.folders import listed
from mcir.data.manifest import Manifest, known_manifests, read_manifest


def sets_to_evaluate(options: Options) -> dict[str, DatasetOptions]:
    """Return the test sets, or else the validation sets, by their keys in the options."""
    return options.datasets.test or options.datasets.val


def present_sets(options: Options) -> dict[str, DatasetOptions]:
    """Return the sets to evaluate that exist on this machine, by their keys in the options."""
    return {key: part for key, part in sets_to_evaluate(options).items() if not missing_paths([part])}


def missing_paths(sections: Iterable[DatasetOptions]) -> list[str]:
    """Return the folders, LMDBs and lists of data sets that do not exist, without duplicates."""
    paths = [path for section in sections for path in _paths(section.section)]
    return [path for path in dict.fromkeys(paths) if not Path(path).exists()]


def _paths(section: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for key, value in section.items():
        if key.startswith("dataroot") or key == "meta_info_file":
            found += filter(None, listed(value))
    return found


def how_to_get(rows: Mapping[str, Sequence[str]]) -> list[str]:
    """Return lines that describe missing data, their sources and where to put them.

    Args:
        rows: the names of the rows that need a missing path, by path.
    """
    manifests = {name: read_manifest(name) for name in known_manifests()}
    missing: dict[str, list[str]] = {}
    lines = []
    for path, names in rows.items():
        manifest = _manifest_of(path, list(manifests.values()))
        if manifest is not None:
            missing.setdefault(manifest.name, []).append(path)
        else:
            lines.append(f"{path} is missing; no manifest describes it. Needed by: {', '.join(names)}.")
    return [*lines, *(line for name, paths in missing.items() for line in _instructions(manifests[name], paths, rows))]


def _instructions(manifest: Manifest, paths: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the lines about the missing parts of one data set."""
    root = f"datasets/{manifest.root}"
    lines = [f"{manifest.title} belongs in {root}. Missing there:"]
    lines.append(f"    needed by: {', '.join(dict.fromkeys(row for path in paths for row in rows[path]))}")
    for path in paths:
        rule = next((rule for rule in manifest.folders if f"{root}/{rule.path}" == path), None)
        if rule is None:
            lines.append(f"    {path}: not part of the published data set; see the option file")
        else:
            lines.append(f"    {path}: {rule.content}" + (f", {rule.images:,} images" if rule.images else ""))
    lines.append(f"    source: {manifest.source.strip()} (Terms: {manifest.terms.strip()})")
    if manifest.prepare:
        lines.append("    then, in the folder datasets:")
        lines += [f"        {line}" for line in manifest.prepare.strip().splitlines()]
    lines.append(f"    check: mcir prepare verify {manifest.name} {root}")
    return lines


def _manifest_of(path: str, manifests: Sequence[Manifest]) -> Manifest | None:
    exact = (m for m in manifests for rule in m.folders if f"datasets/{m.root}/{rule.path}" == path)
    below = (m for m in manifests if path.startswith(f"datasets/{m.root}/"))
    return next(exact, None) or next(below, None)
