"""Sparsity of every layer of ResNet-50 under each distribution: the rows of figure 11.

    python paper/studies/layer_sparsities.py

Needs no training: the sparsities follow from the shapes (paper, section 3, "Sparsity Distribution").
"""

from __future__ import annotations

from pathlib import Path

import timm

from paper.studies.row_files import write_rows
from rigl_lightning import Distribution, ErdosRenyi, Uniform, select_parameters
from rigl_lightning.sparsity.distributions import active_counts

RESULTS = Path(__file__).parents[1] / "results" / "layer_sparsities.csv"
SPARSITIES = (0.8, 0.9, 0.95, 0.965)
DISTRIBUTIONS: dict[str, Distribution] = {
    "uniform": Uniform(),
    "ER": ErdosRenyi(kernel=False),
    "ERK": ErdosRenyi(),
}


def rows() -> list[dict[str, object]]:
    """One row for each layer, distribution and total sparsity, in the order of the network."""
    shapes = {name: p.shape for name, p in select_parameters(timm.create_model("resnet50")).items()}
    table = []
    for label, distribution in DISTRIBUTIONS.items():
        for total in SPARSITIES:
            sparsities = distribution(shapes, total)
            active = active_counts(shapes, sparsities)
            for position, (name, shape) in enumerate(shapes.items()):
                row = {
                    "model": "resnet50",
                    "distribution": label,
                    "total_sparsity": total,
                    "position": position,
                    "layer": name.removesuffix(".weight"),
                    "shape": "x".join(map(str, shape)),
                    "connections": shape.numel(),
                    "active": active[name],
                    "sparsity": f"{sparsities[name]:.6f}",
                }
                table.append(row)
    return table


def main() -> None:
    write_rows(rows(), RESULTS)


if __name__ == "__main__":
    main()
