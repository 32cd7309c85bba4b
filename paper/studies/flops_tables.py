"""FLOPs, sizes and widths of every method on the paper's networks: the rows of the FLOPs tables.

    python paper/studies/flops_tables.py

Needs no training. Quantities, relative to the dense network of width 1 unless they are absolute:

- ``inference_flops``, ``train_flops``: as the paper counts them: the authors' convention and network layout
  (`reference_networks`), and the formulas of its appendix "Calculation of FLOPs", by which RigL needs the dense
  gradient in 1 of ΔT + 1 batches from the first to the last.
- ``inference_flops_products``, ``train_flops_as_run``: as this package reports them: products only, the network as
  torch lays it out, and mask updates that end at T_end and count as steps.
- ``inference_flops_absolute`` per sample, ``train_flops_absolute`` of a whole training, ``size_bytes``, ``width``.

A ``reading`` names a choice that the paper leaves open or contradicts; the plain one is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from paper.studies.flops_protocols import studies
from paper.studies.flops_rows import KEY, Row, dense_flops, dense_rows, forward_flops, read, sparse_rows
from paper.studies.flops_widths import width_rows
from paper.studies.reference_networks import CountedNetwork, keras_resnet50
from paper.studies.row_files import as_csv
from rigl_lightning.base.files import write_text

DATA = Path(__file__).parents[1] / "results"
RESULTS = DATA / "flops.csv"


def rows() -> list[Row]:
    """All rows, each once."""
    published = read(DATA / "published.csv")
    found: dict[tuple[Any, ...], Row] = {}
    for model, study in studies().items():
        of_model = [row for row in published if row["model"] == model]
        of_sparse, of_widths = sparse_rows(model, study, of_model), width_rows(model, study, of_model)
        for row in (*dense_rows(model, study), *of_sparse, *of_widths):
            found.setdefault(tuple(getattr(row, key) for key in KEY), row)
    return [*found.values(), *_lottery(list(found.values())), *_dsr(), *_mnist()]


def _lottery(found: Sequence[Row]) -> Iterator[Row]:
    """A RigL training for the masks, then a Static or RigL training from the original start (paper, appendix E)."""
    length = {
        row.method: row for row in found if _is(row, "ResNet-50", "uniform", 0.8, "train_flops") and not row.reading
    }
    masks = length["RigL"]
    for second in ("Static", "RigL"):
        yield replace(masks, method=f"Lottery ({second})", computed=masks.computed + length[second].computed)


def _is(row: Row, model: str, distribution: str, sparsity: float, quantity: str) -> bool:
    return (row.model, row.distribution, row.sparsity, row.quantity, row.training_multiplier) == (
        model,
        distribution,
        sparsity,
        quantity,
        1,
    )


def _dsr() -> Iterator[Row]:
    """DSR with the layer sparsities that the authors read off a figure of Mostafa & Wang 2019."""
    network = keras_resnet50()
    digitised = read(DATA / "dsr_layer_sparsities.csv")
    for total in sorted({row["total_sparsity"] for row in digitised}):
        sparsities = {f"{r['layer']}.weight": float(r["sparsity"]) for r in digitised if r["total_sparsity"] == total}
        ratio = forward_flops(network, sparsities) / dense_flops(network)
        for quantity in ("inference_flops", "train_flops"):
            yield Row("ResNet-50", "DSR", "learned", float(total), 1, quantity, "digitised layers", ratio)


def _mnist() -> Iterator[Row]:
    """Compressed LeNets from their published layer widths and sparsity; FLOPs of products only, as that table has."""
    for row in read(DATA / "mnist_architectures.csv"):
        units = [int(n) for n in row["units"].split("-")]
        shapes = {f"{i}": (after, before) for i, (before, after) in enumerate(pairwise(units))}
        network = CountedNetwork(shapes, dict.fromkeys(shapes, 1))
        sparsity = float(row["sparsity"])
        key = (f"LeNet {row['units']}", row["method"], "", sparsity, 1)
        flops = sum(network.product_flops().values()) * (1 - sparsity)
        yield Row(*key, "inference_flops_absolute", "products", flops)
        yield Row(*key, "size_bytes", "", network.bytes(dict.fromkeys(shapes, sparsity)))


def main() -> None:
    table = [row.as_text() for row in rows()]
    write_text(RESULTS, as_csv(table, table[0], "\n"))
    print(f"{len(table)} rows in {RESULTS}")


if __name__ == "__main__":
    main()
