"""Trainer access: what the callback has to know of a Trainer, and what it refuses to work with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core import rank_zero
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.utils._pytree import tree_leaves

from rigl_lightning.sparsity.costs.flops import trace_flops
from rigl_lightning.sparsity.optimizer_state import with_wrapped
from rigl_lightning.sparsity.sparsifier import Sparsifier

_REFUSED_STRATEGIES = {"FSDPStrategy", "XLAFSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}
_REFUSED_OPTIMIZERS = {
    "ZeroRedundancyOptimizer": "keeps the state of each weight on one process only",
    "PostLocalSGDOptimizer": "lets the weights of the processes differ between two averages",
    "DistributedOptimizer": "keeps weights on other processes",
}


def callback_flavours() -> tuple[type, ...]:
    """Callback classes of every installed flavour of Lightning, so that any Trainer takes ours."""
    other = load_other_flavour()
    return (pl.Callback,) if other is None else (pl.Callback, other.Callback)


def load_other_flavour() -> Any:
    """The module ``lightning.pytorch``, or None if it is not installed."""
    if importlib.util.find_spec("lightning") is None:
        return None
    log = rank_zero.log
    import lightning.pytorch  # type: ignore[import-not-found,unused-ignore]

    rank_zero.log = log  # the second flavour takes over the messages of the first; give them back
    return lightning.pytorch


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """All callbacks of a Trainer; Lightning sets the attribute where type checkers do not see it."""
    return trainer.callbacks  # type: ignore[attr-defined]


def callbacks_named(trainer: pl.Trainer, *names: str) -> list[Any]:
    """The callbacks of these classes and of subclasses; by name, since each flavour of Lightning has its own."""
    return [c for c in callbacks_of(trainer) if {kind.__name__ for kind in type(c).__mro__} & {*names}]


def refuse_unsupported_strategy(trainer: pl.Trainer) -> None:
    """Refuse strategies that split parameters over devices, or let gradients differ between processes.

    Raises:
        ValueError: Naming the strategy and what to set instead.
    """
    strategy = type(trainer.strategy)
    if _REFUSED_STRATEGIES & {kind.__name__ for kind in strategy.__mro__}:
        raise ValueError(
            f"Expected a strategy that keeps whole parameters on each device (auto, ddp), got {strategy.__name__}, "
            "which shards them. Set --trainer.strategy ddp."
        )
    hook = getattr(getattr(trainer.strategy, "_ddp_comm_hook", None), "__name__", "")
    if "localSGD" in hook:
        raise ValueError(
            f"Expected gradients that are equal on all processes, got the communication hook {hook}, with which they "
            "differ, so that masks would too. Leave out `ddp_comm_hook`."
        )
    if "powerSGD" in hook.removeprefix("batched_"):
        rank_zero_warn(
            f"The communication hook {hook} keeps gradients of low rank only: connections are grown by what is left "
            "of them. Leave out `ddp_comm_hook` for algorithms that grow by gradient."
        )


def refuse_other_pruning(trainer: pl.Trainer) -> None:
    """Refuse Lightning's own pruning: it would put masks of its own over ours, and the network would be sparser.

    Raises:
        ValueError: If there is a ModelPruning callback.
    """
    if callbacks_named(trainer, "ModelPruning"):
        raise ValueError(
            "Expected one callback that makes the network sparse, got Lightning's ModelPruning beside "
            "SparseTrainingCallback. Remove one; GradualMagnitudePruning and OneShotMagnitude prune during training."
        )


def optimizer_of(trainer: pl.Trainer, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """The optimizer that updates all sparse parameters.

    Its step hooks work from its first step on.

    Raises:
        ValueError: If there is none, more than one, or one that masks cannot work with, see `_refuse_optimizer`.
    """
    optimizers = trainer.strategy.optimizers
    owned = [{id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in optimizers]
    homes = {name: next((i for i, ids in enumerate(owned) if id(p) in ids), None) for name, p in parameters.items()}
    homeless = [name for name, home in homes.items() if home is None]
    if homeless:
        raise ValueError(
            f"Expected every sparse weight in an optimizer, but no optimizer updates {homeless[0]!r} "
            f"({len(homeless)} such weights). Add it to configure_optimizers, or to --sparse.exclude."
        )
    indices = {home for home in homes.values() if home is not None}
    if len(indices) != 1:
        raise ValueError(
            f"Expected one optimizer for all sparse weights, got {len(indices)}. Use one SparseTrainingCallback for "
            "each optimizer, with a `name` and the `include` patterns of its weights."
        )
    optimizer = optimizers[indices.pop()]
    for single in with_wrapped(optimizer):
        _refuse_optimizer(single)
    _ensure_step_hooks(optimizer)
    return optimizer


def _refuse_optimizer(optimizer: Optimizer) -> None:
    """Refuse LBFGS, SparseAdam, and optimizers whose state has 8 or 4 bits or is shared out among processes.

    Raises:
        ValueError: Naming what to use instead.
    """
    names = [kind.__name__ for kind in type(optimizer).__mro__]
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", 32)  # bitsandbytes
    if isinstance(optimizer, LBFGS):
        raise ValueError("Expected a first-order optimizer, got LBFGS: it keeps directions that no mask can follow.")
    if isinstance(optimizer, SparseAdam):
        raise ValueError(
            "Expected an optimizer for dense gradients, got SparseAdam, which is for nn.Embedding(sparse=True). Use "
            "Adam for the sparse weights, and SparseAdam as a second optimizer."
        )
    for name in names:
        if name in _REFUSED_OPTIMIZERS:
            raise ValueError(
                f"Expected an optimizer with the state of all weights on each process, got {name}, which "
                f"{_REFUSED_OPTIMIZERS[name]}. Use a plain optimizer of torch.optim."
            )
    if bits < 16 or any(name.endswith(("8bit", "4bit")) for name in names):
        raise ValueError(
            f"Expected an optimizer with floating-point state, got {names[0]}, whose codes of 8 or fewer bits cannot "
            "be set to zero for single connections. Use its 32-bit form."
        )


def _ensure_step_hooks(optimizer: Optimizer) -> None:
    # Wrappers that do not call Optimizer.__init__ (timm's Lookahead) get their hooks at their first zero_grad, which
    # in Lightning is inside their first step: that step would pass unseen.
    if not getattr(type(optimizer).step, "hooked", False):
        optimizer._patch_step_function()


def total_steps(trainer: pl.Trainer) -> int | None:
    """Optimizer steps of the whole training, or None if nobody knows.

    Lightning's estimate counts the steps of all optimizers together, and today's accumulation for the whole training.
    """
    schedulers = callbacks_named(trainer, "GradientAccumulationScheduler")
    if len(trainer.strategy.optimizers) > 1 or any(len(s.scheduling) > 1 for s in schedulers):
        return None
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < float("inf") else None


def unscaled_loss(trainer: pl.Trainer, loss: torch.Tensor) -> torch.Tensor:
    """The loss without the factor of a GradScaler, if there is one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return loss if scaler is None else loss / scaler.get_scale()


def fused_step_overflowed(trainer: pl.Trainer, optimizer: Optimizer) -> bool:
    """Unscale the gradients of a fused optimizer under a GradScaler, and skip its step if they overflowed.

    Lightning leaves the gradients of fused optimizers scaled. A fused optimizer skips an overflowed step inside its
    kernel, where nobody can see it, and keeps uninitialised momenta if it was the first. So look before it does.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    scaler.unscale_(optimizer)
    found = scaler._found_inf_per_device(optimizer).values()
    if not any(value.item() for value in found):
        return False
    optimizer.zero_grad(set_to_none=True)
    return True


def let_value_clipping_find_nothing(trainer: pl.Trainer) -> Callable[[], None]:
    """Clipping by value passes over a step without any gradient, as clipping by norm does; torch stops there.

    Such are the steps of mask updates, and those of batches without a loss.

    Returns:
        What undoes it.
    """
    plugin: Any = trainer.precision_plugin
    clip = plugin.clip_grad_by_value

    def clip_grad_by_value(optimizer: Optimizer, clip_val: float) -> None:
        if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            clip(optimizer, clip_val)

    plugin.clip_grad_by_value = clip_grad_by_value
    return lambda: vars(plugin).pop("clip_grad_by_value", None)


def is_compiled(pl_module: nn.Module) -> bool:
    """Whether any part of the module goes through torch.compile: a submodule, or a function that one holds.

    Others, such as a compiled function of a Python module, are not seen; FLOP counting then costs one recompilation,
    unless there is an ``example_input_array`` to count them on.
    """
    return getattr(pl_module, "_compiler_ctx", None) is not None or any(map(_is_compiled_itself, pl_module.modules()))


def _is_compiled_itself(module: nn.Module) -> bool:
    own = vars(module)
    return (
        own.get("_compiled_call_impl") is not None
        or hasattr(module, "_orig_mod")
        or any(hasattr(value, "_torchdynamo_orig_callable") for value in own.values() if callable(value))
    )


def mask_averages(trainer: pl.Trainer, sparsifier: Sparsifier) -> None:
    """Mask the averaged weights of Lightning's weight averaging (EMA) and SWA callbacks.

    They copy the weights before there are masks and average over masks that change, so that without this the network
    that is validated and saved is denser than the one that is trained.
    """
    for callback in callbacks_of(trainer):
        average = getattr(callback, "_average_model", None)
        if isinstance(average, nn.Module):
            sparsifier.apply_masks_to(getattr(average, "module", average))


def compare_ranks(trainer: pl.Trainer, sparsifier: Sparsifier) -> None:
    """Stop if the masks of any two processes differ; nothing else would notice.

    Raises:
        RuntimeError: Naming the first layer that differs.
    """
    if trainer.world_size == 1:
        return
    checksums = sparsifier.checksums()
    mine = torch.tensor(list(checksums.values()), device=trainer.strategy.root_device)
    everyone = [torch.empty_like(mine) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(everyone, mine)
    different = torch.stack([theirs != mine for theirs in everyone]).any(dim=0)
    if different.any():
        layer = list(checksums)[int(different.nonzero()[0])]
        raise RuntimeError(
            f"The masks of layer {layer!r} differ between processes after the update at step {sparsifier.step}. "
            "Scores must be the same on every process: use no random numbers but `connections.generator`, and no "
            "communication hook that leaves gradients different between ranks."
        )


def example_flops(pl_module: pl.LightningModule) -> dict[str, float]:
    """Forward FLOPs of every weight per sample, counted on ``example_input_array``; empty if that is not possible."""
    example = pl_module.example_input_array
    if example is None:
        return {}
    # As Lightning passes it on: a dict by name, a tuple or list by position.
    kwargs = example if isinstance(example, dict) else {}
    args = () if kwargs else tuple(example) if isinstance(example, tuple | list) else (example,)
    try:
        flops = trace_flops(pl_module, *args, **kwargs)
    except Exception as error:  # any user's forward; training itself does not depend on it
        rank_zero_warn(
            f"FLOPs cannot be counted on example_input_array ({error}); they are counted on the first batch."
        )
        return {}
    batched = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.ndim > 0]
    return {name: count / len(batched[0]) for name, count in flops.items()} if batched else {}
