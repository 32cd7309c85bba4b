"""Training a benchmark's network in a plain loop: for studies that need weights and masks in their hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paper.protocols import Protocol
from paper.studies.protocol_widths import base_width, network
from rigl_lightning import SparseAlgorithm, Sparsifier, select_parameters
from rigl_lightning.data import CIFAR10DataModule
from rigl_lightning.data.augmentation import random_crop_and_flip, standardise
from rigl_lightning.modules.milestones import learning_rate_schedule
from rigl_lightning.modules.weight_decay import weight_decay_groups

Masks = dict[str, Tensor]


class Images(NamedTuple):
    """Stored images uint8 (N, 3, R, R) and labels int64 (N,) of both splits."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    padding: int

    def batches(
        self, n: int, size: int, generator: torch.Generator, augment: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """``n`` random batches of standardised training images, cropped and flipped if wanted, and their labels."""
        images, labels = self.train
        for _ in range(n):
            rows = torch.randint(len(images), (size,), generator=generator)
            batch = standardise(images[rows])
            yield (random_crop_and_flip(batch, self.padding) if augment else batch), labels[rows]


def read_images(protocol: Protocol, root: Path) -> Images:
    """CIFAR-10 at the protocol's resolution.

    Raises:
        ValueError: If the protocol trains on other data, which need not fit into memory.
    """
    data_class = protocol.settings["data"]["class_path"].rsplit(".", 1)[1]
    if data_class != CIFAR10DataModule.__name__:
        raise ValueError(f"Expected a scale that trains on CIFAR-10, got {data_class}. Set --scale small.")
    settings = protocol.settings["data"]["init_args"]
    data = CIFAR10DataModule(root, resolution=settings.get("resolution", 32))
    data.setup("fit")
    sets = [(part.inputs, part.targets) for part in (data.train_set, data.val_set)]
    return Images(sets[0], sets[1], data.padding)


class Trained(NamedTuple):
    """A network after its training, its masks, and the loss of each step's batch."""

    model: nn.Module
    masks: Masks
    losses: list[float]


def train(
    protocol: Protocol,
    images: Images,
    algorithm: SparseAlgorithm,
    seed: int,
    start: Callable[[nn.Module], None] = lambda model: None,
) -> Trained:
    """Train the protocol's network for its length, with its optimizer, learning rates and batches.

    Args:
        protocol: How the benchmark is trained.
        images: Its data.
        algorithm: Of the masks.
        seed: Of initialisation, batches and masks.
        start: Changes the initial network, to start from another solution, say.
    """
    settings, steps = protocol.settings["model"]["init_args"], protocol.settings["trainer"]["max_steps"]
    torch.manual_seed(seed)
    model = network(protocol, base_width(protocol))
    start(model)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        weight_decay_groups(model, settings["weight_decay"]), lr=settings["learning_rate"], momentum=0.9, nesterov=True
    )
    factor = learning_rate_schedule(
        settings.get("warmup", 0.0), settings["milestones"], settings["learning_rate_decay"], steps
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    sparsifier = Sparsifier(select_parameters(model), algorithm, steps, seed)
    losses = []
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for inputs, labels in images.batches(steps, protocol.settings["data"]["init_args"]["batch_size"], generator):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        scheduler.step()
        losses.append(loss.item())
    return Trained(model, {name: mask.clone() for name, mask in sparsifier.masks.items()}, losses)


@torch.no_grad()
def accuracy_on_test(model: nn.Module, images: Images, size: int = 500) -> float:
    """Of the network on all test images, in [0, 1]."""
    model.eval()
    stored, labels = images.test
    parts = zip(stored.split(size), labels.split(size), strict=True)
    n_right = sum(int((model(standardise(part)).argmax(dim=1) == of_part).sum()) for part, of_part in parts)
    return n_right / len(labels)
