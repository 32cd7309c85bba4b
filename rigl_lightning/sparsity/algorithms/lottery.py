"""Lottery tickets: the masks of an earlier run on its own initialisation."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rigl_lightning.base.errors import SettingError, SparseTrainingWarning
from rigl_lightning.sparsity.algorithms.base import GeneratorOf, Masks, Memory, SparseAlgorithm
from rigl_lightning.sparsity.algorithms.fixed import Dense, FixedMasks
from rigl_lightning.sparsity.algorithms.granet import GraNet
from rigl_lightning.sparsity.algorithms.group import with_members
from rigl_lightning.sparsity.algorithms.one_shot import OneShot
from rigl_lightning.sparsity.distributions import Shapes
from rigl_lightning.sparsity.files.masks import read_initial_weights, weight_checksum
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.settings import describe
from rigl_lightning.sparsity.structures import Unstructured

_OF_THE_INNER_ALGORITHM = (
    *("schedule", "further_updates", "drop_fraction_at", "has_planned_layers", "costs_alike"),
    *("replaces_step", "grad_average_decay", "reads_gradient", "needs_dense_gradient", "needs_hessian_gradient"),
    *("initial_memory", "update_masks", "grow_init", "penalty_gradient", "adjust_weights", "restarts_optimizer"),
)
"""What a ticket takes over from the algorithm that goes on from it."""


@dataclass(frozen=True)
class LotteryTicket(SparseAlgorithm):
    """Train the final masks of a run again, from the weights that run began with (paper, appendix E).

    The paper finds that RigL's final masks are no lottery tickets: trained again on their original initialisation,
    static or with RigL, they do not reach what the first run reached.

    The initial weights are those that the model has when training starts; the same seed on the command line gives the
    same ones. Their checksums are compared with those of the earlier run, and a difference is a warning.

    Attributes:
        checkpoint: A file with masks, as for `FixedMasks`.
        algorithm: Algorithm that updates the masks of the ticket: RigL, SET, or another one that keeps the number of
            connections, or a Group of such. Its sparsity and distribution are not used, and it must have no structure.
            None: the masks never change.
    """

    checkpoint: str | Path
    algorithm: SparseAlgorithm | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = _inner(self)
        if not isinstance(inner, SparseAlgorithm):
            raise SettingError(
                f"Expected `algorithm` to be one such as RigL() or None, got {inner!r}. Set LotteryTicket's."
            )
        for part in reversed(with_members(inner)):  # a member is named before its Group
            _check_part(part)
        for name in _OF_THE_INNER_ALGORITHM:
            object.__setattr__(self, name, getattr(inner, name))

    def resolve(self, total_steps: int | None) -> "LotteryTicket":
        """The same algorithm with its update window in steps."""
        return self if self.algorithm is None else replace(self, algorithm=self.algorithm.resolve(total_steps))

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the ticket."""
        return FixedMasks(self.checkpoint).layer_sparsities(shapes, step)

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Masks of the ticket.

        Raises:
            ValueError: If the ticket does not fit the model, or the inner algorithm is one that starts dense.
        """
        inner = _inner(self)
        if inner.layer_sparsities(shapes, 0) != inner.final_sparsities(shapes):
            raise _refusal(inner)
        return FixedMasks(self.checkpoint).initial_masks(shapes, generator)

    def begin(self, layers: Mapping[str, Connections], memory: Memory) -> Masks:
        """Compare the weights with those the ticket began with."""
        _warn_of_other_weights(self.checkpoint, layers)
        return _inner(self).begin(layers, memory)


def _check_part(part: SparseAlgorithm) -> None:
    # The last two rank all connections by themselves, whatever masks they are given.
    if part.hides_inactive_weights or isinstance(part, FixedMasks | LotteryTicket | OneShot | GraNet):
        raise _refusal(part)
    if not isinstance(part.structure, Unstructured):
        raise SettingError(
            f"Expected an algorithm without a structure, got {describe(part)}: a ticket need not have that "
            "structure, and its number of connections would change. Leave out "
            "`algorithm.structure` of LotteryTicket, or `algorithm` to keep the ticket's masks."
        )


def _inner(ticket: LotteryTicket) -> SparseAlgorithm:
    return Dense() if ticket.algorithm is None else ticket.algorithm  # Dense never changes a mask


def _warn_of_other_weights(checkpoint: str | Path, layers: Mapping[str, Connections]) -> None:
    known = read_initial_weights(checkpoint, layers)
    wrong = [name for name, layer in layers.items() if known.get(name) != weight_checksum(layer.weight)]
    remedy = (
        "A lottery ticket is its masks and its initialisation. Take the seed of that run (seed_everything; in a "
        "plain loop torch.manual_seed, before the model is made), or load its initial weights into the model."
    )
    if not known:
        warnings.warn(
            f"Nobody can tell whether the model starts from the initial weights of {checkpoint}: an older "
            f"version or another package, which noted no checksums, saved it. {remedy}",
            stacklevel=2,
            category=SparseTrainingWarning,
        )
    elif wrong:
        warnings.warn(
            f"Expected the initial weights of the run that left {checkpoint}, got others in layer "
            f"{wrong[0]!r} ({len(wrong)} of {len(layers)} layers differ): this is no lottery ticket. {remedy}",
            stacklevel=2,
            category=SparseTrainingWarning,
        )


def _refusal(algorithm: SparseAlgorithm) -> ValueError:
    return SettingError(
        "Expected an algorithm that keeps the number of connections from the first step to the last and trains the "
        f"active ones only, such as RigL or SET, got {type(algorithm).__name__}. Set `algorithm` of LotteryTicket, or "
        "leave it out to keep the ticket's masks."
    )
