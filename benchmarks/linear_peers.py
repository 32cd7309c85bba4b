"""Sparse Linear layers against torch's dense one and against sparselab, the other library that trains them on the CPU.

    OMP_NUM_THREADS=1 python benchmarks/linear_peers.py [--rounds 9]

Forward and both gradients. ``values`` is `stored_linear`, whose weight is the vector of its active values as with
``storage="connections"``, ``weight`` is `sparse_linear` with a dense weight. CPU time of the process, medians of
interleaved rounds, dense float32 time over it. Where sparselab is not installed (``pip install sparselab==0.2.2``),
its columns are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.sparse_kernels import repeated
from benchmarks.timing import interleaved_times, parse_options, with_spread
from rigl_lightning.kernels import SparsePattern, Stored, sparse_linear, stored_linear

SHAPES = ((784, 300, 128), (512, 1536, 32), (2048, 2048, 128), (1024, 4096, 512))
"""Inputs, outputs, batch."""
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)

Layer = Callable[[Tensor], Tensor]


def layers(inputs: int, outputs: int, sparsity: float) -> dict[str, tuple[Layer, list[Tensor]]]:
    """By name: the layer, and the parameters whose gradients it computes."""
    mask = torch.rand(outputs, inputs) >= sparsity
    pattern = SparsePattern.from_mask(mask)
    weight = (torch.randn(outputs, inputs) * mask / inputs**0.5).requires_grad_()
    values = weight.detach().view(-1)[pattern.positions].requires_grad_()
    bias = torch.zeros(outputs, requires_grad=True)
    stored = Stored(values, weight.shape)
    found: dict[str, tuple[Layer, list[Tensor]]] = {
        "dense": (lambda x: F.linear(x, weight, bias), [weight, bias]),
        "bfloat16": (lambda x: low(x, weight, bias), [weight, bias]),
        "values": (lambda x: stored_linear(x, stored, bias, pattern), [values, bias]),
        "weight": (lambda x: sparse_linear(x, weight, bias, pattern), [weight, bias]),
    }
    if find_spec("sparselab") is not None:
        peer = import_module("sparselab").SparseLinear(inputs, outputs, sparsity=sparsity)
        found["sparselab"] = peer, list(peer.parameters())
    return found


def low(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.linear(x, weight, bias).float()


def action(layer: Layer, x: Tensor, parameters: list[Tensor], grad: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(layer(x), [x, *parameters], grad)


def main() -> None:
    options = parse_options("Sparse Linear layers against dense ones and sparselab's.")
    if find_spec("sparselab") is None:
        print("sparselab is not installed, and is left out")
    print(f"{'Linear':<32}{'dense ms':>9}  dense time over it, median (middle half)")
    for inputs, outputs, batch in SHAPES:
        for sparsity in SPARSITIES:
            torch.manual_seed(0)
            x, grad = torch.randn(batch, inputs, requires_grad=True), torch.randn(batch, outputs)
            found = layers(inputs, outputs, sparsity)
            acts = {name: action(layer, x, parameters, grad) for name, (layer, parameters) in found.items()}
            report(f"{inputs} to {outputs}, batch {batch}, {sparsity}", acts, options.rounds)


def report(title: str, acts: dict[str, Callable[[], object]], rounds: int) -> None:
    prepared = {name: repeated(act, time.process_time) for name, act in acts.items()}
    times = interleaved_times({name: act for name, (act, _) in prepared.items()}, rounds, time.process_time)
    seconds = {name: [t / prepared[name][1] for t in times[name]] for name in acts}
    dense = seconds.pop("dense")
    shown = [f"{n} {with_spread([d / s for d, s in zip(dense, own, strict=True)])}" for n, own in seconds.items()]
    print(f"{title:<32}{1e3 * sorted(dense)[len(dense) // 2]:9.2f}  {'  '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
