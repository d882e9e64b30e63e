"""Make the screenshots of the demo, of a report and of a comparison, with Chromium and Playwright.

mcir train options/quickstart.yml
python docs/make_screenshots.py experiments/quickstart
"""

import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from torch.utils.data import default_collate

from mcir.data import to_device
from mcir.data.bundled import BundledPhotos
from mcir.inference.compare import compare
from mcir.report.comparison import picture, save_picture

PICTURES = Path(__file__).parent / "pictures"


def main(run: str) -> None:
    """Take screenshots of the report of a run, of a comparison of two of its checkpoints, and of a demo."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 1290})
        page.goto(Path(run, "report.html").resolve().as_uri())
        save_screenshot(page, "report")
        page = browser.new_page(viewport={"width": 1110, "height": 630})
        with tempfile.TemporaryDirectory() as folder:
            page.goto(compare_checkpoints(Path(run, "models"), Path(folder)).as_uri())
            page.evaluate("document.querySelector('.comparison').scrollIntoView()")
            save_screenshot(page, "comparison")
        page = browser.new_page(viewport={"width": 1280, "height": 820})
        command = [sys.executable, "-m", "mcir.cli", "demo", f"quickstart={run}/models/net_g_best.pth"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
            assert server.stdout is not None
            (address,) = re.findall(r"http://\S+", server.stdout.readline())
            restore_example(page, address)
            save_screenshot(page, "demo")
            server.send_signal(signal.SIGINT)


def compare_checkpoints(models: Path, folder: Path) -> Path:
    """Compare the first and the last checkpoint of a run on a photograph, and return the page."""
    photographs = BundledPhotos("val", scale=2, degradation={"type": "BicubicDown"})
    sample = to_device(default_collate([photographs[1]]), torch.device("cpu"))
    for name in ("lq", "gt"):
        save_picture(picture(sample[name][0]), folder / name, "coffee")
    files = [f"early={models}/net_g_200.pth", f"late={models}/net_g_800.pth"]
    compare(*files, [str(folder / "lq")], gt=folder / "gt", out=folder / "comparison.html")
    return folder / "comparison.html"


def restore_example(page: Page, address: str) -> None:
    """Restore the first example of a demo."""
    page.goto(address)
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#truth img")
    page.click("#compare button")  # close the section, which an example opens
    page.click("#restore")
    page.wait_for_selector("#metrics table")


def save_screenshot(page: Page, name: str) -> None:
    """Save what a page shows as a small WebP file."""
    page.wait_for_timeout(2000)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.thumbnail((1280, 1032), Image.Resampling.LANCZOS)
    image.save(PICTURES / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main(sys.argv[1])
