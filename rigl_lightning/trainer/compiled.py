"""Whether a module goes through torch.compile, in which nothing may be counted or replaced."""

from __future__ import annotations

from torch import nn


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
