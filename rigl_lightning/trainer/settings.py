"""Settings of `SparseTrainingCallback` other than the algorithm."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from rigl_lightning.sparsity.density_scaling import ByDensity
from rigl_lightning.sparsity.parameters import check_patterns, frozen_parameters, select_parameters
from rigl_lightning.sparsity.settings import plain, require

_require = partial(require, owner="SparseTrainingCallback")


@dataclass(frozen=True)
class Settings:
    """Which weights are sparse, from which seed, and what is shown and checked; see `SparseTrainingCallback`."""

    include: Sequence[str] | None
    exclude: Sequence[str]
    depthwise: bool
    seed: int | None
    log_layers: bool
    strict: bool
    name: str
    adam_warm_up: int | None = None
    by_density: ByDensity | None = None

    def __post_init__(self) -> None:
        check_patterns(self.include, self.exclude)
        for name in ("depthwise", "log_layers", "strict"):
            _require(isinstance(getattr(self, name), bool), self, name, "to be True or False")
        _require(self.seed is None or type(plain(self.seed)) is int, self, "seed", "to be a whole number or None")
        _require(isinstance(self.name, str), self, "name", "to be a text")
        scaled = self.by_density is None or isinstance(self.by_density, ByDensity)
        _require(scaled, self, "by_density", "to be a ByDensity or None")

    @property
    def key(self) -> str:
        """Key of the masks in a checkpoint; other settings are no part of it, so that changing one loses no masks."""
        return f"SparseTrainingCallback[{self.name}]" if self.name else "SparseTrainingCallback"

    @property
    def prefix(self) -> str:
        """Of the names of metrics."""
        return f"sparse/{self.name}/" if self.name else "sparse/"

    def seed_now(self) -> int:
        """The seed, or that of ``seed_everything``, or 0."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Weights to make sparse, by name."""
        return select_parameters(module, self.include, self.exclude, self.depthwise)

    def frozen(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Weights that would be sparse if they were trained."""
        return frozen_parameters(module, self.include, self.exclude, self.depthwise)
