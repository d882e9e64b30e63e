"""Write the sections of this folder's README.md that tell of the data sets, from the manifests that mcir brings.

Run it after a change of a manifest: ``python datasets/render.py``. A test sees that the page is up to date.
"""

from __future__ import annotations

from pathlib import Path

from mcir.data.manifest import as_markdown, known_manifests, read_manifest

PAGE = Path(__file__).with_name("README.md")
MARK = "<!-- From here on written by datasets/render.py from mcir/data/manifests; change those. -->"
TASKS = ("super-resolution", "dehazing", "deraining", "deblurring", "denoising", "learning from noise")
ORDER = ("div2k", "set5", "set14", "b100", "urban100", "manga109", "reside-in", "reside-out", "reside-6k")


def rendered(page: str) -> str:
    """Return the page with all that follows the mark written anew."""
    manifests = [read_manifest(name) for name in sorted(known_manifests(), key=_place)]
    parts = []
    for task in TASKS:
        parts.append(f"## {task.capitalize()}\n")
        parts += [as_markdown(manifest) for manifest in manifests if manifest.task == task]
    return page.partition(MARK)[0] + MARK + "\n\n" + "\n".join(parts)


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
