"""What a sparse training algorithm is: settings, and four questions answered by pure functions.

How many connections each layer has (`layer_sparsities`), when to change them (its `schedule`), which come next
(`update_masks`), and what value a grown one gets (`grow_init`). It holds no state; `Sparsifier` does. A few methods ask
for more: a look at the initial weights, a memory, weights that learn while inactive, a penalty, a step of their own.
"""

# No postponed annotations here and in the other algorithms: the command line reads the types of settings, also those
# of a user's subclass, whose module does not know our names.

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from rigl_lightning.sparsity.claims import Claiming
from rigl_lightning.sparsity.distributions import Distribution, Shapes, active_counts
from rigl_lightning.sparsity.points import stretched_point
from rigl_lightning.sparsity.ramps import SparsityRamp, check_sparsity_setting
from rigl_lightning.sparsity.schedules import Decay, UpdateSchedule, constant
from rigl_lightning.sparsity.scores import Connections, needs_gradient
from rigl_lightning.sparsity.settings import check_settings
from rigl_lightning.sparsity.structures import Structure, Unstructured, structured_random_mask

Masks = dict[str, Tensor]
GeneratorOf = Callable[[str], torch.Generator]
"""Layer name -> CPU generator of random numbers."""
Memory = dict[str, Any]
"""Plain numbers and tensors that an algorithm keeps from one update to the next; the Sparsifier holds and saves it."""
LearningRates = Mapping[str, float]
"""Of each layer, as the optimizer has it now."""


class SparseAlgorithm(Claiming, ABC):
    """Base of all algorithms. A subclass is a frozen dataclass of settings; what it does not override never happens.

    Attributes:
        structure: Which connections of a layer must be active together, or in which number.
        takes_ramp: Whether the sparsity may be a ramp.
        schedule: When masks are updated; None for never, but see `further_updates`.
        drop_fraction: Fraction of the active connections that the first update drops.
        decay: Factor on it over the schedule's window.
        global_ranking: Connections of all layers are ranked together, so that a layer's share is not known before.
        replaces_step: The mask update is made instead of the gradient step (RigL, SNIP: paper, Algorithm 1), or
            after it (SET, SNFS, pruning), as in the reference (sparse_optimizers_base.py:118-146, 487-521).
        grad_average_decay: beta of the exponential average of dense gradients to keep, or None for none.
        hides_inactive_weights: Inactive weights keep their values and may learn; the network computes without them.
            Scores then see all weights, and the first masks are those of an update at step 0.
        forgets_inactive_weights: With them hidden: at an update those that are inactive then become zero.
        begins_at_random: The first masks are random, and there is no memory.
        updates_layers_alone: `update_masks` makes of each layer by itself what it makes of all together.
        updates_by_schedule: There are no `further_updates`. ``all_weights_learn``: if inactive ones are hidden.
        costs_alike: A step costs the same with and without an update, as far as is known in advance.
        ranked_by: Settings that are scores.
        points: Settings other than schedules that are points in the training, steps as int and fractions as float.
        grow_init: None, or a method ``layer -> tensor or None``: values of newly grown connections, of the weight's
            shape; else zero.
        penalty_gradient: None, or a method ``layer -> tensor or None``: what a regulariser adds to the gradient of
            the layer's weights before the optimizer's step. Weights that do not learn (see `learning_masks`) get
            nothing, whatever it says of them.
        adjust_weights: None, or a method ``(layers, step, learning_rates, memory) -> weights by name``: new weights of
            layers that the algorithm moves itself, right after the gradient step and before an update.
        restarts_optimizer: None, or a method ``step -> bool``: whether its whole state is reset at an update.
    """

    sparsity: float | SparsityRamp
    distribution: Distribution
    takes_ramp: ClassVar[bool] = False
    structure: Structure = Unstructured()
    schedule: UpdateSchedule | None = None
    drop_fraction: float = 0.0
    decay: Decay = staticmethod(constant)
    global_ranking: bool = False
    replaces_step = False
    grad_average_decay: float | None = None
    hides_inactive_weights = False
    forgets_inactive_weights = False
    costs_alike = False
    claims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "begins_at_random": ("initial_masks", "initial_memory", "begin"),
        "updates_layers_alone": ("update_masks",),
        "updates_by_schedule": ("further_updates",),
        "all_weights_learn": ("learning_masks",),
    }
    begins_at_random = updates_by_schedule = all_weights_learn = True
    updates_layers_alone = False
    ranked_by: ClassVar[tuple[str, ...]] = ()
    points: ClassVar[tuple[str, ...]] = ()
    grow_init: Callable[[Connections], Tensor | None] | None = None
    penalty_gradient: Callable[[Connections], Tensor | None] | None = None
    adjust_weights: Callable[[Mapping[str, Connections], int, LearningRates, Memory], dict[str, Tensor]] | None = None
    restarts_optimizer: Callable[[int], bool] | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        check_sparsity_setting(self)

    @property
    def ramp(self) -> SparsityRamp | None:
        """How the sparsity moves; None if it does not."""
        sparsity = getattr(self, "sparsity", None)
        return sparsity if isinstance(sparsity, SparsityRamp) else None

    @abstractmethod
    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Sparsity of each layer while the gradients of ``step`` are computed.

        Args:
            shapes: Shape of each sparse layer by name, in the order of the network.
            step: Optimizer steps completed; any number past the end of training gives the final sparsities.
        """

    def final_sparsities(self, shapes: Shapes) -> dict[str, float]:
        """Sparsity of each layer after the last update. The algorithm must be resolved."""
        return self.layer_sparsities(shapes, max(self.update_steps(), default=0) + 1)

    def has_planned_layers(self) -> bool:
        """Whether `layer_sparsities` holds for each layer, not only for their total."""
        return not self.global_ranking

    @property
    def caution(self) -> str | None:
        """What a training should say of its settings at the beginning: they are accepted, and hardly meant."""
        return None

    def resolve(self, total_steps: int | None) -> "SparseAlgorithm":
        """The same algorithm for a training of ``total_steps`` optimizer steps."""
        if self.schedule is None or not is_dataclass(self):
            return self
        return replace(self, schedule=self.schedule.resolve(total_steps))

    def last_update_before(self, step: int) -> int | None:
        """The last update step before ``step``; None if there is none. The algorithm must be resolved."""
        updates = self.update_steps()
        n_done = bisect_left(updates, step)
        return updates[n_done - 1] if n_done else None

    def stretched(self, factor: float) -> "SparseAlgorithm":
        """The same for a training ``factor`` times as long: begins, ends and `points` in steps move along."""
        if not is_dataclass(self):
            return self
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        kinds = (UpdateSchedule, SparsityRamp, SparseAlgorithm)
        changes: dict[str, Any] = {n: s.stretched(factor) for n, s in settings.items() if isinstance(s, kinds)}
        changes |= {name: stretched_point(settings[name], factor) for name in self.points}
        return replace(self, **changes) if changes else self

    def further_updates(self) -> Sequence[int]:
        """Update steps in addition to those of the schedule."""
        return ()

    def is_update(self, step: int) -> bool:
        """Whether masks are updated at ``step``."""
        return (self.schedule is not None and self.schedule.is_update(step)) or step in self.further_updates()

    def update_steps(self) -> Sequence[int]:
        """All steps at which masks are updated, in order."""
        return self._update_steps

    @cached_property
    def _update_steps(self) -> Sequence[int]:
        scheduled: Sequence[int] = () if self.schedule is None else self.schedule.update_steps()
        further = [step for step in self.further_updates() if step >= 0 and step not in scheduled]
        return sorted([*scheduled, *further]) if further else scheduled

    def drop_fraction_at(self, step: int) -> float:
        """Fraction of the active connections that an update at ``step`` drops."""
        return 0.0 if self.schedule is None else self.drop_fraction * self.decay(self.schedule.progress(step))

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Masks at step 0: random ones with exact counts; ``shapes`` as in `layer_sparsities`."""
        counts = active_counts(shapes, self.layer_sparsities(shapes, 0))
        return {
            n: structured_random_mask(self.structure, shape, counts[n], generator(n)) for n, shape in shapes.items()
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
        if self.hides_inactive_weights:
            return self.update_masks(layers, 0, memory)
        return {name: layer.mask for name, layer in layers.items()}

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """New masks of all layers. A layer that had no gradient, because the batch did not use it, has None there.

        Args:
            layers: What may be seen of each sparse layer, by name.
            step: Optimizer steps completed.
            memory: See `initial_memory`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no mask updates.")

    def learning_masks(self, layers: Mapping[str, Connections]) -> Masks | None:
        """If inactive weights are hidden, those that learn until the next update, active ones too; None for all."""
        return None

    @cached_property
    def reads_gradient(self) -> bool:
        """Whether a score reads the gradient of its step."""
        return any(needs_gradient(getattr(self, name)) for name in self.ranked_by)

    def needs_dense_gradient(self, step: int) -> bool:
        """Whether the gradient of inactive connections is read at ``step``. It decides what the step costs."""
        return self.grad_average_decay is not None or (self.reads_gradient and self.is_update(step))

    def needs_hessian_gradient(self, step: int) -> bool:
        """Whether the product of the loss's Hessian and gradient is read at ``step``."""
        return False

    def weight_gradient_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Sparsity of the gradient of each layer's weights at ``step``. It decides what the step costs."""
        return dict.fromkeys(shapes, 0.0) if self.needs_dense_gradient(step) else self.layer_sparsities(shapes, step)

    def cost_changes(self) -> Sequence[int]:
        """Steps other than 0 from which on a step may cost another amount than the step before."""
        is_constant = self.costs_alike and self.ramp is None
        return () if is_constant else sorted({n for step in self.update_steps() for n in (step, step + 1)})
