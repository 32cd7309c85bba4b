"""The curves of the WRN-22-2 panels, in figures 4 and 10."""

from __future__ import annotations

from paper import panels
from paper.figures.curves import Curve
from paper.figures.style import method_style

BENCHMARK = panels.WRN
# method, multiplier, label, dashes
CURVES = (
    ("RigL", 1.0, "RigL", (1, 0)),
    ("RigL", 2.0, "RigL 2x", (4, 2)),
    ("SET", 1.0, "SET", (1, 0)),
    ("Static", 1.0, "Static", (1, 0)),
    ("Static", 2.0, "Static 2x", (4, 2)),
    ("Pruning", 1.0, "Pruning", (1, 0)),
)


def over_sparsity(scale: str) -> list[Curve]:
    """Of figure 4's runs, with ERK where a method has several distributions."""
    runs = [run for run in panels.figure_4(scale, 0) if run.benchmark == BENCHMARK]
    return [
        Curve(
            label,
            [run for run in runs if (run.method, run.multiplier) == (method, multiplier)],
            {**method_style(method), "dashes": dashes},
            {"method": method, "multiplier": multiplier},
        )
        for method, multiplier, label, dashes in CURVES
    ]
