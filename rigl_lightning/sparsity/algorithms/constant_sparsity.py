"""Algorithms whose sparsity is a setting: one number from the first step to the last, or a ramp."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.algorithms.base import Masks, Memory, SparseAlgorithm
from rigl_lightning.sparsity.distributions import Shapes
from rigl_lightning.sparsity.ramps import Sparsity, SparsityRamp
from rigl_lightning.sparsity.scores import Connections


class ConstantSparsity(SparseAlgorithm):
    """Base of algorithms that move connections, and keep their number unless their sparsity is a ramp.

    Attributes:
        distribution: How the sparsity is shared among the layers.
    """

    # Abstract, so that a base without the field, such as `TopK`, is no choice on the command line.
    @property
    @abstractmethod
    def sparsity(self) -> Sparsity:  # type: ignore[override]
        """Total fraction of inactive connections, in [0, 1); a method has it as a field."""

    def resolve(self, total_steps: int | None) -> SparseAlgorithm:
        """As in the base; a ramp of the sparsity is resolved, too.

        Raises:
            ValueError: If updates end before a ramp does.
        """
        resolved = super().resolve(total_steps)
        if self.ramp is None or not isinstance(resolved, ConstantSparsity) or resolved.schedule is None:
            return resolved
        ramp = self.ramp.resolve(total_steps)
        if resolved.schedule.end < ramp.end:
            raise SettingError(
                f"Expected updates to go on until the ramp of the sparsity ends, at step {ramp.end}, got a schedule "
                f"that ends at {resolved.schedule.end}. Set the schedule's end to 1.0, or an earlier `end` of "
                "SparsityRamp (of AnnealedTopK: `anneal_end`)."
            )
        return resolved.with_ramp(ramp)

    def with_ramp(self, ramp: SparsityRamp) -> "ConstantSparsity":
        """The same with another ramp."""
        return replace(self, sparsity=ramp)  # type: ignore[type-var]

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the distribution and the structure; of a ramp, as at the last update before ``step``."""
        if self.ramp is not None:
            update = self.last_update_before(step)
            return self.ramp.layer_sparsities(self.distribution, shapes, 0 if update is None else update)
        assert not isinstance(self.sparsity, SparsityRamp)
        return self.structure.layer_sparsities(shapes, self.distribution(shapes, self.sparsity))

    def further_updates(self) -> Sequence[int]:
        """The end of a ramp."""
        return () if self.ramp is None else (int(self.ramp.end),)

    @abstractmethod
    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """As in the base."""
