"""Paths: where the links of a layer lead, for growth by the shape of the network alone.

A layer is a bipartite graph of units and inputs. A path of three links from unit u to input v passes an input that u
shares with another unit z, which is linked to v: u - input - z - v; and from the side of v likewise. Link prediction of
network science (Cannistraci-Hebb theory) grows the links that such paths ask for.
"""

from __future__ import annotations

import torch
from torch import Tensor


def local_paths(mask: Tensor) -> Tensor:
    """CH2-L3n of every pair: paths of length three, each weighed by how local its middle is.

    The sum over nodes z on a path of ``i(z) / (1 + e(z))``: i counts the links of z within the path's neighbourhood, e
    its links outside (Zhang et al. 2025, arXiv 2501.19107, eq. 3). As in the authors' code, i(z) is the number of
    neighbours that z shares with the end on its own side, and e(z) the number of its other links but the one to the
    other end.

    Args:
        mask: Boolean, (units, inputs). In a convolution a kernel position of an input channel is an input. The groups
            of one are taken together: their inputs share columns.

    Returns:
        float64, (units, inputs); zero where no path leads.

    >>> mask = torch.tensor([[True, True, False], [True, True, True]])
    >>> local_paths(mask)[0, 2].item()  # through the other unit, 2; through two inputs, 1 each
    4.0
    """
    links = mask.double()
    return _through(links) + _through(links.t()).t()


def _through(links: Tensor) -> Tensor:
    """The part of the nodes z on the side of the rows, (rows, columns)."""
    shared = links @ links.t()
    outside = (links.sum(1) - shared - 1).clamp(min=0)
    return (shared / (1 + outside)) @ links


def soft_order(score: Tensor, generator: torch.Generator) -> Tensor:
    """Values whose k largest are a sample of k without replacement, each drawn in proportion to its score.

    The logarithm of the score plus a standard Gumbel number (Kool et al. 2019, arXiv 1903.06059).

    Args:
        score: At least 0; one of 0 comes after all others, and among these chance decides.
        generator: CPU generator.
    """
    uniform = torch.rand(score.shape, generator=generator, dtype=torch.float64).to(score.device)
    tiny = torch.finfo(torch.float64).tiny
    return score.double().clamp(min=tiny).log() - (-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()
