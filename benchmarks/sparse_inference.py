"""Inference with compact networks against torch's, whole networks at batch 1 and 32.

    python benchmarks/sparse_inference.py [--threads 1] [--rounds 7] [--batches 1 32] [--networks ResNet-50 ...]

Dense baselines: the module itself (eager), and the stronger, `torch.jit.optimize_for_inference` of the frozen trace,
which folds batch norms and runs oneDNN's fused operators (``--compile`` adds torch.compile with freezing, which needs a
C++ compiler). Ratios of times within one run, interleaved; with one thread the CPU time of the process, which other
processes disturb less. Weights are random with random masks. Uniform is the same sparsity in every layer, but the first
and the depthwise convolutions are dense; ERK shares the connections out as in the paper.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.timing import interleaved_times, options_parser, with_spread
from rigl_lightning.export import compact, layers_of
from rigl_lightning.kernels.masking import zero_inactive_
from rigl_lightning.models import CharGRU, LeNet300100, WideResNet, mobilenet_v1, resnet50
from rigl_lightning.sparsity import ErdosRenyi, Uniform, select_parameters
from rigl_lightning.sparsity.distributions import Distribution
from rigl_lightning.sparsity.masks import random_mask

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
SHORTEST = 5e-3


def images(size: int, channels: int = 3) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, channels, size, size)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "ResNet-50": (resnet50, images(224)),
    "MobileNet-v1": (mobilenet_v1, images(224)),
    "WRN-22-2": (WideResNet, images(32)),
    "LeNet-300-100": (LeNet300100, images(28, 1)),
    "char GRU": (CharGRU, lambda batch: torch.randint(256, (batch, 64))),
}
DISTRIBUTIONS = ("uniform", "ERK")


@torch.no_grad()
def sparse_network(build: Callable[[], nn.Module], sparsity: float, shared: str, x: Tensor) -> nn.Module:
    """A network with random weights and masks, and batch-norm statistics that keep its activations in range."""
    torch.manual_seed(0)
    model = build()
    has_images = any(isinstance(m, nn.Conv2d) for m in model.modules())
    distribution: Distribution = ErdosRenyi() if shared == "ERK" else Uniform(first_layer_dense=has_images)
    parameters = select_parameters(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    sparsities = distribution(shapes, sparsity)
    for name, parameter in parameters.items():
        n_active = round(parameter.numel() * (1 - sparsities[name]))
        zero_inactive_(parameter, random_mask(shapes[name], n_active, torch.Generator().manual_seed(0)))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.1)
    for _ in range(2 if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) else 0):
        model(x)
    return model.eval()


def baselines(model: nn.Module, x: Tensor, compiled: bool) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {"eager": lambda: model(x)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, x, check_trace=False)
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
        frozen(x)
    found["jit"] = lambda: frozen(x)
    if compiled:
        torch._dynamo.reset()
        torch._inductor.config.freezing = True
        inductor = torch.compile(model)
        inductor(x)
        found["compile"] = lambda: inductor(x)
    return found


def repeated(act: Callable[[], object]) -> tuple[Callable[[], object], int]:
    """The action as often as it takes to be measurable, and how often that is."""
    act()
    start = time.perf_counter()
    act()
    count = max(1, round(SHORTEST / max(time.perf_counter() - start, 1e-6)))
    return lambda: [act() for _ in range(count)], count


def measure(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    prepared = {name: repeated(act) for name, act in actions.items()}
    times = interleaved_times({name: act for name, (act, _) in prepared.items()}, rounds, clock)
    return {name: [t / prepared[name][1] for t in seconds] for name, seconds in times.items()}


@torch.no_grad()
def print_case(name: str, distribution: str, sparsity: float, batch: int, rounds: int, compiled: bool) -> None:
    build, inputs = NETWORKS[name]
    torch.manual_seed(1)
    x = inputs(batch)
    model = sparse_network(build, sparsity, distribution, x[:8] if batch > 1 else inputs(2))
    small = compact(model, x)
    times = measure({**baselines(model, x, compiled), "compact": lambda: small(x)}, rounds)
    ratios = {
        baseline: with_spread([a / b for a, b in zip(times[baseline], times["compact"], strict=True)])
        for baseline in times
        if baseline != "compact"
    }
    milliseconds = {key: 1e3 * statistics.median(seconds) for key, seconds in times.items()}
    print(
        f"{name:<14}{distribution:<8}{sparsity:>5}{batch:>4}{len(layers_of(small)):>4}"
        + "".join(f"{value:>9.3g}" for value in milliseconds.values())
        + "".join(f"{text:>18}" for text in ratios.values()),
        flush=True,
    )


def main() -> None:
    parser = options_parser("Whole-network inference, compact against dense.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    parser.add_argument("--distributions", nargs="+", default=["uniform"], choices=DISTRIBUTIONS)
    parser.add_argument("--compile", action="store_true", help="also against torch.compile with freezing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = ["eager", "jit", *(["compile"] if options.compile else []), "compact"]
    head = "".join(f"{name:>9}" for name in names) + "".join(f"{'/ ' + name:>18}" for name in names[:-1])
    print(f"{'network':<22}{'':>5}{'b':>4}{'n':>4}{head}   (ms, {options.threads} thread(s))")
    for name in options.networks:
        for distribution in options.distributions:
            for sparsity in options.sparsities:
                for batch in options.batches:
                    print_case(name, distribution, sparsity, batch, options.rounds, options.compile)


if __name__ == "__main__":
    main()
