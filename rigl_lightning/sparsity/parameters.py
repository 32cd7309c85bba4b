"""Parameter selection: which tensors of a model are sparse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.layouts import MARK
from rigl_lightning.sparsity.names import clean_name, matching_names, module_of

# Convolutions that centre their weights at each forward pass (timm, Big Transfer): what is zero does not stay zero.
_STANDARDISED = {"StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame", "WeightStandardizedConv2d"}
_MATRIX_MODULES = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def select_parameters(
    module: nn.Module,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    depthwise: bool = False,
) -> dict[str, nn.Parameter]:
    """Trainable weights to make sparse, by name, in the order of the network.

    Without ``include`` these are the weights of Linear (and transformers' ``Conv1D``), convolutions, RNN, GRU, LSTM and
    MultiheadAttention. Those of ``Conv1D`` and transposed convolutions are marked as stored inputs first. Biases, norms
    and embeddings stay dense, and so does a tensor that is tied to an embedding. Depthwise convolutions stay dense by
    default, as in the paper (section 4.1.2).
    A tied tensor is one parameter. Frozen weights are not selected.

    Args:
        module: Any module. Names of compiled submodules lose their ``_orig_mod.`` prefix.
        include: Patterns of parameter or module names, see `matching_names`; then only these, and among all
            tensors of rank 2 and above, so an embedding or a depthwise convolution can be named too. Vectors need a
            pattern of their own: ``"*.bias"`` for biases, or a full name such as ``"norm.weight"``; ``"fc*"`` leaves
            them dense.
        exclude: Patterns of names to leave dense.
        depthwise: Make depthwise convolutions sparse too.

    Raises:
        ValueError: If a pattern matches nothing, nothing is left to select, or a selected layer is lazy, complex,
            an embedding with sparse gradients, or computes its weight (weight norm, spectral norm, standardisation).

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10))
    >>> list(select_parameters(model))
    ['0.weight', '3.weight']
    >>> list(select_parameters(model, exclude=["3"]))
    ['0.weight']
    """
    chosen = _chosen_parameters(module, include, exclude, depthwise)
    selected = {name: parameter for name, parameter in chosen.items() if parameter.requires_grad}
    _check_numbers(module, selected)
    if not selected:
        candidates = [name for name, p in module.named_parameters() if p.requires_grad and _is_matrix(p)]
        known = f"`include` could name {', '.join(candidates[:8])}" if candidates else "there is no trainable matrix"
        raise SettingError(
            "Expected at least one weight to make sparse, got none: no trainable Linear, convolution, recurrent or "
            f"attention weight is left; {known}{', ...' if len(candidates) > 8 else ''}. Set `include` or shorten "
            "`exclude`."
        )
    _mark_inputs_first(module)
    return selected


def frozen_parameters(
    module: nn.Module,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    depthwise: bool = False,
) -> dict[str, nn.Parameter]:
    """Weights that `select_parameters` would have selected too if they were not frozen, by name.

    >>> model = nn.Sequential(nn.Linear(4, 8).requires_grad_(False), nn.Linear(8, 10))
    >>> list(frozen_parameters(model))
    ['0.weight']
    """
    chosen = _chosen_parameters(module, include, exclude, depthwise)
    return {name: parameter for name, parameter in chosen.items() if not parameter.requires_grad}


def check_patterns(include: Any, exclude: Any) -> None:
    """Refuse what is no list of patterns.

    Raises:
        ValueError: With both settings; ``include`` may be None.
    """
    for patterns in (exclude, () if include is None else include):
        if isinstance(patterns, str) or not _are_names(patterns):
            raise SettingError(
                f"Expected lists of patterns, got include={include!r} and exclude={exclude!r}. Use brackets."
            )


def _are_names(patterns: Any) -> bool:
    return isinstance(patterns, Iterable) and all(isinstance(pattern, str) for pattern in patterns)


def _chosen_parameters(
    module: nn.Module, include: Sequence[str] | None, exclude: Sequence[str], depthwise: bool
) -> dict[str, nn.Parameter]:
    check_patterns(include, exclude)
    if not isinstance(module, nn.Module):
        raise SettingError(f"Expected a module whose weights become sparse, got {module!r}. Pass the model.")
    named = {clean_name(name): parameter for name, parameter in module.named_parameters()}
    computed = _computed_weights(module, of_matrices=include is None)
    known = [*(name for name, parameter in named.items() if _is_matrix(parameter)), *computed]
    if include is None:
        chosen = {*_default_names(module, named, depthwise), *computed}
    else:
        vectors = [name for name, parameter in named.items() if parameter.ndim == 1 and name not in computed]
        known += [name for name in vectors if any(_means_vector(pattern, name) for pattern in include)]
        chosen = {name for pattern in include for name in matching_names(pattern, known, "include")}
    for pattern in exclude:
        chosen.difference_update(matching_names(pattern, known, "exclude"))
    _check_plain(chosen, computed, named)
    return {name: named[name] for name in named if name in chosen}


def _means_vector(pattern: str, name: str) -> bool:
    """Whether a pattern means a vector: patterns of layers, or of all weights, would else take norms and biases too."""
    return name == pattern or ("bias" in pattern.rpartition(".")[2] and fnmatchcase(name, pattern))


def _default_names(module: nn.Module, named: dict[str, nn.Parameter], depthwise: bool) -> Iterator[str]:
    matrix_ids = {id(weight) for child in module.modules() for weight in _weights(child, depthwise)}
    embeddings = {id(c.weight) for c in module.modules() if isinstance(c, nn.Embedding | nn.EmbeddingBag)}
    return (name for name, parameter in named.items() if id(parameter) in matrix_ids - embeddings)


def _weights(module: nn.Module, depthwise: bool) -> Iterator[nn.Parameter]:
    if not _has_matrices(module) or (_is_depthwise(module) and not depthwise):
        return
    for name, parameter in module.named_parameters(recurse=False):
        if "weight" in name and _is_matrix(parameter):
            yield parameter


def _has_matrices(module: nn.Module) -> bool:
    return isinstance(module, _MATRIX_MODULES) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' ``Conv1D``: a linear layer with a weight of shape (in, out)."""
    weight, outputs = getattr(module, "weight", None), getattr(module, "nf", None)
    named = "Conv1D" in {kind.__name__ for kind in type(module).__mro__}
    return named and isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] == outputs


def _mark_inputs_first(module: nn.Module) -> None:
    for child in module.modules():
        # With groups the first dimension has the inputs of all of them, and the second the outputs of one.
        is_transposed = isinstance(child, nn.modules.conv._ConvNd) and child.transposed and child.groups == 1
        if is_transposed or _is_conv1d(child):
            setattr(child.weight, MARK, True)


def _is_matrix(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, UninitializedParameter) or (parameter.ndim >= 2 and parameter.numel() > 0)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups == module.in_channels


def _computed_weights(module: nn.Module, of_matrices: bool) -> list[str]:
    """Weights that each forward pass computes from others (parametrize, weight norm, torch's prune, StdConv2d).

    Args:
        module: The network.
        of_matrices: Those of the layers that are sparse by default, else of all.
    """
    return [
        f"{clean_name(layer)}.{name}".lstrip(".")
        for layer, child in module.named_modules()
        if _has_matrices(child) or not of_matrices
        for name in _computed_tensors(child)
    ]


def _computed_tensors(module: nn.Module) -> list[str]:
    if _STANDARDISED & {kind.__name__ for kind in type(module).__mro__}:
        return ["weight"]
    # Weight norm and torch's prune keep what they compute as a plain attribute; own modules may have other ones.
    own, is_known = {*module._parameters}, _has_matrices(module)
    attributes = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
    plain = [name for name in attributes if (is_known and "weight" in name) or _originals(name) & own]
    parametrized = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    return [*plain, *parametrized]


def _originals(name: str) -> set[str]:
    """What weight norm and torch's prune make of a parameter."""
    return {f"{name}_g", f"{name}_v", f"{name}_orig"}


def _makes(original: str, computed: str) -> bool:
    """Whether a parameter is one of those that a weight is computed from, by their names."""
    layer, _, tensor = computed.rpartition(".")
    inner = original.removeprefix(f"{layer}." if layer else "")
    return inner.startswith(f"parametrizations.{tensor}.") or inner in _originals(tensor)


def _check_plain(chosen: set[str], computed: Sequence[str], named: dict[str, nn.Parameter]) -> None:
    layers = {module_of(name) or name for name in computed if name in chosen or any(_makes(n, name) for n in chosen)}
    if layers:
        raise SettingError(
            f"Expected plain weights, but those of {sorted(layers)} are computed from other tensors (weight norm, "
            "spectral norm, weight standardisation, torch.nn.utils.prune or the like), so that masking would not make "
            "them sparse. Add these layers to `exclude`, or remove the parametrization."
        )
    lazy = sorted(name for name in chosen if isinstance(named[name], UninitializedParameter))
    if lazy:
        raise SettingError(f"Expected materialised weights, got lazy {lazy}. Run one forward pass of the model before.")


def _check_numbers(module: nn.Module, selected: Mapping[str, nn.Parameter]) -> None:
    unreal = sorted(name for name, parameter in selected.items() if not parameter.is_floating_point())
    if unreal:
        raise SettingError(
            f"Expected weights of real numbers, got {selected[unreal[0]].dtype} in {unreal}: scores are defined for "
            "real ones. Add these layers to `exclude`."
        )
    tables = {id(c.weight) for c in module.modules() if isinstance(c, nn.Embedding | nn.EmbeddingBag) and c.sparse}
    sparse = sorted(name for name, parameter in selected.items() if id(parameter) in tables)
    if sparse:
        raise SettingError(
            f"Expected dense gradients, but the embeddings {sparse} are made with sparse=True: their gradient has no "
            "entries to grow by. Set sparse=False, or take them out of `include`."
        )


def check_weights(parameters: Any) -> None:
    """Refuse what cannot be the sparse weights of a `Sparsifier`.

    Args:
        parameters: Should be whole tensors by name, each under one name.

    Raises:
        ValueError: Naming what came and what to do.
    """
    use = "Use Sparsifier(select_parameters(model), ...)"
    if not isinstance(parameters, Mapping):
        raise SettingError(f"Expected the sparse weights by name, got a {type(parameters).__name__}. {use}.")
    if not parameters:
        raise SettingError(f"Expected at least one weight to make sparse, got none. {use}.")
    names: dict[Any, str] = {}
    for name, parameter in parameters.items():
        if not isinstance(parameter, Tensor):
            raise SettingError(f"Expected the weights of layer {name!r}, got a {type(parameter).__name__}. {use}.")
        _refuse_shard(name, parameter)
        place = (parameter.device, parameter.data_ptr()) if parameter.data_ptr() else id(parameter)
        if place in names:
            raise SettingError(
                f"Expected each tensor under one name, got {names[place]!r} and {name!r} for the same one (tied "
                "weights): two masks would contradict each other. Leave one of them out, as select_parameters does."
            )
        names[place] = name


def _refuse_shard(name: str, parameter: Tensor) -> None:
    if parameter.is_meta:
        raise SettingError(
            f"Expected weights with values, got {name!r} on the meta device. Call `build_sparse` with the model, or "
            "`to_empty` and an initialisation, before."
        )
    # By name: importing these classes takes torch.distributed, which not every build has.
    kinds = {kind.__name__ for kind in type(parameter).__mro__} & {"DTensor", "FlatParameter", "ShardedTensor"}
    if kinds or parameter.numel() == 0:
        what = kinds.pop() if kinds else "tensor without elements"
        raise SettingError(
            f"Expected whole weights on each process, got a {what} in {name!r}: connections are ranked over a "
            "whole layer. Use DistributedDataParallel instead of FSDP, ZeRO or tensor parallelism."
        )
