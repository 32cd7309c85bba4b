"""Tested network: how sparse, how costly and how large the network of a checkpoint is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from rigl_lightning.kernels.positions import count_active
from rigl_lightning.sparsity.costs.flops import sparse_forward_flops
from rigl_lightning.sparsity.costs.neurons import compact_masks, is_chain, used_units
from rigl_lightning.sparsity.costs.sizes import network_bytes


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
        """What is logged in addition to the accuracy."""
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


@dataclass(frozen=True)
class StructuredReading:
    """An unstructured sparse network of fully connected layers, read as the paper's appendix B reads its LeNet-300-100.

    Attributes:
        units: Inputs and neurons that have a path to the outputs, by layer, outputs included: (408, 100, 69, 10) in the
            paper's table 2.
        active: Connections between them.
        sparsity: Of the network of these units.
        kiloflops: Forward FLOPs per sample, in thousands, two for each connection.
        size: Bytes of that network: 32 bits for each connection and bias, a mask of one bit a connection.
    """

    units: tuple[int, ...]
    active: int
    sparsity: float
    kiloflops: float
    size: float

    def __str__(self) -> str:
        """One line with all of it."""
        inputs, *neurons = self.units
        return (
            f"with a path to the outputs: {inputs} inputs and {'-'.join(map(str, neurons))} neurons remain, "
            f"sparsity {self.sparsity:.3f} among them, {self.active:,} connections, {self.kiloflops:.1f} KFLOPs per "
            f"sample, {self.size:,.0f} bytes"
        )


def read_structure(masks: Sequence[Tensor]) -> StructuredReading:
    """Inputs and neurons that a chain of sparse fully connected layers uses.

    Args:
        masks: Of all layers in order, each (out, in).

    Raises:
        ValueError: If they are no chain.
    """
    compact = compact_masks(masks)
    active = sum(map(count_active, compact))
    connections = sum(mask.numel() for mask in compact)
    sparsities = {str(i): 1 - count_active(mask) / max(mask.numel(), 1) for i, mask in enumerate(compact)}
    return StructuredReading(
        units=tuple(count_active(used) for used in used_units(masks)),
        active=active,
        sparsity=1 - active / max(connections, 1),
        kiloflops=2 * active / 1000,
        size=network_bytes({str(i): tuple(mask.shape) for i, mask in enumerate(compact)}, sparsities),
    )


def structure_of(module: nn.Module, masks: Mapping[str, Tensor]) -> StructuredReading | None:
    """`read_structure` of a module that is such a chain and nothing else, or None of any other."""
    matrices = [name for name, parameter in module.named_parameters() if parameter.ndim >= 2]
    if set(matrices) != set(masks) or not is_chain(chain := [masks[name] for name in matrices]):
        return None
    return read_structure(chain)


def describe_network(
    module: nn.Module, masks: Mapping[str, Tensor], dense_flops: Mapping[str, float]
) -> tuple[dict[str, float], str]:
    """The report of a network as metrics and as text, with the reading of its structure where it has one.

    Args:
        module: See `report_network`, as of the others.
        masks: Mask of each sparse layer.
        dense_flops: Forward FLOPs of each weight.
    """
    report, structure = report_network(module, masks, dense_flops), structure_of(module, masks)
    return report.metrics(), str(report) if structure is None else f"{report}\n{structure}"
