"""A training small enough to run hundreds of times: two sparse layers, data that depends on the step only."""

import io
import os

import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning.compute import SparseCompute
from rigl_lightning.sparsity.algorithms import describe
from rigl_lightning.sparsity.files.masks import pack_masks
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.sparsifier import Sparsifier


def small_network(seed=0):
    """36 + 256 sparse weights, and a batch norm and biases that stay dense."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 4),
    )


def batch(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(8, 1, 4, 4, generator=generator)
    return images, torch.randint(4, (8,), generator=generator)


def backward(model, step, sparsifier=None):
    images, labels = batch(step)
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    if sparsifier is not None:
        sparsifier.before_backward(loss)
    loss.backward()


def train(model, optimizer, sparsifier, steps):
    for step in steps:
        backward(model, step, sparsifier)
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)


def sparsify(model, algorithm, **kwargs):
    sparsifier = Sparsifier(select_parameters(model), algorithm, **kwargs)
    if "RIGL_LIGHTNING_TEST_COMPUTE" in os.environ:
        SparseCompute(model, sparsifier, os.environ["RIGL_LIGHTNING_TEST_COMPUTE"]).install()
    return sparsifier


def sparsifier_with(masks, parameters, algorithm, step=0):
    """A Sparsifier that starts with these masks."""
    nothing = {"grad_averages": {}, "memory": {}, "hidden": None}
    start = {"step": step, "total_steps": None, "seed": 0, "algorithm": describe(algorithm)}
    packed = pack_masks(masks)
    masks = {"masks": packed, "explored": packed, "first_masks": packed}
    return Sparsifier(parameters, algorithm, state={**masks, **nothing, **start})


def through_disk(state):
    """What a checkpoint gives back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def flags(text):
    """Mask written as "1" and "." (spaces are free): flags("11.. ..1.")."""
    return torch.tensor([letter == "1" for letter in text.replace(" ", "")])


def written(mask):
    return "".join("1" if active else "." for active in mask.reshape(-1).tolist())
