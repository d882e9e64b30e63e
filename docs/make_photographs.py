"""Make the pictures of the page "Your own photographs", in the folder in which its commands were run.

cd FOLDER && python …/docs/make_photographs.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from make_screenshots import save_screenshot
from PIL import Image
from playwright.sync_api import sync_playwright

from mcir.data import imresize
from mcir.report.comparison import comparison

PICTURES = Path(__file__).parent / "pictures"
CROPS = {"result": (60, 250, 200), "dehaze": (20, 150, 360)}
"""Crop to show: top, left and side."""


def main() -> None:
    """Make the pictures of the folder, of both results and of the report."""
    save_contact_sheet(Path("photos"))
    save_result("result", Path("small/coffee.png"), Path("compared"), Path("photos"), "bicubic")
    save_result("dehaze", Path("hazy/coffee.png"), Path("dehazed"), Path("clear"), "hazy")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 1290})
        page.goto(Path("experiments/my/report.html").resolve().as_uri())
        save_screenshot(page, "photographs_report")


def save_contact_sheet(folder: Path, columns: int = 5, side: int = 200, gap: int = 8) -> None:
    """Save one picture of the central squares of all images of a folder."""
    files = sorted(folder.iterdir())
    rows = -(-len(files) // columns)
    sheet = Image.new("RGBA", (columns * (side + gap) - gap, rows * (side + gap) - gap))
    for index, file in enumerate(files):
        image = Image.open(file).convert("RGB")
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(square, ((index % columns) * (side + gap), (index // columns) * (side + gap)))
    sheet.save(PICTURES / "photographs_folder.webp", quality=80, method=6)


def save_result(name: str, degraded: Path, restored: Path, gt: Path, label: str) -> None:
    """Save the crop of a restored image next to its input, the ground truth and the error, with its PSNR."""
    truth, output, given = (read(file) for file in (gt / degraded.name, restored / degraded.name, degraded))
    upscaled = imresize(given.double(), truth.shape[-1] // given.shape[-1]).float()
    scores = json.loads((restored / "metrics.json").read_text())["images"][degraded.name]
    captions = (f"{label}: {scores['psnr_of_input']:.2f} dB", f"output: {scores['psnr']:.2f} dB")
    top, left, side = CROPS[name]
    crop = (slice(None), slice(top, top + side), slice(left, left + side))
    image = comparison(upscaled[crop], output[crop], truth[crop], captions)
    Image.fromarray(np.asarray(image)).save(PICTURES / f"photographs_{name}.webp", quality=88, method=6)


def read(file: Path) -> torch.Tensor:
    """Return an image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) / 255


if __name__ == "__main__":
    main()
