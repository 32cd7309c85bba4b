"""Installs every extra of pyproject.toml by itself, and imports what it brings: ``make test-extras`` runs it.

python check_extras.py UV ENVIRONMENT [EXTRA ...]
"""

import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MODULES = {
    "pyyaml": "yaml",
    "mkdocs-material": "material",
    "mkdocstrings": "mkdocstrings",
    "pytest-xdist": "xdist",
    "rigl-lightning": "rigl_lightning.trainer.callback",
}
"""Module of a distribution that is named otherwise."""
COMMANDS_ONLY = ("ruff",)


def modules_of(extra: str, requirements: list[Requirement]) -> list[str]:
    """What can be imported with an extra; of an extra that names others, theirs too."""
    found = ["rigl_lightning.trainer.callback"]
    for requirement in requirements:
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == "rigl-lightning":
            found += [module for other in requirement.extras for module in modules_of(other, requirements)]
        elif requirement.name not in COMMANDS_ONLY:
            found.append(MODULES.get(requirement.name, requirement.name.replace("-", "_")))
    return sorted(set(found))


def main() -> None:
    uv, environment, *wanted = sys.argv[1:]
    package = metadata("rigl-lightning")
    requirements = [Requirement(text) for text in package.get_all("Requires-Dist")]
    for extra in wanted or package.get_all("Provides-Extra"):
        python = str(Path(environment).absolute() / "bin" / "python")
        subprocess.run([uv, "venv", "--quiet", "--clear", environment], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, f"{ROOT}[{extra}]"], check=True)
        modules = modules_of(extra, requirements)
        subprocess.run([python, "-c", f"import {', '.join(modules)}"], check=True, cwd=ROOT / "tests")
        print(f"[{extra}]: {', '.join(modules)}", flush=True)


if __name__ == "__main__":
    main()
