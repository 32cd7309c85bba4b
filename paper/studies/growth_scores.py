"""Grow scores that differ from RigL's in one thing, to find out why it gains little on narrow networks.

RigL grows where the gradient's magnitude is largest in the whole layer. Two things may go wrong where layers are narrow
and very sparse. An output channel without any active input is dead: behind a batch norm its variance is 0, and the
gradient of its weights is up to ``1 / sqrt(eps)`` times too large, so that growth goes there. And few channels with
large gradients may take all growth, dead or not. Each function changes one of the two. The two that held up are the
library's (`rigl_lightning.sparsity.channel_scores`).

Channels are the first dimension of a weight. All functions are scores, see ``rigl_lightning.sparsity.scores``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.scores import Connections, channel_normalised_gradient, live_channel_gradient

live_channels = live_channel_gradient
"""Gradient magnitude, and dead channels last: what only avoids them."""
channel_normalised = channel_normalised_gradient
"""Gradient magnitude relative to the root mean square of its channel: no channel is ahead of the others."""


def random_in_live_channels(c: Connections) -> Tensor:
    """SET's random growth, and dead channels last: what avoiding them does without any gradient."""
    return torch.where(_is_live(c), scores.random(c), -1.0)


def median_dead_channels(c: Connections) -> Tensor:
    """Gradient magnitude, that of dead channels scaled to the median channel's: they may grow, but not first."""
    size = _channel_norm(c.grad)
    live = _is_live(c)
    usual = size[live].median() if bool(live.any()) else size.median()
    return c.grad.abs() * torch.where(live, torch.ones_like(size), usual / size.clamp_min(1e-30))


def turn_by_turn(c: Connections) -> Tensor:
    """Each channel's best new connection first, then each one's second best: growth spread as evenly as it can be."""
    grad = torch.where(c.mask, 0.0, c.grad.abs()).flatten(1)
    rank = grad.argsort(dim=1, descending=True).argsort(dim=1)
    # Within a rank the larger gradient comes first: a fraction below one rank.
    fraction = grad / (grad.max() * (1 + 1e-6)).clamp_min(1e-30)
    return (fraction - rank).reshape(c.weight.shape)


def _is_live(c: Connections) -> Tensor:
    return c.mask.flatten(1).any(dim=1).reshape(-1, *[1] * (c.mask.dim() - 1))


def _channel_norm(grad: Tensor) -> Tensor:
    return grad.flatten(1).square().mean(dim=1).sqrt().reshape(-1, *[1] * (grad.dim() - 1))
