"""The house: imports go down only, and stay within a room on the same floor."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mcir"
FLOORS = {
    "version": 1,
    "registry": 1,
    "weight_files": 1,
    "archs": 2,
    "data": 2,
    "metrics": 2,
    "config": 2,
    "report": 2,
    "losses": 3,
    "inference": 3,
    "models": 4,
    "engine": 5,
    "train": 6,
    "test": 6,
    "tables": 6,
    "cli": 7,
}


def imported_rooms(file):
    """Every mcir room that a file imports, wherever in the file it does."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            names = [f"mcir.{alias.name}" for alias in node.names] if module == "mcir" else [module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("mcir.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: relative import"
    return rooms


def files():
    return sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def test_every_import_goes_down_or_stays_in_its_room():
    wrong = []
    for file in files():
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for other in imported_rooms(file):
            if other != room and not FLOORS[other] < FLOORS[room]:
                wrong.append(f"{file.relative_to(PACKAGE)} ({room}, floor {FLOORS[room]}) imports {other}")
    assert not wrong


def test_no_module_at_the_top_hides_another():
    """`torchrun mcir/train.py` puts the folder first on the path."""
    ours = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    ours -= {"__init__", "test"}  # Python's own `test` holds its test suite; nothing that mcir uses imports it
    assert not ours & set(sys.stdlib_module_names)
    assert not ours & {"torch", "torchvision", "numpy", "cv2", "lmdb", "skimage", "yaml", "addict", "pydantic", "rich"}


def test_no_drawer_for_odds_and_ends():
    assert not [file for file in PACKAGE.rglob("*") if file.stem in {"utils", "util", "helpers", "misc", "common"}]


def test_importing_mcir_is_light_and_every_public_name_is_there():
    code = (
        "import sys, mcir; assert 'torch' not in sys.modules; "
        "missing = [name for name in mcir.__all__ if getattr(mcir, name, None) is None]; assert not missing, missing"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
