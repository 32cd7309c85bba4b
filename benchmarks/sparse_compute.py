"""Training steps of whole networks, truly sparse against dense.

    python benchmarks/sparse_compute.py [--threads 1] [--rounds 7] [--only GRU]

A step is forward, backward, masking and the optimizer's step, without a mask update. ``sparse`` is `SparseCompute` as
the callback uses it (compute="auto", storage="auto"), the sparsity uniform and the first convolution dense. Every step,
dense and sparse, is measured with contiguous and with channels-last images, and the faster counts; a second line has
the same under bfloat16 autocast. Ratios of times within one run, rounds interleaved; with one thread the CPU time of
the process, which other processes disturb less.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from benchmarks.timing import interleaved_times, options_parser, with_spread
from rigl_lightning import Sparsifier, Static, Uniform, select_parameters
from rigl_lightning.compute import SparseCompute
from rigl_lightning.models import CharGRU, LeNet300100, WideResNet, mobilenet_v1, resnet50

SPARSITIES = (0.8, 0.9, 0.95, 0.98)

Step = Callable[[], object]
Network = tuple[Callable[[], nn.Module], Callable[[], Tensor], Callable[[nn.Module], Optimizer], bool]


def adam(model: nn.Module) -> Optimizer:
    return Adam(model.parameters(), 1e-3)


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)


def perceptron(*sizes: int) -> nn.Module:
    layers = [m for i, o in itertools.pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


# Network, inputs, optimizer, and whether the first sparse weight stays dense.
NETWORKS: dict[str, Network] = {
    "char GRU, batch 32 x 64": (CharGRU, lambda: torch.randint(256, (32, 64)), adam, False),
    "LeNet-300-100, batch 128": (lambda: LeNet300100(784, 10), lambda: torch.randn(128, 1, 28, 28), sgd, False),
    "MLP 784-2048x4, batch 64": (
        lambda: perceptron(784, 2048, 2048, 2048, 2048, 10),
        lambda: torch.randn(64, 784),
        sgd,
        False,
    ),
    "WRN-22-2, batch 128": (lambda: WideResNet(dropout=0.0), lambda: torch.randn(128, 3, 32, 32), sgd, True),
    "MobileNet-v1, batch 16 at 96": (mobilenet_v1, lambda: torch.randn(16, 3, 96, 96), sgd, True),
    "ResNet-50, batch 16 at 96": (resnet50, lambda: torch.randn(16, 3, 96, 96), sgd, True),
}


class StridedPointwise(nn.Module):
    """A strided 1x1 convolution that first takes the pixels it reads, as fast as torch's and the same.

    torch 2.15 writes out of bounds in the backward pass of its own on channels-last images.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.stride = conv.weight, conv.bias, conv.stride

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x[:, :, :: self.stride[0], :: self.stride[1]], self.weight, self.bias)


def without_the_bug(model: nn.Module) -> nn.Module:
    for name, child in list(model.named_modules()):
        if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1) and child.stride != (1, 1):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], StridedPointwise(child))
    return model


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    out = model(inputs)
    return (out[0] if isinstance(out, tuple) else out).float().logsumexp(-1).mean()


def laid_out(model: nn.Module, inputs: Tensor, channels_last: bool) -> tuple[nn.Module, Tensor]:
    if not channels_last:
        return model, inputs
    model = without_the_bug(model).to(memory_format=torch.channels_last)
    return model, inputs.contiguous(memory_format=torch.channels_last)


def dense_step(network: Network, inputs: Tensor, channels_last: bool, autocast: bool) -> Step:
    torch.manual_seed(0)
    model, inputs = laid_out(network[0](), inputs, channels_last)
    optimizer = network[2](model)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(model, inputs)
        loss.backward()
        optimizer.step()

    return step


def sparse_step(
    network: Network, inputs: Tensor, sparsity: float, channels_last: bool, autocast: bool
) -> tuple[Step, SparseCompute]:
    torch.manual_seed(0)
    model, inputs = laid_out(network[0](), inputs, channels_last)
    optimizer = network[2](model)
    parameters = select_parameters(model)
    first = (next(iter(parameters)),) if network[3] else ()
    distribution = Uniform(first_layer_dense=False, dense=first)
    sparsifier = Sparsifier(parameters, Static(sparsity, distribution))
    compute = SparseCompute(model, sparsifier, "auto", storage="auto")
    compute.install()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(model, inputs)
        loss.backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)

    while compute.trial is not None and not compute.trial.is_over:
        step()
    return step, compute


def several(step: Step, clock: Callable[[], float]) -> tuple[Step, int]:
    """The step as often as it takes to be measurable, and how often that is."""
    step()
    start = clock()
    step()
    count = max(1, round(2e-2 / max(clock() - start, 1e-6)))
    return lambda: [step() for _ in range(count)], count


def print_network(
    name: str, rounds: int, clock: Callable[[], float], with_bfloat16: bool, sparsities: Sequence[float]
) -> None:
    network = NETWORKS[name]
    inputs = network[1]()
    layouts = (False, True) if inputs.ndim == 4 and inputs.shape[1] == 3 else (False,)
    precisions = (False, True) if with_bfloat16 else (False,)
    steps: dict[tuple[float, bool, bool], Step] = {}
    computes: list[SparseCompute] = []
    for low, last in itertools.product(precisions, layouts):
        steps[0.0, low, last] = dense_step(network, inputs, last, low)
        for sparsity in sparsities:
            steps[sparsity, low, last], compute = sparse_step(network, inputs, sparsity, last, low)
            computes.append(compute)
    prepared = {key: several(step, clock) for key, step in steps.items()}
    times = interleaved_times({str(key): step for key, (step, _) in prepared.items()}, rounds, clock)
    seconds = {key: [t / count for t in times[str(key)]] for key, (_, count) in prepared.items()}
    best = {
        (sparsity, low): min((seconds[sparsity, low, last] for last in layouts), key=statistics.median)
        for sparsity in (0.0, *sparsities)
        for low in precisions
    }
    dense = best[0.0, False]
    print(
        f"{name:<30}{1e3 * statistics.median(dense):9.1f}{'':>12}" + ratios(dense, best, False, sparsities), flush=True
    )
    if with_bfloat16:
        gains = [d / s for d, s in zip(dense, best[0.0, True], strict=True)]
        print(
            f"{'  bfloat16 autocast':<39}{statistics.median(gains):>12.2f}" + ratios(dense, best, True, sparsities),
            flush=True,
        )
    for compute in computes:
        compute.remove()


def ratios(
    dense: Sequence[float], best: dict[tuple[float, bool], list[float]], low: bool, sparsities: Sequence[float]
) -> str:
    columns = [with_spread([d / s for d, s in zip(dense, best[key, low], strict=True)]) for key in sparsities]
    return "".join(f"{column:>20}" for column in columns)


def main() -> None:
    parser = options_parser("Training steps of whole networks, sparse against dense.")
    parser.add_argument("--only", default="", help="networks whose name has this in it")
    parser.add_argument("--no-bfloat16", action="store_true", help="leave it out: it is slow without such instructions")
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    titles = [f"sparse {sparsity}" for sparsity in options.sparsities]
    print(f"{options.threads} thread(s), medians of {options.rounds} rounds (middle half): dense float32 time over it")
    print(f"{'training step':<30}{'dense ms':>9}{'dense':>12}" + "".join(f"{title:>20}" for title in titles))
    for name in NETWORKS:
        if options.only in name:
            print_network(name, options.rounds, clock, not options.no_bfloat16, options.sparsities)


if __name__ == "__main__":
    main()
