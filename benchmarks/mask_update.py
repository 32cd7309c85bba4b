"""Cost of one RigL mask update, relative to things everybody knows.

    python benchmarks/mask_update.py [--threads 1] [--rounds 7]

A mask update is all of it: scores, drop and grow in every layer, optimizer state, masked weights. It is compared with
reading weights, gradients and masks once, and with one `torch.topk` of all gradients, layer by layer. The second table
is of plain stacks of layers with 1024 x 1024 weights, to see how cost and memory grow with the network.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import timm
import torch
from torch import nn

from benchmarks.timing import interleaved_medians, options_parser, peak_extra_megabytes
from rigl_lightning import RigL, Sparsifier, UpdateSchedule, select_parameters
from rigl_lightning.models import CharGRU, WideResNet


def stack(millions: int) -> nn.Module:
    """Layers of 1024 x 1024 weights."""
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(millions)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "char GRU": CharGRU,
    "WRN-22-2": WideResNet,
    "ResNet-50": lambda: timm.create_model("resnet50"),
}
STACKS: dict[str, Callable[[], nn.Module]] = {
    f"{millions} layers": partial(stack, millions) for millions in (1, 10, 50, 200)
}


class Update:
    """A network right before a mask update, and the update."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = select_parameters(model)
        algorithm = RigL(sparsity=0.9, schedule=UpdateSchedule(interval=1, end=10**9))
        self.sparsifier = Sparsifier(self.parameters, algorithm)
        self.optimizer = torch.optim.SGD(self.parameters.values(), lr=0.1, momentum=0.9)
        self.gradients = {name: torch.randn_like(parameter) for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.grad = self.gradients[name].clone()
        self.optimizer.step()
        self.sparsifier.mask_optimizer_state(self.optimizer)
        self.sparsifier.apply_masks()
        self.give_gradients()

    @property
    def size(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def give_gradients(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = self.gradients[name]

    def update(self) -> None:
        self.give_gradients()
        self.sparsifier.before_step(self.optimizer)
        self.sparsifier.after_step(self.optimizer)

    def read_once(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.sum(), self.gradients[name].sum(), self.sparsifier.masks[name].any()

    def topk(self) -> None:
        for name, gradient in self.gradients.items():
            torch.topk(gradient.abs().view(-1), self.sparsifier.n_active[name], sorted=False)

    @torch.no_grad()
    def measure(self, rounds: int) -> dict[str, float]:
        """Median seconds of a mask update and of its yardsticks."""
        return interleaved_medians({"update": self.update, "read once": self.read_once, "topk": self.topk}, rounds)


def memory_of_an_update(name: str) -> float:
    """Megabytes that one update needs in addition to what is there, in its own process."""
    command = [sys.executable, __file__, "--memory", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(networks: dict[str, Callable[[], nn.Module]], rounds: int) -> None:
    print(
        f"{'network':<12}{'connections':>13}{'/ reading once':>17}{'/ torch.topk':>15}{'ns a connection':>18}"
        f"{'extra MB':>11}{'of weights':>12}"
    )
    for name, build in networks.items():
        update = Update(build())
        seconds = update.measure(rounds)
        per_read, per_topk = seconds["update"] / seconds["read once"], seconds["update"] / seconds["topk"]
        nanoseconds = 1e9 * seconds["update"] / update.size
        megabytes = memory_of_an_update(name)
        print(
            f"{name:<12}{update.size:>13,}{per_read:>17.1f}{per_topk:>15.2f}{nanoseconds:>18.1f}"
            f"{megabytes:>11.1f}{megabytes / (4e-6 * update.size):>12.0%}"
        )


def main() -> None:
    parser = options_parser("Cost of one RigL mask update, as ratios.")
    parser.add_argument("--memory", metavar="NETWORK", help="only print the megabytes an update of this network needs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        update = Update({**NETWORKS, **STACKS}[options.memory]())
        with torch.no_grad():
            print(peak_extra_megabytes(update.update))
        return
    print(f"one RigL mask update at sparsity 0.9, {options.threads} thread(s), medians of {options.rounds} rounds")
    table(NETWORKS, options.rounds)
    print("the same of stacks of layers with 1024 x 1024 weights")
    table(STACKS, options.rounds)


if __name__ == "__main__":
    main()
