"""Dense gradients that compact layers hand over during a backward pass, and which of them count."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from rigl_lightning.kernels.pattern import SparsePattern


class HandedGradients(dict[str, Tensor]):
    """Dense gradients by name, which belong to the ``grad`` of the parameters as it is.

    A pass that adds nothing to ``grad`` does not count: that of `torch.autograd.grad`, or of ``backward(inputs=...)``
    with other inputs. Passes that count are added up, as in ``grad``. What else the loss reads of the weight, such as a
    penalty, is in ``grad`` alone, from where it is taken.

    >>> weight, handed = nn.Parameter(torch.ones(1)), HandedGradients()
    >>> pattern, dense = SparsePattern.from_positions(torch.tensor([1]), 1, 2), torch.tensor([[5.0, 3.0]])
    >>> loss = 3 * weight
    >>> _ = loss.register_hook(lambda _: handed.hand_over("w", weight, pattern, dense))
    >>> torch.autograd.grad(loss, weight, retain_graph=True), handed
    ((tensor([3.]),), {})
    >>> loss.backward()
    >>> handed
    {'w': tensor([[5., 3.]])}
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[tuple[str, int], Tensor] = {}
        self._hooks: dict[str, Any] = {}

    def hand_over(self, name: str, parameter: nn.Parameter, pattern: SparsePattern, dense: Tensor) -> None:
        """Take the gradient of one call of a layer, in the backward pass of this moment.

        Args:
            name: Of the weight.
            parameter: Its values, (n_active,).
            pattern: Where they are.
            dense: Gradient of the dense weight, of any shape in row-major order; it may be changed.
        """
        call = name, torch._C._current_graph_task_id()
        if call in self._pending:  # the layer is part of this pass more than once
            self._pending[call].add_(dense)
            return
        if parameter.grad is None or not parameter.grad.any():
            self.pop(name, None)  # gradients were set to None or zero since: it is of a step that was given up
        self.follow(name, parameter, pattern)
        self._pending[call] = dense.contiguous()
        Variable._execution_engine.queue_callback(partial(self._let_go, call))
        if name not in self._hooks:
            hook = partial(self._count, name, pattern)
            self._hooks[name] = parameter.register_post_accumulate_grad_hook(hook)

    def follow(self, name: str, parameter: nn.Parameter, pattern: SparsePattern) -> None:
        """Take over what has become of ``grad`` since its last pass.

        Where all its entries were multiplied by one factor (unscaled by a GradScaler, clipped by their norm), so are
        those of inactive connections.

        >>> weight, handed = nn.Parameter(torch.ones(1)), HandedGradients()
        >>> weight.grad, handed["w"] = torch.tensor([1.5]), torch.tensor([[5.0, 3.0]])
        >>> handed.follow("w", weight, SparsePattern.from_positions(torch.tensor([1]), 1, 2))
        >>> handed
        {'w': tensor([[2.5000, 1.5000]])}
        """
        if name not in self or parameter.grad is None:
            return
        flat, values = self[name].view(-1), parameter.grad.detach().to(self[name].dtype)
        before = flat[pattern.positions]
        if torch.equal(before, values):
            return
        largest = before.abs().argmax()
        factor = values[largest] / before[largest]
        if bool(((before * factor - values).abs() <= 1e-5 * values[largest].abs()).all()):  # not where one is NaN
            flat.mul_(factor)
        flat.index_copy_(0, pattern.positions, values)

    def forget(self, name: str) -> None:
        """The step is over for a weight."""
        self.pop(name, None)
        self._pending = {call: dense for call, dense in self._pending.items() if call[0] != name}  # of failed passes
        if name in self._hooks:
            self._hooks.pop(name).remove()

    def _let_go(self, call: tuple[str, int]) -> None:
        """The pass is over, and has not added to ``grad``, or has been counted."""
        self._pending.pop(call, None)

    def _count(self, name: str, pattern: SparsePattern, parameter: Tensor) -> None:
        """A pass has added to ``grad``."""
        dense = self._pending.pop((name, torch._C._current_graph_task_id()), None)
        if dense is not None:
            self[name] = self[name].add_(dense) if name in self else dense
        if name in self and parameter.grad is not None:
            self[name].view(-1).index_copy_(0, pattern.positions, parameter.grad.detach())

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A copy is not part of a pass.
        return type(self), (), None, None, iter(self.items())
