"""Lottery tickets: the masks of an earlier run on its own initialisation."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from rigl_lightning.sparsity.algorithms.base import GeneratorOf, Masks, Memory, SparseAlgorithm, describe
from rigl_lightning.sparsity.algorithms.fixed import Dense, FixedMasks
from rigl_lightning.sparsity.algorithms.granet import GraNet
from rigl_lightning.sparsity.algorithms.one_shot import OneShot
from rigl_lightning.sparsity.distributions import Shapes
from rigl_lightning.sparsity.files.masks import read_initial_weights, weight_checksum
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.structures import Unstructured


@dataclass(frozen=True)
class LotteryTicket(SparseAlgorithm):
    """Train the final masks of a run again, from the weights that run began with (paper, appendix E).

    The paper finds that RigL's final masks are no lottery tickets: trained again on their original initialisation,
    static or with RigL, they do not reach what the first run reached.

    The initial weights are those of the model as it comes: the same seed of the command line makes the same ones. They
    are compared with the checksums that the earlier run noted, and a warning says so if they are others.

    Attributes:
        checkpoint: A file with masks, as for `FixedMasks`.
        algorithm: How to go on from the ticket: RigL, SET, or another that keeps the number of connections; its
            sparsity and distribution are not used, and it has no structure. None to keep the masks as they are.
    """

    checkpoint: str | Path
    algorithm: SparseAlgorithm | None = None

    def __post_init__(self) -> None:
        inner = self._inner
        # The last two rank all connections by themselves, whatever masks they are given.
        if inner.hides_inactive_weights or isinstance(inner, FixedMasks | LotteryTicket | OneShot | GraNet):
            raise _refusal(inner)
        if not isinstance(inner.structure, Unstructured):
            raise ValueError(
                f"Expected an algorithm without a structure, got {describe(inner)}: a ticket need not have that "
                "structure, and its number of connections would change. Leave out "
                "--sparse.algorithm.algorithm.structure, or the algorithm to keep the ticket's masks."
            )
        for name in ("replaces_step", "grad_average_decay"):
            object.__setattr__(self, name, getattr(inner, name))  # the inner algorithm's ways become this one's

    @property
    def _inner(self) -> SparseAlgorithm:
        return Dense() if self.algorithm is None else self.algorithm  # Dense never changes a mask

    def resolve(self, total_steps: int | None) -> "LotteryTicket":
        """The same algorithm with its update window in steps."""
        return self if self.algorithm is None else replace(self, algorithm=self.algorithm.resolve(total_steps))

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the ticket."""
        return FixedMasks(self.checkpoint).layer_sparsities(shapes, step)

    def plans_layers(self) -> bool:
        """As the inner algorithm says."""
        return self._inner.plans_layers()

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Masks of the ticket.

        Raises:
            ValueError: If the ticket does not fit the model, or the inner algorithm is one that starts dense.
        """
        if self._inner.layer_sparsities(shapes, 0) != self._inner.final_sparsities(shapes):
            raise _refusal(self._inner)
        return FixedMasks(self.checkpoint).initial_masks(shapes, generator)

    def initial_memory(self, shapes: Shapes, generator: GeneratorOf) -> Memory:
        """The inner algorithm's."""
        return self._inner.initial_memory(shapes, generator)

    def begin(self, layers: Mapping[str, Connections], memory: Memory) -> Masks:
        """Compare the weights with those the ticket began with."""
        self._warn_of_other_weights(layers)
        return self._inner.begin(layers, memory)

    def _warn_of_other_weights(self, layers: Mapping[str, Connections]) -> None:
        known = read_initial_weights(self.checkpoint)
        wrong = [name for name, layer in layers.items() if known.get(name) != weight_checksum(layer.weight)]
        remedy = (
            "A lottery ticket is its masks and its initialisation. Set --seed_everything (in a loop of your own, "
            "torch.manual_seed before the model is made) as in that run, or load its initial weights into the model."
        )
        if not known:
            warnings.warn(
                f"Nobody can tell whether the model starts from the initial weights of {self.checkpoint}: an older "
                f"version or another package, which noted no checksums, saved it. {remedy}",
                stacklevel=2,
            )
        elif wrong:
            warnings.warn(
                f"Expected the initial weights of the run that left {self.checkpoint}, got others in layer "
                f"{wrong[0]!r} ({len(wrong)} of {len(layers)} layers differ): this is no lottery ticket. {remedy}",
                stacklevel=2,
            )

    def is_update(self, step: int) -> bool:
        """As the inner algorithm says."""
        return self._inner.is_update(step)

    def drop_fraction_at(self, step: int) -> float:
        """As the inner algorithm says."""
        return self._inner.drop_fraction_at(step)

    def needs_dense_gradient(self, step: int) -> bool:
        """As the inner algorithm says."""
        return self._inner.needs_dense_gradient(step)

    def needs_hessian_gradient(self, step: int) -> bool:
        """As the inner algorithm says."""
        return self._inner.needs_hessian_gradient(step)

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """As the inner algorithm does."""
        return self._inner.update_masks(layers, step, memory)

    def penalty_gradient(self, layer: Connections) -> Tensor | None:
        """As the inner algorithm says."""
        return self._inner.penalty_gradient(layer)

    def adjust_weights(
        self, layers: Mapping[str, Connections], step: int, learning_rates: Mapping[str, float], memory: Memory
    ) -> dict[str, Tensor]:
        """As the inner algorithm does."""
        return self._inner.adjust_weights(layers, step, learning_rates, memory)

    def grow_init(self, layer: Connections) -> Tensor | None:
        """As the inner algorithm says."""
        return self._inner.grow_init(layer)

    def update_steps(self) -> Sequence[int]:
        """Those of the inner algorithm."""
        return self._inner.update_steps()

    def cost_changes(self) -> Sequence[int]:
        """Those of the inner algorithm."""
        return self._inner.cost_changes()


def _refusal(algorithm: SparseAlgorithm) -> ValueError:
    return ValueError(
        "Expected an algorithm that keeps the number of connections from the first step to the last and trains the "
        f"active ones only, such as RigL or SET, got {type(algorithm).__name__}. Set --sparse.algorithm.algorithm, or "
        "leave it out to keep the ticket's masks."
    )
