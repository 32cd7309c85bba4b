"""Sparse training algorithms: settings plus pure functions from what a layer is to which connections come next.

An algorithm answers four questions: how many connections each layer has (`layer_sparsities`), when to change them
(`is_update`), which come next (`update_masks`), and what value a grown one gets (`grow_init`). It holds no state;
`Sparsifier` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rigl_lightning.sparsity import scores
from rigl_lightning.sparsity.distributions import (
    Distribution,
    ErdosRenyi,
    Shapes,
    Uniform,
    active_counts,
    check_sparsity,
)
from rigl_lightning.sparsity.mask_files import read_masks
from rigl_lightning.sparsity.masks import drop_and_grow, random_mask, topk_mask
from rigl_lightning.sparsity.schedules import Decay, UpdateSchedule, cosine, cubic_sparsity
from rigl_lightning.sparsity.scores import Connections, Score

Masks = dict[str, Tensor]
GeneratorOf = Callable[[str], torch.Generator]


class SparseAlgorithm(ABC):
    """Base of all algorithms. A subclass is a frozen dataclass of settings; what it does not override never happens.

    Attributes:
        replaces_step: The mask update is made instead of the gradient step (RigL, SNIP: paper, Algorithm 1), or
            after it (SET, SNFS, pruning), as in the reference (sparse_optimizers_base.py:118-146, 487-521).
        grad_average_decay: beta of the exponential average of dense gradients to keep, or None for none.
    """

    replaces_step: ClassVar[bool] = False
    grad_average_decay: float | None = None

    def resolve(self, total_steps: int | None) -> SparseAlgorithm:
        """The same algorithm for a training of ``total_steps`` optimizer steps."""
        return self

    @abstractmethod
    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Sparsity of each layer while the gradients of ``step`` are computed.

        Args:
            shapes: Shape of each sparse layer by name, in the order of the network.
            step: Optimizer steps completed; any number past the end of training gives the final sparsities.
        """

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Masks at step 0: random ones with exact counts.

        Args:
            shapes: Shape of each sparse layer by name, in the order of the network.
            generator: Layer name -> CPU generator.
        """
        counts = active_counts(shapes, self.layer_sparsities(shapes, 0))
        return {name: random_mask(shape, counts[name], generator(name)) for name, shape in shapes.items()}

    def is_update(self, step: int) -> bool:
        """Whether masks are updated at ``step``."""
        return False

    def drop_fraction_at(self, step: int) -> float:
        """Fraction of the active connections that an update at ``step`` drops."""
        return 0.0

    def needs_dense_gradient(self, step: int) -> bool:
        """Whether the gradient of inactive connections is read at ``step``. It decides what the step costs."""
        return self.grad_average_decay is not None

    def update_masks(self, layers: Mapping[str, Connections], step: int) -> Masks:
        """New masks of all layers. A layer that had no gradient, because the batch did not use it, has None there.

        Raises:
            NotImplementedError: If the algorithm never updates.
        """
        raise NotImplementedError(f"{type(self).__name__} has no mask updates.")

    def grow_init(self, layer: Connections) -> Tensor | None:
        """Values of the layer's newly grown connections as a tensor of the weight's shape; None for zero."""
        return None

    def update_steps(self) -> Sequence[int]:
        """All steps at which masks are updated, in order."""
        return ()


@dataclass(frozen=True)
class Dense(SparseAlgorithm):
    """No sparsity: the dense baseline through the same code."""

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """All zero."""
        return dict.fromkeys(shapes, 0.0)


@dataclass(frozen=True)
class Static(SparseAlgorithm):
    """Random masks that never change (paper, section 4.1.1, "Static").

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1).
        distribution: How it is shared among the layers.
    """

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the distribution, from the first step to the last."""
        return self.distribution(shapes, self.sparsity)


@dataclass(frozen=True)
class FixedMasks(SparseAlgorithm):
    """The masks of an earlier run, unchanged: fine-tuning a sparse network, or a lottery ticket (paper, appendix E).

    Attributes:
        checkpoint: Lightning checkpoint of a run with `SparseTrainingCallback`, or a file with
            `Sparsifier.state_dict` saved by ``torch.save``.
    """

    checkpoint: str | Path

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the checkpoint's masks."""
        masks = read_masks(self.checkpoint)
        return {name: 1 - float(mask.float().mean()) for name, mask in masks.items()}

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Masks of the checkpoint.

        Raises:
            ValueError: If the checkpoint has other layers or shapes.
        """
        masks = read_masks(self.checkpoint)
        expected = {name: tuple(shape) for name, shape in shapes.items()}
        got = {name: tuple(mask.shape) for name, mask in masks.items()}
        wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
        if wrong:
            raise ValueError(
                f"Expected the masks in {self.checkpoint} to fit the model, but layer {wrong[0]!r} has shape "
                f"{expected.get(wrong[0])} in the model and {got.get(wrong[0])} in the checkpoint "
                f"({len(wrong)} layers differ). Set --sparse.algorithm.checkpoint, or include/exclude as in that run."
            )
        return masks


@dataclass(frozen=True)
class SNIP(SparseAlgorithm):
    """Keep the connections with the largest ``|w · dL/dw|`` on the first batch (Lee et al. 2019, arXiv 1810.02340).

    The first batch makes the masks and no gradient step, as in the reference (sparse_optimizers.py:217-337).

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1).
        distribution: Sparsity of each layer, within which its connections are ranked, as the paper does.
        global_ranking: Rank the connections of all layers together, as SNIP's authors do; the distribution then
            gives the total only, and each layer keeps at least its best connection.
        score: The criterion.
    """

    replaces_step: ClassVar[bool] = True

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    global_ranking: bool = False
    score: Score = scores.saliency

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Zero until the first batch has ranked the connections; then, in the mean, those of the distribution."""
        final = self.distribution(shapes, self.sparsity)
        return dict.fromkeys(shapes, 0.0) if step == 0 else final

    def is_update(self, step: int) -> bool:
        """At step 0 only."""
        return step == 0

    def needs_dense_gradient(self, step: int) -> bool:
        """At step 0 only."""
        return self.is_update(step)

    def update_masks(self, layers: Mapping[str, Connections], step: int) -> Masks:
        """Keep the highest-scored connections."""
        shapes = {name: layer.weight.shape for name, layer in layers.items()}
        counts = active_counts(shapes, self.layer_sparsities(shapes, step + 1))
        ranked = {name: self._rank(layer) for name, layer in layers.items()}
        if self.global_ranking:
            return _global_topk(ranked, sum(counts.values()))
        return {name: topk_mask(score, counts[name]) for name, score in ranked.items()}

    def _rank(self, layer: Connections) -> Tensor:
        # A layer that the first batch did not use has gradient zero.
        return self.score(layer) if layer.dense_grad is not None else torch.zeros_like(layer.weight)

    def update_steps(self) -> Sequence[int]:
        """Step 0."""
        return (0,)


@dataclass(frozen=True)
class DropGrow(SparseAlgorithm):
    """Drop the connections with the lowest drop score and grow as many with the highest grow score, layer by layer.

    SET, SNFS and RigL are this with other scores; so is a user's own method.

    Attributes:
        sparsity: Total fraction of inactive connections, in [0, 1). It never changes during training.
        distribution: How it is shared among the layers.
        schedule: When to update: Delta T and T_end.
        drop_fraction: alpha: fraction of the active connections dropped at the first update, in [0, 1].
        decay: Factor on the drop fraction over the update window.
        drop_score: Low is dropped.
        grow_score: High is grown.
    """

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=ErdosRenyi)
    schedule: UpdateSchedule = field(default_factory=UpdateSchedule)
    drop_fraction: float = 0.3
    decay: Decay = cosine
    drop_score: Score = scores.weight_magnitude
    grow_score: Score = scores.random

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if not 0 <= self.drop_fraction <= 1:
            raise ValueError(
                f"Expected `drop_fraction` in [0, 1], got {self.drop_fraction}. Set --sparse.algorithm.drop_fraction."
            )

    def resolve(self, total_steps: int | None) -> DropGrow:
        """The same algorithm with its update window in steps."""
        return replace(self, schedule=self.schedule.resolve(total_steps))

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the distribution, from the first step to the last."""
        return self.distribution(shapes, self.sparsity)

    def is_update(self, step: int) -> bool:
        """Every Delta T steps before T_end, step 0 included."""
        return self.schedule.is_update(step)

    def drop_fraction_at(self, step: int) -> float:
        """``alpha · decay(progress)``: f_decay of the paper (section 3)."""
        return self.drop_fraction * self.decay(self.schedule.progress(step))

    def needs_dense_gradient(self, step: int) -> bool:
        """On update steps if a score reads the gradient; always if its average is kept."""
        return super().needs_dense_gradient(step) or (self._reads_gradient and self.is_update(step))

    @property
    def _reads_gradient(self) -> bool:
        return scores.needs_gradient(self.drop_score) or scores.needs_gradient(self.grow_score)

    def update_masks(self, layers: Mapping[str, Connections], step: int) -> Masks:
        """Drop and grow in each layer."""
        fraction = self.drop_fraction_at(step)
        return {name: self._update_mask(layer, fraction) for name, layer in layers.items()}

    def _update_mask(self, layer: Connections, fraction: float) -> Tensor:
        if self._reads_gradient and layer.dense_grad is None:
            return layer.mask
        if self.grad_average_decay is not None and layer.dense_grad_average is None:
            return layer.mask
        n_active = int(layer.mask.sum())
        # Truncated in float32, as in the reference (sparse_optimizers_base.py:286-290, commit d39fc7d).
        n_update = int(np.float32(n_active) * np.float32(fraction))
        if n_update == 0 or n_active == layer.mask.numel():
            return layer.mask
        return drop_and_grow(layer.mask, self.drop_score(layer), self.grow_score(layer), n_update)

    def update_steps(self) -> Sequence[int]:
        """All steps of the schedule."""
        return self.schedule.update_steps()


@dataclass(frozen=True)
class SET(DropGrow):
    """Drop by magnitude, grow at random, after the gradient step (Mocanu et al. 2018, arXiv 1707.04780)."""


@dataclass(frozen=True)
class SNFS(DropGrow):
    """Drop by magnitude, grow by the averaged dense gradient (Dettmers & Zettlemoyer 2019, arXiv 1907.04840).

    As in the paper's comparison (section 2) there is no redistribution among layers; the average is kept at every
    step, without bias correction (reference: sparse_optimizers.py:126-214), so every step needs the dense gradient.

    Attributes:
        grad_average_decay: beta of ``m = beta · m + (1 - beta) · g``, in [0, 1).
    """

    grow_score: Score = scores.gradient_average_magnitude
    grad_average_decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.grad_average_decay < 1:
            raise ValueError(
                f"Expected `grad_average_decay` in [0, 1), got {self.grad_average_decay}. "
                "Set --sparse.algorithm.grad_average_decay."
            )


@dataclass(frozen=True)
class RigL(DropGrow):
    """Drop by magnitude, grow by gradient magnitude, instead of the gradient step (the paper, Algorithm 1)."""

    replaces_step: ClassVar[bool] = True

    grow_score: Score = scores.gradient_magnitude


@dataclass(frozen=True)
class GradualMagnitudePruning(SparseAlgorithm):
    """Dense at first, then pruned on a cubic ramp (Zhu & Gupta 2017, arXiv 1710.01878).

    The last update is made at the schedule's end whatever the interval, so that the final sparsity is always reached.
    The default distribution has the same target in every layer but the first, as in the reference.

    Attributes:
        sparsity: Final fraction of inactive connections, in [0, 1).
        distribution: How the final sparsity is shared among the layers; all follow the same ramp.
        schedule: When to prune; begin and end of the ramp.
        score: Low is pruned.
    """

    sparsity: float = 0.9
    distribution: Distribution = field(default_factory=Uniform)
    schedule: UpdateSchedule = field(default_factory=lambda: UpdateSchedule(interval=100, begin=0.2, end=0.75))
    score: Score = scores.weight_magnitude

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    def resolve(self, total_steps: int | None) -> GradualMagnitudePruning:
        """The same algorithm with its ramp in steps, ending at the last step at the latest.

        Raises:
            ValueError: If the ramp's end is given in steps and training ends before it.
        """
        schedule = self.schedule.resolve(total_steps)
        if total_steps is not None and schedule.end >= total_steps:
            if not isinstance(self.schedule.end, float):
                raise ValueError(
                    f"Expected pruning to end before training, got end={schedule.end} and {total_steps} training steps: "
                    "the final sparsity would not be reached. Set --sparse.algorithm.schedule.end, for example to a "
                    "fraction such as 0.75."
                )
            last = total_steps - 1
            schedule = replace(schedule, begin=min(schedule.begin, last), end=last)
        return replace(self, schedule=schedule)

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the last update before ``step``."""
        final = self.distribution(shapes, self.sparsity)
        updates = self.update_steps()
        n_done = bisect_left(updates, step)
        progress = self.schedule.progress(updates[n_done - 1]) if n_done else 0.0
        return {name: cubic_sparsity(progress, final[name]) for name in shapes}

    def is_update(self, step: int) -> bool:
        """Every interval of the schedule, and at its end."""
        return self.schedule.is_update(step) or step == self.schedule.end

    def needs_dense_gradient(self, step: int) -> bool:
        """On update steps if the score reads the gradient."""
        return scores.needs_gradient(self.score) and self.is_update(step)

    def update_masks(self, layers: Mapping[str, Connections], step: int) -> Masks:
        """Keep the highest-scored of the connections that are still active."""
        shapes = {name: layer.weight.shape for name, layer in layers.items()}
        counts = active_counts(shapes, self.layer_sparsities(shapes, step + 1))
        return {name: _prune(layer, self.score(layer), counts[name]) for name, layer in layers.items()}

    def update_steps(self) -> Sequence[int]:
        """All steps of the schedule, and its end."""
        return (*self.schedule.update_steps(), int(self.schedule.end))


def describe(value: Any) -> str:
    """An algorithm in words: its class and the settings that differ from their defaults.

    >>> describe(RigL(sparsity=0.8, schedule=UpdateSchedule(interval=50)))
    'RigL(sparsity=0.8, schedule=UpdateSchedule(interval=50))'
    """
    if is_dataclass(value):
        settings = ", ".join(
            f"{f.name}={describe(getattr(value, f.name))}" for f in fields(value) if not _is_default(value, f)
        )
        return f"{type(value).__name__}({settings})"
    return getattr(value, "__qualname__", None) or repr(value)


def _is_default(value: Any, setting: Any) -> bool:
    if setting.default is not MISSING:
        default = setting.default
    elif setting.default_factory is not MISSING:
        default = setting.default_factory()
    else:
        return False
    return bool(getattr(value, setting.name) == default)


def _prune(layer: Connections, score: Tensor, n_active: int) -> Tensor:
    still_active = int(layer.mask.sum())
    return topk_mask(score.masked_fill(~layer.mask, -torch.inf), min(n_active, still_active))


def _global_topk(ranked: Mapping[str, Tensor], n_active: int) -> Masks:
    flat = {name: score.reshape(-1).clone() for name, score in ranked.items()}
    for score in flat.values():
        score[score.argmax()] = torch.inf  # no layer may lose all its connections
    kept = topk_mask(torch.cat(list(flat.values())), n_active)
    parts = kept.split([score.numel() for score in flat.values()])
    return {name: part.view(ranked[name].shape) for name, part in zip(ranked, parts, strict=True)}
