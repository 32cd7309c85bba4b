"""Every run that a figure or table is made of, as data.

A `Run` is a value: equal settings are one run, however many panels show it. Its command line is the one a user would
type (``python -m rigl_lightning fit ...``), and its identity a hash of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)

# What a scale changes of a benchmark's configuration; the configuration alone is the paper's scale.
SCALES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "smoke": {"mnist_lenet": ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "60")},
    "small": {"mnist_lenet": ("--trainer.max_epochs", "5")},
    "paper": {"mnist_lenet": ()},
}

# Command-line settings of each method; `{name}` is filled in from the run.
_SPARSE = ("--sparse.algorithm.sparsity={sparsity}", "--sparse.algorithm.distribution={distribution}")


def _method(algorithm: str, *settings: str) -> tuple[str, ...]:
    return (f"--sparse.algorithm={algorithm}", *_SPARSE, *(f"--sparse.algorithm.{setting}" for setting in settings))


METHODS: Mapping[str, Sequence[str]] = {
    "Dense": ("--sparse.algorithm=Dense",),
    "Static": _method("Static"),
    "RigL": _method("RigL"),
    "SET": _method("SET"),
    "SNFS": _method("SNFS"),
    "SNIP": _method("SNIP"),
    "Pruning": _method("GradualMagnitudePruning"),
    "One-shot": _method("OneShotMagnitude"),
    "GraSP": _method("GraSP"),
    "DSR": _method("DSR"),
    "DeepR": _method("DeepR"),
    "DNW": _method("DNW"),
    "Top-KAST": _method("TopKAST", "backward_sparsity=0.9"),
    # Intervals of the authors' 1,500 and 4,000 steps leave a training of this length hardly an update.
    "SET-ITOP": _method("SETITOP", "drop_fraction=0.5", "schedule.interval=300", "schedule.end=1.0"),
    "RigL-ITOP": _method("RigLITOP", "drop_fraction=0.5", "schedule.interval=300", "schedule.end=1.0"),
    "GraNet": _method("GraNet", "drop_fraction=0.5", "schedule.end=1.0"),
    "RigL, blocks 2x4": _method("RigL", "structure=Blocks", "structure.shape=[2, 4]"),
    "SRigL": _method("RigL", "structure=ConstantFanIn"),
    "Lottery, static": ("--sparse.algorithm=LotteryTicket",),
    "Lottery, RigL": (
        "--sparse.algorithm=LotteryTicket",
        "--sparse.algorithm.algorithm=RigL",
        "--sparse.algorithm.algorithm.schedule.end=0.41667",
    ),
    "Small-Dense": ("--sparse.algorithm=Dense", "--model.init_args.model.init_args.width={width}"),
}
# The largest network with at most the weights of the sparse one, by `rigl_lightning.sparsity.widths`.
SMALL_DENSE_WIDTHS = {("mnist_lenet", 0.95): 0.056}
TICKETS_FROM = "RigL"
DISTRIBUTIONS = {"uniform": "Uniform", "ER": "ErdosRenyi", "ERK": "ErdosRenyi"}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        benchmark: Name of a file in ``configs/``.
        method: Key of `METHODS`.
        sparsity: Total, in [0, 1).
        distribution: Key of `DISTRIBUTIONS`; "" for a dense network.
        seed: Of initialisation, data order and masks.
        scale: Key of `SCALES`.
    """

    benchmark: str
    method: str
    sparsity: float = 0.0
    distribution: str = ""
    seed: int = 0
    scale: str = "small"

    @property
    def name(self) -> str:
        """Readable and unique: names the run's folder."""
        parts = [self.method, self.distribution, f"{self.sparsity:g}" if self.sparsity else "", f"seed{self.seed}"]
        readable = "-".join(part for part in parts if part).replace(", ", "-").replace(" ", "_")
        return f"{self.scale}/{self.benchmark}/{readable}-{self.identity}"

    @property
    def identity(self) -> str:
        """Hash of all that decides the result, eight hexadecimal digits: the command and the configuration it names."""
        settings = "\n".join(self.settings()).encode()
        return hashlib.sha256(settings + b"\n" + _configuration(self.benchmark)).hexdigest()[:8]

    @property
    def needs(self) -> Run | None:
        """The run whose checkpoint this one starts from: the same, with the method that finds the ticket."""
        return replace(self, method=TICKETS_FROM) if self.method.startswith("Lottery") else None

    def settings(self) -> list[str]:
        """Arguments of ``python -m rigl_lightning`` that decide the result."""
        names = {"sparsity": self.sparsity, "distribution": DISTRIBUTIONS.get(self.distribution, "")}
        names["width"] = SMALL_DENSE_WIDTHS.get((self.benchmark, self.sparsity), "")
        method = [argument.format(**names) for argument in METHODS[self.method]]
        if self.distribution == "ER" and "distribution" in " ".join(method):
            method.append("--sparse.algorithm.distribution.kernel=false")
        scale = SCALES[self.scale][self.benchmark]
        return [f"--config=configs/{self.benchmark}.yaml", f"--seed_everything={self.seed}", *scale, *method]

    def columns(self) -> dict[str, Any]:
        """What a row of results says about the run's settings."""
        return {"run": self.name.rsplit("/", 1)[1], **asdict(self), "config_hash": self.identity}


@cache
def _configuration(benchmark: str) -> bytes:
    return (Path(__file__).parents[1] / "configs" / f"{benchmark}.yaml").read_bytes()


def methods_table(scale: str = "small") -> list[Run]:
    """All methods on LeNet-300-100 at 95 %: the accuracy table of ``docs/methods.md``."""
    dense = [Run("mnist_lenet", "Dense", seed=seed, scale=scale) for seed in SEEDS]
    sparse = [m for m in METHODS if m != "Dense"]
    return dense + [Run("mnist_lenet", method, 0.95, "ERK", seed, scale) for seed in SEEDS for method in sparse]


TABLES = {"methods": methods_table}
