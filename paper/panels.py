"""The runs that each figure and each table shows, for any scale and any number of seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product

from paper.experiments import GROWTH, METHODS, SEEDS, Run, declared
from paper.protocols import PROTOCOLS, Protocol

RESNET, WRN, GRU, MNIST = "imagenet_resnet50", "cifar10_wrn22", "char_gru", "mnist_lenet"
MOBILENETS = ("imagenet_mobilenet_v1", "imagenet_mobilenet_v2")
DROP_FRACTIONS = (0.1, 0.3, 0.5)
SNFS_MOMENTA = (0.0, 0.5, 0.9, 0.99)
SWEPT: dict[str, tuple[str, ...]] = {"smoke": (RESNET,), "small": (RESNET, MNIST), "paper": (RESNET,)}
"""Benchmarks of the sweeps and distributions by scale: a row of panels each."""
COMPARED = ("Static", "SET", "SNFS", "RigL", "Pruning")
APPENDIX_SPARSITIES = {"appendix": 0.975, "appendix, RigL+": 0.945}
"""Total sparsity of the networks whose layers appendix B gives."""
NARROW_SPARSITIES = (0.95, 0.98)
NARROW_RULES = ("RigL, live channels", "RigL, normalised channels")
"""The grow scores that are tried beyond the network on which they were found."""
HARMLESS_AT = 0.9
LONG_RUN = 2.5
"""Runs from this multiple of the shortest usual training on wait until the shorter ones of their seed have run."""


def figure_2(scale: str, seed: int) -> list[Run]:
    """ResNet-50: accuracy over training FLOPs, over sparsities, and the table of methods."""
    protocol = _protocol(scale, RESNET)
    of, s, d = _maker(scale, RESNET, seed), protocol.sparsity, protocol.distribution
    lengths = [m for m in protocol.multipliers if m != 1]
    runs = [of("Dense")]
    runs += [of(method, s, d) for method in (*COMPARED, "SNIP", "Small-Dense")]
    for m in lengths:
        methods = protocol.extended_methods if m == protocol.extended else ("Static", "SET", "SNFS", "RigL")
        runs += [of(method, s, d, multiplier=m) for method in methods]
    runs += [of("Pruning", s, d, multiplier=m) for m in (0.5, 0.75, 1.5, 2)]
    runs += [of("Small-Dense", s, d, multiplier=m) for m in sorted({2, protocol.extended})]
    for other in protocol.sparsities:
        runs += [of("RigL", other, e, multiplier=m) for e in ("uniform", "ERK") for m in (1, protocol.extended)]
        runs += [of("Small-Dense", other, d, multiplier=protocol.extended)]
        runs += [of("Pruning", other, d, multiplier=m) for m in (1, 1.5)]
    for other, (pruning, rigl) in protocol.extended_pruning.items():  # at about equal training FLOPs
        runs += [of("Pruning", other, d, multiplier=pruning), of("RigL", other, "ERK", multiplier=rigl)]
    for other in protocol.sparsities[:2]:  # the table
        runs += [of(method, other, d) for method in ("Static", "SNIP", "SET", "SNFS", "Small-Dense")]
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
    for method in COMPARED:
        runs += [of(method, protocol.sparsity, "uniform", multiplier=m) for m in protocol.multipliers]
    return runs + _wrn_sparsities(scale, seed)


def _wrn_sparsities(scale: str, seed: int) -> list[Run]:
    of = _maker(scale, WRN, seed)
    runs = [of("Dense")]
    for s in _protocol(scale, WRN).sparsities:
        runs += [of(method, s, "ERK", multiplier=m) for method in ("Static", "RigL") for m in (1, 2)]
        runs += [of("SET", s, "ERK"), of("Pruning", s, _pruning(scale, WRN))]
    return runs


def _pruning(scale: str, benchmark: str) -> str:
    """Distribution of pruning on the convolutional networks whose other methods have ERK: uniform in the paper."""
    return _protocol(scale, benchmark).distribution


def figure_5(scale: str, seed: int) -> list[Run]:
    """RigL: distributions, and the cosine sweep."""
    return _distributions(scale, seed, ["RigL"]) + _sweep(scale, seed, "RigL", "cosine")


def figure_7(scale: str, seed: int) -> list[Run]:
    """Distributions of every method; SNFS's momentum."""
    runs = _distributions(scale, seed, ["RigL", "SET", "SNFS", "Static"])
    for benchmark in SWEPT[scale]:
        protocol = _protocol(scale, benchmark)
        of = _maker(scale, benchmark, seed)
        runs += [of("SNFS", protocol.sparsity, protocol.distribution, snfs_momentum=m) for m in SNFS_MOMENTA]
    return runs


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
    of, s = _maker(scale, MNIST, seed), _protocol(scale, MNIST).sparsity
    others = ("Dense", "Big-Sparse", *GROWTH)
    return [of("Dense"), *(of(method, s, "ERK") for method in METHODS if method not in others)]


def lenet_table(scale: str, seed: int) -> list[Run]:
    """LeNet-300-100: the appendix's sparsities of its layers, and ERK at several; the published errors."""
    protocol = _protocol(scale, MNIST)
    of = _maker(scale, MNIST, seed)
    runs = [of("Dense"), *(of(m, s, "ERK") for s in protocol.sparsities for m in COMPARED)]
    return runs + [of(m, s, d) for d, s in APPENDIX_SPARSITIES.items() for m in ("Static", "SET", "RigL")]


def lottery_table(scale: str, seed: int) -> list[Run]:
    """ResNet-50: tickets of RigL trained again, static and with RigL, and RigL once and twice as long."""
    protocol = _protocol(scale, RESNET)
    of, s, d = _maker(scale, RESNET, seed), protocol.sparsity, protocol.distribution
    tickets = [of(method, s, d) for method in ("Lottery, static", "Lottery, RigL")]
    return [*tickets, *(of("RigL", s, d, multiplier=m) for m in (1, 2)), of("Static", s, d)]


def narrow_networks(scale: str, seed: int) -> list[Run]:
    """Growth by gradient magnitude, at random, and by rules between the two, on narrow and on wider networks."""
    resnet, wrn, lenet = (_maker(scale, benchmark, seed) for benchmark in (RESNET, WRN, MNIST))
    methods = ("RigL", "SET", *GROWTH, "SRigL")
    runs = [resnet(m, s, "ERK") for s in NARROW_SPARSITIES for m in methods]
    runs += [wrn(m, s, "ERK") for s in NARROW_SPARSITIES for m in ("RigL", "SET", *NARROW_RULES)]
    runs += [resnet(m, HARMLESS_AT, "ERK") for m in ("RigL", "SET", *NARROW_RULES)]
    return runs + [lenet(m, _protocol(scale, MNIST).sparsity, "ERK") for m in ("RigL", *NARROW_RULES)]


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
TABLES: dict[str, Panels] = {
    "methods": methods_table,
    "lenet": lenet_table,
    "lottery": lottery_table,
    "narrow": narrow_networks,
}


def runs_of(panels: Iterable[Panels], scale: str, seeds: Sequence[int] = SEEDS) -> list[Run]:
    """The runs of some figures and tables, each once, in the order to launch them.

    Short runs of the first seed come first, then its long runs together with short ones of the second seed, and so on:
    every figure has its first seed before any has its third.
    """
    runs = dict.fromkeys(run for panel, seed in product(panels, seeds) for run in panel(scale, seed))
    return sorted(runs, key=lambda run: (run.seed + (run.length >= LONG_RUN), run.length))


def all_runs(scale: str, seeds: Sequence[int] = SEEDS) -> list[Run]:
    """The runs of everything, as `runs_of`; of equal lengths those of `FIRST` figures come first."""
    others = [number for number in FIGURES if number not in FIRST]
    return runs_of([*(FIGURES[number] for number in (*FIRST, *others)), *TABLES.values()], scale, seeds)


def _distributions(scale: str, seed: int, methods: Sequence[str]) -> list[Run]:
    """ER is RigL's alone at the ResNet's main sparsity; linear layers have no kernels, so that there ER is ERK."""
    runs = []
    for benchmark in SWEPT[scale]:
        of, protocol = _maker(scale, benchmark, seed), _protocol(scale, benchmark)
        runs += [of(m, s, d) for m in methods for s in protocol.sparsities for d in ("uniform", "ERK")]
        if benchmark == RESNET:
            runs += [of(m, s, "ER") for m in methods for s in protocol.sparsities if m in _with_er(scale)]
    return runs


def _with_er(scale: str) -> tuple[str, ...]:
    return ("RigL",) if scale == "small" else ("RigL", "SET", "SNFS", "Static")


def _sweep(scale: str, seed: int, method: str, decay: str) -> list[Run]:
    return [
        _maker(scale, benchmark, seed)(
            method, protocol.sparsity, protocol.distribution, delta_t=delta_t, alpha=alpha, decay=decay
        )
        for benchmark in SWEPT[scale]
        for protocol in [_protocol(scale, benchmark)]
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
