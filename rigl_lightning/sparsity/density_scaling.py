"""Scales by density: initial weights and learning rates for sparse layers.

Weights and learning rates are usually chosen for dense layers. With a fraction d of its connections a unit sums a
fraction d of the terms, so its output has sqrt(d) of the standard deviation at first, and d of the change in a step
(Dey et al. 2024, "Sparse maximal update parameterization", arXiv 2405.15743). Both scales are off by default, because
the reference has neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.layouts import is_inputs_first, rows_are_units, rows_of
from rigl_lightning.sparsity.network_masks import NetworkMasks
from rigl_lightning.sparsity.settings import check_same_value, check_settings, describe
from rigl_lightning.sparsity.weights import Weights


def with_sparse_fan_in(weight: Tensor, mask: Tensor, inputs_first: bool = False) -> Tensor:
    """Initial weights of a sparse layer from those of a dense one: each unit's times sqrt(inputs / active inputs).

    So an initialisation that divides by the square root of the fan-in (Kaiming, Xavier, torch's own) divides by that of
    the active fan-in of each unit (Evci et al. 2022, arXiv 2010.03533, section 3).

    Args:
        weight: As the layer made it.
        mask: Boolean, of the same shape.
        inputs_first: See `layouts`.

    >>> weight, mask = torch.ones(2, 4), torch.tensor([[True, False, False, False], [True] * 4])
    >>> with_sparse_fan_in(weight, mask)[:, 0].tolist()
    [2.0, 1.0]
    """
    units, active = rows_are_units(weight, inputs_first), rows_are_units(mask, inputs_first)
    fan_in = rows_of(active).sum(1).clamp(min=1)
    factor = (units[0].numel() / fan_in).sqrt().to(weight.dtype)
    return rows_are_units(units * factor.view(-1, *[1] * (units.ndim - 1)), inputs_first)


@dataclass(frozen=True)
class ByDensity:
    """Which settings of a layer are scaled by its density.

    Attributes:
        init: Multiply the initial weights of each unit by sqrt(inputs / active inputs), see `with_sparse_fan_in`; not
            in a run that resumes a checkpoint.
        learning_rate: p in [0, 1]: multiply the learning rate of each layer by ``density^-p``, see
            `DensityScaling`; 1 is the sparse maximal update parameterization, 0 the optimizer's own rate.

    Raises:
        ValueError: If p is not in [0, 1].
    """

    init: bool = False
    learning_rate: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self)
        power = self.learning_rate
        if isinstance(power, bool) or not isinstance(power, int | float) or not 0 <= power <= 1:
            raise SettingError(
                f"Expected `learning_rate` in [0, 1], the power of the density, got {power!r}. "
                "Set `learning_rate` of ByDensity."
            )


class DensityScaling:
    """Keeps to `ByDensity`.

    What the optimizer does to a layer is multiplied by ``density^-p``, whatever the optimizer. With a step in
    proportion to the learning rate (SGD, Adam, AdamW and its decay, ...) that is a learning rate of the layer;
    schedules of the optimizer's own work on.

    Args:
        parameters: Sparse weights by name.
        network: Their masks, whose densities count as they are at the step.
        settings: What goes by density; None for nothing.

    Raises:
        ValueError: If ``settings`` are others.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], network: NetworkMasks, settings: ByDensity | None
    ) -> None:
        if not isinstance(settings, ByDensity | None):
            raise SettingError(
                f"Expected `by_density` to be a ByDensity or None, got {settings!r}. Set `by_density` of Sparsifier."
            )
        self.settings = settings or ByDensity()
        self._parameters = parameters
        self._network = network
        self._before: dict[str, tuple[float, Tensor]] = {}

    @torch.no_grad()
    def begin(self, algorithm: SparseAlgorithm, weights: Weights) -> None:
        """Scale the initial weights, if that is asked for.

        Raises:
            ValueError: If it is, and no layer is sparse or inactive weights are kept.
        """
        if not self.settings.init:
            return
        if algorithm.hides_inactive_weights or not self._network.sparse_layers:
            raise SettingError(
                f"Expected an algorithm that begins with sparse layers for by_density.init, got {describe(algorithm)}: "
                "its first network is dense, or its inactive weights are kept. Leave out `init` of ByDensity."
            )
        for name in self._network.sparse_layers:
            if self._parameters[name].ndim == 1:  # a bias has no fan-in
                continue
            mask, inputs_first = self._network.masks[name], is_inputs_first(self._parameters[name])
            weights.set_to(name, with_sparse_fan_in(weights.of(name), mask, inputs_first))

    def factors(self) -> dict[str, float]:
        """Of the layers that learn at another rate than the optimizer's; where nothing is active nothing learns."""
        power = self.settings.learning_rate
        density = self._network.density() if power else {}
        return {name: math.pow(value, -power) for name, value in density.items() if 0 < value < 1}

    def before_step(self) -> None:
        """Remember the weights of these layers."""
        self._before = {n: (f, self._parameters[n].detach().clone()) for n, f in self.factors().items()}

    def after_step(self) -> None:
        """Stretch the step that was made."""
        for name, (factor, before) in self._before.items():
            weight = self._parameters[name].detach()
            weight.copy_(torch.lerp(before, weight, factor))
        self._before = {}

    def state_dict(self) -> dict[str, Any]:
        """The setting that decides later steps; initial weights are scaled once."""
        return {"learning_rate_by_density": float(self.settings.learning_rate)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare with what an earlier `state_dict` returned; older checkpoints say nothing.

        Raises:
            ValueError: If the learning rates of that run were others.
        """
        here = self.settings.learning_rate
        check_same_value("by_density.learning_rate", here, state.get("learning_rate_by_density", here))
