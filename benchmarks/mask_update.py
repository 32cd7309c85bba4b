"""Cost of one RigL mask update, relative to things everybody knows.

    python benchmarks/mask_update.py [--threads 1] [--rounds 7]

A mask update is all of it: scores, drop and grow in every layer, optimizer state, masked weights. It is compared with
reading weights, gradients and masks once, and with one `torch.topk` of all gradients, layer by layer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python benchmarks/mask_update.py`

import timm
import torch
from torch import nn

from benchmarks.timing import interleaved_medians, parse_options
from rigl_lightning import RigL, Sparsifier, UpdateSchedule, select_parameters
from rigl_lightning.models import CharGRU, WideResNet

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "char GRU": CharGRU,
    "WRN-22-2": WideResNet,
    "ResNet-50": lambda: timm.create_model("resnet50"),
}


def measure(model: nn.Module, rounds: int) -> dict[str, float]:
    """Median seconds of a mask update and of its yardsticks."""
    parameters = select_parameters(model)
    algorithm = RigL(sparsity=0.9, schedule=UpdateSchedule(interval=1, end=10**9))
    sparsifier = Sparsifier(parameters, algorithm)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9)
    gradients = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].clone()
    optimizer.step()
    sparsifier.apply_masks()

    def update() -> None:
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        sparsifier.before_step(optimizer)
        sparsifier.after_step(optimizer)

    def read_once() -> None:
        for name, parameter in parameters.items():
            parameter.sum(), gradients[name].sum(), sparsifier.masks[name].any()

    def topk() -> None:
        for name, gradient in gradients.items():
            torch.topk(gradient.abs().view(-1), sparsifier.n_active[name], sorted=False)

    with torch.no_grad():
        return interleaved_medians({"update": update, "read once": read_once, "topk": topk}, rounds)


def main() -> None:
    options = parse_options("Cost of one RigL mask update, as ratios.")
    print(f"one RigL mask update at sparsity 0.9, {options.threads} thread(s), medians of {options.rounds} rounds")
    print(f"{'network':<12}{'connections':>13}{'/ reading once':>17}{'/ torch.topk':>15}{'ns a connection':>18}")
    for name, build in NETWORKS.items():
        model = build()
        size = sum(parameter.numel() for parameter in select_parameters(model).values())
        seconds = measure(model, options.rounds)
        per_read, per_topk = seconds["update"] / seconds["read once"], seconds["update"] / seconds["topk"]
        nanoseconds = 1e9 * seconds["update"] / size
        print(f"{name:<12}{size:>13,}{per_read:>17.1f}{per_topk:>15.2f}{nanoseconds:>18.1f}")


if __name__ == "__main__":
    main()
