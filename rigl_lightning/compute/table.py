"""What a user is told of how the layers are computed."""

from __future__ import annotations

from collections.abc import Sequence

from rigl_lightning.compute.sparse_compute import LayerCompute, SparseCompute
from rigl_lightning.kernels import available

Row = tuple[str, str, str, str, str]


def compute_table(compute: SparseCompute) -> str:
    """Table of every sparse layer: how it was computed last, the measured times, and why it is dense if it is."""
    rows: list[Row] = [("layer", "compute", "dense ms", "sparse ms", "")]
    rows += [_row(layer, compute.compute) for layer in compute.layers]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3].rjust(widths[3])])
        + (f"  {row[4]}" if row[4] else "")
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
    return layer.name, "sparse" if layer.is_sparse else "dense", times[0], times[1], why_dense(layer, compute)


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
