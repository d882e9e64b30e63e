"""Manifests: what a data set is and how its folders look (``compare`` holds a copy against that).

A manifest is a YAML file in ``mcir/data/manifests``, one for each version of a data set that the option files use or
that its authors give out. It states where its numbers come from (``evidence``), so that a difference can be weighed:
what was measured weighs more than what is commonly said.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mcir.data.errors import DataError
from mcir.data.pairing import GtCrop
from mcir.registry import suggestion

HOME = Path(__file__).with_name("manifests")

EVIDENCE = {
    "copy": "measured on a copy",
    "sample": "measured on some images of it, the count from general knowledge",
    "code": "stated in released training code",
    "recalled": "from general knowledge, not checked",
}
"""Where the numbers of a folder come from."""


def _is_regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression ({error})") from error
    return text


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FolderRule(_Part):
    """What one folder, or data base, holds.

    Attributes:
        path: below the root; a data base where it ends in ``.lmdb``.
        holds: in a few words.
        images: how many.
        names: regular expression that each path below the folder matches as a whole, extension included.
        sizes: of images, ``{glob of names: [620x460, …]}``; the first glob that fits a name holds.
        longest_side: in pixels, of each image.
        evidence: where these numbers come from, a key of ``EVIDENCE``.
        optional: whether a copy without it is complete.
    """

    path: str
    holds: str
    images: int | None = Field(default=None, gt=0)
    names: Annotated[str, AfterValidator(_is_regex)] | None = None
    sizes: dict[str, list[Annotated[str, Field(pattern=r"^\d+x\d+$")]]] = {}
    longest_side: int | None = Field(default=None, gt=0)
    evidence: Literal["copy", "sample", "code", "recalled"] = "recalled"
    optional: bool = False


class PairRule(_Part):
    """Which two folders hold pairs, and how they match.

    Attributes:
        gt: path of the ground truths.
        lq: path of the degraded images.
        filename_tmpl: as in an option file; several where copies with different names circulate.
        scale: size of a ground truth / size of its degraded image.
        gt_crop: as in an option file.
        per_gt: degraded images of each ground truth.
    """

    gt: str
    lq: str
    filename_tmpl: list[str] = Field(default=["{}"], min_length=1)
    scale: int = Field(default=1, ge=1)
    gt_crop: GtCrop | None = None
    per_gt: int | None = Field(default=None, gt=0)


class Manifest(_Part):
    """A data set, in one of its versions.

    Attributes:
        name: what ``mcir prepare verify`` calls it, and the name of its file.
        title: what people call it.
        task: what it is for.
        root: the folder that the option files look for, below ``datasets``.
        what: what it is.
        source: the paper, and the page to get it from.
        terms: what its authors allow.
        version: which of the versions in circulation this is.
        folders: what is where.
        pairs: what belongs together.
        prepare: shell commands that make this layout, run in the folder ``datasets``.
        unverified: what is said here from general knowledge.
    """

    name: str
    title: str
    task: Literal["super-resolution", "dehazing", "deraining", "deblurring", "denoising", "learning from noise"]
    root: str
    what: str
    source: str
    terms: str
    version: str
    folders: list[FolderRule] = Field(min_length=1)
    pairs: list[PairRule]
    prepare: str = ""
    unverified: list[str] = []

    @model_validator(mode="after")
    def _fits(self) -> Manifest:
        paths = [folder.path for folder in self.folders]
        if len(set(paths)) < len(paths):
            raise ValueError("a folder stands there twice")
        for pair in self.pairs:
            if not {pair.gt, pair.lq} <= set(paths):
                raise ValueError(f"the pair {pair.gt} + {pair.lq} is of folders that are not listed")
            if pair.per_gt is not None and not all("*" in template for template in pair.filename_tmpl):
                raise ValueError(f"the pair {pair.gt} + {pair.lq} has per_gt, but a filename_tmpl without '*'")
        return self


def known_manifests() -> list[str]:
    """Return the names of all manifests, sorted."""
    return sorted(path.stem for path in HOME.glob("*.yml"))


def read_manifest(name: str) -> Manifest:
    """Return the manifest of that name; case does not matter, and a blank or ``_`` may stand for ``-``.

    Raises:
        DataError: there is none, or it is not well-formed; the message offers the nearest name and lists all.
    """
    known = known_manifests()
    if not known:
        raise DataError(f"{HOME}: no manifests; mcir was installed without them. Install it from a clone or a wheel.")
    wanted = name.lower().replace("_", "-").replace(" ", "-")
    if wanted not in known:
        raise DataError(f"There is no data set '{name}'.{suggestion(wanted, known)} Known are {', '.join(known)}.")
    path = HOME / f"{wanted}.yml"
    try:
        return Manifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise DataError(f"{path}: {error}") from error


def as_markdown(manifest: Manifest) -> str:
    """Return the section of ``datasets/README.md`` that tells of a data set."""
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
        f"| folder of `{manifest.root}` | holds | images | size | numbers |",
        "|---|---|---|---|---|",
    ]
    for rule in manifest.folders:
        count = f"{rule.images:,}" if rule.images else "–"
        holds = rule.holds + (" (optional)" if rule.optional else "")
        lines.append(f"| `{rule.path}` | {holds} | {count} | {_sizes_in_words(rule)} | {EVIDENCE[rule.evidence]} |")
    lines += ["", *(_pair_in_words(pair) for pair in manifest.pairs)]
    if manifest.unverified:
        lines += ["", "From general knowledge, not checked:", "", *(f"- {line}" for line in manifest.unverified)]
    if manifest.prepare:
        lines += ["", "```bash", manifest.prepare.strip(), "```"]
    return "\n".join(lines) + "\n"


def _sizes_in_words(rule: FolderRule) -> str:
    if rule.longest_side is not None:
        return f"longest side {rule.longest_side}"
    if set(rule.sizes) == {"*"}:
        return " or ".join(rule.sizes["*"]).replace("x", "×")
    return "each image its own, listed in the manifest" if rule.sizes else "differ"


def _pair_in_words(pair: PairRule) -> str:
    name = " or ".join(f"`filename_tmpl: '{template}'`" for template in pair.filename_tmpl if template != "{}")
    if "{}" in pair.filename_tmpl:
        name = "equal names" + (f", or {name}" if name else "")
    more = [name]
    more += [f"{pair.per_gt} degraded images each"] if pair.per_gt else []
    more += [f"scale {pair.scale}"] if pair.scale > 1 else []
    more += [f"`gt_crop: {pair.gt_crop}`"] if pair.gt_crop else []
    return f"- Pairs: ground truth `{pair.gt}`, degraded `{pair.lq}`; {'; '.join(more)}."
