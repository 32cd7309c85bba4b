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

import csv
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `python paper/studies/flops_tables.py`

from paper.studies.reference_networks import (
    CountedNetwork,
    char_gru,
    keras_mobilenet_v1,
    keras_mobilenet_v2,
    keras_resnet50,
    lenet_300_100,
    resized,
    scaled,
    torch_mobilenet_v1,
    torch_mobilenet_v2,
    torch_resnet50,
    wide_resnet,
    wrn_22_2,
)
from rigl_lightning import (
    SET,
    SNFS,
    SNIP,
    Distribution,
    ErdosRenyi,
    GradualMagnitudePruning,
    RigL,
    SparseAlgorithm,
    Static,
    Uniform,
    UpdateSchedule,
)
from rigl_lightning.models import CharGRU, LeNet300100
from rigl_lightning.sparsity.costs import planned_inference_flops, planned_training_flops
from rigl_lightning.sparsity.distributions import Shapes
from rigl_lightning.sparsity.flops import sparse_forward_flops
from rigl_lightning.sparsity.widths import largest_width

DATA = Path(__file__).parents[1] / "results"
RESULTS = DATA / "flops.csv"
KEY = ("model", "method", "distribution", "sparsity", "training_multiplier", "quantity", "reading")

Published = list[dict[str, str]]

INTERVAL = 100  # ΔT, everywhere (paper, section 4)
# One dense gradient in ΔT + 1 batches to the end: the paper's formula. Any whole number of these periods will do.
PAPER_STEPS = 100 * (INTERVAL + 1)
PAPER_SCHEDULE = UpdateSchedule(INTERVAL + 1, 0, PAPER_STEPS)

# Two readings of what pruning costs, beside the plain one, which charges each step the sparsity it runs at.
DENSE_COST, MEAN_WITH_END = "every step at the dense cost", "mean of 33 points, the end included"
EQUAL_FLOPS = "equal FLOPs"

METHODS: dict[str, Callable[[float, Distribution, UpdateSchedule], SparseAlgorithm]] = {
    "Static": lambda sparsity, distribution, schedule: Static(sparsity, distribution),
    "SNIP": lambda sparsity, distribution, schedule: SNIP(sparsity, distribution),
    "SET": SET,
    "SNFS": SNFS,
    "RigL": RigL,
}
"""Method -> its algorithm, from sparsity, distribution and schedule of mask updates. A new method is a line here."""


@dataclass(frozen=True)
class Known(Distribution):
    """Layer sparsities that are computed once, for the many steps of a schedule."""

    sparsities: Mapping[str, float]
    dense: tuple[str, ...] = ()
    custom: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, shapes: Shapes, sparsity: float) -> dict[str, float]:
        """The same, whatever is asked for."""
        return dict(self.sparsities)

    def _free_sparsities(self, shapes: Shapes, sparsity: float, dense: Sequence[str]) -> dict[str, float]:
        return dict(self.sparsities)


@dataclass(frozen=True)
class Choice:
    """A distribution over some of the layers, under the name the tables give it."""

    label: str
    distribution: Distribution
    reading: str = ""
    is_sparse: Callable[[str], bool] = lambda name: True

    def sparsities(self, network: CountedNetwork, sparsity: float) -> dict[str, float]:
        """Sparsity of each layer that may be sparse."""
        return self.distribution({n: s for n, s in network.shapes.items() if self.is_sparse(n)}, sparsity)


@dataclass(frozen=True)
class Study:
    """One network and what is asked about it.

    Attributes:
        network: As the authors count it.
        plain: As torch lays it out.
        at_width: Width factor -> the network as the authors count it.
        choices: Distributions.
        sparsities: Total sparsities.
        multipliers: Training lengths; those that are published come on top.
        steps: Optimizer steps of a training of multiplier 1.
        schedule: When masks are updated.
        ramp: When pruning prunes.
        small_budget: The sparse network that a Small-Dense one may be as large as.
        big_choices: Distributions of Big-Sparse networks.
        samples: Samples of a training of multiplier 1, where its absolute FLOPs are published.
    """

    network: CountedNetwork
    plain: CountedNetwork
    at_width: Callable[[float], CountedNetwork]
    choices: tuple[Choice, ...]
    sparsities: tuple[float, ...]
    multipliers: tuple[float, ...]
    steps: int
    schedule: UpdateSchedule
    ramp: UpdateSchedule
    small_budget: Choice
    big_choices: tuple[Choice, ...] = ()
    samples: int | None = None


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


def studies() -> dict[str, Study]:
    """The networks of the paper, with the step counts of its section 4 and appendix I."""
    imagenet: dict[str, Any] = {
        "steps": 32_000,
        "schedule": UpdateSchedule(INTERVAL, 0, 25_000),
        "samples": 32_000 * 4096,
    }
    imagenet |= {"ramp": UpdateSchedule(1_000, 10_000, 25_000), "multipliers": (1, 5)}
    resnet, mobile = keras_resnet50(), keras_mobilenet_v1()
    erk, er, uniform = Choice("ERK", ErdosRenyi()), Choice("ER", ErdosRenyi(kernel=False)), Choice("uniform", Uniform())
    everywhere = Choice("uniform", Uniform(first_layer_dense=False))
    stem_dense = ErdosRenyi(custom={"conv_stem": 0.0})  # outside the total, as in the authors' count
    mobile_big = (
        Choice("ERK", stem_dense, "depthwise sparse"),
        Choice("uniform", Uniform(custom={"classifier": 0.8}), "depthwise sparse, classifier 80 %"),
    )
    wrn, gru, lenet = wrn_22_2(), char_gru(), lenet_300_100()
    return {
        "ResNet-50": Study(
            resnet,
            torch_resnet50(),
            at_width=lambda width: scaled(resnet, width),
            choices=(
                uniform,
                er,
                erk,
                replace(everywhere, reading="first layer sparse"),
                Choice("ERK", ErdosRenyi(custom={"conv1": 0.0}), "first layer dense"),
            ),
            sparsities=(0.8, 0.9, 0.95, 0.965, 0.99),
            small_budget=erk,
            big_choices=(erk,),
            **imagenet,
        ),
        "MobileNet-v1": Study(
            mobile,
            torch_mobilenet_v1(),
            at_width=lambda width: scaled(mobile, width),
            choices=(
                *_without_depthwise(mobile, uniform, er, erk),
                Choice("uniform", Uniform(), "depthwise sparse"),
                Choice("ERK", stem_dense, "depthwise sparse"),
            ),
            sparsities=(0.75, 0.85, 0.89, 0.9, 0.95),
            small_budget=mobile_big[0],
            big_choices=mobile_big,
            **imagenet,
        ),
        "MobileNet-v2": _mobilenet_v2(imagenet, (uniform, er, erk)),
        "WRN-22-2": Study(
            wrn,
            wrn,
            at_width=lambda width: resized(wrn, lambda: wide_resnet(width)),
            choices=tuple(replace(c, is_sparse=lambda name: name != "stem.weight") for c in (everywhere, er, erk)),
            sparsities=(0.5, 0.8, 0.9, 0.95),
            multipliers=(1, 2),
            steps=97_656,
            schedule=UpdateSchedule(INTERVAL, 0, 75_000),
            ramp=UpdateSchedule(1_000, 20_000, 75_000),
            small_budget=erk,
        ),
        "char GRU": Study(
            gru,
            gru,
            at_width=lambda width: resized(gru, lambda: CharGRU(width=width)),
            choices=(
                *(replace(c, is_sparse=lambda name: name != "embedding.weight") for c in (everywhere, er, erk)),
                replace(everywhere, reading="embedding sparse"),
            ),
            sparsities=(0.75,),
            multipliers=(1,),
            steps=200_000,
            schedule=UpdateSchedule(INTERVAL, 0, 200_000),
            ramp=UpdateSchedule(1_000, 50_000, 150_000),
            small_budget=everywhere,
        ),
        "LeNet-300-100": Study(
            lenet,
            lenet,
            at_width=lambda width: resized(lenet, lambda: LeNet300100(width=width)),
            choices=(everywhere, er, erk),
            sparsities=(0.9, 0.95, 0.98),
            multipliers=(1,),
            steps=120_000,
            schedule=UpdateSchedule(INTERVAL, 0, 50_000),
            ramp=UpdateSchedule(1_000, 20_000, 50_000),
            small_budget=erk,
        ),
    }


def _mobilenet_v2(imagenet: Mapping[str, Any], choices: Sequence[Choice]) -> Study:
    network = keras_mobilenet_v2()
    return Study(
        network,
        torch_mobilenet_v2(),
        at_width=lambda width: scaled(network, width),
        choices=_without_depthwise(network, *choices),
        sparsities=(0.75, 0.85, 0.9, 0.95),
        small_budget=choices[-1],
        **imagenet,
    )


def _without_depthwise(network: CountedNetwork, *choices: Choice) -> tuple[Choice, ...]:
    return tuple(replace(choice, is_sparse=lambda name: name not in network.depthwise) for choice in choices)


def rows() -> list[Row]:
    """All rows, each once."""
    published = read(DATA / "published.csv")
    found: dict[tuple[Any, ...], Row] = {}
    for model, study in studies().items():
        of_model = [row for row in published if row["model"] == model]
        for row in (*_dense(model, study), *_sparse(model, study, of_model), *_widths(model, study, of_model)):
            found.setdefault(tuple(getattr(row, key) for key in KEY), row)
    return [*found.values(), *_lottery(list(found.values())), *_dsr(), *_mnist()]


def _dense(model: str, study: Study) -> Iterator[Row]:
    dense = sum(study.network.authors_flops().values())
    plain = sum(study.plain.product_flops().values())
    yield Row(model, "Dense", "", 0, 1, "inference_flops_absolute", "", dense)
    yield Row(model, "Dense", "", 0, 1, "inference_flops_absolute", "products", plain)
    yield Row(model, "Dense", "", 0, 1, "inference_flops", "", 1.0)
    yield Row(model, "Dense", "", 0, 1, "train_flops", "", 1.0)
    if study.samples:
        yield Row(model, "Dense", "", 0, 1, "train_flops_absolute", "", 3 * dense * study.samples)
    yield Row(model, "Dense", "", 0, 1, "size_bytes", "", study.network.bytes({}))


def _sparse(model: str, study: Study, published: Published) -> Iterator[Row]:
    for choice in study.choices:
        for sparsity in study.sparsities:
            sparsities = choice.sparsities(study.network, sparsity)
            where = (choice.label, sparsity)
            forward = _forward(study.network, sparsities)
            yield Row(model, "any", *where, 1, "inference_flops_absolute", choice.reading, forward)
            yield Row(model, "any", *where, 1, "size_bytes", choice.reading, study.network.bytes(sparsities))
            for method in (*METHODS, "GradualMagnitudePruning"):
                inference, train = _costs(study, method, sparsity, sparsities)
                yield Row(model, method, *where, 1, "inference_flops", choice.reading, inference)
                yield from _trainings(
                    Row(model, method, *where, 1, "train_flops", choice.reading, train), study, published
                )
                if not choice.reading:
                    inference, train = _costs_as_run(study, method, sparsity, sparsities)
                    yield Row(model, method, *where, 1, "inference_flops_products", "", inference)
                    yield Row(model, method, *where, 1, "train_flops_as_run", "", train)
            if not choice.reading:
                pruning = Row(model, "GradualMagnitudePruning", *where, 1, "train_flops", DENSE_COST, 1.0)
                yield from _trainings(pruning, study, published)
                mean = _mean_with_end(study, sparsity, sparsities)
                yield from _trainings(replace(pruning, reading=MEAN_WITH_END, computed=mean), study, published)


def _mean_with_end(study: Study, sparsity: float, sparsities: Mapping[str, float]) -> float:
    """Pruning's cost as in the authors' colab (cell 7): the mean over all interval bounds, the end included."""
    algorithm = GradualMagnitudePruning(sparsity, Known(sparsities), study.ramp)
    bounds = range(0, study.steps + 1, study.ramp.interval)
    shapes = {name: study.network.shapes[name] for name in sparsities}
    costs = [_forward(study.network, algorithm.layer_sparsities(shapes, step + 1)) for step in bounds]
    return sum(costs) / len(costs) / _dense_flops(study.network)


def _costs(study: Study, method: str, sparsity: float, sparsities: Mapping[str, float]) -> tuple[float, float]:
    """Inference and training as the paper counts them."""
    flops, shapes = study.network.authors_flops(), {name: study.network.shapes[name] for name in sparsities}
    if method == "GradualMagnitudePruning":
        algorithm: SparseAlgorithm = GradualMagnitudePruning(sparsity, Known(sparsities), study.ramp)
        return _planned(algorithm, shapes, flops, study.steps)
    return _planned(METHODS[method](sparsity, Known(sparsities), PAPER_SCHEDULE), shapes, flops, PAPER_STEPS)


def _costs_as_run(study: Study, method: str, sparsity: float, sparsities: Mapping[str, float]) -> tuple[float, float]:
    """Inference and training as this package reports them."""
    flops, shapes = study.plain.product_flops(), {name: study.plain.shapes[name] for name in sparsities}
    if method == "GradualMagnitudePruning":
        algorithm: SparseAlgorithm = GradualMagnitudePruning(sparsity, Known(sparsities), study.ramp)
    else:
        algorithm = METHODS[method](sparsity, Known(sparsities), study.schedule)
    return _planned(algorithm, shapes, flops, study.steps)


def _planned(algorithm: SparseAlgorithm, shapes: Shapes, flops: Mapping[str, float], steps: int) -> tuple[float, float]:
    resolved = algorithm.resolve(steps)
    return (
        planned_inference_flops(resolved, shapes, flops),
        planned_training_flops(resolved, shapes, flops, steps),
    )


def _trainings(row: Row, study: Study, published: Published) -> Iterator[Row]:
    """The row, which is of multiplier 1, for all lengths; absolute FLOPs where some are published."""
    same = [p for p in published if all(p[key] == _text(getattr(row, key)) for key in KEY[1:4])]
    same = [p for p in same if p["reading"] == row.reading]
    lengths = {float(p["training_multiplier"]) for p in same if p["quantity"] == "train_flops"}
    if row.reading not in (DENSE_COST, MEAN_WITH_END):
        lengths |= set(study.multipliers)
    for length in sorted(lengths):
        yield replace(row, training_multiplier=length, computed=row.computed * length)
    if study.samples:
        dense = 3 * sum(study.network.authors_flops().values()) * study.samples
        for length in sorted(
            {float(p["training_multiplier"]) for p in same if p["quantity"] == "train_flops_absolute"}
        ):
            yield replace(
                row, training_multiplier=length, quantity="train_flops_absolute", computed=row.computed * length * dense
            )


def _widths(model: str, study: Study, published: Published) -> Iterator[Row]:
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
        EQUAL_FLOPS: (_dense_flops, (1 - sparsity) * _dense_flops(dense)),
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
    forward = _forward(network, sparsities)
    ratio = forward / _dense_flops(study.network)
    yield replace(row, quantity="inference_flops", computed=ratio)
    yield replace(row, quantity="inference_flops_absolute", computed=forward)
    yield replace(row, quantity="size_bytes", computed=network.bytes(sparsities))
    if not sparsities:
        yield from _trainings(replace(row, quantity="train_flops", computed=ratio), study, published)


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
        ratio = _forward(network, sparsities) / _dense_flops(network)
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


def _forward(network: CountedNetwork, sparsities: Mapping[str, float]) -> float:
    return sparse_forward_flops(network.authors_flops(), {name: 1 - s for name, s in sparsities.items()})


def _dense_flops(network: CountedNetwork) -> float:
    return sum(network.authors_flops().values())


def _n_weights(network: CountedNetwork) -> float:
    return sum(math.prod(shape) for shape in network.shapes.values())


def read(path: Path) -> Published:
    """Rows of a CSV."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _text(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, int | float) else str(value)


def main() -> None:
    table = [row.as_text() for row in rows()]
    with open(RESULTS, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    print(f"{len(table)} rows in {RESULTS}")


if __name__ == "__main__":
    main()
