"""What ``python -m rigl_lightning export`` does: a checkpoint to a file, its size, and how much faster it runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.files import check_place, replacing, size
from rigl_lightning.export.checkpoints import load_checkpoint
from rigl_lightning.export.compacting import Compute, compact, layers_of
from rigl_lightning.export.example import batch_dimensions, example_of, with_samples
from rigl_lightning.export.files import each_once, paper_bytes, save_compact
from rigl_lightning.export.onnx import export_onnx

Format = Literal["compact", "onnx", "state_dict"]
_ROUNDS = 9


def export_checkpoint(
    module: nn.Module,
    checkpoint: str | Path,
    output: str | Path,
    file_format: Format = "compact",
    batch_size: int = 1,
    compute: Compute = "auto",
) -> str:
    """Write the network of a checkpoint, and say how large and how fast it is.

    Args:
        module: The LightningModule that was trained; its weights are replaced by those of the checkpoint.
        checkpoint: See `load_checkpoint`.
        output: The file; its folder must exist.
        file_format: ``compact``: see `save_compact`. ``onnx``: see `export_onnx`. ``state_dict``: dense tensors.
        batch_size: For the speed.
        compute: For the speed, see `compact`.

    Returns:
        Lines to print.

    Raises:
        ValueError: If the format is unknown or not that of an ``.onnx`` file, the checkpoint has no sparse network, or
            the output is the checkpoint.
        FileNotFoundError: If there is no checkpoint, or no folder for the output.
    """
    if file_format not in get_args(Format):
        raise SettingError(f"Expected a format of {get_args(Format)}, got {file_format!r}. Set --format.")
    if file_format != "onnx" and Path(output).suffix == ".onnx":
        raise SettingError(f"Expected another name than {output} of a {file_format} file. Set --format onnx.")
    if batch_size < 1:
        raise SettingError(f"Expected a batch of at least 1, got {batch_size}. Set --batch_size.")
    check_place(output, "Set --output.", checkpoint)
    masks = load_checkpoint(module, checkpoint)
    module.eval()
    if file_format == "compact":
        save_compact(module, output, masks)
    elif file_format == "onnx":
        export_onnx(module, output)
    else:
        with replacing(output) as stream:
            torch.save(module.state_dict(), stream)
    state = module.state_dict()
    dense = sum(tensor.nbytes for tensor in each_once(state).values())
    connections = sum(mask.numel() for mask in masks.values())
    density = sum(int(mask.sum()) for mask in masks.values()) / connections
    lines = [
        f"{output}: {size(output):,} bytes",
        f"dense {dense:,} bytes, {paper_bytes(state, masks):,.0f} by the paper's formula for sparse sizes",
        f"{connections:,} connections in {len(masks)} sparse layers, density {density:.4f}",
    ]
    return "\n".join([*lines, speed(module, batch_size, compute)])


@torch.no_grad()
def speed(module: nn.Module, batch_size: int, compute: Compute) -> str:
    """How much faster the compact network is than the module on this machine, as a sentence."""
    example = example_of(module, None)
    if example is None:
        return "speed not measured: the module has no example_input_array"
    dims = batch_dimensions(module, example)
    if dims is not None:
        example = with_samples(example, dims, batch_size)
    network = compact(module, example, compute=compute)
    slow, fast = _interleaved(lambda: example.call(module), lambda: example.call(network))
    ratios = statistics.quantiles([a / b for a, b in zip(slow, fast, strict=True)], n=4)
    batch = "batch of the example" if dims is None else f"batch {batch_size}"
    return (
        f"{batch}, {torch.get_num_threads()} thread(s): {1e3 * statistics.median(fast):.3g} ms, dense "
        f"{1e3 * statistics.median(slow):.3g} ms, {ratios[1]:.2f} ({ratios[0]:.2f}-{ratios[2]:.2f}) times as fast, "
        f"{len(layers_of(network))} layers sparse"
    )


def _interleaved(*actions: Callable[[], object]) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in actions]
    for round_number in range(_ROUNDS + 1):
        for action, seconds in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if round_number:
                seconds.append(time.perf_counter() - start)
    return times
