"""Memory of training against sparsity, and a network whose dense training does not fit.

    python -m benchmarks.memory [--width 4096] [--picture docs/pictures/memory.png]
    python -m benchmarks.memory --demonstration [--width 32768] [--steps 1000]

A multilayer perceptron of four square layers, RigL and Adam, batch 64; each case in a process of its own. ``steady`` is
the resident memory after some steps above that before the network was made, ``peak`` the highest until then, making the
network and two mask updates included. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from benchmarks.timing import status_kilobytes
from rigl_lightning import RigL, Sparsifier, Uniform, UpdateSchedule, select_parameters
from rigl_lightning.base.files import replacing
from rigl_lightning.compute import SparseCompute, build_sparse, load_sparse, save_sparse

LAYERS = 4
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.995)
CASES = ("dense network", "dense storage", "connections")
_GIGABYTE = 2**20  # in kB


class ScaledLinear(nn.Linear):
    """Begins with weights that keep the scale of activations at this density."""

    density = 1.0

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=math.sqrt(2 / (self.in_features * self.density)))
        nn.init.zeros_(self.bias)


def network(width: int, sparsity: float) -> nn.Sequential:
    ScaledLinear.density = 1 - sparsity
    hidden = [module for _ in range(LAYERS) for module in (ScaledLinear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def digits(width: int) -> tuple[Tensor, Tensor]:
    """The handwritten digits of scikit-learn, their 64 pixels spread over ``width`` inputs by a fixed matrix."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).float() / 16 - 0.3
    spread = torch.randn(64, width, generator=torch.Generator().manual_seed(0)) / 4
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    return (pixels @ spread)[order], torch.from_numpy(labels)[order]


def prepared(
    case: str, width: int, sparsity: float, interval: int, steps: int
) -> tuple[nn.Module, SparseCompute | None]:
    algorithm = RigL(
        sparsity, Uniform(first_layer_dense=False, dense=(f"{2 * LAYERS}.weight",)), UpdateSchedule(interval, end=1.0)
    )
    if case == "connections":
        with torch.device("meta"):
            model = network(width, sparsity)
        return model, build_sparse(model, algorithm, steps)
    model = network(width, sparsity)
    if case == "dense network":
        return model, None
    sparsifier = Sparsifier(select_parameters(model), algorithm, steps)
    compute = SparseCompute(model, sparsifier, "sparse")
    compute.install()
    return model, compute


def train(
    case: str, width: int, sparsity: float, steps: int, interval: int, report: Callable[[int, float, nn.Module], None]
) -> tuple[SparseCompute | None, Adam]:
    torch.manual_seed(0)
    inputs, labels = digits(width)
    model, compute = prepared(case, width, sparsity, interval, steps)
    sparsifier = None if compute is None else compute.sparsifier
    optimizer = Adam(model.parameters(), 1e-4)
    for step in range(steps):
        batch = torch.randint(1500, (64,))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs[batch]), labels[batch])
        loss.backward()
        if sparsifier is not None:
            sparsifier.before_step(optimizer)
        optimizer.step()
        if sparsifier is not None:
            sparsifier.after_step(optimizer)
        report(step, float(loss.detach()), model)
    return compute, optimizer


def resident() -> int:
    """Resident kB, without freed memory that the allocator keeps."""
    ctypes.CDLL(None).malloc_trim(0)
    return status_kilobytes("VmRSS")


def measure(case: str, width: int, sparsity: float) -> None:
    """Print steady and peak memory in kB above what there was before the network."""
    steady = []
    train(case, 64, 0.9, 4, 3, lambda *_: None)  # imports, compiles
    before = status_kilobytes("VmRSS")
    train(case, width, sparsity, 6, 3, lambda *_: steady.append(resident()))
    print(steady[-1] - before, status_kilobytes("VmHWM") - before)


def table(width: int) -> dict[tuple[str, float], tuple[float, float]]:
    """Steady and peak gigabytes of each case; the dense network once."""
    found: dict[tuple[str, float], tuple[float, float]] = {}
    print(f"{LAYERS} layers of {width} x {width}, Adam, GB (2^30 bytes): steady / peak")
    for sparsity in SPARSITIES:
        row = []
        for case in CASES:
            if case == "dense network" and sparsity != SPARSITIES[0]:
                found[case, sparsity] = found[case, SPARSITIES[0]]
            else:
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.memory",
                    "--case",
                    case,
                    "--width",
                    str(width),
                    "--sparsity",
                    str(sparsity),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                steady, peak = (int(number) / _GIGABYTE for number in done.stdout.split()[-2:])
                found[case, sparsity] = steady, peak
            row.append("{:.2f} / {:.2f}".format(*found[case, sparsity]))
        connections = (1 - sparsity) * LAYERS * width * width
        steady_bytes = found["connections", sparsity][0] * 2**30 - LAYERS * width * width / 8
        print(
            f"{sparsity:<7}" + "".join(f"{cell:>18}" for cell in row) + f"{steady_bytes / connections:10.1f}",
            flush=True,
        )
    return found


def draw(found: dict[tuple[str, float], tuple[float, float]], width: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    for case, color in zip(CASES, ("#555555", "#0072B2", "#D55E00"), strict=True):
        density = [1 - sparsity for sparsity in SPARSITIES]
        axes.plot(density, [found[case, s][0] for s in SPARSITIES], "o-", color=color, label=f"{case}, steady")
        axes.plot(
            density, [found[case, s][1] for s in SPARSITIES], "o:", color=color, mfc="white", label=f"{case}, peak"
        )
    axes.set(xscale="log", yscale="log", xlabel="density", ylabel="resident memory (GiB)")
    axes.set_title(f"RigL and Adam, {LAYERS} layers of {width} x {width}", fontsize=10)
    axes.legend(fontsize=7, frameon=False)
    with replacing(path) as stream:
        figure.savefig(stream, format=path.suffix[1:])


def demonstrate(width: int, sparsity: float, steps: int) -> None:
    weights = LAYERS * width * width
    print(f"{weights / 1e9:.2f} G weights; dense training with Adam: {16 * weights / 2**30:.1f} GiB", flush=True)
    start = time.perf_counter()

    def report(step: int, loss: float, model: nn.Module) -> None:
        if step % 20 and step != steps - 1:
            return
        line = f"step {step}: loss {loss:.4f}, RSS {status_kilobytes('VmRSS') / _GIGABYTE:.2f} GiB, "
        line += f"peak {status_kilobytes('VmHWM') / _GIGABYTE:.2f} GiB, {time.perf_counter() - start:.0f} s"
        if step % 100 == 0 or step == steps - 1:
            inputs, labels = digits(width)
            with torch.no_grad():
                right = (model(inputs[1500:]).argmax(1) == labels[1500:]).float().mean()
            line += f", accuracy on 297 held-out digits {100 * float(right):.1f} %"
        print(line, flush=True)

    compute, optimizer = train("connections", width, sparsity, steps, 100, report)
    assert compute is not None
    with tempfile.TemporaryDirectory() as folder:
        n_bytes = save_sparse(compute, Path(folder) / "network.pt", optimizer)
        load_sparse(compute, Path(folder) / "network.pt", optimizer)
    peak = status_kilobytes("VmHWM") / _GIGABYTE
    print(f"saved to go on: {n_bytes / 2**30:.2f} GiB, and loaded; peak {peak:.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of training against sparsity.")
    parser.add_argument("--width", type=int, default=None)
    parser.add_argument("--sparsity", type=float, default=0.995)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--case", help="one case alone; prints kB")
    parser.add_argument("--demonstration", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        measure(options.case, options.width or 4096, options.sparsity)
    elif options.demonstration:
        demonstrate(options.width or 32768, options.sparsity, options.steps)
    else:
        found = table(options.width or 4096)
        if options.picture:
            draw(found, options.width or 4096, options.picture)


if __name__ == "__main__":
    main()
