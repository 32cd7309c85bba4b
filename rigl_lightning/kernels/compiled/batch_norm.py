"""Batch norm of the fast tier: a channel's planes are read from memory once, and again from the cache."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from torch import Tensor

from rigl_lightning.kernels.compiled.cache import job
from rigl_lightning.kernels.compiled.ir import FLAGS, load_f32, multiply_add, store_f32
from rigl_lightning.kernels.compiled.loops import each_of, sums_over
from rigl_lightning.kernels.settings import Floats, readable
from rigl_lightning.kernels.threads import run
from rigl_lightning.kernels.workspace import new

_PIECE = 4096
"""Elements that are summed in float32; their sums are added in float64."""


def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W), contiguous, normalised by the statistics of each channel.

    Returns:
        The images, and (3, C): mean, variance, and one over the standard deviation that ``eps`` was added to.
    """
    images, channels = x.shape[:2]
    out, statistics = new(*x.shape), new(3, channels)
    weight, bias = (None if parameter is None else readable(parameter) for parameter in (weight, bias))
    settings = Normalising(readable(x), out, statistics, weight, bias, images, channels, math.prod(x.shape[2:]), eps)
    run(normalising_job, channels, settings)
    return out, statistics


def backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: Tensor, is_rectified: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the images, and (2, C): those of weight and bias; ``grad`` may be that of the output's ReLU."""
    images, channels = x.shape[:2]
    out, sums = new(*x.shape), new(2, channels)
    weight, bias = (None if parameter is None else readable(parameter) for parameter in (weight, bias))
    sizes = images, channels, math.prod(x.shape[2:]), is_rectified
    run(gradients_job, channels, Gradients(readable(grad), readable(x), out, statistics, weight, bias, sums, *sizes))
    return out, sums


def _subtract(builder: Any, a: Any, b: Any) -> Any:
    return builder.fsub(a, b, flags=FLAGS)


def _emit_square(builder: Any, inputs: Any, numbers: Any) -> Any:
    from_mean = _subtract(builder, inputs[0], numbers[0])
    return [builder.fmul(from_mean, from_mean, flags=FLAGS)]


def _emit_normalised(builder: Any, inputs: Any, numbers: Any) -> Any:
    mean, scale, shift = numbers
    return [multiply_add(builder, _subtract(builder, inputs[0], mean), scale, shift)]


def _emit_dots(builder: Any, inputs: Any, numbers: Any) -> Any:
    grad, x = inputs
    return [grad, builder.fmul(grad, _subtract(builder, x, numbers[0]), flags=FLAGS)]


def _emit_gradient(builder: Any, inputs: Any, numbers: Any) -> Any:
    (grad, x), (mean, scale, slope, shift) = inputs, numbers
    return [multiply_add(builder, grad, scale, multiply_add(builder, _subtract(builder, x, mean), slope, shift))]


def _emit_rectified(builder: Any, grad: Any, x: Any, mean: Any, scale: Any, shift: Any) -> Any:
    """The gradient where the normalised images, computed again as they were, are above zero, or undefined."""
    (normalised,) = _emit_normalised(builder, [x], [mean, scale, shift])
    zero = ir.Constant(normalised.type, None)
    return builder.select(builder.fcmp_unordered(">", normalised, zero), grad, zero)


def _emit_rectified_dots(builder: Any, inputs: Any, numbers: Any) -> Any:
    grad, x = inputs
    return _emit_dots(builder, [_emit_rectified(builder, grad, x, *numbers), x], numbers)


def _emit_rectified_gradient(builder: Any, inputs: Any, numbers: Any) -> Any:
    (grad, x), (mean, scale, slope, shift, bias) = inputs, numbers
    rectified = _emit_rectified(builder, grad, x, mean, scale, bias)
    return _emit_gradient(builder, [rectified, x], [mean, scale, slope, shift])


_sum = sums_over(1, 0, 1, lambda builder, inputs, numbers: inputs)
_squares = sums_over(1, 1, 1, _emit_square)
_normalise = each_of(1, 3, _emit_normalised)
_dots = sums_over(2, 1, 2, _emit_dots)
_gradient = each_of(2, 4, _emit_gradient)
_rectified_dots = sums_over(2, 3, 2, _emit_rectified_dots)
_rectified_gradient = each_of(2, 5, _emit_rectified_gradient)


class Normalising(NamedTuple):
    """Settings of `normalising_job`; ``statistics`` is that of `forward`."""

    x: Floats
    out: Floats
    statistics: Floats
    weight: Floats
    bias: Floats
    n_images: int
    n_channels: int
    plane: int
    eps: float


@job(Normalising)
def normalising_job(task, n_tasks, s):  # type: ignore[no-untyped-def]  # numba has no types
    """Each task is a channel. Means and squares of pieces are merged as in Chan, Golub and LeVeque (1979)."""
    count, mean, squares = 0.0, 0.0, 0.0
    for image in range(s.n_images):
        plane = s.x + 4 * s.plane * (image * s.n_channels + task)
        for start in range(0, s.plane, _PIECE):
            size = min(_PIECE, s.plane - start)
            own_mean = _sum((plane + 4 * start,), (), size)[0] / types.float64(size)
            own = _squares((plane + 4 * start,), (types.float32(own_mean),), size)[0]
            apart = own_mean - mean
            mean += apart * size / (count + size)
            squares += own + apart * apart * count * size / (count + size)
            count += size
    variance = squares / count
    inverse = types.float32(1.0 / math.sqrt(variance + s.eps))
    store_f32(s.statistics, task, types.float32(mean))
    store_f32(s.statistics, s.n_channels + task, types.float32(variance))
    store_f32(s.statistics, 2 * s.n_channels + task, inverse)
    scale = inverse * load_f32(s.weight, task) if s.weight != 0 else inverse
    shift = load_f32(s.bias, task) if s.bias != 0 else types.float32(0.0)
    numbers = types.float32(mean), scale, shift
    for image in range(s.n_images):
        plane = 4 * s.plane * (image * s.n_channels + task)
        _normalise((s.x + plane, s.out + plane), numbers, s.plane)


class Gradients(NamedTuple):
    """Settings of `gradients_job`; ``statistics`` is that of `forward`, ``sums`` what `backward` returns."""

    grad: Floats
    x: Floats
    out: Floats
    statistics: Floats
    weight: Floats
    bias: Floats
    sums: Floats
    n_images: int
    n_channels: int
    plane: int
    is_rectified: int


@job(Gradients)
def gradients_job(task, n_tasks, s):  # type: ignore[no-untyped-def]
    """Each task is a channel."""
    mean, inverse = load_f32(s.statistics, task), load_f32(s.statistics, 2 * s.n_channels + task)
    scale = inverse * load_f32(s.weight, task) if s.weight != 0 else inverse
    bias = load_f32(s.bias, task) if s.bias != 0 else types.float32(0.0)
    total, dot = 0.0, 0.0
    for image in range(s.n_images):
        plane = 4 * s.plane * (image * s.n_channels + task)
        for start in range(0, s.plane, _PIECE):
            place, size = plane + 4 * start, min(_PIECE, s.plane - start)
            if s.is_rectified:
                own = _rectified_dots((s.grad + place, s.x + place), (mean, scale, bias), size)
            else:
                own = _dots((s.grad + place, s.x + place), (mean,), size)
            total += own[0]
            dot += own[1]
    store_f32(s.sums, task, types.float32(dot * inverse))
    store_f32(s.sums, s.n_channels + task, types.float32(total))
    count = s.n_images * s.plane
    slope = types.float32(-dot / count * scale * inverse * inverse)
    shift = types.float32(-total / count * scale)
    for image in range(s.n_images):
        plane = 4 * s.plane * (image * s.n_channels + task)
        places = s.grad + plane, s.x + plane, s.out + plane
        if s.is_rectified:
            _rectified_gradient(places, (mean, scale, slope, shift, bias), s.plane)
        else:
            _gradient(places, (mean, scale, slope, shift), s.plane)
