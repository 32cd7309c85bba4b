"""DNW: all weights learn, and the network computes with the largest of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from rigl_lightning.sparsity.algorithms.base import Masks, Memory, SparseAlgorithm
from rigl_lightning.sparsity.distributions import Distribution, ErdosRenyi, Shapes, active_counts, check_sparsity
from rigl_lightning.sparsity.masks import topk_mask
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections


@dataclass(frozen=True)
class DNW(SparseAlgorithm):
    """Straight-through top-k, "Discovering neural wirings" (Wortsman et al. 2019, arXiv 1906.00586).

    Every weight gets the gradient it would have if it were active; after every step the largest are the network.
    As in the reference (google-research/rigl, sparse_optimizers.py:340-471, commit 6e49b91): gradients are those of the
    masked weights, the optimizer with its momentum and weight decay works on all weights, and after its step the masks
    are the top ``1 - sparsity`` of ``|w|`` in each layer. The optimizer's state of inactive weights is theirs.

    Deviations: the first masks are the largest initial weights, where the reference begins with random ones and has
    the largest from step 1 on; ties go to the first position.

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1).
        distribution: How it is shared among the layers.
        renewal: When the masks follow the weights: after every step, to the end of training.
            Not called schedule: that of a drop-and-grow method, which ends early, must not carry over when only the
            algorithm of a configuration changes.
    """

    hides_inactive_weights = True

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    renewal: UpdateSchedule = field(default_factory=partial(UpdateSchedule, interval=1, end=1.0))

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    def resolve(self, total_steps: int | None) -> "DNW":
        """The same algorithm with its update window in steps."""
        return replace(self, renewal=self.renewal.resolve(total_steps))

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the distribution, from the first step to the last."""
        return self.distribution(shapes, self.sparsity)

    def begin(self, layers: Mapping[str, Connections], memory: Memory) -> Masks:
        """The largest weights."""
        return self.update_masks(layers, 0, memory)

    def is_update(self, step: int) -> bool:
        """As `renewal` says."""
        return self.renewal.is_update(step)

    def needs_dense_gradient(self, step: int) -> bool:
        """Always: all weights learn."""
        return True

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """The largest weights of each layer."""
        shapes = {name: layer.weight.shape for name, layer in layers.items()}
        counts = active_counts(shapes, self.layer_sparsities(shapes, step))
        return {name: topk_mask(layer.weight.abs(), counts[name]) for name, layer in layers.items()}

    def update_steps(self) -> Sequence[int]:
        """All steps of `renewal`."""
        return self.renewal.update_steps()

    def cost_changes(self) -> Sequence[int]:
        """Never: a step costs the same with and without an update."""
        return ()
