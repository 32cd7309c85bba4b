"""Every run that a figure or table is made of, as data.

A `Run` is a value: equal settings are one run, however many panels show it. Its command line is the one a user would
type (``python -m rigl_lightning fit ...``), and its identity a hash of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SEEDS = (0, 1, 2)

# What a scale changes of a benchmark's configuration; the configuration alone is the paper's scale.
SCALES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "smoke": {"mnist_lenet": ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "60")},
    "small": {"mnist_lenet": ("--trainer.max_epochs", "10")},
    "paper": {"mnist_lenet": ()},
}

# Command-line settings of each method; `{name}` is filled in from the run.
_SPARSE = ("--sparse.algorithm.sparsity", "{sparsity}", "--sparse.algorithm.distribution", "{distribution}")
METHODS: Mapping[str, Sequence[str]] = {
    "Dense": ("--sparse.algorithm", "Dense"),
    "Static": ("--sparse.algorithm", "Static", *_SPARSE),
    "SNIP": ("--sparse.algorithm", "SNIP", *_SPARSE),
    "SET": ("--sparse.algorithm", "SET", *_SPARSE),
    "SNFS": ("--sparse.algorithm", "SNFS", *_SPARSE),
    "RigL": ("--sparse.algorithm", "RigL", *_SPARSE),
    "Pruning": ("--sparse.algorithm", "GradualMagnitudePruning", *_SPARSE),
}
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
        readable = "-".join(part for part in parts if part).replace(" ", "_").replace(":", "of")
        return f"{self.scale}/{self.benchmark}/{readable}-{self.identity}"

    @property
    def identity(self) -> str:
        """Hash of all that decides the result, eight hexadecimal digits."""
        return hashlib.sha256("\n".join(self.settings()).encode()).hexdigest()[:8]

    def settings(self) -> list[str]:
        """Arguments of ``python -m rigl_lightning`` that decide the result."""
        names = {"sparsity": self.sparsity, "distribution": DISTRIBUTIONS.get(self.distribution, "")}
        method = [argument.format(**names) for argument in METHODS[self.method]]
        if self.distribution == "ER":
            method += ["--sparse.algorithm.distribution.kernel", "false"]
        scale = SCALES[self.scale][self.benchmark]
        return [f"--config=configs/{self.benchmark}.yaml", f"--seed_everything={self.seed}", *scale, *method]

    def columns(self) -> dict[str, Any]:
        """What a row of results says about the run's settings."""
        return {"run": self.name.rsplit("/", 1)[1], **asdict(self), "config_hash": self.identity}


def methods_table(scale: str = "small") -> list[Run]:
    """All methods on LeNet-300-100 at 95 %: the accuracy table of ``docs/methods.md``."""
    dense = [Run("mnist_lenet", "Dense", seed=seed, scale=scale) for seed in SEEDS]
    sparse = [m for m in METHODS if m != "Dense"]
    return dense + [Run("mnist_lenet", method, 0.95, "ERK", seed, scale) for seed in SEEDS for method in sparse]


TABLES = {"methods": methods_table}
