"""The eleven figures as a table: what each shows, how many runs it has, and how they are made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from paper.tables.markdown import markdown


def as_markdown(modules: Mapping[int, ModuleType], runs: Mapping[int, str]) -> str:
    """One row a figure.

    Args:
        modules: Of the figures. One with ``RESULTS`` is drawn from the rows of a study.
        runs: How many of a figure's runs have rows, in words; none for a study.
    """
    body = []
    for number, module in sorted(modules.items()):
        of_study = getattr(module, "RESULTS", None)
        command = f"paper/studies/{Path(of_study[0]).stem}.py" if of_study else f"paper/launch.py {number}"
        body.append([str(number), title(module), runs.get(number, "a study"), f"`python {command}`"])
    return markdown(["figure", "shows", "runs done", "rows made by"], body)


def title(module: ModuleType) -> str:
    r"""The first sentence or two of a figure's module, without the number.

    >>> title(ModuleType("fig", "Figure 2: ResNet-50. Left: accuracy.\n\nWhat to see: this."))
    'ResNet-50. Left: accuracy.'
    """
    line = (module.__doc__ or "").strip().split("\n\n")[0]
    text = re.sub(r"^Figure \d+[.:] ", "", " ".join(line.split()))
    return text[0].upper() + text[1:]
