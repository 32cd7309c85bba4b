"""Rows of the FLOPs tables: widths of Small-Dense and Big-Sparse networks, and what these networks cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from paper.studies.flops_protocols import Study
from paper.studies.flops_rows import Published, Row, dense_flops, forward_flops, trainings
from paper.studies.reference_networks import CountedNetwork
from rigl_lightning.sparsity.costs.widths import largest_width

EQUAL_FLOPS = "equal FLOPs"


def width_rows(model: str, study: Study, published: Published) -> Iterator[Row]:
    """Widths by every budget, and those that are published."""
    widths = [p for p in published if p["quantity"] == "width" and p["reading"] != EQUAL_FLOPS]
    printed = {(p["method"], float(p["sparsity"])): float(p["published"]) for p in widths}
    for sparsity in study.sparsities:
        for reading, width in _small_widths(study, sparsity, printed.get(("Small-Dense", sparsity))):
            row = Row(model, "Small-Dense", "", sparsity, 1, "width", reading, width)
            yield from _of_width(row, study, {}, published)
    for choice in study.big_choices:
        for sparsity in study.sparsities:
            # The authors' count gives the wide network the layer sparsities of the network of width 1.
            sparsities = choice.sparsities(study.network, sparsity)
            for mode, width in _big_widths(study, sparsities, printed.get(("Big-Sparse", sparsity))):
                reading = ", ".join(filter(None, (choice.reading, mode)))
                row = Row(model, "Big-Sparse", choice.label, sparsity, 1, "width", reading, width)
                yield from _of_width(row, study, sparsities, published)


def _small_widths(study: Study, sparsity: float, printed: float | None) -> Iterator[tuple[str, float]]:
    dense = study.network
    budget = study.small_budget.sparsities(dense, sparsity)
    measures: dict[str, tuple[Callable[[CountedNetwork], float], float]] = {
        "": (lambda network: network.bytes({}), dense.bytes(budget)),
        "equal parameters": (_n_weights, (1 - sparsity) * _n_weights(dense)),
        EQUAL_FLOPS: (dense_flops, (1 - sparsity) * dense_flops(dense)),
    }
    for reading, (measure, limit) in measures.items():
        yield reading, _width(study, measure, limit, lowest=0.02, highest=1.0)
    if printed is not None:
        yield "published width", printed


def _big_widths(study: Study, sparsities: Mapping[str, float], printed: float | None) -> Iterator[tuple[str, float]]:
    limit = study.network.bytes({})
    yield "", _width(study, lambda network: network.bytes(sparsities), limit, lowest=1.0, highest=12.0)
    if printed is not None:
        yield "published width", printed


def _width(
    study: Study, measure: Callable[[CountedNetwork], float], budget: float, lowest: float, highest: float
) -> float:
    return largest_width(lambda width: measure(study.at_width(width)), budget, lowest, highest).width


def _of_width(row: Row, study: Study, sparsities: Mapping[str, float], published: Published) -> Iterator[Row]:
    """A width, and what the network of this width costs; RigL-like training of a Big-Sparse network is not counted."""
    yield row
    network = study.at_width(row.computed)
    forward = forward_flops(network, sparsities)
    ratio = forward / dense_flops(study.network)
    yield replace(row, quantity="inference_flops", computed=ratio)
    yield replace(row, quantity="inference_flops_absolute", computed=forward)
    yield replace(row, quantity="size_bytes", computed=network.bytes(sparsities))
    if not sparsities:
        yield from trainings(replace(row, quantity="train_flops", computed=ratio), study, published)


def _n_weights(network: CountedNetwork) -> float:
    return sum(math.prod(shape) for shape in network.shapes.values())
