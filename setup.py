"""Ships configs/ inside the package, so that who installs a wheel has them too. All else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["rigl_lightning*"]), "rigl_lightning.configs"],
    package_dir={"rigl_lightning.configs": "configs"},
    package_data={"rigl_lightning": ["py.typed"], "rigl_lightning.configs": ["*.yaml", "*/*.yaml"]},
)
