"""The batched augmentation equals a slow one made image by image."""

import numpy as np
import pytest
import torch

from rigl_lightning.data.augmentation import random_crop_and_flip, standardise


def _slow_standardise(image):
    pixels = image.numpy().astype(np.float64)
    return (pixels - pixels.mean()) / max(pixels.std(), 1 / np.sqrt(pixels.size))


def _all_crops(image, padding):
    """Every image that cropping and flipping can give, by numpy's symmetric padding."""
    size = image.shape[-1]
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)), mode="symmetric")
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + size, left : left + size]
            yield crop
            yield crop[:, :, ::-1]


def test_standardisation_equals_the_one_image_by_image():
    images = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    images[1] = 7  # constant
    images[2] = 0
    images[2, 0, 0, 0] = 1  # deviation below the floor of 1 / sqrt(108)
    expected = np.stack([_slow_standardise(image) for image in images])
    np.testing.assert_allclose(standardise(images), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crops_and_flips_equal_those_of_numpys_padding_and_are_all_drawn_alike(dtype):
    torch.manual_seed(0)
    image = torch.arange(3 * 4 * 4).view(3, 4, 4).to(dtype)
    drawn = random_crop_and_flip(image.expand(2000, -1, -1, -1), padding=1)
    assert drawn.dtype == dtype
    expected = [crop.tobytes() for crop in _all_crops(image, 1)]
    counts = dict.fromkeys(expected, 0)
    for one in drawn.numpy():
        counts[one.tobytes()] += 1
    assert len(counts) == 18
    assert min(counts.values()) > 70  # 111 on average, standard deviation 10
    assert max(counts.values()) < 160


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_each_image_is_cropped_from_itself(padding):
    images = torch.randn(20, 3, 5, 5)
    for image, drawn in zip(images, random_crop_and_flip(images, padding), strict=True):
        assert any(np.array_equal(drawn, crop) for crop in _all_crops(image, padding))


def test_one_seed_gives_one_augmentation():
    images = torch.randn(4, 3, 8, 8)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(random_crop_and_flip(images, 4))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_no_padding_only_flips():
    images = torch.randn(20, 1, 4, 4)
    drawn = random_crop_and_flip(images, 0)
    kept = (drawn == images).flatten(1).all(1)
    flipped = (drawn == images.flip(3)).flatten(1).all(1)
    assert (kept | flipped).all()
    assert kept.any()
    assert flipped.any()
