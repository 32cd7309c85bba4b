"""DeepR: every connection has a sign; one whose weight would change sign is replaced by another connection."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.algorithms.base import GeneratorOf, LearningRates, Masks, Memory
from rigl_lightning.sparsity.algorithms.constant_sparsity import ConstantSparsity
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Shapes
from rigl_lightning.sparsity.masks import drop_and_grow
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.settings import called_outside, require


@called_outside(schedule="rewiring")
@dataclass(frozen=True)
class DeepR(ConstantSparsity):
    """Deep rewiring: a random walk over networks with a fixed number of connections (Bellec et al. 2018, 1711.05136).

    A weight is ``w = s · theta`` with a sign s for each connection, active or not, that never changes. After the
    gradient step each active connection moves by ``theta <- theta - lr · l1 + sqrt(2 · lr · temperature) · nu`` with
    standard normal nu (paper, Algorithm 1), lr the optimizer's learning rate at the time. At an update those with
    ``theta <= 0`` become dormant and as many dormant ones of the same layer, drawn at random, become active at zero.

    An active connection has the sign of its initial weight, a dormant one a random sign. The masked gradient of w is
    that of theta times s, so any optimizer can be used; the paper's has no momentum.

    Deviations: theta is never below zero, also where updates are several steps apart, so that no weight ever has the
    wrong sign. New connections start at zero as in the paper; the authors' code (guillaumeBellec/deep_rewiring) starts
    them at 1e-12. Its noise has the standard deviation ``lr · 1e-5``, which the default temperature here gives at its
    learning rate of 0.5. The default l1 is that of the code. Layers that the distribution makes dense are not rewired.

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1); exact in each layer at every step.
        distribution: How the sparsity is shared among the layers.
        schedule: When to rewire: after every step, to the end of training.
            The command line and saved configurations call it `rewiring`. Otherwise the schedule of a drop-and-grow
            method, which ends early, would stay in force when only the algorithm of a configuration changes.
        l1: Coefficient of the L1 penalty, at least 0.
        temperature: Temperature of the noise, at least 0.
    """

    costs_alike = True

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    schedule: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=1, end=1.0))
    l1: float = 1e-5
    temperature: float = 2.5e-11

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("l1", "temperature"):
            require(0 <= getattr(self, name) < math.inf, self, name, "of at least 0")

    def initial_memory(self, shapes: Shapes, generator: GeneratorOf) -> Memory:
        """A random sign for each connection: True for positive."""
        return {
            _sign_of(name): torch.rand(tuple(shape), generator=generator(name)) < 0.5 for name, shape in shapes.items()
        }

    def begin(self, layers: Mapping[str, Connections], memory: Memory) -> Masks:
        """Random masks; active connections have the signs of their weights."""
        for name, layer in layers.items():
            positive = memory[_sign_of(name)].to(layer.weight.device)
            memory[_sign_of(name)] = torch.where(layer.mask & (layer.weight != 0), layer.weight > 0, positive)
        return super().begin(layers, memory)

    def adjust_weights(
        self, layers: Mapping[str, Connections], step: int, learning_rates: LearningRates, memory: Memory
    ) -> dict[str, Tensor]:
        """Move theta by penalty and noise, down to zero at most."""
        adjusted = {}
        for name, learning_rate in learning_rates.items():
            layer, key = layers[name], _sign_of(name)
            if layer.is_used and count_active(layer.mask) < layer.mask.numel():
                memory[key] = memory[key].to(layer.weight.device)  # it comes from the CPU when a run is resumed
                drift, noise = learning_rate * self.l1, math.sqrt(2 * learning_rate * self.temperature)
                adjusted[name] = _walk(layer, torch.where(memory[key], 1.0, -1.0), drift, noise)
        return adjusted

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """Move the active connections without a weight to random places of their layer."""
        return {name: _rewire(layer) for name, layer in layers.items()}


def _sign_of(name: str) -> str:
    return f"positive/{name}"


def _walk(layer: Connections, sign: Tensor, drift: float, noise: float) -> Tensor:
    step = noise * torch.randn(layer.weight.shape, generator=layer.generator).to(layer.weight.device) - drift
    theta = (sign * layer.weight + step).clamp(min=0)
    return torch.where(layer.mask, sign * theta, 0.0)


def _rewire(layer: Connections) -> Tensor:
    n_dormant = count_active(layer.mask & (layer.weight == 0))
    if not layer.is_used or n_dormant == 0 or count_active(layer.mask) == layer.mask.numel():
        return layer.mask
    return drop_and_grow(layer.mask, layer.weight.abs(), scores.random(layer), n_dormant)
