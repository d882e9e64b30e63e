"""Third-party imports of the package, compared with the dependencies that pyproject.toml declares."""

import ast
import re
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
MODULES = {
    "annotated-types": "annotated_types",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
}
"""Distributions whose module has another name."""
INDIRECT = {"onnxscript": "torch.onnx"}
"""Distributions that only another library imports, and the part of it that needs them."""
COMPANIONS = {"jinja2": {"markupsafe"}, "pydantic": {"pydantic_core"}, "gradio": {"fastapi", "uvicorn"}}
"""Modules of distributions that a declared one requires, and that belong to its documented interface."""
DEVELOPMENT = {"dev", "docs"}
"""Extras for tests and documentation, whose packages ``mcir/`` does not import."""


def imported_modules():
    """Every absolute import in ``mcir/``, also those inside functions, as full module names."""
    modules = set()
    for file in (ROOT / "mcir").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("find_spec", "import_module")):
                modules |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    return modules


def declared_distributions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(r for name in extras.keys() - DEVELOPMENT for r in extras[name])]
    return {re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements}


def test_imports_and_declared_dependencies_are_the_same():
    top_level = {module.partition(".")[0] for module in imported_modules()}
    third_party = top_level - set(sys.stdlib_module_names) - {"mcir", "__future__"}
    declared = {MODULES.get(name, name) for name in declared_distributions() - INDIRECT.keys()}
    third_party -= {module for name in declared for module in COMPANIONS.get(name, ())}
    assert third_party - declared == set(), "imported, but not declared in pyproject.toml"
    assert declared - third_party == set(), "declared in pyproject.toml, but not imported"
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "mcir").rglob("*.py"))
    assert [name for name, user in INDIRECT.items() if user not in source] == [], "declared, but its user is not used"


def test_the_distribution_does_not_have_the_name_of_another_project():
    """``mcir`` on the package index is a package from another field, so nothing may install it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "mcir-restoration"
    assert project["scripts"] == {"mcir": "mcir.command:main"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wrong = re.compile(r"pip install [^\n&]*\bmcir(?!-restoration)(?=[\[\"'\s`]|$)")
    found = []
    for name in tracked.splitlines():
        file = ROOT / name
        if (
            file.suffix in {".py", ".md", ".yml", ".toml", ".sh", ".html", ""}
            and file.is_file()
            and name != "tests/test_dependencies.py"
        ):
            text = file.read_text(encoding="utf-8", errors="ignore")
            found += [f"{name}: {match[0]}" for match in wrong.finditer(text)]
    assert not found
