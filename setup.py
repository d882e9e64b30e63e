"""Build step that adds the option files to the package; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithOptions(build_py):
    """Copy the folder ``options`` into the package. Editable installs use the folder itself."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if not self.editable_mode:
            for file in sorted(Path("options").rglob("*.*")):
                copy = Path(self.build_lib, "mcir", file)
                self.mkpath(str(copy.parent))
                self.copy_file(str(file), str(copy))


setup(cmdclass={"build_py": BuildWithOptions})
