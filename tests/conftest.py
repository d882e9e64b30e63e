"""How the suite runs: slow tests on demand, one thread of arithmetic per process."""

import os
import shutil

import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="run the slow tests, too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--runslow"):
        skip = pytest.mark.skip(reason="slow; run with --runslow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, controlled by Playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip('Playwright is not installed: pip install -e ".[dev]"')
    found = [name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)]
    if not found:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=shutil.which(found[0]), args=["--no-sandbox"])
        yield running
        running.close()
