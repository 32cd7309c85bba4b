"""What a module is called with in an example, and along which dimensions of it another sample may be added."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

Dims = tuple[int | None, ...]
"""A dimension of each tensor of an example, in order; None for one that has none."""
_MOST_TRIALS = 200
_TOLERANCE = 1e-3  # of the largest output


class Example(NamedTuple):
    """Arguments of a call.

    Attributes:
        args: By position.
        kwargs: By name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def call(self, module: nn.Module) -> Any:
        """What the module makes of it."""
        return module(*self.args, **self.kwargs)

    def map(self, change: Any) -> Example:
        """The example with every tensor changed, however deep it lies; the tensors of this one stay."""
        return Example(*tree_map(lambda x: change(x) if isinstance(x, Tensor) else deepcopy(x), tuple(self)))

    def tensors(self) -> list[Tensor]:
        """All tensors in order."""
        return [x for x in tree_leaves(tuple(self)) if isinstance(x, Tensor)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Example:
        """The example with other tensors in the places of its own."""
        leaves, spec = tree_flatten(tuple(self))
        others = iter(tensors)
        return Example(*tree_unflatten([next(others) if isinstance(x, Tensor) else x for x in leaves], spec))


def example_of(module: nn.Module, given: Any = None) -> Example | None:
    """Arguments of a call: those given, or the module's ``example_input_array``, or None.

    As Lightning passes them on: a mapping by name, a tuple or list by position, anything else as the one argument.
    """
    given = getattr(module, "example_input_array", None) if given is None else given
    if given is None or isinstance(given, Example):
        return given
    if isinstance(given, Mapping):
        return Example((), dict(given))
    return Example(tuple(given), {}) if isinstance(given, tuple | list) else Example((given,), {})


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[Callable[[], bool]]:
    """Within, calls may leave something in the module, such as a state that is carried; then it is as it was.

    Yields:
        Whether anything was left there so far, but constants that `torch.fx` keeps for its graph.
    """
    before = [(vars(m), dict(vars(m))) for m in module.modules()]

    def changed() -> bool:
        names = [(now, was, {n for n in now | was if not n.startswith("_tensor_constant")}) for now, was in before]
        return any(n not in now or n not in was or now[n] is not was[n] for now, was, own in names for n in own)

    try:
        yield changed
    finally:
        for now, was in before:
            now.clear()
            now.update(was)


def batch_dimensions(module: nn.Module, example: Example) -> Dims | None:
    """Along which dimension of each tensor the samples of a batch lie, found by trying; None if there is no such.

    It is a dimension along which samples do not see each other: the outputs of two batches one after the other are
    the outputs of the two. The first tensor's first dimension of this kind is the batch, and the others have as many
    samples, or are the same for all.

    Args:
        module: In evaluation mode.
        example: What it is called with.
    """
    tensors = example.tensors()
    for trial, dims in enumerate(_candidates(tensors)):
        if trial == _MOST_TRIALS:
            return None
        if _are_independent(module, example, dims):
            return dims
    return None


def with_samples(example: Example, dims: Dims, count: int) -> Example:
    """The example with ``count`` samples, all of them its first."""
    pairs = zip(example.tensors(), dims, strict=True)
    return example.with_tensors(
        [x if dim is None else x.narrow(dim, 0, 1).repeat_interleave(count, dim) for x, dim in pairs]
    )


def _candidates(tensors: Sequence[Tensor]) -> Iterator[Dims]:
    """All that could be the batch, the likeliest first: as many tensors as possible, the first dimensions."""
    for i, first in enumerate(tensors):
        for dim, size in enumerate(first.shape):
            others = [[*(d for d, n in enumerate(x.shape) if n == size), None] for x in tensors[i + 1 :]]
            before: list[None] = [None] * i
            yield from ((*before, dim, *rest) for rest in itertools.product(*others))


@torch.no_grad()
def _are_independent(module: nn.Module, example: Example, dims: Dims) -> bool:
    """Whether outputs of two batches one after the other are those of the two."""
    pairs = list(zip(example.tensors(), dims, strict=True))
    other = [x if dim is None else _changed(x) for x, dim in pairs]
    both = [x if dim is None else torch.cat([x, y], dim) for (x, dim), y in zip(pairs, other, strict=True)]
    try:
        first, second, together = (
            _outputs_alone(module, example.with_tensors(tensors)) for tensors in (example.tensors(), other, both)
        )
    except Exception:  # whatever a forward makes of shapes it does not expect
        return False
    return bool(first) and all(map(_is_concatenation, first, second, together))


def _outputs_alone(module: nn.Module, example: Example) -> list[Tensor]:
    """All tensors that a call returns, of a copy of the example; the module does not remember the call."""
    with attributes_kept(module):
        return [t for t in tree_leaves(example.map(Tensor.clone).call(module)) if isinstance(t, Tensor)]


def _changed(x: Tensor) -> Tensor:
    """Other samples, of tokens too: values move by one along the last dimension, and numbers grow."""
    moved = x.roll(1, -1)
    return moved * 1.5 if moved.is_floating_point() else moved


def _is_concatenation(first: Tensor, second: Tensor, together: Tensor) -> bool:
    """Whether a tensor is two others one after the other, along any dimension; a bound on each is rounding."""
    if first.ndim != together.ndim:
        return False
    grown = [d for d in range(first.ndim) if first.shape[d] + second.shape[d] == together.shape[d]]
    if len(grown) != 1:
        return False
    expected = torch.cat([first, second], grown[0])
    if not first.is_floating_point():
        return torch.equal(expected, together)
    scale = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 1.0
    return torch.allclose(together, expected, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)
