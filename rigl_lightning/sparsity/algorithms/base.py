"""What a sparse training algorithm is: settings, and four questions answered by pure functions.

How many connections each layer has (`layer_sparsities`), when to change them (`is_update`), which come next
(`update_masks`), and what value a grown one gets (`grow_init`). It holds no state; `Sparsifier` does. A few methods ask
for more: a look at the first weights, a memory, weights that learn while inactive, a penalty, a step of their own.
"""

# No postponed annotations here and in the other algorithms: the command line reads the types of settings, also those
# of a user's subclass, whose module does not know our names.

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from rigl_lightning.sparsity.distributions import Shapes, active_counts
from rigl_lightning.sparsity.schedules import UpdateSchedule, stretched_point
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.structures import Structure, Unstructured

Masks = dict[str, Tensor]
GeneratorOf = Callable[[str], torch.Generator]
Memory = dict[str, Any]
"""Plain numbers and tensors that an algorithm keeps from one update to the next; the Sparsifier holds and saves it."""


class SparseAlgorithm(ABC):
    """Base of all algorithms. A subclass is a frozen dataclass of settings; what it does not override never happens.

    Attributes:
        replaces_step: The mask update is made instead of the gradient step (RigL, SNIP: paper, Algorithm 1), or
            after it (SET, SNFS, pruning), as in the reference (sparse_optimizers_base.py:118-146, 487-521).
        grad_average_decay: beta of the exponential average of dense gradients to keep, or None for none.
        hides_inactive_weights: Inactive weights keep their values and may learn; the network computes without them.
            Scores then see all weights.
        structure: Which connections of a layer go together.
        points: Settings that are points in the training, steps as int and fractions as float, beside its schedules.
    """

    replaces_step = False
    grad_average_decay: float | None = None
    hides_inactive_weights = False
    structure: Structure = Unstructured()
    points: ClassVar[tuple[str, ...]] = ()

    def resolve(self, total_steps: int | None) -> "SparseAlgorithm":
        """The same algorithm for a training of ``total_steps`` optimizer steps."""
        return self

    def stretched(self, factor: float) -> "SparseAlgorithm":
        """The same algorithm for a training ``factor`` times as long: what is set in steps moves along, see `points`.

        Intervals and drop fractions stay, as in the paper (section 4).
        """
        if not is_dataclass(self):
            return self
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        changes: dict[str, Any] = {
            name: value.stretched(factor)
            for name, value in settings.items()
            if isinstance(value, UpdateSchedule | SparseAlgorithm)
        }
        changes |= {name: stretched_point(settings[name], factor) for name in self.points}
        return replace(self, **changes) if changes else self

    @abstractmethod
    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Sparsity of each layer while the gradients of ``step`` are computed.

        Args:
            shapes: Shape of each sparse layer by name, in the order of the network.
            step: Optimizer steps completed; any number past the end of training gives the final sparsities.
        """

    def plans_layers(self) -> bool:
        """Whether `layer_sparsities` holds for each layer, not only for their total (DSR, a ranking of all layers)."""
        return True

    def final_sparsities(self, shapes: Shapes) -> dict[str, float]:
        """Sparsity of each layer after the last update. The algorithm must be resolved."""
        return self.layer_sparsities(shapes, max(self.update_steps(), default=0) + 1)

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Masks at step 0: random ones with exact counts.

        Args:
            shapes: Shape of each sparse layer by name, in the order of the network.
            generator: Layer name -> CPU generator.
        """
        counts = active_counts(shapes, self.layer_sparsities(shapes, 0))
        return {
            name: self.structure.random_mask(shape, counts[name], generator(name)) for name, shape in shapes.items()
        }

    def initial_memory(self, shapes: Shapes, generator: GeneratorOf) -> Memory:
        """What the algorithm remembers at step 0; arguments as in `initial_masks`. It may be changed in place."""
        return {}

    def begin(self, layers: Mapping[str, Connections], memory: Memory) -> Masks:
        """Masks at step 0 where they depend on the weights; called once, and not when a run is resumed.

        Args:
            layers: Each sparse layer with its weights before any is masked, and with the `initial_masks`.
            memory: As `initial_memory` made it. It may be changed in place.
        """
        return {name: layer.mask for name, layer in layers.items()}

    def is_update(self, step: int) -> bool:
        """Whether masks are updated at ``step``."""
        return False

    def drop_fraction_at(self, step: int) -> float:
        """Fraction of the active connections that an update at ``step`` drops."""
        return 0.0

    def needs_dense_gradient(self, step: int) -> bool:
        """Whether the gradient of inactive connections is read at ``step``. It decides what the step costs."""
        return self.grad_average_decay is not None

    def needs_hessian_gradient(self, step: int) -> bool:
        """Whether the product of the loss's Hessian and gradient is read at ``step``."""
        return False

    def weight_gradient_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Sparsity of the gradient of each layer's weights at ``step``. It decides what the step costs."""
        return dict.fromkeys(shapes, 0.0) if self.needs_dense_gradient(step) else self.layer_sparsities(shapes, step)

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """New masks of all layers. A layer that had no gradient, because the batch did not use it, has None there.

        Args:
            layers: What may be seen of each sparse layer, by name.
            step: Optimizer steps completed.
            memory: See `initial_memory`.

        Raises:
            NotImplementedError: If the algorithm never updates.
        """
        raise NotImplementedError(f"{type(self).__name__} has no mask updates.")

    def learning_masks(self, layers: Mapping[str, Connections]) -> Masks | None:
        """If inactive weights are hidden: those that learn, active ones included; None for all.

        Asked at the beginning and after each update.

        Args:
            layers: As in `update_masks`, with the new masks.
        """
        return None

    def penalty_gradient(self, layer: Connections) -> Tensor | None:
        """What a regulariser adds to the gradient of the layer's weights before the optimizer's step, or None.

        Weights that do not learn (see `learning_masks`) get nothing, whatever it says of them.
        """
        return None

    def adjust_weights(
        self, layers: Mapping[str, Connections], step: int, learning_rates: Mapping[str, float], memory: Memory
    ) -> dict[str, Tensor]:
        """New weights of layers that the algorithm moves itself, right after the gradient step and before an update.

        Args:
            layers: As in `update_masks`.
            step: As there.
            learning_rates: Of each layer, as the optimizer has it now.
            memory: As there.
        """
        return {}

    def grow_init(self, layer: Connections) -> Tensor | None:
        """Values of the layer's newly grown connections as a tensor of the weight's shape; None for zero."""
        return None

    def update_steps(self) -> Sequence[int]:
        """All steps at which masks are updated, in order."""
        return ()

    def cost_changes(self) -> Sequence[int]:
        """Steps from which on a step may cost another amount than the step before, beside step 0."""
        return sorted({change for step in self.update_steps() for change in (step, step + 1)})


def describe(value: Any) -> str:
    """An algorithm in words: its class and the settings that differ from their defaults.

    >>> from rigl_lightning import RigL, UpdateSchedule
    >>> describe(RigL(sparsity=0.8, schedule=UpdateSchedule(interval=50)))
    'RigL(sparsity=0.8, schedule=UpdateSchedule(interval=50))'
    """
    if is_dataclass(value):
        settings = ", ".join(
            f"{f.name}={describe(getattr(value, f.name))}" for f in fields(value) if not _is_default(value, f)
        )
        return f"{type(value).__name__}({settings})"
    if isinstance(value, partial):
        arguments = [*map(describe, value.args), *(f"{k}={describe(v)}" for k, v in value.keywords.items())]
        return f"partial({', '.join([describe(value.func), *arguments])})"
    has_repr = type(value).__repr__ is not object.__repr__  # type: ignore[comparison-overlap]
    if not has_repr:  # it would show a memory address, another one in every process
        return type(value).__qualname__
    return getattr(value, "__qualname__", None) or repr(value)


def _is_default(value: Any, setting: Any) -> bool:
    if setting.default is not MISSING:
        default = setting.default
    elif setting.default_factory is not MISSING:
        default = setting.default_factory()
    else:
        return False
    return bool(getattr(value, setting.name) == default)
