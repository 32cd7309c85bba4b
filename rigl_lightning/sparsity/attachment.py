"""Attachment: an optimizer's own hooks call what a loop would call around its step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from rigl_lightning.base.errors import SettingError, StateError
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.gradients import gradients_of
from rigl_lightning.sparsity.parameters import check_weights, select_parameters
from rigl_lightning.sparsity.refused_optimizers import refuse_optimizer


class Follower(Protocol):
    """What `follow_steps` tells of every step: a Sparsifier."""

    algorithm: SparseAlgorithm
    parameters: dict[str, nn.Parameter]

    def mask_optimizer_state(self, optimizer: Optimizer) -> None:
        """Before the first step."""

    def before_step(self, optimizer: Optimizer) -> None:
        """Between ``backward`` and the step."""

    def after_step(self, optimizer: Optimizer) -> None:
        """After the step."""


def follow_steps(optimizer: Optimizer, follower: Follower) -> list[RemovableHandle]:
    """Have every `Optimizer.step` tell the follower, before and after; removing the handles ends it.

    Args:
        optimizer: Of torch.
        follower: Of some of its weights.

    Raises:
        ValueError: If the algorithm needs more than that (GraSP).
    """
    check_attachable(follower.algorithm)

    def after(stepped: Optimizer, *_: Any) -> None:
        follower.after_step(stepped)

    follower.mask_optimizer_state(optimizer)
    return [optimizer.register_step_pre_hook(_Before(follower)), optimizer.register_step_post_hook(after)]


@dataclass(frozen=True)
class _Before:
    """What an optimizer calls before its step."""

    follower: Follower

    def __call__(self, stepped: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(value) for value in (*args, *kwargs.values())):
            raise StateError(
                "Expected optimizer.step() after loss.backward(), got a step with a closure, whose gradients the hook "
                "before it cannot see. Call `before_step` at the end of the closure and `after_step` after the step "
                "instead of attaching, or use SparseTrainingCallback in Lightning."
            )
        _unscale(stepped)
        self.follower.before_step(stepped)


def _unscale(optimizer: Any) -> None:
    """Take a fused optimizer's part of the work with a GradScaler: its gradients are scaled here, others' are not.

    Its kernel would also skip a step that overflowed, unseen, so the gradients go: the step changes and counts nothing.
    """
    if getattr(optimizer, "grad_scale", None) is not None:
        for gradient in gradients_of(optimizer):
            gradient.div_(optimizer.grad_scale.to(gradient.device))
        optimizer.grad_scale = None
    found_inf = getattr(optimizer, "found_inf", None)
    if found_inf is not None and bool(found_inf):
        optimizer.zero_grad(set_to_none=True)


def refuse_followed(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse weights that a follower of the optimizer masks already: the masks of both would apply.

    Raises:
        ValueError: Naming the first of them.
    """
    handle = optimizer.register_step_pre_hook(lambda *_: None)  # it knows all hooks
    hooks: Mapping[int, Any] = handle.hooks_dict_ref() or {}
    followed = [hook.follower.parameters.values() for hook in hooks.values() if isinstance(hook, _Before)]
    handle.remove()
    theirs = {id(parameter) for values in followed for parameter in values}
    twice = next((name for name, parameter in parameters.items() if id(parameter) in theirs), None)
    if twice is not None:
        raise SettingError(
            f"Expected each weight in one Sparsifier, but {twice!r} is in one that is attached to this optimizer. Call "
            "`detach` of that one first."
        )


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


_Made = TypeVar("_Made", bound="Attachable")


class Attachable:
    """A Sparsifier whose `before_step` and `after_step` the optimizer itself calls, from `attach` to `detach`."""

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []

    @classmethod
    def attach(
        cls: type[_Made],
        model: nn.Module | Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        algorithm: SparseAlgorithm,
        total_steps: int | None = None,
        **settings: Any,
    ) -> _Made:
        """A Sparsifier that hears of every step from the optimizer itself, so that the loop stays untouched.

        Unlike with the three calls, what comes between ``backward`` and ``optimizer.step`` sees dense gradients: the
        norm by which they are clipped is that of the dense gradient, where layers compute densely. A copy of it
        (deepcopy, pickle) is not attached: attach a new one with ``state=copy.state_dict()``.

        Args:
            model: For `select_parameters`; or the weights by name.
            optimizer: Whose ``step`` is called without a closure; those of Accelerate are unwrapped.
            algorithm: See the class, as for the next one.
            total_steps: Optimizer steps of the whole training.
            **settings: Others of the class.

        Raises:
            ValueError: If the algorithm needs `before_backward` (GraSP), the optimizer is LBFGS or another that
                `refuse_optimizer` names, and as the class.
        """
        parameters = select_parameters(model) if isinstance(model, nn.Module) else model
        check_weights(parameters)
        own = torch_optimizer(optimizer)
        refuse_optimizer(own)
        refuse_followed(own, parameters)  # before anything is masked
        made: Any = cls
        sparsifier = made(parameters, algorithm, total_steps, **settings)
        sparsifier._hooks = follow_steps(own, sparsifier)
        return sparsifier

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_hooks": []}  # an optimizer's copy has no hooks

    def detach(self) -> None:
        """Hear of no more steps of the optimizer; the weights stay as they are."""
        while self._hooks:
            self._hooks.pop().remove()
