"""Grow scores that look at output channels, for narrow and very sparse networks; none is in the paper.

RigL's own score grows the largest gradients of a whole layer. A channel without an active connection is constant, and a
batch norm behind it magnifies the gradients of its weights, so that growth goes there first. The few channels with the
largest gradients may take all growth, dead or not. `paper/README.md` has measured both scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.sparsity.connections import Connections
from rigl_lightning.sparsity.layouts import rows_are_units, rows_of


def live_channel_gradient(c: Connections) -> Tensor:
    """``|dL/dw|``, and -1 in output channels without an active connection: these grow last."""
    live = rows_of(rows_are_units(c.mask, c.inputs_first)).any(1)
    return torch.where(_of_channels(live, c), c.grad.abs(), -1.0)


def channel_normalised_gradient(c: Connections) -> Tensor:
    """``|dL/dw|`` over the root mean square of its output channel, so that growth spreads over channels."""
    size = rows_of(rows_are_units(c.grad, c.inputs_first)).square().mean(1).sqrt()
    return c.grad.abs() / _of_channels(size.clamp(min=torch.finfo(size.dtype).tiny), c)


def _of_channels(values: Tensor, c: Connections) -> Tensor:
    """One value for each output channel, in a shape that broadcasts with the weight."""
    shape = [1] * c.weight.ndim
    shape[int(c.inputs_first)] = -1
    return values.view(shape)
