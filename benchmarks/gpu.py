"""What sparse training costs and gains on a GPU, as ratios within one run; a Markdown file that grows as it goes.

    python benchmarks/gpu.py [--out gpu.md] [--rounds 7] [--budget 240] [--only steps updates ...] [--quick]

Parts, in order of value: training steps masked against dense (eager, compiled, in a CUDA graph), mask updates, 2:4
weights, constant fan-in. Each part is a process of its own: one that fails takes no other with it. When the budget of
seconds is spent, the running part ends with the rows it has, the rest is left out, and the file says so. ``--quick``
takes tiny sizes, for a rehearsal on a CPU, where what needs CUDA is left out; those numbers mean nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.mask_update import Update
from benchmarks.timing import interleaved_times, with_spread
from rigl_lightning import NM, ConstantFanIn, Sparsifier, Static, Uniform, select_parameters
from rigl_lightning.models import CharGRU, LeNet300100, WideResNet

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"


class Report:
    """A Markdown file, written row by row, so that what is measured stays if the run is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def line(self, text: str = "") -> None:
        print(text, flush=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def table(self, title: str, *columns: str) -> None:
        self.line(f"\n### {title}\n")
        self.row(*columns)
        self.row(*["---"] * len(columns))

    def row(self, *cells: str) -> None:
        self.line(f"| {' | '.join(cells)} |")


@dataclass(frozen=True)
class Case:
    """A network in training.

    Attributes:
        build: The network.
        inputs: One batch, on the CPU.
        half: Under bfloat16 autocast.
        channels_last: Memory format of network and images.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    half: bool = False
    channels_last: bool = False

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.build().to(DEVICE)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def batch(self) -> Tensor:
        inputs = self.inputs().to(DEVICE)
        return inputs.contiguous(memory_format=torch.channels_last) if self.channels_last else inputs

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.half)


def images(n: int, size: int, channels: int = 3) -> Callable[[], Tensor]:
    return partial(torch.randn, n, channels, size, size)


def cases(quick: bool) -> dict[str, Case]:
    """Networks by name; the first two are launch-bound, the others have work to do."""
    wide, vit = partial(timm.create_model, "resnet50"), partial(timm.create_model, "vit_base_patch16_224")
    if quick:
        return {
            "LeNet-300-100, batch 4": Case(LeNet300100, images(4, 28, 1)),
            "WRN-10-1, batch 4": Case(partial(WideResNet, 10, 1), images(4, 16), channels_last=True),
        }
    return {
        "LeNet-300-100, batch 100": Case(LeNet300100, images(100, 28, 1)),
        "WRN-22-2, batch 128": Case(WideResNet, images(128, 32)),
        "WRN-22-2, batch 128, channels last, bf16": Case(WideResNet, images(128, 32), True, True),
        "char GRU, 32 x 512": Case(CharGRU, lambda: torch.randint(256, (32, 512))),
        "ResNet-50, batch 128 at 224, channels last, bf16": Case(wide, images(128, 224), True, True),
        "ViT-B/16, batch 64, bf16": Case(vit, images(64, 224), True),
    }


def chosen(options: argparse.Namespace) -> dict[str, Case]:
    """The cases whose name begins with one of ``--networks``, in that order; all by default."""
    known = cases(options.quick)
    return {name: known[name] for begin in options.networks for name in known if name.startswith(begin)}


class Training:
    """A network, its optimizer and, unless it is dense, its Sparsifier; a step without mask updates."""

    def __init__(self, case: Case, sparse: bool, compiled: bool = False) -> None:
        self.case, self.model, self.batch = case, case.network(), case.batch()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        self.sparsifier = Sparsifier(select_parameters(self.model), Static(0.9)) if sparse else None
        self.forward = torch.compile(self.model) if compiled else self.model

    @torch.enable_grad()
    def step(self) -> None:
        self.optimizer.zero_grad()
        with self.case.autocast():
            out = self.forward(self.batch)
            loss = (out[0] if isinstance(out, tuple) else out).float().square().mean()
        loss.backward()
        if self.sparsifier is not None:
            self.sparsifier.before_step(self.optimizer)
        self.optimizer.step()
        if self.sparsifier is not None:
            self.sparsifier.after_step(self.optimizer)

    def captured(self) -> Callable[[], None]:
        """A replay of the step from a CUDA graph.

        It keeps this training alive: a graph has the addresses of weights, momenta, masks and batch, and owns none.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return partial(self._replay, graph)

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        graph.replay()


def clock() -> float:
    """Seconds, when all that was launched is done."""
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def repeated(action: Callable[[], object], least_seconds: float) -> tuple[Callable[[], None], int]:
    """The action as often as takes about this long, and how often that is."""
    for _ in range(2):
        action()
    start = clock()
    action()
    once = clock() - start
    n = max(1, min(1000, round(least_seconds / max(once, 1e-6))))

    def many() -> None:
        for _ in range(n):
            action()

    return many, n


def compare(actions: Mapping[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of one call of each action, in each round."""
    many = {name: repeated(action, options.least) for name, action in actions.items()}
    times = interleaved_times({name: run for name, (run, _) in many.items()}, options.rounds, clock)
    return {name: [seconds / many[name][1] for seconds in values] for name, values in times.items()}


def ratio(over: list[float], under: list[float]) -> str:
    return with_spread([a / b for a, b in zip(over, under, strict=True)])


def milliseconds(seconds: list[float]) -> str:
    return f"{1e3 * median(seconds):.3g}"


def steps(report: Report, options: argparse.Namespace) -> None:
    """Eager training steps, and throughput."""
    title = "Training step, eager, sparsity 0.9, no mask update"
    _step_table(report, options, title, lambda case, sparse: Training(case, sparse).step)


def graphs(report: Report, options: argparse.Namespace) -> None:
    """Steps replayed from a CUDA graph."""
    if not ON_GPU:
        report.line("\nNo CUDA graphs without CUDA.")
        return

    def replay(case: Case, sparse: bool) -> Callable[[], None]:
        return Training(case, sparse).captured()

    _step_table(report, options, "The same step replayed from a CUDA graph", replay, lambda name: "GRU" not in name)


def compiled(report: Report, options: argparse.Namespace) -> None:
    """Steps of networks that went through torch.compile; the Sparsifier is outside."""

    def step(case: Case, sparse: bool) -> Callable[[], None]:
        return Training(case, sparse, compiled=True).step

    title = "Training step, torch.compile, sparsity 0.9, no mask update"
    _step_table(report, options, title, step, lambda name: "WRN" in name or "ResNet" in name)


def _step_table(
    report: Report,
    options: argparse.Namespace,
    title: str,
    step_of: Callable[[Case, bool], Callable[[], None]],
    is_measured: Callable[[str], bool] = lambda name: True,
) -> None:
    """Steps of a case, masked if ``step_of`` is told so, over dense ones."""
    numbers = "dense ms", "masked ms", "samples/s dense", "samples/s masked"
    report.table(title, "network", "masked / dense (middle half)", *numbers)
    for name, case in chosen(options).items():
        if is_measured(name):
            times = compare({"dense": step_of(case, False), "masked": step_of(case, True)}, options)
            dense, masked, n = times["dense"], times["masked"], len(case.batch())
            rates = (f"{n / median(seconds):,.0f}" for seconds in (dense, masked))
            report.row(name, ratio(masked, dense), milliseconds(dense), milliseconds(masked), *rates)


def updates(report: Report, options: argparse.Namespace) -> None:
    """A RigL mask update of all layers, over an ordinary step and over reading weights, gradients and masks once."""
    report.table(
        "RigL mask update, sparsity 0.9",
        "network",
        "connections",
        "update ms",
        "/ training step (middle half)",
        "/ reading once (middle half)",
        "share of a training at Delta T = 100",
    )
    for name, case in chosen(options).items():
        if "channels last" in name and "WRN" in name and not options.quick:
            continue
        update = Update(case.network())
        actions = {"step": Training(case, False).step, "update": update.update, "read": update.read_once}
        with torch.no_grad():
            times = compare(actions, options)
        share = median(times["update"]) / (100 * median(times["step"]))
        ratios = ratio(times["update"], times["step"]), ratio(times["update"], times["read"])
        report.row(name, f"{update.size:,}", milliseconds(times["update"]), *ratios, f"{share:.2%}")


class SparseForward(torch.autograd.Function):
    """``x @ w.T`` by the sparse tensor cores from 2:4 weights compressed now; gradients are dense products."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        from torch.sparse import to_sparse_semi_structured

        ctx.save_for_backward(x, weight)
        return F.linear(x, to_sparse_semi_structured(weight))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0] @ weight, grads[0].T @ x


def two_of_four(report: Report, options: argparse.Namespace) -> None:
    """2:4 weights through torch's semi-structured tensors: conversion, inference, and a training step of a layer."""
    if not ON_GPU:
        report.line("\nNo 2:4 tensors without CUDA.")
        return
    report.table(
        "2:4 Linear layers in bfloat16, torch's semi-structured tensors (above 1: faster than dense)",
        "outputs x inputs, samples",
        "conversion ms",
        "dense / 2:4, forward",
        "dense / 2:4, forward and backward, converted at each step",
        "largest difference, relative",
    )
    for outputs, inputs, n in ((3072, 768, 12608), (768, 3072, 12608), (4096, 4096, 8192), (8192, 8192, 8192)):
        report.row(f"{outputs} x {inputs}, {n:,}", *_two_of_four_cells(outputs, inputs, n, options))


def _two_of_four_cells(outputs: int, inputs: int, n: int, options: argparse.Namespace) -> Iterator[str]:
    from torch.sparse import to_sparse_semi_structured

    layer = nn.Linear(inputs, outputs, bias=False, device=DEVICE)
    Sparsifier(select_parameters(layer), Static(0.5, Uniform(first_layer_dense=False), NM(2, 4)))
    weight = layer.weight.detach().bfloat16().requires_grad_()
    x = torch.randn(n, inputs, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(n, outputs, device=DEVICE, dtype=torch.bfloat16)
    with torch.no_grad():
        sparse = to_sparse_semi_structured(weight.detach())
        dense_out, sparse_out = F.linear(x, weight), F.linear(x, sparse)
        times = compare(
            {
                "convert": lambda: to_sparse_semi_structured(weight.detach()),
                "dense": lambda: F.linear(x, weight),
                "sparse": lambda: F.linear(x, sparse),
            },
            options,
        )
    training = compare(
        {
            "dense": lambda: torch.autograd.grad(F.linear(x, weight), (x, weight), grad),
            "sparse": lambda: torch.autograd.grad(SparseForward.apply(x, weight), (x, weight), grad),
        },
        options,
    )
    difference = float((sparse_out.float() - dense_out.float()).norm() / dense_out.float().norm())
    yield milliseconds(times["convert"])
    yield ratio(times["dense"], times["sparse"])
    yield ratio(training["dense"], training["sparse"])
    yield f"{difference:.1e}"


@torch.no_grad()
def fan_in(report: Report, options: argparse.Namespace) -> None:
    """Inference with constant fan-in masks: as many inputs for each output, so weights and indices are matrices."""
    report.table(
        "Inference of a Linear layer with constant fan-in, float32 (above 1: faster than the dense product)",
        "outputs x inputs, sparsity, samples",
        "dense ms",
        "dense / gathered inputs",
        "dense / embedding_bag",
        "dense / torch CSR",
    )
    width = 64 if options.quick else 4096
    for sparsity in (0.9, 0.95, 0.99):
        for n in (1, 32, 256):
            report.row(f"{width} x {width}, {sparsity}, {n}", *_fan_in_cells(width, sparsity, n, options))


def _fan_in_cells(width: int, sparsity: float, n: int, options: argparse.Namespace) -> Iterator[str]:
    layer = nn.Linear(width, width, bias=False, device=DEVICE)
    algorithm = Static(sparsity, Uniform(first_layer_dense=False), ConstantFanIn())
    masks = Sparsifier(select_parameters(layer), algorithm).masks
    weight = layer.weight.detach()
    columns = masks["weight"].nonzero()[:, 1].view(width, -1)
    values = weight.gather(1, columns)
    csr = weight.to_sparse_csr()
    x = torch.randn(n, width, device=DEVICE)
    actions: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: x @ weight.T,
        "embedding_bag": lambda: F.embedding_bag(columns, x.T.contiguous(), per_sample_weights=values, mode="sum").T,
        "csr": lambda: (csr @ x.T).T,
    }
    if columns.numel() * n <= 1 << 28:  # the gathered inputs have to fit
        actions["gathered"] = lambda: (x[:, columns] * values).sum(2)
    for action in actions.values():
        torch.testing.assert_close(action(), actions["dense"](), rtol=2e-2, atol=2e-2)
    times = compare(actions, options)
    yield milliseconds(times["dense"])
    for name in ("gathered", "embedding_bag", "csr"):
        yield ratio(times["dense"], times[name]) if name in times else "too large"


PARTS: dict[str, Callable[[Report, argparse.Namespace], None]] = {
    "steps": steps,
    "updates": updates,
    "graphs": graphs,
    "two_of_four": two_of_four,
    "fan_in": fan_in,
    "compiled": compiled,
}
PRELOADED = ["torch", "timm", "rigl_lightning"]
"""What a server imports once for the processes of all parts; importing must leave the GPU alone."""


def _run_part(name: str, options: argparse.Namespace) -> None:
    report = Report(options.out)
    try:
        PARTS[name](report, options)
    except Exception as error:
        report.line(f"\n{name} failed: {type(error).__name__}: {str(error).splitlines()[0]}")
        raise


def run_parts(names: Sequence[str], options: argparse.Namespace) -> None:
    """Each part in a process of its own, one after the other, until the budget is spent."""
    start, report = time.perf_counter(), Report(options.out)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    for name in names:
        left = options.budget - (time.perf_counter() - start)
        if left <= 0:
            report.line(f"\nNot measured, for want of time: {name}.")
            continue
        process = processes.Process(target=_run_part, args=(name, options))
        process.start()
        try:
            process.join(None if left == float("inf") else left)
        finally:
            is_cut_off = process.is_alive()
            process.kill()
            process.join()
        if is_cut_off:
            report.line(f"\n{name} was cut off, for want of time.")
        elif process.exitcode != 0:
            report.line(f"\n{name} ended with exit status {process.exitcode}.")
        report.line(f"\n({name}: done after {time.perf_counter() - start:.0f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Costs and gains of sparse training on a GPU, as ratios.")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--least", type=float, default=0.05, help="seconds of one measurement, at least")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which what runs is cut off")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--networks", nargs="+", default=[""], help="those whose name begins so, in this order")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for a rehearsal")
    options = parser.parse_args()
    options.out.write_text("", encoding="utf-8")
    card = torch.cuda.get_device_name() if ON_GPU else "a CPU: a rehearsal, not a measurement"
    title = f"Measured on {card}, torch {torch.__version__}, medians of {options.rounds} interleaved rounds."
    Report(options.out).line(title)
    run_parts(options.only, options)


if __name__ == "__main__":
    main()
