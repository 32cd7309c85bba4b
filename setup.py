"""Ships configs/ inside the package, so that who installs a wheel has them too. All else is in pyproject.toml."""

import sys

from setuptools import find_packages, setup

# Scripts of the repository import each other; who installs a wheel gets none of them.
REPOSITORY_ONLY = ["paper*", "benchmarks*"] if "editable_wheel" in sys.argv else []

setup(
    packages=[*find_packages(include=["rigl_lightning*", *REPOSITORY_ONLY]), "rigl_lightning.configs"],
    package_dir={"rigl_lightning.configs": "configs"},
    package_data={"rigl_lightning": ["py.typed"], "rigl_lightning.configs": ["*.yaml", "*/*.yaml"]},
)
