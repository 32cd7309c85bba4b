"""Tested network: how sparse, how costly and how large the network of a checkpoint is, beside its accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rigl_lightning.sparsity.flops import sparse_forward_flops
from rigl_lightning.sparsity.selection import count_active
from rigl_lightning.sparsity.sizes import network_bytes


@dataclass(frozen=True)
class NetworkReport:
    """Numbers of one network.

    Attributes:
        active: Active connections of the layers that are masked.
        connections: All connections of those layers.
        flops: Forward FLOPs per sample, or 0 if they could not be counted.
        dense_flops: The same of the dense network.
        size: Bytes to store it: 32 bits for each active connection and each dense parameter, one more bit for each
            connection of a sparse layer.
        dense_size: Bytes of the dense network.
    """

    active: int
    connections: int
    flops: float
    dense_flops: float
    size: float
    dense_size: float

    def metrics(self) -> dict[str, float]:
        """What is logged beside the accuracy."""
        values = {"density": self.active / max(self.connections, 1), "size_bytes": self.size}
        if self.dense_flops:
            values |= {"inference_flops": self.flops / self.dense_flops, "inference_mflops": self.flops / 1e6}
        return values

    def __str__(self) -> str:
        """One line with all of it."""
        density = self.active / max(self.connections, 1)
        parts = [f"density {density:.4f} ({self.active:,} of {self.connections:,} connections)"]
        if self.dense_flops:
            parts.append(
                f"{self.flops / 1e6:,.3f} of {self.dense_flops / 1e6:,.3f} MFLOPs per sample = "
                f"{self.flops / self.dense_flops:.4f}x dense"
            )
        parts.append(f"{self.size:,.0f} of {self.dense_size:,.0f} bytes = {self.size / self.dense_size:.4f}x dense")
        return "; ".join(parts)


def report_network(module: nn.Module, masks: Mapping[str, Tensor], dense_flops: Mapping[str, float]) -> NetworkReport:
    """Count.

    Args:
        module: All its parameters are stored.
        masks: Mask of each sparse layer, by the name of its weight in ``module``.
        dense_flops: Forward FLOPs of each weight per sample when dense; empty if unknown.
    """
    parameters = dict(module.named_parameters())
    kernels = {name: tuple(p.shape) for name, p in parameters.items() if p.ndim >= 2}
    others = sum(p.numel() for p in parameters.values() if p.ndim < 2)
    active = {name: count_active(mask) for name, mask in masks.items()}
    density = {name: active[name] / mask.numel() for name, mask in masks.items()}
    return NetworkReport(
        active=sum(active.values()),
        connections=sum(mask.numel() for mask in masks.values()),
        flops=sparse_forward_flops(dense_flops, density) if dense_flops else 0.0,
        dense_flops=sum(dense_flops.values()),
        size=network_bytes(kernels, {name: 1 - value for name, value in density.items()}, others),
        dense_size=network_bytes(kernels, {}, others),
    )
