"""What happens to CIFAR-10 images before the model sees them, a whole batch at a time.

The order is that of the authors' TensorFlow code: standardise each image, then pad, crop and flip it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def standardise(images: Tensor) -> Tensor:
    """Shift and scale each image to mean 0 and variance 1 over all its pixels and channels.

    The standard deviation is at least 1 / sqrt(values of an image), as in TensorFlow's
    ``per_image_standardization``, so that a constant image becomes zeros.

    Args:
        images: (N, C, H, W), uint8 or float; pixels in [0, 255].

    Returns:
        The same shape, float32, on the same device.

    >>> standardise(torch.tensor([[[[0, 2]]]], dtype=torch.uint8))
    tensor([[[[-1.,  1.]]]])
    """
    pixels = images.flatten(1).float()
    centred = pixels - pixels.mean(dim=1, keepdim=True)
    # The norm is seven times as fast as torch.var on a CPU.
    scale = math.sqrt(pixels.shape[1])
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / scale
    return (centred / deviation.clamp_min(1 / scale)).view(images.shape)


def random_crop_and_flip(images: Tensor, padding: int) -> Tensor:
    """Pad by mirroring, cut out the original size at a random place, and mirror every second image.

    The mirror includes the edge: a row 1 2 3 padded by two is 2 1 1 2 3 3 2.

    Args:
        images: (N, C, S, S), square, any type and device; torch's default generator of the device draws.
        padding: Pixels added on each side, less than S.

    Returns:
        The same shape and type.
    """
    n, size, device = len(images), images.shape[-1], images.device
    offsets = torch.randint(2 * padding + 1, (2, n, 1), device=device)
    flips = torch.rand(n, 1, device=device) < 0.5
    return _gather_pixels(images, *_source_pixels(size, padding, offsets, flips))


def _source_pixels(size: int, padding: int, offsets: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of the original image that each row and column (N, S) of its crop shows."""
    place = torch.arange(size, device=offsets.device)
    rows, columns = offsets + place - padding
    columns = torch.where(flips, columns.flip(1), columns)
    return _mirrored(rows, size), _mirrored(columns, size)


def _mirrored(place: Tensor, size: int) -> Tensor:
    """Places outside [0, size) reflected into it, the edge pixel repeated: -1 is 0, size is size - 1."""
    place = torch.where(place < 0, -1 - place, place)
    return torch.where(place >= size, 2 * size - 1 - place, place)


def _gather_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``images[n, c, rows[n, i], columns[n, j]]`` for all n, c, i and j.

    First whole rows, then the columns in them: four times as fast on a CPU as indexing both at once.
    """
    n, channels, size, _ = images.shape
    planes = torch.arange(n * channels, device=images.device).view(n, channels, 1)
    row_numbers = (planes * size + rows[:, None, :]).flatten()
    picked = images.reshape(-1, size).index_select(0, row_numbers).view(images.shape)
    return picked.gather(3, columns[:, None, None, :].expand(-1, channels, size, -1))
