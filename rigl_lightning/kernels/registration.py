"""Operators as `torch.compile` records them: one call registers all that belongs to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Backward(NamedTuple):
    """How an operator is differentiated.

    Attributes:
        function: Of the gradients of the results, what was saved, and the operator's arguments: the gradients of the
            tensors among the first ``n_differentiable`` arguments, those in lists one by one, without missing ones.
        n_differentiable: See ``function``.
        n_saved: So many of the last results are for ``function`` alone.
    """

    function: Callable[..., list[Tensor]]
    n_differentiable: int
    n_saved: int = 0


def register_operator(
    name: str,
    arguments: str,
    returns: str,
    forward: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Backward | None = None,
) -> Any:
    """Register ``rigl_lightning::name``, and ``rigl_lightning::name_backward`` if it is differentiated.

    Args:
        name: Of the operator.
        arguments: Its schema, written out because torch 2.6 does not understand our annotations.
        returns: ``Tensor`` or ``Tensor[]``.
        forward: What it does.
        fake: Empty results of the right shapes.
        backward: How it is differentiated.

    Returns:
        The operator.
    """
    operator = _register(name, f"({arguments}) -> {returns}", forward, fake)
    if backward is not None:
        function = backward.function
        gradients = _Gradients(name, returns, backward.n_differentiable, backward.n_saved)
        _register(
            f"{name}_backward",
            f"(Tensor[] grads, Tensor[] saved, {arguments}) -> Tensor[]",
            lambda *args: [grad.contiguous() for grad in function(*args)],
            gradients.fake,
        )
        operator.register_autograd(gradients.compute, setup_context=gradients.save)
    return operator


class _Gradients:
    """What autograd asks of an operator whose gradients are another operator, ``<name>_backward``."""

    def __init__(self, name: str, returns: str, n_differentiable: int, n_saved: int) -> None:
        self.name, self.returns, self.n_differentiable, self.n_saved = name, returns, n_differentiable, n_saved

    def fake(self, grads: Any, saved: Any, *args: Any) -> list[Tensor]:
        return [tensor.new_empty(tensor.shape) for tensor in _tensors(args[: self.n_differentiable])]

    def save(self, ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        ctx.rest = [None if _holds_tensors(arg) else arg for arg in inputs]
        ctx.sizes = [len(list(_tensors([arg]))) for arg in inputs]
        ctx.are_lists = [isinstance(arg, (list, tuple)) for arg in inputs]
        ctx.save_for_backward(*(output[-self.n_saved :] if self.n_saved else ()), *_tensors(inputs))

    def compute(self, ctx: Any, grads: Any) -> tuple[Any, ...]:
        saved, tensors = list(ctx.saved_tensors[: self.n_saved]), iter(ctx.saved_tensors[self.n_saved :])
        args = [rest if own is None else own for rest, own in zip(ctx.rest, self._split(ctx, tensors), strict=True)]
        given = list(grads[: len(grads) - self.n_saved]) if self.returns == "Tensor[]" else [grads]
        found = getattr(torch.ops.rigl_lightning, f"{self.name}_backward")(given, saved, *args)
        return tuple(self._split(ctx, chain(found, repeat(None))))

    def _split(self, ctx: Any, items: Iterator[Any]) -> Iterator[Any]:
        """One after the other in the places of the tensors among the arguments, in lists where these are."""
        for size, is_list in zip(ctx.sizes, ctx.are_lists, strict=True):
            own = [next(items) for _ in range(size)]
            yield (own if is_list else own[0]) if size else None


def _register(name: str, schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    operator = torch.library.custom_op(f"rigl_lightning::{name}", function, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    return operator


def _holds_tensors(arg: Any) -> bool:
    return isinstance(arg, Tensor) or (isinstance(arg, (list, tuple)) and bool(arg) and isinstance(arg[0], Tensor))


def _tensors(args: Iterable[Any]) -> Iterable[Tensor]:
    lists = (arg if isinstance(arg, (list, tuple)) else [arg] for arg in args if _holds_tensors(arg))
    return chain.from_iterable(lists)
