"""Rows of the FLOPs tables: the dense network, and every method at every distribution, sparsity and length."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from paper.studies.flops_protocols import INTERVAL, Study
from paper.studies.reference_networks import CountedNetwork
from rigl_lightning import (
    ACDC,
    DNW,
    DSR,
    MEST,
    SET,
    SETITOP,
    SNFS,
    SNIP,
    SRSTE,
    AnnealedTopK,
    CHTs,
    DeepR,
    Distribution,
    GradualMagnitudePruning,
    GraNet,
    GraSP,
    OneShotMagnitude,
    RigL,
    RigLITOP,
    SparseAlgorithm,
    Static,
    TopKAST,
    Unstructured,
    UpdateSchedule,
)
from rigl_lightning.sparsity.costs.flops import sparse_forward_flops
from rigl_lightning.sparsity.costs.training import planned_inference_flops, planned_training_flops
from rigl_lightning.sparsity.distributions import Shapes

KEY = ("model", "method", "distribution", "sparsity", "training_multiplier", "quantity", "reading")

Published = list[dict[str, str]]

# Two readings of what pruning costs, in addition to the plain one, which charges each step the sparsity it runs at.
DENSE_COST, MEAN_WITH_END = "every step at the dense cost", "mean of 33 points, the end included"


class Schedules(NamedTuple):
    """When masks are updated, and when pruning prunes."""

    updates: UpdateSchedule
    ramp: UpdateSchedule


Build = Callable[[float, Distribution, Schedules], SparseAlgorithm]
_SCHEDULED: tuple[Callable[..., SparseAlgorithm], ...] = (SET, SNFS, RigL, DSR, SETITOP, RigLITOP, MEST, CHTs)
_UNSCHEDULED: tuple[Callable[..., SparseAlgorithm], ...] = (Static, SNIP, GraSP, OneShotMagnitude, DeepR, DNW, ACDC)


def _scheduled(method: Callable[..., SparseAlgorithm]) -> Build:
    return lambda sparsity, distribution, schedules: method(sparsity, distribution, schedule=schedules.updates)


def _unscheduled(method: Callable[..., SparseAlgorithm]) -> Build:
    return lambda sparsity, distribution, schedules: method(sparsity, distribution)


METHODS: dict[str, Build] = {
    **{method.__name__: _unscheduled(method) for method in _UNSCHEDULED},
    **{method.__name__: _scheduled(method) for method in _SCHEDULED},
    "GradualMagnitudePruning": lambda sparsity, distribution, schedules: GradualMagnitudePruning(
        sparsity, distribution, schedules.ramp
    ),
    # It starts half as sparse as it ends; the ramp is that of pruning.
    "GraNet": lambda sparsity, distribution, schedules: GraNet(
        sparsity, sparsity / 2, distribution, replace(schedules.updates, end=1.0), ramp_end=schedules.ramp.end
    ),
    # Twice as many connections learn as compute.
    "TopKAST": lambda sparsity, distribution, schedules: (
        TopKAST(sparsity, 2 * sparsity - 1, distribution) if sparsity > 0.5 else TopKAST(sparsity, 0.0, distribution)
    ),
    "SRSTE": lambda sparsity, distribution, schedules: SRSTE(sparsity, distribution, structure=Unstructured()),
    # Its sparsity rises at every step; every ΔT steps are as good for the sum.
    "AnnealedTopK": lambda sparsity, distribution, schedules: AnnealedTopK(
        sparsity, distribution, replace(schedules.updates, end=1.0)
    ),
}
"""Method -> its algorithm. A new method is a line here."""


@dataclass(frozen=True)
class Row:
    """One computed number; the fields but the last are `KEY`."""

    model: str
    method: str
    distribution: str
    sparsity: float
    training_multiplier: float
    quantity: str
    reading: str
    computed: float

    def as_text(self) -> dict[str, str]:
        """For the CSV: seven digits are enough to see every difference."""
        return {key: _text(getattr(self, key)) for key in (*KEY, "computed")}


@dataclass(frozen=True)
class Known(Distribution):
    """Layer sparsities of a network, computed once for the many steps of a schedule.

    Attributes:
        of: Total sparsity -> sparsity of each layer; remembers what it has computed.
    """

    of: Callable[[float], Mapping[str, float]]
    dense: tuple[str, ...] = ()
    custom: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, shapes: Shapes, sparsity: float) -> dict[str, float]:
        """As computed, whatever the shapes."""
        return dict(self.of(sparsity))

    def _free_sparsities(self, shapes: Shapes, sparsity: float, dense: Sequence[str]) -> dict[str, float]:
        return dict(self.of(sparsity))


def dense_rows(model: str, study: Study) -> Iterator[Row]:
    """The network itself."""
    dense = sum(study.network.authors_flops().values())
    plain = sum(study.plain.product_flops().values())
    yield Row(model, "Dense", "", 0, 1, "inference_flops_absolute", "", dense)
    yield Row(model, "Dense", "", 0, 1, "inference_flops_absolute", "products", plain)
    yield Row(model, "Dense", "", 0, 1, "inference_flops", "", 1.0)
    yield Row(model, "Dense", "", 0, 1, "train_flops", "", 1.0)
    if study.samples:
        yield Row(model, "Dense", "", 0, 1, "train_flops_absolute", "", 3 * dense * study.samples)
    yield Row(model, "Dense", "", 0, 1, "size_bytes", "", study.network.bytes({}))


def sparse_rows(model: str, study: Study, published: Published) -> Iterator[Row]:
    """Every method under every distribution."""
    for choice in study.choices:
        for sparsity in study.sparsities:
            known = Known(cache(partial(choice.sparsities, study.network)))
            sparsities = known.of(sparsity)
            row = Row(model, "any", choice.label, sparsity, 1, "size_bytes", choice.reading, 0.0)
            yield replace(row, computed=study.network.bytes(sparsities))
            forward = forward_flops(study.network, sparsities)
            yield replace(row, quantity="inference_flops_absolute", computed=forward)
            for method in METHODS:
                yield from _of_method(replace(row, method=method), study, known, published)
            if not choice.reading:
                yield from _pruning_readings(row, study, known, published)


def _of_method(row: Row, study: Study, known: Known, published: Published) -> Iterator[Row]:
    inference, train = _costs_in_the_paper(row, study, known)
    yield replace(row, quantity="inference_flops", computed=inference)
    yield from trainings(replace(row, quantity="train_flops", computed=train), study, published)
    if not row.reading:
        inference, train = _costs_as_run(row, study, known)
        yield replace(row, quantity="inference_flops_products", computed=inference)
        yield replace(row, quantity="train_flops_as_run", computed=train)


def _costs_in_the_paper(row: Row, study: Study, known: Known) -> tuple[float, float]:
    # One dense gradient in ΔT + 1 batches to the end: the paper's formula for RigL.
    schedules = Schedules(UpdateSchedule(INTERVAL + 1, 0, study.steps), study.ramp)
    return _planned(row, schedules, study.network, study.network.authors_flops(), known, study.steps)


def _costs_as_run(row: Row, study: Study, known: Known) -> tuple[float, float]:
    schedules = Schedules(study.schedule, study.ramp)
    return _planned(row, schedules, study.plain, study.plain.product_flops(), known, study.steps)


def _planned(
    row: Row,
    schedules: Schedules,
    network: CountedNetwork,
    flops: Mapping[str, float],
    known: Known,
    steps: int,
) -> tuple[float, float]:
    """Inference and training of a row's method, by the package's own planning."""
    algorithm = METHODS[row.method](row.sparsity, known, schedules).resolve(steps)
    shapes = {name: network.shapes[name] for name in known.of(row.sparsity)}
    return (
        planned_inference_flops(algorithm, shapes, flops),
        planned_training_flops(algorithm, shapes, flops, steps),
    )


def _pruning_readings(row: Row, study: Study, known: Known, published: Published) -> Iterator[Row]:
    pruning = replace(row, method="GradualMagnitudePruning", quantity="train_flops")
    yield from trainings(replace(pruning, reading=DENSE_COST, computed=1.0), study, published)
    mean = _mean_with_end(study, row.sparsity, known)
    yield from trainings(replace(pruning, reading=MEAN_WITH_END, computed=mean), study, published)


def _mean_with_end(study: Study, sparsity: float, known: Known) -> float:
    """Pruning's cost as in the authors' colab (cell 7): the mean over all interval bounds, the end included."""
    algorithm = GradualMagnitudePruning(sparsity, known, study.ramp)
    bounds = range(0, study.steps + 1, study.ramp.interval)
    shapes = {name: study.network.shapes[name] for name in known.of(sparsity)}
    costs = [forward_flops(study.network, algorithm.layer_sparsities(shapes, step + 1)) for step in bounds]
    return sum(costs) / len(costs) / dense_flops(study.network)


def trainings(row: Row, study: Study, published: Published) -> Iterator[Row]:
    """The row, which is of multiplier 1, for all lengths; absolute FLOPs where some are published."""
    lengths = _published_lengths(row, "train_flops", published)
    if row.reading not in (DENSE_COST, MEAN_WITH_END):
        lengths |= set(study.multipliers)
    for length in sorted(lengths):
        yield replace(row, training_multiplier=length, computed=row.computed * length)
    if study.samples:
        dense = 3 * dense_flops(study.network) * study.samples
        absolute = replace(row, quantity="train_flops_absolute")
        for length in sorted(_published_lengths(row, absolute.quantity, published)):
            yield replace(absolute, training_multiplier=length, computed=row.computed * length * dense)


def _published_lengths(row: Row, quantity: str, published: Published) -> set[float]:
    wanted = {**row.as_text(), "quantity": quantity}
    same = (p for p in published if all(p[key] == wanted[key] for key in KEY if key != "training_multiplier"))
    return {float(p["training_multiplier"]) for p in same}


def forward_flops(network: CountedNetwork, sparsities: Mapping[str, float]) -> float:
    """FLOPs per sample in the authors' convention."""
    return sparse_forward_flops(network.authors_flops(), {name: 1 - s for name, s in sparsities.items()})


def dense_flops(network: CountedNetwork) -> float:
    """The same with all connections."""
    return sum(network.authors_flops().values())


def read(path: Path) -> Published:
    """Rows of a CSV."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _text(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, int | float) else str(value)
