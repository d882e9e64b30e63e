"""Write the sections about data sets in this folder's README.md from the manifests of mcir.

Run it after changing a manifest: ``python datasets/render.py``. A test checks that the page is up to date.
"""

from __future__ import annotations

from pathlib import Path

from mcir.data.manifest import EVIDENCE, FolderRule, Manifest, PairRule, known_manifests, read_manifest

PAGE = Path(__file__).with_name("README.md")
MARK = "<!-- Written by datasets/render.py from mcir/data/manifests. Change the manifests instead of this text. -->"
TASKS = ("super-resolution", "dehazing", "deraining", "deblurring", "denoising", "learning from noise")
ORDER = ("div2k", "set5", "set14", "b100", "urban100", "manga109", "reside-in", "reside-out", "reside-6k")


def rendered(page: str) -> str:
    """Return the page with everything after the mark rendered again."""
    manifests = [read_manifest(name) for name in sorted(known_manifests(), key=_position)]
    parts = []
    for task in TASKS:
        parts.append(f"## {task.capitalize()}\n")
        parts += [as_markdown(manifest) for manifest in manifests if manifest.task == task]
    return page.partition(MARK)[0] + MARK + "\n\n" + "\n".join(parts)


def as_markdown(manifest: Manifest) -> str:
    """Return the section about a data set."""
    lines = [
        f"### {manifest.title}",
        "",
        f"`mcir prepare verify {manifest.name} datasets/{manifest.root}`",
        "",
        manifest.what.strip(),
        "",
        f"- Source: {manifest.source.strip()}",
        f"- Terms: {manifest.terms.strip()}",
        f"- Version: {manifest.version.strip()}",
        "",
        f"| folder in `{manifest.root}` | content | images | size | evidence |",
        "|---|---|---|---|---|",
    ]
    for rule in manifest.folders:
        count = f"{rule.images:,}" if rule.images else "–"
        content = rule.content + (" (optional)" if rule.optional else "")
        lines.append(f"| `{rule.path}` | {content} | {count} | {_sizes(rule)} | {EVIDENCE[rule.evidence]} |")
    if manifest.pairs:
        lines += ["", *map(_pair, manifest.pairs)]
    if manifest.unverified:
        lines += ["", "From general knowledge, not checked:", "", *(f"- {line}" for line in manifest.unverified)]
    if manifest.prepare:
        lines += ["", "```bash", manifest.prepare.strip(), "```"]
    return "\n".join(lines) + "\n"


def _sizes(rule: FolderRule) -> str:
    if rule.longest_side is not None:
        return f"longest side {rule.longest_side}"
    if set(rule.sizes) == {"*"}:
        return " or ".join(rule.sizes["*"]).replace("x", "×")
    return "one for each image, see the manifest" if rule.sizes else "various"


def _pair(pair: PairRule) -> str:
    name = " or ".join(f"`filename_tmpl: '{template}'`" for template in pair.filename_tmpl if template != "{}")
    if "{}" in pair.filename_tmpl:
        name = "equal names" + (f", or {name}" if name else "")
    facts = [name]
    facts += [f"{pair.per_gt} degraded images per ground truth"] if pair.per_gt else []
    facts += [f"scale {pair.scale}"] if pair.scale > 1 else []
    facts += [f"`gt_crop: {pair.gt_crop}`"] if pair.gt_crop else []
    return f"- Pairs: ground truths `{pair.gt}`, degraded images `{pair.lq}`; {'; '.join(facts)}."


def _position(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
