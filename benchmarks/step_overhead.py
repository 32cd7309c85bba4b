"""Cost of keeping a network sparse: a training step with the Sparsifier relative to one without.

    python benchmarks/step_overhead.py [--threads 1] [--rounds 7] [--compile]

Steps without a mask update: gradients masked before, weights after the optimizer. Ratios near 1 mean that it is free.
With ``--compile`` a second table follows, of networks that went through torch.compile; masking is the same and outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from benchmarks.timing import interleaved_times, parse_options, with_spread
from rigl_lightning import Sparsifier, Static, select_parameters
from rigl_lightning.models import CharGRU, WideResNet


def image_loss(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).logsumexp(1).mean()


def text_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return model(tokens)[0].logsumexp(-1).mean()


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], Tensor]] = {
    "WRN-22-2, batch 2": (WideResNet, image_loss, torch.randn(2, 3, 32, 32)),
    "WRN-22-2, batch 64": (WideResNet, image_loss, torch.randn(64, 3, 32, 32)),
    "char GRU, 2 x 32": (CharGRU, text_loss, torch.randint(256, (2, 32))),
    "char GRU, 32 x 64": (CharGRU, text_loss, torch.randint(256, (32, 64))),
    "ResNet-50, batch 2 at 64": (lambda: timm.create_model("resnet50"), image_loss, torch.randn(2, 3, 64, 64)),
    "ResNet-50, batch 16 at 96": (lambda: timm.create_model("resnet50"), image_loss, torch.randn(16, 3, 96, 96)),
}


def measure(
    build: Callable[[], nn.Module], loss: Callable[..., Tensor], inputs: Tensor, rounds: int, compiled: bool
) -> list[float]:
    """CPU seconds of a masked training step over those of a dense one, in each round; other jobs do not count."""
    model = build()
    if compiled:
        model.compile()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    sparsifier = Sparsifier(select_parameters(model), Static(0.9))

    def dense_step() -> None:
        optimizer.zero_grad()
        loss(model, inputs).backward()
        optimizer.step()

    def masked_step() -> None:
        optimizer.zero_grad()
        loss(model, inputs).backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)

    times = interleaved_times({"dense": dense_step, "masked": masked_step}, rounds, time.process_time)
    return [masked / dense for masked, dense in zip(times["masked"], times["dense"], strict=True)]


def print_table(rounds: int, compiled: bool) -> None:
    print(f"{'compiled' if compiled else 'eager':<28}{'masked / dense':>20}")
    for name, (build, loss, inputs) in CASES.items():
        print(f"{name:<28}{with_spread(measure(build, loss, inputs, rounds, compiled)):>20}", flush=True)


def main() -> None:
    options = parse_options("Training step with masks relative to one without.", compile="measure compiled ones too")
    print(f"training step at sparsity 0.9, {options.threads} thread(s), medians of {options.rounds} rounds")
    print_table(options.rounds, compiled=False)
    if options.compile:
        print_table(options.rounds, compiled=True)


if __name__ == "__main__":
    main()
