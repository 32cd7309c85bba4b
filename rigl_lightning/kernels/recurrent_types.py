"""What the recurrent layers of every tier take and return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rigl_lightning.kernels.pattern import SparsePattern


class Weights(NamedTuple):
    """Weights (gates x units, features) and biases (gates x units,) of one direction of a layer, as torch has them."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None


class Patterns(NamedTuple):
    """Active connections of both weights."""

    ih: SparsePattern
    hh: SparsePattern


class Saved(NamedTuple):
    """What the backward pass reads, all (time, features, batch rounded up to tiles).

    Attributes:
        gates: Activated gates, those of one unit side by side.
        hidden: GRU: recurrent share of n. LSTM: cell states, the first included.
        states: Hidden states, the first included.
    """

    gates: Tensor
    hidden: Tensor
    states: Tensor


class Gradients(NamedTuple):
    """Gradients of all inputs; those of the weights are dense, zero at inactive connections."""

    x: Tensor
    states: list[Tensor]
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor
