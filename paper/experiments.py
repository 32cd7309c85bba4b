"""A run of the paper as data, and the settings of every method.

A `Run` is a value: equal settings are one run, however many panels show it. Its command line is the one a user would
type (``python -m rigl_lightning fit ...``), and its identity a hash of what decides its result. Which runs a figure
shows is said in ``panels.py``; how a benchmark is trained at a scale in ``protocols.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from paper.protocols import PROTOCOLS, Protocol

CLAIM_SEEDS = (10, 11, 12, 13, 14)
"""Of runs that a claim rests on: fresh ones. The protocols were chosen with pilots of seeds 0 to 2 (``LOG.md``)."""
SEEDS = CLAIM_SEEDS[:3]
"""Of all other runs."""

# Command-line settings of each method; `{name}` is filled in from the run.
_SPARSITY = "--sparse.algorithm.sparsity={sparsity}"
_WIDTH = "--model.init_args.model.init_args.width={width}"


def _method(algorithm: str, *settings: str) -> tuple[str, ...]:
    return (f"--sparse.algorithm={algorithm}", _SPARSITY, *(f"--sparse.algorithm.{setting}" for setting in settings))


# Three methods diverge in some runs at LeNet's learning rate. For two clipped gradients are enough; GraSP needs a tenth
# of the rate (`LOG.md`).
_CLIPPED = "--trainer.gradient_clip_val=1.0"


def _ramp(decay: str) -> tuple[str, ...]:
    """From half the connections to the run's sparsity, over the updates of LeNet's configuration."""
    settings = {"initial": "0.5", "end": "0.4", "decay": f"rigl_lightning.sparsity.schedules.{decay}"}
    return ("sparsity.final={sparsity}", *(f"sparsity.{name}={value}" for name, value in settings.items()))


GROWTH = {
    "RigL, live channels": ("RigL", "live_channels"),
    "SET, live channels": ("SET", "random_in_live_channels"),
    "RigL, dead as the median": ("RigL", "median_dead_channels"),
    "RigL, normalised channels": ("RigL", "channel_normalised"),
    "RigL, turn by turn": ("RigL", "turn_by_turn"),
}
"""Methods of the question about narrow networks, which differ from another one in the grow score."""
METHODS: Mapping[str, Sequence[str]] = {
    "Dense": ("--sparse.algorithm=Dense",),
    "Static": _method("Static"),
    "RigL": _method("RigL"),
    "SET": _method("SET"),
    "SNFS": _method("SNFS"),
    "SNIP": _method("SNIP"),
    "Pruning": _method(
        "GradualMagnitudePruning", "ramp.begin={ramp[0]}", "ramp.end={ramp[1]}", "ramp.interval={ramp[2]}"
    ),
    "One-shot": _method("OneShotMagnitude"),
    "GraSP": (*_method("GraSP"), "--model.init_args.learning_rate=0.02"),
    # The authors move 600 of this network's 266,200 connections; the default fraction would move all that are active.
    "DSR": _method("DSR", "target_fraction=0.00225"),
    "DeepR": _method("DeepR"),
    "DNW": _method("DNW"),
    # Renewed every 100 steps, as by default, weights that learn without computing diverge at this learning rate.
    "Top-KAST": _method("TopKAST", "backward_sparsity=0.9", "renewal.interval=1"),
    # Intervals of the authors' 1,500 and 4,000 steps leave a training of this length hardly an update.
    "SET-ITOP": _method("SETITOP", "drop_fraction=0.5", "schedule.interval=300", "schedule.end=1.0"),
    "RigL-ITOP": _method("RigLITOP", "drop_fraction=0.5", "schedule.interval=300", "schedule.end=1.0"),
    "GraNet": _method("GraNet", "drop_fraction=0.5", "schedule.end=1.0"),
    "ACDC": (*_method("ACDC"), _CLIPPED),
    "Annealed top-k": _method("AnnealedTopK"),
    "SR-STE, unstructured": _method("SRSTE", "structure=Unstructured"),
    "MEST": _method("MEST", "drop_fraction=0.2"),
    "CHTs": _method("CHTs"),
    "CHTss": _method("CHTs", *_ramp("sigmoid")),
    "RigL, ramp": _method("RigL", *_ramp("cubic")),
    "RigL, scaled init": (*_method("RigL"), "--sparse.by_density.init=true"),
    "RigL, rate by density": (*_method("RigL"), "--sparse.by_density.learning_rate=0.25", _CLIPPED),
    "RigL, blocks 2x4": _method("RigL", "structure=Blocks", "structure.shape=[2, 4]"),
    "SRigL": _method("RigL", "structure=ConstantFanIn"),
    **{
        name: _method(method, f"grow_score=paper.studies.growth_scores.{score}")
        for name, (method, score) in GROWTH.items()
    },
    "Lottery, static": ("--sparse.algorithm=LotteryTicket",),
    "Lottery, RigL": (
        "--sparse.algorithm=LotteryTicket",
        "--sparse.algorithm.algorithm=RigL",
        "--sparse.algorithm.algorithm.schedule.end=0.41667",
    ),
    "Big-Sparse": (*_method("RigL"), _WIDTH),
    "Small-Dense": ("--sparse.algorithm=Dense", _WIDTH),
}
SPARSE_THROUGHOUT = (
    *(
        "Static",
        "RigL",
        "SET",
        "SNFS",
        "SNIP",
        "SET-ITOP",
        "RigL-ITOP",
        "DSR",
        "MEST",
        "CHTs",
        "RigL, scaled init",
        "RigL, rate by density",
        "RigL, blocks 2x4",
        "SRigL",
        "Big-Sparse",
    ),
)
"""Methods whose layers may be computed sparsely: from the first step on, and with masks that stay for many steps."""
TICKETS_FROM = "RigL"
DISTRIBUTIONS = {
    "uniform": "Uniform",
    "ER": "ErdosRenyi",
    "ERK": "ErdosRenyi",
    "appendix": "ErdosRenyi",
    "appendix, RigL+": "ErdosRenyi",
}
# Appendix B of the paper gives the sparsities of LeNet-300-100's three layers.
_APPENDIX = '--sparse.algorithm.distribution.custom={{"model.1": {}, "model.3": {}, "model.5": 0.0}}'
APPENDIX_LAYERS = {"appendix": (0.99, 0.89), "appendix, RigL+": (0.96, 0.86)}
DECAYS = {
    "cosine": "rigl_lightning.sparsity.schedules.cosine",
    "constant": "rigl_lightning.sparsity.schedules.constant",
    "linear": "rigl_lightning.sparsity.schedules.linear",
    "inverse power": "rigl_lightning.sparsity.schedules.InversePower",
}
UPDATES = ("RigL", "SET", "SNFS")
"""Methods with Delta T, alpha and a decay, whose values a row shows."""
SNFS_MOMENTUM = 0.9


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        benchmark: Key of the scale's protocols.
        method: Key of `METHODS`.
        sparsity: Total, in [0, 1). That of Small-Dense is the sparsity of the network it has as many weights as.
        distribution: Key of `DISTRIBUTIONS`; "" for a dense network.
        seed: Of initialisation, data order and masks.
        scale: Key of `PROTOCOLS`.
        multiplier: Factor on the length of the training.
        delta_t: Steps between mask updates; None for those of the configuration.
        alpha: Drop fraction; None for that of the configuration.
        decay: Key of `DECAYS`.
        snfs_momentum: Of the average of SNFS's gradients; None for the usual 0.9.

    ``delta_t``, ``alpha`` and ``snfs_momentum`` are None if they are what the configuration has: `declared` sees to it,
    so that a sweep and a comparison share their runs.
    """

    benchmark: str
    method: str
    sparsity: float = 0.0
    distribution: str = ""
    seed: int = 0
    scale: str = "small"
    multiplier: float = 1.0
    delta_t: int | None = None
    alpha: float | None = None
    decay: str = "cosine"
    snfs_momentum: float | None = None

    @property
    def protocol(self) -> Protocol:
        """How the benchmark is trained at the run's scale."""
        return PROTOCOLS[self.scale][self.benchmark]

    @property
    def length(self) -> float:
        """Of the training, in lengths of the protocol's usual one; MobileNet's is five of its units."""
        return self.multiplier / self.protocol.usual_multiplier

    @property
    def point(self) -> str:
        """Readable name of the point of a panel: the settings without the seed."""
        parts = [
            self.benchmark,
            self.method,
            self.distribution,
            f"{self.sparsity:g}" if self.sparsity else "",
            f"{self.multiplier:g}x" if self.multiplier != 1 else "",
            f"dt{self.delta_t}" if self.delta_t is not None else "",
            f"alpha{self.alpha:g}" if self.alpha is not None else "",
            self.decay if self.decay != "cosine" else "",
            f"momentum{self.snfs_momentum:g}" if self.snfs_momentum is not None else "",
        ]
        return "-".join(part for part in parts if part).replace(", ", "-").replace(" ", "_").replace("+", "plus")

    @property
    def name(self) -> str:
        """Readable and unique: names the run's folder."""
        point = self.point.removeprefix(f"{self.benchmark}-")
        return f"{self.scale}/{self.benchmark}/{point}-seed{self.seed}-{self.identity}"

    @property
    def identity(self) -> str:
        """Hash of all that decides the result, eight hexadecimal digits.

        What the configurations say, whatever their names, comments and places of results; and the arguments.
        """
        content = {"configuration": self.protocol.deciding, "arguments": self.arguments()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def needs(self) -> Run | None:
        """The run whose checkpoint this one starts from: the same, with the method that finds the ticket."""
        return replace(self, method=TICKETS_FROM) if self.method.startswith("Lottery") else None

    def settings(self) -> list[str]:
        """Arguments of ``python -m rigl_lightning`` that decide the result."""
        return [*(f"--config=configs/{name}" for name in self.protocol.configs), *self.arguments()]

    def arguments(self) -> list[str]:
        """`settings` without the configurations."""
        protocol = self.protocol
        width = protocol.big_width if self.method == "Big-Sparse" else protocol.widths.get(self.sparsity)
        if width is None and _WIDTH in METHODS[self.method]:
            raise ValueError(
                f"Expected a width for {self.benchmark} at sparsity {self.sparsity:g} and scale {self.scale}, found "
                "none. Add it in paper/protocols.py."
            )
        method = [argument.format(sparsity=self.sparsity, width=width, ramp=protocol.ramp) for argument in self._method]
        length = protocol.length(self.multiplier)
        return [
            f"--seed_everything={self.seed}",
            *protocol.arguments,
            *length,
            *method,
            *self._distribution(),
            *self._updates(),
            *([f"--sparse.compute={self.compute}"] if self.compute != "dense" else []),
        ]

    @property
    def _method(self) -> Sequence[str]:
        return METHODS[self.method]

    def _distribution(self) -> list[str]:
        """None for methods without a distribution, or with that of the run they start from."""
        if _SPARSITY not in self._method:
            return []
        option = "--sparse.algorithm.distribution"
        details = {
            "uniform": [] if self.protocol.first_layer_dense else [f"{option}.first_layer_dense=false"],
            "ER": [f"{option}.kernel=false"],
            **{name: [_APPENDIX.format(*layers)] for name, layers in APPENDIX_LAYERS.items()},
        }
        return [f"{option}={DISTRIBUTIONS[self.distribution]}", *details.get(self.distribution, [])]

    @property
    def compute(self) -> str:
        """How its layers are computed, see ``--sparse.compute``."""
        return self.protocol.compute if self.method in SPARSE_THROUGHOUT else "dense"

    def _updates(self) -> list[str]:
        settings = {
            "schedule.interval": self.delta_t,
            "drop_fraction": self.alpha,
            "decay": None if self.decay == "cosine" else DECAYS[self.decay],
            "grad_average_decay": self.snfs_momentum,
        }
        return [f"--sparse.algorithm.{name}={value}" for name, value in settings.items() if value is not None]

    def columns(self) -> dict[str, Any]:
        """What a row of results says about the run's settings, those of the configuration included."""
        return {
            "run": self.name.rsplit("/", 1)[1],
            **asdict(self),
            **self._update_columns(),
            "config_hash": self.identity,
        }

    def _update_columns(self) -> dict[str, Any]:
        if self.method not in UPDATES:
            return {"delta_t": None, "alpha": None, "decay": None, "snfs_momentum": None}
        delta_t, alpha = configured_updates(self.protocol)
        momentum = SNFS_MOMENTUM if self.snfs_momentum is None else self.snfs_momentum
        return {
            "delta_t": delta_t if self.delta_t is None else self.delta_t,
            "alpha": alpha if self.alpha is None else self.alpha,
            "decay": self.decay,
            "snfs_momentum": momentum if self.method == "SNFS" else None,
        }


def declared(run: Run) -> Run:
    """The run with settings that are the configuration's own left out."""
    delta_t, alpha = configured_updates(run.protocol)
    return replace(
        run,
        delta_t=None if run.delta_t == delta_t else run.delta_t,
        alpha=None if run.alpha == alpha else run.alpha,
        snfs_momentum=None if run.snfs_momentum == SNFS_MOMENTUM else run.snfs_momentum,
        multiplier=float(run.multiplier),
    )


def configured_updates(protocol: Protocol) -> tuple[int, float]:
    """Delta T and alpha of the configuration."""
    algorithm = protocol.settings["sparse"]["algorithm"]["init_args"]
    return algorithm["schedule"]["interval"], algorithm["drop_fraction"]
