"""Training steps of whole networks, truly sparse against dense.

    python benchmarks/sparse_compute.py [--threads 1] [--rounds 7] [--only GRU]

A step is forward, backward, masking and the optimizer's step, without a mask update. ``sparse`` is `SparseCompute` as
the callback uses it (compute="auto", storage="auto"), the sparsity uniform and the first convolution dense. Dense is
the faster of contiguous and channels-last images; dense bfloat16 autocast stands beside. Ratios of times within one
run, rounds interleaved; with one thread the CPU time of the process, which other processes disturb less.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

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


def dense_step(network: Network, inputs: Tensor, channels_last: bool, autocast: bool) -> Step:
    torch.manual_seed(0)
    model = network[0]()
    if channels_last:
        model = without_the_bug(model).to(memory_format=torch.channels_last)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    optimizer = network[2](model)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            loss = loss_of(model, inputs)
        loss.backward()
        optimizer.step()

    return step


def sparse_step(network: Network, inputs: Tensor, sparsity: float) -> tuple[Step, SparseCompute]:
    torch.manual_seed(0)
    model = network[0]()
    optimizer = network[2](model)
    parameters = select_parameters(model)
    first = (next(iter(parameters)),) if network[3] else ()
    distribution = Uniform(first_layer_dense=False, dense=first)
    sparsifier = Sparsifier(parameters, Static(sparsity, distribution))
    compute = SparseCompute(model, sparsifier, "auto", storage="auto")
    compute.install()

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)

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
    images = inputs.ndim == 4 and inputs.shape[1] == 3
    steps = {"contiguous": dense_step(network, inputs, False, False)}
    if images:
        steps["channels last"] = dense_step(network, inputs, True, False)
    if with_bfloat16:
        steps["bfloat16"] = dense_step(network, inputs, images, True)
    computes: dict[str, SparseCompute] = {}
    for sparsity in sparsities:
        steps[f"{sparsity}"], computes[f"{sparsity}"] = sparse_step(network, inputs, sparsity)
    prepared = {key: several(step, clock) for key, step in steps.items()}
    times = interleaved_times({key: step for key, (step, _) in prepared.items()}, rounds, clock)
    seconds = {key: [t / prepared[key][1] for t in times[key]] for key in times}
    dense = min(
        (k for k in ("contiguous", "channels last") if k in seconds), key=lambda k: statistics.median(seconds[k])
    )
    columns = [
        f"{1e3 * statistics.median(seconds[dense]):8.1f}",
        ratio(seconds, dense, "bfloat16") if with_bfloat16 else "-",
    ]
    columns += [ratio(seconds, dense, key) for key in computes]
    print(f"{name:<30}{columns[0]:>9}" + "".join(f"{column:>20}" for column in columns[1:]), flush=True)
    for compute in computes.values():
        compute.remove()


def ratio(seconds: dict[str, list[float]], dense: str, other: str) -> str:
    return with_spread([d / s for d, s in zip(seconds[dense], seconds[other], strict=True)])


def main() -> None:
    parser = options_parser("Training steps of whole networks, sparse against dense.")
    parser.add_argument("--only", default="", help="networks whose name has this in it")
    parser.add_argument("--no-bfloat16", action="store_true", help="leave it out: it is slow without such instructions")
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    titles = ["dense bfloat16", *(f"sparse {sparsity}" for sparsity in options.sparsities)]
    print(f"{options.threads} thread(s), medians of {options.rounds} rounds (middle half): dense time over the time of")
    print(f"{'training step':<30}{'dense ms':>9}" + "".join(f"{title:>20}" for title in titles))
    for name in NETWORKS:
        if options.only in name:
            print_network(name, options.rounds, clock, not options.no_bfloat16, options.sparsities)


if __name__ == "__main__":
    main()
