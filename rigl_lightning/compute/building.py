"""Building a network that does not fit into memory as a dense one: layer by layer, each made sparse before the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

from rigl_lightning.base.errors import SettingError
from rigl_lightning.compute.layers import KINDS
from rigl_lightning.compute.sparse_compute import SparseCompute
from rigl_lightning.compute.timed_choice import LARGEST_DENSITY
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.cautions import refuse_other_than_algorithm
from rigl_lightning.sparsity.compact_weights import Beginning, CompactWeight
from rigl_lightning.sparsity.distributions import active_counts
from rigl_lightning.sparsity.files.masks import weight_checksum
from rigl_lightning.sparsity.layouts import shapes_of
from rigl_lightning.sparsity.masks import random_mask
from rigl_lightning.sparsity.names import clean_name
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.randomness import layer_generator
from rigl_lightning.sparsity.selection import random_positions
from rigl_lightning.sparsity.settings import checked_length, checked_seed
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.sparsity.structures import Unstructured


def build_sparse(
    module: nn.Module, algorithm: SparseAlgorithm, total_steps: int | None = None, seed: int = 0, **selection: Any
) -> SparseCompute:
    """Give a module on the meta device its weights, of which only the active ones are ever kept.

    Each layer draws its weights by its own ``reset_parameters``, in the order of the network, and is made compact
    before the next one draws: apart from the connections there is one dense weight at a time. The masks are those that
    a `Sparsifier` of the whole network would begin with.

    Args:
        module: Made within ``torch.device("meta")``; its layers have to be of kinds that compute sparsely.
        algorithm: One that begins with random masks, such as RigL, SET or Static.
        total_steps: See `Sparsifier`.
        seed: The same.
        **selection: ``include``, ``exclude`` and ``depthwise`` of `select_parameters`.

    Returns:
        Installed, with its ``sparsifier``; make the optimizer of the module's parameters next. `SparseCompute.remove`
        makes all weights dense.

    Raises:
        ValueError: If the algorithm begins otherwise, or a layer cannot draw its weights.

    >>> import torch
    >>> from rigl_lightning.sparsity.algorithms import RigL
    >>> with torch.device("meta"):
    ...     model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20))
    >>> compute = build_sparse(model, RigL(sparsity=0.9), total_steps=100)
    >>> [tuple(parameter.shape) for parameter in model.parameters()], tuple(model(torch.randn(8, 40)).shape)
    ([(105,), (30,), (75,), (20,)], (8, 20))
    """
    refuse_other_than_algorithm(algorithm)
    total_steps = checked_length(total_steps)
    seed = checked_seed(seed)
    selected = select_parameters(module, **selection)
    resolved = algorithm.resolve(total_steps)
    _check(resolved)
    shapes = shapes_of(selected)
    counts = active_counts(shapes, resolved.layer_sparsities(shapes, 0))
    names = {id(parameter): name for name, parameter in selected.items()}
    homes = Counter(id(p) for child in module.modules() for p in child._parameters.values())
    beginning = Beginning({}, {}, {})
    parameters: dict[str, nn.Parameter] = {}
    for child, before, parameter in _drawn(module):
        name = names.get(id(before))
        if name is None:
            continue
        parameters[name] = parameter
        beginning.checksums[name] = weight_checksum(parameter)
        generator = layer_generator(seed, name, "initial")
        is_few = counts[name] <= LARGEST_DENSITY * parameter.numel()
        if is_few and parameter.ndim > 1 and homes[id(before)] == 1 and _can_be_compact(child):
            positions = random_positions(parameter.numel(), counts[name], generator)
            beginning.compact[name] = CompactWeight(parameter, positions)
        else:
            beginning.masks[name] = random_mask(parameter.shape, counts[name], generator)
    ordered = {name: parameters[name] for name in selected}
    sparsifier = Sparsifier(ordered, algorithm, total_steps, seed, beginning=beginning)
    compute = SparseCompute(module, sparsifier, "sparse", storage="connections")
    compute.install()
    return compute


def _check(algorithm: SparseAlgorithm) -> None:
    is_plain = type(algorithm.structure) is Unstructured and not algorithm.hides_inactive_weights
    if not (algorithm.begins_at_random and is_plain):
        raise SettingError(
            f"Expected an algorithm that begins with random masks, such as RigL or Static without a structure, got "
            f"{type(algorithm).__name__}: it looks at the dense weights. Make the network on the CPU instead."
        )


def _drawn(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter, nn.Parameter]]:
    """Draw the tensors of a module layer by layer: of each parameter its module, what it was, and what it is now.

    A parameter of several modules is drawn by the first of them, and stays one.
    """
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # as long as those before live, no other has their ids
    for path, child in module.named_modules():
        own = {attribute: p for attribute, p in child._parameters.items() if p is not None}
        _draw(path, child)
        for attribute, before in own.items():
            if id(before) in made:
                setattr(child, attribute, made[id(before)][1])
            else:
                made[id(before)] = before, getattr(child, attribute)
                yield child, *made[id(before)]


def _draw(path: str, module: nn.Module) -> None:
    """Give a module's own tensors memory and first values, if they are on the meta device."""
    own = [*module._parameters.values(), *module._buffers.values()]
    if not any(tensor is not None and tensor.is_meta for tensor in own):
        return
    reset = getattr(module, "reset_parameters", None)
    if not callable(reset):
        raise SettingError(
            f"Expected a `reset_parameters` of {clean_name(path)!r} ({type(module).__name__}) that draws its first "
            "weights, found none. Add one, or make this module on the CPU."
        )
    module.to_empty(device="cpu", recurse=False)
    reset()


def _can_be_compact(module: nn.Module) -> bool:
    return any(isinstance(module, kind.base) and not kind.refusal(module) for kind in KINDS)
