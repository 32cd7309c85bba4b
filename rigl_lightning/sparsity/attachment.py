"""Attachment: an optimizer's own hooks call what a loop would call around its step."""

from __future__ import annotations

from typing import Any, Protocol

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from rigl_lightning.base.errors import SettingError, StateError
from rigl_lightning.sparsity.algorithms import SparseAlgorithm


class Follower(Protocol):
    """What is told of every step."""

    def before_step(self, optimizer: Optimizer) -> None:
        """Between ``backward`` and the step."""

    def after_step(self, optimizer: Optimizer) -> None:
        """After the step."""


def follow_steps(optimizer: Optimizer, follower: Follower) -> list[RemovableHandle]:
    """Have every `Optimizer.step` tell the follower, before and after; removing the handles ends it."""

    def before(stepped: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(value) for value in (*args, *kwargs.values())):
            raise StateError(
                "Expected optimizer.step() after loss.backward(), got a step with a closure, whose gradients the hook "
                "before it cannot see. Call `before_step` at the end of the closure and `after_step` after the step "
                "instead of attaching, or use SparseTrainingCallback in Lightning."
            )
        follower.before_step(stepped)

    def after(stepped: Optimizer, *_: Any) -> None:
        follower.after_step(stepped)

    own = torch_optimizer(optimizer)
    return [own.register_step_pre_hook(before), own.register_step_post_hook(after)]


def torch_optimizer(optimizer: Any) -> Optimizer:
    """The optimizer of torch within the wrappers of Accelerate or Lightning.

    Raises:
        ValueError: If there is none.
    """
    inner = optimizer
    while isinstance(getattr(inner, "optimizer", None), Optimizer):
        inner = inner.optimizer
    if not isinstance(inner, Optimizer):
        raise SettingError(f"Expected an optimizer of torch, got {type(optimizer).__name__}. Pass one that is made.")
    return inner


def check_attachable(algorithm: SparseAlgorithm) -> None:
    """Refuse an algorithm that has to see the loss before its backward pass, which no optimizer knows.

    Args:
        algorithm: Resolved.

    Raises:
        ValueError: For GraSP.
    """
    if any(algorithm.needs_hessian_gradient(step) for step in algorithm.update_steps()):
        raise SettingError(
            f"Expected an algorithm that needs gradients only, got {type(algorithm).__name__}, which differentiates "
            "the loss twice. Call `before_backward`, `before_step` and `after_step` in your loop instead of attaching."
        )
