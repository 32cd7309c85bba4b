"""Truly sparse layers against torch's dense ones, layer by layer.

    python benchmarks/sparse_kernels.py [--threads 1] [--rounds 7]

Forward, gradient of the inputs, and gradient of the weight at active connections, through autograd. Ratios of times
within one run; with one thread the CPU time of the process, which other processes disturb less. Dense is the faster of
contiguous and channels-last images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import interleaved_times, parse_options, with_spread
from rigl_lightning import kernels
from rigl_lightning.kernels import Patterns, SparsePattern, Weights, sparse_conv2d, sparse_gru, sparse_linear, use_tier

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
PARTS = ("forward", "inputs", "weight", "all")
SHORTEST = 2e-3


@dataclass(frozen=True)
class Case:
    """One layer: ``layers`` by name are dense ones, and one for each tier."""

    inputs: Mapping[str, Tensor]
    weights: Mapping[str, list[Tensor]]
    layers: Mapping[str, Callable[[Tensor], Tensor]]
    flops: float


def masked(*shape: int, sparsity: float) -> tuple[Tensor, SparsePattern]:
    mask = torch.rand(shape) >= sparsity
    return (torch.randn(shape) * mask).requires_grad_(), SparsePattern.from_mask(mask)


def tiers() -> list[str]:
    return [tier for tier in kernels.available() if tier != "dense"]


def linear(samples: int, inputs: int, outputs: int, sparsity: float) -> Case:
    weight, pattern = masked(outputs, inputs, sparsity=sparsity)
    x = torch.randn(samples, inputs, requires_grad=True)
    layers: dict[str, Callable[[Tensor], Tensor]] = {"dense": lambda x: F.linear(x, weight)}
    for tier in tiers():
        layers[tier] = lambda x: sparse_linear(x, weight, None, pattern)
    flops = 2.0 * pattern.n_active * samples
    return Case(dict.fromkeys(layers, x), {name: [weight] for name in layers}, layers, flops)


def conv(images: int, inputs: int, outputs: int, size: int, kernel: int, sparsity: float) -> Case:
    weight, pattern = masked(outputs, inputs, kernel, kernel, sparsity=sparsity)
    last = weight.detach().to(memory_format=torch.channels_last).requires_grad_()
    x = torch.randn(images, inputs, size, size, requires_grad=True)
    x_last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    names = ["dense", *tiers()]
    layers: dict[str, Callable[[Tensor], Tensor]] = {
        "dense": lambda x: F.conv2d(x, weight, padding=kernel // 2),
        "dense channels last": lambda x: F.conv2d(x, last, padding=kernel // 2),
    }
    if kernel > 1:
        names.remove("torch")  # dense there
    for tier in names[1:]:
        layers[tier] = lambda x: sparse_conv2d(x, weight, None, 1, kernel // 2, 1, pattern)
    xs = dict.fromkeys(names, x) | {"dense channels last": x_last}
    weights = {name: [weight] for name in names} | {"dense channels last": [last]}
    return Case(xs, weights, layers, 2.0 * pattern.n_active * images * size * size)


def gru(times: int, batch: int, inputs: int, units: int, sparsity: float) -> Case:
    dense = nn.GRU(inputs, units)
    parameters: list[Tensor] = list(dense.parameters())
    found = []
    for weight in parameters[:2]:
        values, pattern = masked(*weight.shape, sparsity=sparsity)
        weight.data.copy_(values / units**0.5)
        found.append(pattern)
    patterns, weights = Patterns(*found), Weights(*parameters)
    state = torch.zeros(batch, units)
    x = torch.randn(times, batch, inputs, requires_grad=True)
    layers: dict[str, Callable[[Tensor], Tensor]] = {"dense": lambda x: dense(x)[0]}
    for tier in tiers():
        layers[tier] = lambda x: sparse_gru(x, state, weights, patterns)[0]
    flops = 2.0 * (patterns.ih.n_active + patterns.hh.n_active) * times * batch
    return Case(dict.fromkeys(layers, x), dict.fromkeys(layers, parameters), layers, flops)


CASES: dict[str, Callable[[float], Case]] = {
    "Linear 512 to 1536, batch 32": lambda s: linear(32, 512, 1536, s),
    "Linear 2048 to 2048, batch 128": lambda s: linear(128, 2048, 2048, s),
    "Linear 784 to 300, batch 128": lambda s: linear(128, 784, 300, s),
    "1x1 256 to 1024, 14^2, batch 16": lambda s: conv(16, 256, 1024, 14, 1, s),
    "1x1 512 to 128, 28^2, batch 16": lambda s: conv(16, 512, 128, 28, 1, s),
    "1x1 512 to 512, 14^2, batch 16": lambda s: conv(16, 512, 512, 14, 1, s),
    "3x3 32 to 32, 32^2, batch 128": lambda s: conv(128, 32, 32, 32, 3, s),
    "3x3 64 to 64, 16^2, batch 128": lambda s: conv(128, 64, 64, 16, 3, s),
    "3x3 128 to 128, 8^2, batch 128": lambda s: conv(128, 128, 128, 8, 3, s),
    "GRU 128 to 512, 64 steps, batch 32": lambda s: gru(64, 32, 128, 512, s),
}


def actions(case: Case, name: str) -> dict[str, Callable[[], object]]:
    """The parts of a training step on one implementation of the layer."""
    layer, x, weights = case.layers[name], case.inputs[name], case.weights[name]

    def output(with_x: bool, with_weights: bool) -> Tensor:
        # Which gradients a layer computes is decided when it is called.
        x.requires_grad_(with_x)
        for weight in weights:
            weight.requires_grad_(with_weights)
        with nullcontext() if name.startswith("dense") else use_tier(name):  # type: ignore[arg-type]
            return layer(x)

    by_inputs, by_weights = output(True, False), output(False, True)
    grad = torch.randn_like(by_inputs)

    def everything() -> object:
        return torch.autograd.grad(output(True, True), [x, *weights], grad)

    def gradient(out: Tensor, of: list[Tensor]) -> Callable[[], object]:
        def run() -> object:
            for tensor in of:
                tensor.requires_grad_()
            return torch.autograd.grad(out, of, grad, retain_graph=True)

        return run

    return {
        "forward": lambda: output(False, False),
        "inputs": gradient(by_inputs, [x]),
        "weight": gradient(by_weights, weights),
        "all": everything,
    }


def repeated(act: Callable[[], object], clock: Callable[[], float]) -> tuple[Callable[[], object], int]:
    """The action as often as it takes to be measurable, and how often that is."""
    act()
    start = clock()
    act()
    count = max(1, round(SHORTEST / max(clock() - start, 1e-6)))
    return lambda: [act() for _ in range(count)], count


def measure(case: Case, rounds: int, clock: Callable[[], float]) -> dict[tuple[str, str], list[float]]:
    """Seconds of each part of each implementation, by round."""
    found = {f"{name}/{part}": act for name in case.layers for part, act in actions(case, name).items()}
    prepared = {key: repeated(act, clock) for key, act in found.items()}
    times = interleaved_times({key: act for key, (act, _) in prepared.items()}, rounds, clock)
    return {
        (name, part): [t / prepared[f"{name}/{part}"][1] for t in times[f"{name}/{part}"]]
        for name, part in (key.rsplit("/", 1) for key in times)
    }


def print_case(title: str, sparsity: float, case: Case, rounds: int, clock: Callable[[], float]) -> None:
    times = measure(case, rounds, clock)
    dense = min(
        (name for name in case.layers if name.startswith("dense")),
        key=lambda name: statistics.median(times[name, "all"]),
    )
    for tier in case.layers:
        if tier.startswith("dense"):
            continue
        ratios = {part: [d / s for d, s in zip(times[dense, part], times[tier, part], strict=True)] for part in PARTS}
        parts = "".join(f"{statistics.median(ratios[part]):7.2f}" for part in PARTS[:3])
        total = with_spread(ratios["all"])
        rate = 3e-9 * case.flops / statistics.median(times[tier, "all"])
        print(f"{title:<35}{sparsity:>5}  {tier:<6}{parts}{total:>22}{rate:7.1f}", flush=True)


def main() -> None:
    options = parse_options("Sparse layers against dense ones.")
    clock = time.process_time if options.threads == 1 else time.perf_counter
    columns = f"{'fwd':>7}{'inputs':>7}{'weight':>7}{'all three':>22}{'GF/s':>7}"
    print(f"{'layer':<40}  {'tier':<6}{columns}")
    for title, build in CASES.items():
        for sparsity in SPARSITIES:
            torch.manual_seed(0)
            print_case(title, sparsity, build(sparsity), options.rounds, clock)


if __name__ == "__main__":
    main()
