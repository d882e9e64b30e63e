"""The layering of the package: a module imports only from its own package or from packages in lower layers."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mcir"
ROW = re.compile(r"^\| (\d) \| (.+?) \| .+ \|$", re.MULTILINE)


def layers():
    """The layer of each package and top-level module, from the table in CONTRIBUTING.md."""
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {
        name.removesuffix(".py").rstrip("/"): int(number)
        for number, names in ROW.findall(table)
        for name in re.findall(r"`([^`]+)`", names)
    }


def imported_packages(file):
    """Every package or top-level module of mcir that a file imports, anywhere in the file."""
    packages = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            names = [f"mcir.{alias.name}" for alias in node.names] if module == "mcir" else [module]
        packages |= {name.split(".")[1] for name in names if name.startswith("mcir.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: relative import"
    return packages


def test_the_table_names_every_package():
    packages = {
        path.stem if path.suffix == ".py" else path.name
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert layers().keys() == packages - {"__init__"}


def test_imports_go_down_or_stay_in_their_package():
    layer = layers()
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        package = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if package == "__init__":
            continue
        for other in imported_packages(file) & layer.keys() - {package}:
            if not (layer[other] < layer[package] or layer[other] == layer[package] == 1):
                wrong.append(f"{file.relative_to(ROOT)} (layer {layer[package]}) imports {other} ({layer[other]})")
    assert not wrong


def test_no_module_at_the_top_hides_another():
    """`torchrun mcir/train.py` puts the folder first on the path."""
    ours = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    ours -= {"__init__", "test"}  # Python's own `test` holds its test suite; nothing that mcir uses imports it
    assert not ours & set(sys.stdlib_module_names)
    assert not ours & {
        "torch",
        "torchvision",
        "numpy",
        "cv2",
        "lmdb",
        "skimage",
        "yaml",
        "addict",
        "pydantic",
        "rich",
        "psutil",
    }


def test_there_is_no_utils_module():
    assert not [file for file in PACKAGE.rglob("*") if file.stem in {"utils", "util", "helpers", "misc", "common"}]


def test_importing_mcir_is_light_and_every_public_name_is_there():
    code = (
        "import sys, mcir; assert 'torch' not in sys.modules; "
        "missing = [name for name in mcir.__all__ if getattr(mcir, name, None) is None]; assert not missing, missing"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
