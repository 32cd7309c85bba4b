"""What a user is told of how the layers are computed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rigl_lightning.compute.sparse_compute import LayerCompute, SparseCompute
from rigl_lightning.compute.timed_choice import seconds_together
from rigl_lightning.kernels import available
from rigl_lightning.sparsity.names import folded, without_numbers
from rigl_lightning.sparsity.needed_gradients import always_needs_dense_gradient

Row = tuple[str, str, str, str, str, str, str]


def compute_table(compute: SparseCompute) -> str:
    """Table of the sparse layers: how they were computed last, the measured times, and why they are dense if they are.

    Layers that are alike but for numbers in their names are one line, with the median of their times. The last line
    has the times of all layers that were timed, together.
    """
    alike: dict[tuple[str, ...], list[LayerCompute]] = {}
    for layer in compute.layers:
        how = "sparse" if layer.is_sparse else "dense"
        stored = "connections" if layer.storage.is_compact else "dense"
        note = why_dense(layer, compute.compute) or why_stored_densely(layer)
        alike.setdefault((without_numbers(layer.name), layer.shapes, how, stored, note), []).append(layer)
    rows: list[Row] = [("layer", "shape", "compute", "stored", "dense ms", "sparse ms", "")]
    for (_, shapes, how, stored, note), layers in alike.items():
        rows.append((folded([layer.name for layer in layers]), shapes, how, stored, *_medians(layers), note))
    sparse, layers_in_all = sum(layer.is_sparse for layer in compute.layers), len(compute.layers)
    kernels = f"sparse kernels ({available()[0]} tier) compute {sparse} of {layers_in_all} sparse layers"
    dense = f"dense operators compute all {layers_in_all} sparse layers"
    head = f"compute={compute.compute}: {kernels if sparse else dense}"
    return "\n".join([head, *_notes(compute, sparse), *_aligned(rows), *_total(compute.layers)])


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


def _medians(layers: Sequence[LayerCompute]) -> tuple[str, str]:
    """Milliseconds of one layer of these, dense and sparse; empty where none was timed."""
    choices = [layer.choice for layer in layers if layer.choice]
    dense = [choice.dense_seconds for choice in choices if choice.dense_seconds is not None]
    sparse = [choice.sparse_seconds for choice in choices if choice.sparse_seconds is not None]
    shown = [f"{1e3 * statistics.median(seconds):.2f}" if seconds else "" for seconds in (dense, sparse)]
    return shown[0], shown[1]


def _total(layers: Sequence[LayerCompute]) -> list[str]:
    """Forward and backward of all timed layers in a step: dense, and as they are computed."""
    choices = [layer.choice for layer in layers if layer.choice and layer.choice.speedup]
    if not choices:
        return []
    layers_in_words = "layer" if len(choices) == 1 else "layers"
    return [f"the {len(choices)} timed {layers_in_words} in one step: {_compared(*seconds_together(choices))}"]


def whole_step_line(compute: SparseCompute) -> str:
    """What whole steps took, dense and with the layers as chosen; "" if it was not measured."""
    if compute.trial is None or compute.trial.result is None:
        return ""
    dense, chosen = compute.trial.result
    found = "the layers stay as chosen" if chosen <= dense else "all layers are dense from now on"
    return f"whole steps, medians of five: {_compared(dense, chosen)}; {found}"


def _compared(dense: float, chosen: float) -> str:
    return f"{1e3 * dense:.2f} ms dense, {1e3 * chosen:.2f} ms as chosen, {dense / chosen:.2f} times as fast"


def _aligned(rows: Sequence[Row]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 4 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _notes(compute: SparseCompute, sparse: int) -> Sequence[str]:
    notes = []
    sparsifier = compute.sparsifier
    if sparse and always_needs_dense_gradient(sparsifier):
        notes.append(
            f"{type(sparsifier.algorithm).__name__} reads the gradient of inactive connections at every step: a third "
            "of a layer's work, the gradient of its weight, stays dense"
        )
    if sparse and available()[0] != "fast":
        notes.append("numba is not installed: `pip install 'rigl-lightning[fast]'` about doubles the speed")
    return notes
