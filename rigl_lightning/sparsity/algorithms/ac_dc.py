"""AC/DC: dense and sparse phases alternate; the last one is sparse."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.algorithms.top_k import TopK
from rigl_lightning.sparsity.distributions import Distribution, Shapes, Uniform
from rigl_lightning.sparsity.points import A_POINT, is_point, resolved_point
from rigl_lightning.sparsity.settings import require


@dataclass(frozen=True)
class ACDC(TopK):
    """Alternating compressed and decompressed training (Peste et al. 2021, arXiv 2106.12379, algorithm 1).

    Training starts dense. A compressed phase keeps the largest weights of the network and trains only those. A
    decompressed phase trains all weights; those that were inactive start at zero, and so does the optimizer's state of
    every parameter. The phases alternate, each ``phase`` long, until the last compressed phase begins at ``last``. The
    dense phase before it fills the time in which no whole pair of phases fits.

    Defaults are those of the authors' code for 100 epochs of ImageNet (IST-DASLab/ACDC, configs/neurips): dense for 10
    epochs, phases of 5, compressed from epoch 85 to the end, which makes the last dense phase 10 epochs long. All their
    runs reset the momentum (policies/manager.py:run, `reset_momentum_after_recycling`). Deviation: each layer keeps a
    connection.

    Attributes:
        sparsity: Fraction of inactive connections in the compressed phases, in [0, 1).
        distribution: Sparsity of each layer, within which its weights are ranked.
        global_ranking: Rank the weights of all layers together, as the authors do. The distribution then gives the
            total only.
        warm_up: When the first compressed phase begins: a step as int, or a fraction of the training as float.
        phase: Length of a phase: steps as int, or a fraction of the training as float.
        last: When the last compressed phase begins, as for ``warm_up``.
    """

    points = ("warm_up", "phase", "last")

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=partial(Uniform, first_layer_dense=False))
    global_ranking: bool = True
    warm_up: int | float = 0.1
    phase: int | float = 0.05
    last: int | float = 0.85

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.points:
            require(is_point(getattr(self, name)), self, name, A_POINT)
        require(self.phase > 0, self, "phase", "above 0")

    def resolve(self, total_steps: int | None) -> "ACDC":
        """The same algorithm with its phases in steps.

        Raises:
            ValueError: If the last phase does not begin within the training, or before the first.
        """
        warm_up, phase, last = (resolved_point(getattr(self, name), total_steps, name) for name in self.points)
        if total_steps is not None and last >= total_steps and isinstance(self.last, float):
            last = total_steps - 1
        if last < warm_up or (total_steps is not None and last >= total_steps):
            raise SettingError(
                f"Expected `last` from `warm_up`, step {warm_up}, on and before the end of training"
                f"{'' if total_steps is None else f', {total_steps} steps'}, got {last}. Set `last` of ACDC, "
                "for example to a fraction such as 0.85."
            )
        return replace(self, warm_up=warm_up, phase=max(phase, 1), last=last)

    def further_updates(self) -> Sequence[int]:
        """The steps after which the phases change: to compressed, to decompressed, and so on."""
        if any(isinstance(getattr(self, name), float) for name in self.points):
            raise SettingError(f"Expected a resolved algorithm, got {self}. Call resolve(total_steps) first.")
        warm_up, phase, last = int(self.warm_up), int(self.phase), int(self.last)
        starts = range(warm_up, last - phase, 2 * phase)
        return [*(step for start in starts for step in (start, start + phase)), last]

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the distribution in a compressed phase, else zero."""
        n_changes = sum(change < step for change in self.further_updates())
        return self.distribution(shapes, self.sparsity) if n_changes % 2 else dict.fromkeys(shapes, 0.0)

    def restarts_optimizer(self, step: int) -> bool:
        """At the beginning of each decompressed phase."""
        return step in self.further_updates()[1::2]
