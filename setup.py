"""Put registry.yaml, which lives at the top of the repository, into the package when it is built."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRegistry(build_py):
    """Build the packages, with registry.yaml beside mousebench's modules."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            shutil.copyfile("registry.yaml", Path(self.build_lib, "mousebench", "registry.yaml"))


setup(cmdclass={"build_py": BuildWithRegistry})
