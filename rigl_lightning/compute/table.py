"""What a user is told of how the layers are computed."""

from __future__ import annotations

from collections.abc import Sequence

from rigl_lightning.compute.sparse_compute import LayerCompute, SparseCompute
from rigl_lightning.kernels import available

Row = tuple[str, str, str, str, str, str]


def compute_table(compute: SparseCompute) -> str:
    """Table of every sparse layer: how it was computed last, the measured times, and why it is dense if it is."""
    rows: list[Row] = [("layer", "compute", "stored", "dense ms", "sparse ms", "")]
    rows += [_row(layer, compute.compute) for layer in compute.layers]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(
            cell.rjust(width) if i > 2 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        + (f"  {row[5]}" if row[5] else "")
        for row in rows
    ]
    sparse = sum(layer.is_sparse for layer in compute.layers)
    n_layers = len(rows) - 1
    how = (
        f"{sparse} by the kernels' {available()[0]} tier"
        if sparse
        else "none by sparse kernels, all by dense operators"
    )
    head = f"compute={compute.compute}: of {n_layers} sparse layers {how}"
    return "\n".join([head, *_notes(compute, sparse), *(line.rstrip() for line in lines)])


def dense_layers(compute: SparseCompute) -> list[str]:
    """Layers that are dense although they have inactive connections, each with the reason."""
    reasons = {layer.name: why_dense(layer, compute.compute) for layer in compute.layers}
    return [f"{name} ({why})" for name, why in reasons.items() if why and why != "no inactive connections"]


def densely_stored(compute: SparseCompute) -> list[str]:
    """Layers that compute sparsely and have dense weights although connections were asked for, with the reason."""
    reasons = {layer.name: why_stored_densely(layer) for layer in compute.layers}
    return [f"{name} ({why})" for name, why in reasons.items() if why]


def why_stored_densely(layer: LayerCompute) -> str:
    """Why the weight of a layer that computes sparsely is a dense tensor; "" if it is not, or nobody asked."""
    storage = layer.storage
    if not layer.is_sparse or storage.is_compact or storage.storage == "dense":
        return ""
    return storage.why_dense or "more than half of its connections are active"


def why_dense(layer: LayerCompute, compute: str) -> str:
    """Why a layer is dense; "" if it is not."""
    if compute == "dense":
        return "asked for"
    if layer.is_sparse:
        return ""
    if layer.refusal:
        return layer.refusal
    if not layer.was_called:
        return "its module is not called: another one uses the weight"
    return layer.last_refusal or (layer.choice.reason if layer.choice else "")


def _row(layer: LayerCompute, compute: str) -> Row:
    choice = layer.choice
    times = (
        [f"{1e3 * t:.2f}" if t is not None else "" for t in (choice.dense_seconds, choice.sparse_seconds)]
        if choice
        else ["", ""]
    )
    stored = "connections" if layer.storage.is_compact else "dense"
    note = why_dense(layer, compute) or why_stored_densely(layer)
    return layer.name, "sparse" if layer.is_sparse else "dense", stored, times[0], times[1], note


def _notes(compute: SparseCompute, sparse: int) -> Sequence[str]:
    notes = []
    sparsifier = compute.sparsifier
    if sparse and sparsifier.always_needs_dense_gradient():
        notes.append(
            f"{type(sparsifier.algorithm).__name__} reads the gradient of inactive connections at every step: a third "
            "of a layer's work, the gradient of its weight, stays dense"
        )
    if sparse and available()[0] != "fast":
        notes.append("numba is not installed: `pip install 'rigl-lightning[fast]'` about doubles the speed")
    return notes
