"""Installs every extra of pyproject.toml by itself, and imports what it brings: ``make test-extras`` runs it.

python check_extras.py UV ENVIRONMENT [EXTRA ...]
"""

import re
import subprocess
import sys
from pathlib import Path

import tomllib

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


def modules_of(extra: str, extras: dict[str, list[str]]) -> list[str]:
    """What can be imported with an extra; of an extra that names others, theirs too."""
    found = ["rigl_lightning.trainer.callback"]
    for requirement in extras[extra]:
        name, _, others = re.fullmatch(r"([\w.-]+)(\[([\w,]+)\])?.*", requirement).groups()
        if name == "rigl-lightning":
            found += [module for other in others.split(",") for module in modules_of(other, extras)]
        elif name not in COMMANDS_ONLY:
            found.append(MODULES.get(name, name.replace("-", "_")))
    return sorted(set(found))


def main() -> None:
    uv, environment, *wanted = sys.argv[1:]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in wanted or extras:
        python = str(Path(environment).absolute() / "bin" / "python")
        subprocess.run([uv, "venv", "--quiet", "--clear", environment], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, f"{ROOT}[{extra}]"], check=True)
        modules = modules_of(extra, extras)
        subprocess.run([python, "-c", f"import {', '.join(modules)}"], check=True, cwd=ROOT / "tests")
        print(f"[{extra}]: {', '.join(modules)}", flush=True)


if __name__ == "__main__":
    main()
