"""What the figures should show, declared before the runs were made: each sentence with the runs it is judged on.

A claim is one or more comparisons of runs. A comparison names its runs, and the seeds are those of
`paper.experiments.CLAIM_SEEDS`; so `runs` lists what has to be run first. What these left inconclusive, and affordable
numbers of runs would decide, has further tests on new seeds (`Again`), each declared when the one before was known and
before it had a run. ``judged.py`` compares their rows, ``verdicts.py`` has the statistics, and ``make_figures.py``
writes what came out into ``paper/README.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paper.comparisons import Again, Bench, Claim, Comparison
from paper.experiments import CLAIM_SEEDS, Run
from paper.panels import (
    APPENDIX_SPARSITIES,
    DROP_FRACTIONS,
    GRU,
    HARMLESS_AT,
    MNIST,
    MOBILENETS,
    NARROW_RULES,
    RESNET,
    WRN,
)

ONE_POINT = 1.0
"""Of accuracy: what two methods may differ by and still count as level."""
QUARTER_OF_A_POINT = 0.25
"""Likewise where errors are 2.5 %."""
SPARSEST_OF_V2 = 0.95
"""Sparsity that the second test leaves out: batch norm's statistics of units without connections diverge there."""


def runs(claims: Sequence[Claim], seeds: Sequence[int] = CLAIM_SEEDS) -> list[Run]:
    """The runs that claims rest on, each once: all of a seed before any of the next, short ones first."""
    of_one_seed = dict.fromkeys(run for claim in claims for c in claim.comparisons for run in c.runs)
    ordered = sorted(of_one_seed, key=lambda run: run.length)
    return [replace(run, seed=seed) for seed in seeds for run in ordered]


def runs_again(claims: Sequence[Claim]) -> list[Run]:
    """The runs of second and later tests, each once: all of a comparison, seed by seed, before those of the next."""
    tested = [(compared.runs, seeds) for claim in claims for c in claim.comparisons for _, compared, seeds in c.later]
    return list(dict.fromkeys(replace(r, seed=s) for runs, seeds in tested for s in seeds for r in runs))


def claims(scale: str) -> list[Claim]:
    """Those that are judged at a scale: all at the small one, LeNet-300-100's at the paper's."""
    return _small() if scale == "small" else _lenet_at_full_length() if scale == "paper" else []


def _small() -> list[Claim]:
    return [
        *_figure_2(),
        *_figure_3(),
        *_figure_4(),
        *_figure_5(),
        *_figure_7(),
        *_figure_9(),
        *_figure_10(),
        *_methods_table(),
        *_lottery(),
        *_narrow_networks(),
    ]


def _figure_2() -> list[Claim]:
    of = Bench("small", RESNET)
    equal_flops = of.protocol.extended_pruning
    return [
        Claim(
            "2 left",
            "At equal length the methods that move connections, RigL and SET, are above Static.",
            (of.over("RigL", "Static"), of.over("SET", "Static")),
        ),
        Claim(
            "2 left",
            "At equal length RigL is above SET.",
            (replace(of.over("RigL", "SET"), again=Again(16, ONE_POINT)),),
        ),
        Claim("2 left", "RigL is above a dense network with as many weights.", (of.over("RigL", "Small-Dense"),)),
        Claim(
            "2 left",
            "A dense network with as many weights is above Static.",
            (replace(of.over("Small-Dense", "Static"), again=Again(64, ONE_POINT)),),
        ),
        Claim(
            "2 left",
            "RigL keeps gaining with the length of the training.",
            (
                Comparison(
                    "RigL, lengths 1 to 5",
                    tuple(of("RigL", multiplier=m) for m in of.protocol.multipliers),
                    over="doubling of the training",
                ),
            ),
        ),
        Claim(
            "2 left",
            "SNFS costs more training FLOPs than RigL.",
            (replace(of.over("SNFS", "RigL"), name="training FLOPs, SNFS over RigL", column="training"),),
        ),
        Claim(
            "2 right",
            "At about equal training FLOPs extended RigL (ERK) is above pruning at every sparsity.",
            tuple(
                Comparison(
                    f"{s:g}: RigL {rigl:g}x over pruning {pruning:g}x",
                    (of("RigL", s, multiplier=rigl),),
                    (of("Pruning", s, multiplier=pruning),),
                )
                for s, (pruning, rigl) in equal_flops.items()
            ),
        ),
    ]


def _figure_3() -> list[Claim]:
    v1, v2 = MOBILENETS

    def over(benchmark: str, better: str, worse: str) -> Comparison:
        of = Bench("small", benchmark)
        ours, theirs = (tuple(of(method, s) for s in of.protocol.sparsities) for method in (better, worse))
        name = f"{_short(benchmark)}, mean of {{}}: {better} over {worse}"
        return Comparison(name.format("all sparsities"), ours, theirs, again=again(benchmark, ours, theirs, name))

    def again(benchmark: str, ours: tuple[Run, ...], theirs: tuple[Run, ...], name: str) -> Again | None:
        if benchmark == v2:  # at .95 three of 15 trainings end at chance
            ours, theirs = (tuple(run for run in runs if run.sparsity < SPARSEST_OF_V2) for runs in (ours, theirs))
            up_to = f"sparsities up to {max(run.sparsity for run in ours):g}"
            return Again(8, ONE_POINT, ours, theirs, name=name.format(up_to))
        return Again(8, ONE_POINT) if (ours[0].method, theirs[0].method) == ("RigL", "Pruning") else None

    order = (("RigL", "Pruning"), ("Pruning", "Small-Dense"), ("RigL", "Small-Dense"))
    big, dense = Bench("small", v1)("Big-Sparse"), Bench("small", v1)("Dense")
    return [
        *(
            Claim("3 left", f"{better} is above {_sentence(worse)}.", tuple(over(b, better, worse) for b in MOBILENETS))
            for better, worse in order
        ),
        Claim(
            "3 right",
            "A wider sparse network (Big-Sparse) is above the dense network of equal inference FLOPs.",
            (Comparison("Big-Sparse over Dense", (big,), (dense,)),),
        ),
    ]


def _short(benchmark: str) -> str:
    return benchmark.removeprefix("imagenet_").replace("mobilenet_", "MobileNet-")


def _sentence(method: str) -> str:
    return {"Pruning": "pruning", "Small-Dense": "a dense network with as many weights"}.get(method, method)


def _bits(comparison: Comparison) -> Comparison:
    return replace(comparison, column="val_bits", sign=-1)


def _figure_4() -> list[Claim]:
    of, wrn = Bench("small", GRU), Bench("small", WRN)
    others = ("RigL", "SNFS", "SET", "Static")
    trends = (
        Comparison(
            f"{method}, lengths 0.5 to 2",
            tuple(of(method, multiplier=m) for m in of.protocol.multipliers),
            over="doubling of the training",
        )
        for method in ("RigL", "SNFS")
    )
    return [
        Claim(
            "4 left",
            "Pruning has the fewest bits per character.",
            tuple(_bits(of.over("Pruning", m)) for m in others),
        ),
        Claim(
            "4 left",
            "RigL has fewer bits per character than SET, and SET fewer than Static.",
            (_bits(of.over("RigL", "SET")), _bits(of.over("SET", "Static"))),
        ),
        Claim("4 left", "RigL and SNFS improve with the length of the training.", tuple(_bits(t) for t in trends)),
        Claim(
            "4 right",
            "RigL is above Static at every sparsity.",
            tuple(replace(wrn.over("RigL", "Static", s), again=Again(8, ONE_POINT)) for s in wrn.protocol.sparsities),
        ),
    ]


def _erk(of: Bench, method: str, sparsity: float) -> Comparison:
    name = f"{of.protocol.title.split(',')[0]}, {sparsity:g}: {method}, ERK over uniform"
    erk, uniform = (of(method, sparsity, distribution=d) for d in ("ERK", "uniform"))
    return Comparison(name, (erk,), (uniform,))


def _figure_5() -> list[Claim]:
    of, lenet = Bench("small", RESNET), Bench("small", MNIST)
    erk, uniform = (tuple(of("RigL", s, distribution=d) for s in of.protocol.sparsities) for d in ("ERK", "uniform"))
    shortest, usual, longest = lenet.protocol.intervals
    return [
        Claim(
            "5 left",
            "ERK is above uniform for RigL.",
            tuple(replace(_erk(of, "RigL", s), again=Again(48, ONE_POINT)) for s in (0.95, 0.965)),
        ),
        Claim(
            "5 left",
            "The sparser the network, the more ERK gains over uniform.",
            (
                Comparison(
                    "gain of ERK over uniform", erk, uniform, over="halving of the density", again=Again(8, ONE_POINT)
                ),
            ),
        ),
        Claim(
            "5 right",
            "The paper's interval of 100 steps is better than a much shorter or a much longer one.",
            tuple(
                Comparison(f"LeNet, mean of all α: ΔT {usual} over {d}", _swept(lenet, usual), _swept(lenet, d))
                for d in (shortest, longest)
            ),
        ),
        Claim(
            "5 right",
            "Drop fractions of .3 and .5 are above .1 at that interval.",
            tuple(
                Comparison(
                    f"LeNet: α {a:g} over 0.1", (lenet("RigL", alpha=a),), (lenet("RigL", alpha=0.1),), again=again
                )
                for a, again in ((0.3, None), (0.5, Again(14, ONE_POINT)))
            ),
        ),
    ]


def _swept(of: Bench, delta_t: int | None = None, decay: str = "cosine") -> tuple[Run, ...]:
    return tuple(of("RigL", delta_t=delta_t, alpha=a, decay=decay) for a in DROP_FRACTIONS)


def _figure_7() -> list[Claim]:
    of, lenet = Bench("small", RESNET), Bench("small", MNIST)
    methods = ("SET", "SNFS", "Static")
    return [
        Claim(
            "7 left",
            "ERK is above uniform for SET, SNFS and Static on the residual network.",
            (
                *(_erk(of, m, of.protocol.sparsity) for m in ("SET", "SNFS")),
                replace(_erk(of, "Static", of.protocol.sparsity), again=Again(16, ONE_POINT)),
            ),
        ),
        Claim(
            "7 left",
            "ERK is above uniform for all four methods on LeNet-300-100.",
            tuple(_erk(lenet, m, lenet.protocol.sparsity) for m in (*methods, "RigL")),
        ),
    ]


def _figure_9() -> list[Claim]:
    lenet = Bench("small", MNIST)
    constant = {a: lenet("RigL", alpha=a, decay="constant") for a in DROP_FRACTIONS}
    return [
        Claim(
            "9",
            "With a constant drop fraction .5 is worse than .1.",
            (Comparison("LeNet: α 0.1 over 0.5", (constant[0.1],), (constant[0.5],), again=Again(32, ONE_POINT)),),
        ),
        Claim(
            "9",
            "A drop fraction that falls along a cosine is better than a constant one.",
            (Comparison("LeNet, mean of all α", _swept(lenet), tuple(constant.values())),),
        ),
    ]


def _figure_10() -> list[Claim]:
    of = Bench("small", WRN)
    loss = {"column": "final_train_loss", "sign": -1}
    small = Again(8, level=0.05)
    again = {("RigL", 0.9): small, ("RigL", 0.95): small, ("Pruning", 0.9): Again(12, level=0.05)}
    return [
        Claim(
            "10 left",
            "Static has a higher final training loss than RigL and pruning at every sparsity.",
            tuple(
                replace(of.over(m, "Static", s), **loss, again=again.get((m, s)))  # type: ignore[arg-type]
                for s in of.protocol.sparsities
                for m in ("RigL", "Pruning")
            ),
        )
    ]


def _methods_table() -> list[Claim]:
    of = Bench("small", MNIST)
    return [
        Claim(
            "MNIST",
            "On LeNet-300-100 RigL is above SET, and SET above Static.",
            (of.over("RigL", "SET"), of.over("SET", "Static")),
        ),
        Claim("MNIST", "On LeNet-300-100 pruning is above RigL.", (of.over("Pruning", "RigL"),)),
    ]


def _lottery() -> list[Claim]:
    of = Bench("small", RESNET)
    tickets = ("Lottery, static", "Lottery, RigL")
    tests = (Again(8, then=Again(20)), Again(20))
    return [
        Claim(
            "lottery",
            "RigL is above its own tickets, trained again from their initial weights.",
            tuple(replace(of.over("RigL", t), again=again) for t, again in zip(tickets, tests, strict=True)),
        ),
        Claim(
            "lottery",
            "RigL, trained twice as long at their cost, is above its own tickets.",
            tuple(Comparison(f"RigL 2x over {t}", (of("RigL", multiplier=2),), (of(t),)) for t in tickets),
        ),
    ]


def _narrow_networks() -> list[Claim]:
    """A question beyond the paper; the rules and the sparsity are from pilots of seeds 0 to 2."""
    of, wrn, lenet = Bench("small", RESNET), Bench("small", WRN), Bench("small", MNIST)
    sparsest = 0.98

    def over(bench: Bench, better: str, worse: str, sparsity: float) -> Comparison:
        comparison = bench.over(better, worse, sparsity)
        return replace(comparison, name=f"{bench.protocol.title.split(',')[0]}: {comparison.name}")

    def harmless(bench: Bench, sparsity: float) -> tuple[Comparison, ...]:
        return tuple(replace(over(bench, rule, "RigL", sparsity), within=ONE_POINT) for rule in NARROW_RULES)

    def own(sentence: str, *comparisons: Comparison) -> Claim:
        return Claim("narrow", sentence, comparisons, source="own")

    return [
        own(
            "On WRN-10-1 at .95 RigL and SET are level, within one point.",
            replace(over(of, "RigL", "SET", 0.95), within=ONE_POINT, again=Again(16)),
        ),
        own(
            "On WRN-10-1 at .98 growth that avoids dead channels, or spreads over all, is above RigL's.",
            *(
                replace(over(of, rule, "RigL", sparsest), again=again)
                for rule, again in zip(NARROW_RULES, (Again(8, then=Again(32)), Again(14)), strict=True)
            ),
        ),
        own(
            "On WRN-10-1 at .98 such growth is above SET's random growth, too.",
            *(over(of, rule, "SET", sparsest) for rule in NARROW_RULES),
        ),
        own(
            "On WRN-22-2 at .98 growth that avoids dead channels, or spreads over all, is above RigL's.",
            *(
                replace(over(wrn, rule, "RigL", sparsest), again=Again(8, ONE_POINT, then=then))
                for rule, then in zip(NARROW_RULES, (None, Again(12, ONE_POINT)), strict=True)
            ),
        ),
        own(
            "On WRN-22-2 at .98 SET is above RigL.",
            replace(over(wrn, "SET", "RigL", sparsest), again=Again(8, ONE_POINT)),
        ),
        own(
            "Such growth does no harm: within one point of RigL on WRN-10-1 at .9 and on LeNet-300-100 at .99.",
            *(
                replace(c, again=a)
                for c, a in zip(harmless(of, HARMLESS_AT), (None, Again(8, then=Again(20))), strict=True)
            ),
            *harmless(lenet, lenet.protocol.sparsity),
        ),
    ]


def _lenet_at_full_length() -> list[Claim]:
    of = Bench("paper", MNIST)
    order = (("Pruning", "RigL", None), ("RigL", "SET", Again(16, QUARTER_OF_A_POINT)), ("SET", "Static", None))
    appendix = {d: of("RigL", s, distribution=d) for d, s in APPENDIX_SPARSITIES.items()}
    return [
        *(
            Claim(
                "LeNet-300-100",
                f"At the paper's length and a sparsity of .99 {better} is above {worse}.",
                (replace(of.over(better, worse), again=again),),
            )
            for better, worse, again in order
        ),
        Claim(
            "LeNet-300-100",
            "RigL with the appendix's layer sparsities is above Static with the same ones.",
            tuple(
                Comparison(f"{d}: RigL over Static", (run,), (replace(run, method="Static"),))
                for d, run in appendix.items()
            ),
        ),
    ]
