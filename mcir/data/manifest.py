"""Manifests: the folders, numbers of images, names and sizes of a data set; ``compare`` checks copies against them.

A manifest is a YAML file in ``mcir/data/manifests``. There is one for each version of a data set that the option files
use or that its authors provide. ``evidence`` states where the numbers come from and so how reliable they are.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mcir.data.errors import DataError
from mcir.data.pairing import GtCrop
from mcir.errors import suggestion

HOME = Path(__file__).with_name("manifests")

EVIDENCE = {
    "copy": "measured on a copy",
    "sample": "measured on some images, the count from general knowledge",
    "code": "stated in released training code",
    "recalled": "from general knowledge, not checked",
}
"""Where the numbers of a folder come from."""


def _is_regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression ({error})") from error
    return text


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FolderRule(_Part):
    """The images of a folder or database.

    Attributes:
        path: path relative to the root; a database if it ends in ``.lmdb``.
        content: short description.
        images: number of images.
        names: regular expression that matches the relative path of each image, including the extension.
        sizes: allowed sizes, ``{name pattern: [620x460, …]}``; the first matching pattern applies.
        longest_side: longest side of each image in pixels.
        evidence: source of these numbers, a key of ``EVIDENCE``.
        optional: whether a copy is complete without this folder.
    """

    path: str
    content: str
    images: int | None = Field(default=None, gt=0)
    names: Annotated[str, AfterValidator(_is_regex)] | None = None
    sizes: dict[str, list[Annotated[str, Field(pattern=r"^\d+x\d+$")]]] = {}
    longest_side: int | None = Field(default=None, gt=0)
    evidence: Literal["copy", "sample", "code", "recalled"] = "recalled"
    optional: bool = False


class PairRule(_Part):
    """Two folders whose images form pairs.

    Attributes:
        gt: path of the ground truths.
        lq: path of the degraded images.
        filename_tmpl: values of this option; several if names differ between copies.
        scale: size of a ground truth / size of its degraded image.
        gt_crop: value of this option.
        per_gt: number of degraded images of each ground truth.
    """

    gt: str
    lq: str
    filename_tmpl: list[str] = Field(default=["{}"], min_length=1)
    scale: int = Field(default=1, ge=1)
    gt_crop: GtCrop | None = None
    per_gt: int | None = Field(default=None, gt=0)


class Manifest(_Part):
    """One version of a data set.

    Attributes:
        name: name for ``mcir prepare verify``, equal to the name of the file.
        title: common name.
        task: restoration task.
        root: folder that the option files use, relative to ``datasets``.
        what: description.
        source: paper and web page.
        url: address of the page from which the images are downloaded.
        terms: terms of use.
        version: description of the version.
        folders: content of the folders.
        pairs: folders that form pairs.
        prepare: shell commands that create this layout, run in the folder ``datasets``.
        unverified: statements of the manifest that come from general knowledge.
    """

    name: str
    title: str
    task: Literal["super-resolution", "dehazing", "deraining", "deblurring", "denoising", "learning from noise"]
    root: str
    what: str
    source: str
    url: Annotated[str, Field(pattern=r"^https?://")]
    terms: str
    version: str
    folders: list[FolderRule] = Field(min_length=1)
    pairs: list[PairRule]
    prepare: str = ""
    unverified: list[str] = []

    @model_validator(mode="after")
    def _is_consistent(self) -> "Manifest":
        paths = [folder.path for folder in self.folders]
        if len(set(paths)) < len(paths):
            raise ValueError("a folder is listed twice")
        for pair in self.pairs:
            if not {pair.gt, pair.lq} <= set(paths):
                raise ValueError(f"a folder of the pair {pair.gt} + {pair.lq} is not listed")
            if pair.per_gt is not None and not all("*" in template for template in pair.filename_tmpl):
                raise ValueError(f"the pair {pair.gt} + {pair.lq} has per_gt, but no '*' in its filename_tmpl")
        return self


def known_manifests() -> list[str]:
    """Return the names of all manifests, sorted."""
    return sorted(path.stem for path in HOME.glob("*.yml"))


def how_to_get(path: str | Path) -> str:
    """Return what to do about a missing folder: where its data set is available, and how it is prepared.

    The data set is recognized by the name of its root, which the option files use. For other folders, the text is
    empty.
    """
    parts = Path(path).parts
    found: tuple[int, int, Manifest] | None = None
    for manifest in map(read_manifest, known_manifests()):
        root = Path(manifest.root).parts
        for end in range(len(root), len(parts) + 1):
            if parts[end - len(root) : end] == root and (found is None or len(root) > found[0]):
                found = len(root), end, manifest
    if found is None:
        return ""
    _, end, manifest = found
    target = Path(*parts[:end])
    source = f"{manifest.title} is available at {manifest.url}. Put it into {target}."
    check = f"`mcir prepare verify {manifest.name} {target}` checks it; see datasets/README.md."
    if not manifest.prepare:
        return f"{source} {check}"
    commands = "".join(f"\n    {line}" for line in manifest.prepare.rstrip().splitlines())
    return f"{source} {check} Prepare it in {Path(*parts[: end - len(Path(manifest.root).parts)])}:{commands}"


def read_manifest(name: str) -> Manifest:
    """Read the manifest of a data set.

    Args:
        name: name of the manifest; its case is ignored, and ``_`` and spaces are read as ``-``.

    Raises:
        DataError: the manifest does not exist or is invalid.
    """
    known = known_manifests()
    if not known:
        raise DataError(f"{HOME}: no manifests; mcir was installed without them. Install it from a clone or a wheel.")
    wanted = name.lower().replace("_", "-").replace(" ", "-")
    if wanted not in known:
        raise DataError(f"There is no data set '{name}'.{suggestion(wanted, known)} Known names: {', '.join(known)}.")
    path = HOME / f"{wanted}.yml"
    try:
        return Manifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise DataError(f"{path}: {error}") from error
