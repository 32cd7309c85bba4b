"""Settings of `SparseTrainingCallback` other than the algorithm."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from rigl_lightning.sparsity.density_scaling import ByDensity
from rigl_lightning.sparsity.parameters import frozen_parameters, select_parameters


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
