"""The runs that each figure and each table shows, for any scale and any number of seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product

from paper.experiments import METHODS, SEEDS, Run, declared
from paper.protocols import PROTOCOLS, Protocol

RESNET, WRN, GRU = "imagenet_resnet50", "cifar10_wrn22", "char_gru"
MOBILENETS = ("imagenet_mobilenet_v1", "imagenet_mobilenet_v2")
DROP_FRACTIONS = (0.1, 0.3, 0.5)
SNFS_MOMENTA = (0.0, 0.5, 0.9, 0.99)
LONG_RUN = 2.5
"""Runs from this multiple of the shortest usual training on wait until the shorter ones of their seed have run."""


def figure_2(scale: str, seed: int) -> list[Run]:
    """ResNet-50: accuracy over training FLOPs, over sparsities, and the table of methods."""
    protocol = _protocol(scale, RESNET)
    of, s = _maker(scale, RESNET, seed), protocol.sparsity
    lengths = [m for m in protocol.multipliers if m != 1]
    runs = [of("Dense")]
    runs += [of(method, s, "uniform") for method in ("Static", "SNIP", "SET", "SNFS", "RigL", "Pruning", "Small-Dense")]
    runs += [of(method, s, "uniform", multiplier=m) for m in lengths for method in ("Static", "SET", "SNFS", "RigL")]
    runs += [of("Pruning", s, "uniform", multiplier=m) for m in (0.5, 0.75, 1.5, 2)]
    runs += [of("Small-Dense", s, "uniform", multiplier=m) for m in sorted({2, 3, protocol.extended})]
    for other in protocol.sparsities:
        runs += [of("RigL", other, d, multiplier=m) for d in ("uniform", "ERK") for m in (1, protocol.extended)]
        runs += [of("Small-Dense", other, "uniform", multiplier=protocol.extended)]
        runs += [of("Pruning", other, "uniform", multiplier=m) for m in (1, 1.5)]
    for other in protocol.sparsities[:2]:  # the table
        runs += [of(method, other, "uniform") for method in ("Static", "SNIP", "SET", "SNFS", "Small-Dense")]
        runs += [of(method, other, "ERK") for method in ("Static", "SNFS")]
    return runs


def figure_3(scale: str, seed: int) -> list[Run]:
    """MobileNet-v1 and v2, all of the usual length: five times the unit, as in the paper."""
    runs = []
    for benchmark in MOBILENETS:
        protocol = _protocol(scale, benchmark)
        of, m = _maker(scale, benchmark, seed), protocol.usual_multiplier
        runs += [of("Dense", multiplier=m)]
        for s in protocol.sparsities:
            runs += [of("RigL", s, d, multiplier=m) for d in ("uniform", "ERK")]
            runs += [of("Pruning", s, "uniform", multiplier=m)]
            runs += [of("Small-Dense", s, "uniform", multiplier=m)] if s in protocol.widths else []
        if benchmark == MOBILENETS[0]:
            runs += [of("Big-Sparse", protocol.sparsity, d, multiplier=m) for d in ("uniform", "ERK")]
    return runs


def figure_4(scale: str, seed: int) -> list[Run]:
    """Character GRU over training FLOPs; WRN-22-2 over sparsities."""
    protocol = _protocol(scale, GRU)
    of = _maker(scale, GRU, seed)
    runs = [of("Dense")]
    for method in ("Static", "SET", "SNFS", "RigL", "Pruning"):
        runs += [of(method, protocol.sparsity, "uniform", multiplier=m) for m in protocol.multipliers]
    return runs + _wrn_sparsities(scale, seed)


def _wrn_sparsities(scale: str, seed: int) -> list[Run]:
    of = _maker(scale, WRN, seed)
    runs = [of("Dense")]
    for s in _protocol(scale, WRN).sparsities:
        runs += [of(method, s, "ERK", multiplier=m) for method in ("Static", "RigL") for m in (1, 2)]
        runs += [of("Pruning", s, "uniform")]
    return runs


def figure_5(scale: str, seed: int) -> list[Run]:
    """ResNet-50 with RigL: distributions, and the cosine sweep."""
    return _distributions(scale, seed, ["RigL"]) + _sweep(scale, seed, "RigL", "cosine")


def figure_7(scale: str, seed: int) -> list[Run]:
    """Distributions of every method; SNFS's momentum."""
    protocol = _protocol(scale, RESNET)
    of = _maker(scale, RESNET, seed)
    momenta = [of("SNFS", protocol.sparsity, "uniform", snfs_momentum=m) for m in SNFS_MOMENTA]
    return _distributions(scale, seed, ["RigL", "SET", "SNFS", "Static"]) + momenta


def figure_8(scale: str, seed: int) -> list[Run]:
    """The cosine sweep of SET and of SNFS."""
    return _sweep(scale, seed, "SET", "cosine") + _sweep(scale, seed, "SNFS", "cosine")


def figure_9(scale: str, seed: int) -> list[Run]:
    """The other decays of RigL."""
    return [run for decay in ("constant", "inverse power", "linear") for run in _sweep(scale, seed, "RigL", decay)]


def figure_10(scale: str, seed: int) -> list[Run]:
    """WRN-22-2: final training loss over sparsities; accuracy over Delta T."""
    protocol = _protocol(scale, WRN)
    of = _maker(scale, WRN, seed)
    sweep = [
        of("RigL", protocol.sparsity, d, delta_t=delta_t) for d in ("uniform", "ERK") for delta_t in protocol.intervals
    ]
    return _wrn_sparsities(scale, seed) + sweep


def methods_table(scale: str, seed: int) -> list[Run]:
    """All methods on LeNet-300-100: the accuracy table of ``docs/methods.md``."""
    of, s = _maker(scale, "mnist_lenet", seed), _protocol(scale, "mnist_lenet").sparsity
    return [of("Dense"), *(of(method, s, "ERK") for method in METHODS if method not in ("Dense", "Big-Sparse"))]


def lottery_table(scale: str, seed: int) -> list[Run]:
    """ResNet-50: tickets of RigL trained again, static and with RigL, beside RigL once and twice as long."""
    of, s = _maker(scale, RESNET, seed), _protocol(scale, RESNET).sparsity
    tickets = [of(method, s, "uniform") for method in ("Lottery, static", "Lottery, RigL")]
    return [*tickets, *(of("RigL", s, "uniform", multiplier=m) for m in (1, 2)), of("Static", s, "uniform")]


Panels = Callable[[str, int], list[Run]]
FIGURES: dict[int, Panels] = {
    2: figure_2,
    3: figure_3,
    4: figure_4,
    5: figure_5,
    7: figure_7,
    8: figure_8,
    9: figure_9,
    10: figure_10,
}
"""Figures made of trainings. 1, 6 and 11 are made by the studies."""
FIRST = (2, 4, 5, 3, 10)
TABLES: dict[str, Panels] = {"methods": methods_table, "lottery": lottery_table}


def runs_of(panels: Iterable[Panels], scale: str, seeds: Sequence[int] = SEEDS) -> list[Run]:
    """The runs of some figures and tables, each once, in the order to launch them.

    Short runs of the first seed come first, then its long runs beside short ones of the second seed, and so on: every
    figure has its first seed before any has its third.
    """
    runs = dict.fromkeys(run for panel, seed in product(panels, seeds) for run in panel(scale, seed))
    return sorted(runs, key=lambda run: (run.seed + (run.length >= LONG_RUN), run.length))


def all_runs(scale: str, seeds: Sequence[int] = SEEDS) -> list[Run]:
    """The runs of everything, as `runs_of`; of equal lengths those of `FIRST` figures come first."""
    others = [number for number in FIGURES if number not in FIRST]
    return runs_of([*(FIGURES[number] for number in (*FIRST, *others)), *TABLES.values()], scale, seeds)


def _distributions(scale: str, seed: int, methods: Sequence[str]) -> list[Run]:
    of = _maker(scale, RESNET, seed)
    sparsities = _protocol(scale, RESNET).sparsities
    return [of(m, s, d) for m in methods for s in sparsities for d in ("uniform", "ER", "ERK")]


def _sweep(scale: str, seed: int, method: str, decay: str) -> list[Run]:
    protocol = _protocol(scale, RESNET)
    of = _maker(scale, RESNET, seed)
    return [
        of(method, protocol.sparsity, "uniform", delta_t=delta_t, alpha=alpha, decay=decay)
        for delta_t in protocol.intervals
        for alpha in DROP_FRACTIONS
    ]


def _protocol(scale: str, benchmark: str) -> Protocol:
    return PROTOCOLS[scale][benchmark]


def _maker(scale: str, benchmark: str, seed: int) -> Callable[..., Run]:
    def make(method: str, sparsity: float = 0.0, distribution: str = "", **settings: float | str) -> Run:
        run = Run(benchmark, method, sparsity, distribution, seed, scale, **settings)  # type: ignore[arg-type]
        return declared(run)

    return make
