"""The arithmetic of GRU and LSTM cells, one unit at a time, on vectors of samples.

The formulas are those of `torch.nn.GRU` and `torch.nn.LSTM`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rigl_lightning.kernels.compiled.ir import F32, FLAGS, I64, WIDTH, Codegen, emit_load, emit_store

_KIND = ir.VectorType(F32, WIDTH)
# tanh as a quotient of polynomials in x, within 4 units in the last place of float32; beyond the limit it is 1.
_TANH_LIMIT = 7.90531110763549805
_TANH_ODD = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_EVEN = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


class Vector:
    """A vector of floats in a function that is being built, with the usual operators."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _with(self, other: Vector | float) -> Any:
        return other.value if isinstance(other, Vector) else ir.Constant(_KIND, [other] * WIDTH)

    def __add__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, self._with(other), flags=FLAGS))

    def __sub__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, self._with(other), flags=FLAGS))

    def __mul__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fmul(self.value, self._with(other), flags=FLAGS))

    def __truediv__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fdiv(self.value, self._with(other), flags=FLAGS))

    def clipped(self, limit: float) -> Vector:
        """Within [-limit, limit]; NaN stays NaN."""
        value = self.value
        for order, border in ((">", limit), ("<", -limit)):
            bound = ir.Constant(_KIND, [border] * WIDTH)
            value = self.builder.select(self.builder.fcmp_ordered(order, value, bound), bound, value)
        return Vector(self.builder, value)


def tanh(x: Vector) -> Vector:
    """Hyperbolic tangent."""
    x = x.clipped(_TANH_LIMIT)
    square = x * x
    return x * _polynomial(_TANH_ODD, square) / _polynomial(_TANH_EVEN, square)


def sigmoid(x: Vector) -> Vector:
    """Logistic function."""
    return tanh(x * 0.5) * 0.5 + 0.5


def complement(x: Vector) -> Vector:
    """One minus x."""
    return x * -1.0 + 1.0


def _polynomial(coefficients: Sequence[float], x: Vector) -> Vector:
    total = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        total = total * x + coefficient
    return total


def _gru_forward(r: Vector, z: Vector, n: Vector, hidden: Vector, state: Vector) -> list[Vector]:
    r, z = sigmoid(r), sigmoid(z)
    n = tanh(n + r * hidden)
    return [r, z, n, n + z * (state - n)]


def _gru_backward(r: Vector, z: Vector, n: Vector, hidden: Vector, state: Vector, *grads: Vector) -> list[Vector]:
    grad = grads[0] + grads[1]
    grad_n = grad * complement(z) * complement(n * n)
    grad_z = grad * (state - n) * z * complement(z)
    grad_r = grad_n * hidden * r * complement(r)
    return [grad_r, grad_z, grad_n, grad_r, grad_z, grad_n * r, grad * z]


def _lstm_forward(i: Vector, f: Vector, g: Vector, o: Vector, cell: Vector) -> list[Vector]:
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    cell = f * cell + i * g
    return [i, f, g, o, cell, o * tanh(cell)]


def _lstm_backward(i: Vector, f: Vector, g: Vector, o: Vector, before: Vector, *rest: Vector) -> list[Vector]:
    after, grad_out, grad_state, grad_cell = rest
    grad, bent = grad_out + grad_state, tanh(after)
    grad_cell = grad_cell + grad * o * complement(bent * bent)
    grad_i = grad_cell * g * i * complement(i)
    grad_f = grad_cell * before * f * complement(f)
    grad_g = grad_cell * i * complement(g * g)
    grad_o = grad * bent * o * complement(o)
    return [grad_i, grad_f, grad_g, grad_o, grad_cell * f]


def _cell(formula: Callable[..., list[Vector]], n_inputs: int, n_outputs: int) -> Any:
    """``cell(length, addresses)``: apply a formula to ``length`` samples, a multiple of a vector.

    ``addresses`` is a tuple of int64: the inputs, then the outputs. All inputs of a vector are read before its outputs
    are written, so they may be the same memory.
    """

    @intrinsic
    def cell(typing_context: Any, length: Any, addresses: Any) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            places = cgutils.unpack_tuple(builder, args[1])
            with cgutils.for_range(builder, builder.udiv(args[0], I64(WIDTH))) as loop:
                p = builder.mul(loop.index, I64(WIDTH))
                inputs = [Vector(builder, emit_load(builder, place, p, _KIND)) for place in places[:n_inputs]]
                for place, output in zip(places[n_inputs:], formula(*inputs), strict=True):
                    emit_store(builder, output.value, place, p)
            return context.get_dummy_value()

        return types.void(types.int64, types.UniTuple(types.int64, n_inputs + n_outputs)), codegen

    return cell


gru_cell = _cell(_gru_forward, 5, 4)
gru_cell_backward = _cell(_gru_backward, 7, 7)
lstm_cell = _cell(_lstm_forward, 5, 6)
lstm_cell_backward = _cell(_lstm_backward, 9, 5)
