"""Sparsifier: keeps a model, its gradients and its optimizer true to the masks, in any training loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import SparseTrainingWarning
from rigl_lightning.sparsity import cautions
from rigl_lightning.sparsity.adam_warm_up import AdamWarmUp
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.attachment import Attachable
from rigl_lightning.sparsity.compact_weights import Beginning
from rigl_lightning.sparsity.density_scaling import ByDensity, DensityScaling
from rigl_lightning.sparsity.divergence import Divergence
from rigl_lightning.sparsity.files.masks import weight_checksum
from rigl_lightning.sparsity.gradients import Gradients, Mean, for_scores
from rigl_lightning.sparsity.hidden_weights import kind_of_weights
from rigl_lightning.sparsity.layouts import is_inputs_first, shapes_of
from rigl_lightning.sparsity.mask_update import MaskUpdate, MaskUpdater
from rigl_lightning.sparsity.network_masks import MaskReadings, NetworkMasks
from rigl_lightning.sparsity.optimizer_state import check_owner, learning_rates
from rigl_lightning.sparsity.parameters import check_weights
from rigl_lightning.sparsity.plain_state import plain_state
from rigl_lightning.sparsity.randomness import layer_generator
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.settings import check_same, checked_length, checked_seed, describe

__all__ = ["MaskUpdate", "Sparsifier"]

_REMEMBERED = ("step", "total_steps", "seed", "memory", "initial_weights", "last_update")
"""Attributes that go into checkpoints under their own names, in addition to what the parts of a Sparsifier write."""


class Sparsifier(Attachable, MaskReadings):
    """Holds the masks of a set of parameters, and keeps weights, gradients and optimizer state true to them.

    Weights and gradients are masked in place, so the model stays the plain model: ``state_dict``, optimizer and
    compiled code see ordinary tensors. Inactive weights are zero before the first and after every optimizer step.

    Args:
        parameters: Sparse weights by name, as from `select_parameters`. Put them on their device before.
        algorithm: Which connections are active, and when they change.
        total_steps: Optimizer steps of the whole training; needed if the schedule gives fractions of it.
        seed: Seed of masks and growth, see `layer_generator`.
        beginning: Layers without dense initial weights, from `build_sparse`.
        state: What an earlier `state_dict` returned, to resume exactly. The states of model and optimizer may be loaded
            before or after.
        adam_warm_up: None, as in the reference: under Adam the first step of a grown connection is up to 3.2 times the
            learning rate. A number n: Adam and AdamW correct its moments by its own age, see `AdamWarmUp`.
        by_density: Scale initial weights and learning rates by the density of a layer, see `ByDensity`; None: neither.

    Attributes:
        network: The masks and their statistics: counts, first masks, explored connections.
        masks: Boolean tensor by name, True where a connection is active; ``explored``: where one was ever active.
            Changed in place. ``n_active``: number of active connections by name.
        weights: The weights: in the parameters, hidden, or the active ones alone (``compact``).
        gradients: Averages and products of gradients that the algorithm needs.
        step: Optimizer steps completed.
        last_update: The most recent mask update, or None.
        memory: State of the algorithm between updates.
        initial_weights: `weight_checksum` of each layer before it was first masked, to identify the initialisation.

    Raises:
        ValueError: If settings do not fit the model, ``state`` fits neither the model nor the algorithm, or a process
            holds only a part of a weight (DTensor of FSDP2 or tensor parallelism, flat parameters of FSDP).

    >>> from rigl_lightning.sparsity.algorithms import RigL
    >>> model = nn.Linear(20, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> sparsifier = Sparsifier({"weight": model.weight}, RigL(sparsity=0.9), total_steps=100)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     model(torch.randn(8, 20)).square().mean().backward()
    ...     sparsifier.before_step(optimizer)
    ...     optimizer.step()
    ...     sparsifier.after_step(optimizer)
    >>> int(sparsifier.masks["weight"].sum()), int((model.weight[~sparsifier.masks["weight"]] != 0).sum())
    (20, 0)
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        algorithm: SparseAlgorithm,
        total_steps: int | None = None,
        seed: int = 0,
        state: Mapping[str, Any] | None = None,
        beginning: Beginning | None = None,
        adam_warm_up: int | None = None,
        by_density: ByDensity | None = None,
    ) -> None:
        super().__init__()
        check_weights(parameters)
        cautions.refuse_other_than_algorithm(algorithm)
        self.parameters = dict(parameters)
        self.seed, self.step = checked_seed(seed), 0
        self.total_steps = steps = checked_length(total_steps)
        self.algorithm = algorithm if state is not None else cautions.resolve_for_new_training(algorithm, steps)
        self.last_update: MaskUpdate | None = None
        self.memory: dict[str, Any] = {}
        self.initial_weights: dict[str, int] = {}
        compact = {} if beginning is None else beginning.compact
        self.network = NetworkMasks(self.parameters, compact)
        self.masks: Mapping[str, Tensor] = self.network.masks
        self.explored: Mapping[str, Tensor] = self.network.explored
        self.n_active = self.network.n_active
        self.weights = kind_of_weights(self.algorithm)(self.parameters, self.network, compact)
        self.compact = self.weights.compact
        self.gradients = Gradients(self.parameters, self.compact)
        self.warm_up = AdamWarmUp(self.parameters, self.algorithm, adam_warm_up)
        self.scaling = DensityScaling(self.parameters, self.network, by_density)
        self._parts = (self.network, self.gradients, self.weights, self.warm_up, self.scaling)
        self._updater = MaskUpdater(self.parameters, self.network, self.compact)
        self.divergence = Divergence()
        self._optimizer: Optimizer | None = None
        if state is not None:
            self.load_state_dict(state)
        else:
            with cautions.lost_topology_is_said(self.algorithm, self.parameters):
                self._begin(beginning)

    def __repr__(self) -> str:
        layers = f"{len(self.parameters)} layer{'s' if len(self.parameters) > 1 else ''}"
        return f"Sparsifier({describe(self.algorithm)}: {layers}, density {self.total_density():.4g}, step {self.step})"

    def before_backward(self, loss: Tensor, mean_over_ranks: Mean | None = None) -> None:
        """Call before ``loss.backward`` if the algorithm reads the Hessian's product with the gradient (GraSP).

        Args:
            loss: Scalar, with its graph, which is kept; see `note_loss`, too. Products of several losses are added up.
            mean_over_ranks: Averages a tensor over all processes, in place or not; None for a single process.

        Raises:
            RuntimeError: If the network has an operation without a second derivative. Autograd says nothing of a
                custom function marked ``once_differentiable``, whose part is then missing.
        """
        self.note_loss(loss)
        if self.algorithm.needs_hessian_gradient(self.step):
            self.gradients.add_hessian_products(loss, mean_over_ranks, type(self.algorithm).__name__)

    def note_loss(self, loss: Tensor) -> None:
        """Warn of the first loss that is not finite, see `Divergence`. It is a scalar that no GradScaler has scaled."""
        if not self.network.is_captured:
            self.divergence.see_loss(loss, self.step)

    @torch.no_grad()
    def before_step(self, optimizer: Optimizer) -> None:
        """Call between ``backward`` and ``optimizer.step``, with unscaled, reduced and not yet clipped gradients.

        Masks the gradients. On an update step of an algorithm that replaces the gradient step it updates the masks
        and drops all gradients of ``optimizer`` instead, so that the following ``optimizer.step`` changes nothing.
        No such update is made from gradients that are not finite; under a GradScaler, which skips that step, it is
        made at the next one. An update that follows the gradient step refuses those that are NaN.

        Raises:
            ValueError: If the optimizer has not all of the sparse weights.
            RuntimeError: If the algorithm needs `before_backward`, which was not called, or its products overflowed.
        """
        if optimizer is not self._optimizer:
            self.mask_optimizer_state(optimizer)
        algorithm, decay = self.algorithm, self.algorithm.grad_average_decay
        self.compact.follow(optimizer)
        self.divergence.begin_step()
        self.gradients.begin_step(optimizer, decay)
        is_due = self.gradients.are_there and algorithm.is_update(self.step)
        if self.network.is_captured:
            cautions.refuse_capture(algorithm, self.step, is_due)
        if is_due:
            self.divergence.warn_of_loss()  # an update reads the device anyway
        if is_due and algorithm.replaces_step:
            if self.gradients.are_usable(algorithm, self.step, optimizer):
                if not self.has_dropped_gradients:  # a closure may be evaluated twice
                    self._update_masks(optimizer, self.gradients.dense())
                self.compact.forget_gradients()
                optimizer.zero_grad(set_to_none=True)
                return
        elif is_due and algorithm.needs_dense_gradient(self.step) and (decay is None or algorithm.reads_gradient):
            self.gradients.keep()
        if algorithm.penalty_gradient is not None:
            for name, layer in self._layers({}, self.gradients.of_parameters()).items():
                self.weights.add_to_gradient(name, algorithm.penalty_gradient(layer))
        self.weights.mask_gradients()
        self.divergence.see_gradients(optimizer)
        self._updater.see_gradients()
        self.warm_up.before_step()
        self.weights.before_step(optimizer)
        self.scaling.before_step()

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        """Call after ``optimizer.step`` has changed the weights, and not if it was skipped (GradScaler).

        Updates the masks on an update step of an algorithm that follows the gradient step, zeroes what leaked into
        inactive connections, and counts the step. A step without any gradient does not count.

        Raises:
            RuntimeError: If there are gradients that `before_step` has not seen.
        """
        algorithm = self.algorithm
        if not self.gradients.are_there:
            self.gradients.refuse_unseen()
            return
        if not self.has_dropped_gradients:  # what they remember is else of a step that a GradScaler has skipped
            self.warm_up.after_step(optimizer)
            self.scaling.after_step()
        self.weights.after_step()
        if algorithm.adjust_weights is not None:
            layers, rates = self._layers({}, moment=f"{self.step}/adjust"), learning_rates(optimizer, self.parameters)
            for name, weight in algorithm.adjust_weights(layers, self.step, rates, self.memory).items():
                self.weights.set_to(name, weight)
        if self.gradients.overflowed is not None:
            caution = cautions.update_left_out(algorithm, self.step, self.gradients.overflowed)
            warnings.warn(caution, stacklevel=2, category=SparseTrainingWarning)
            self.divergence.note_told()
        elif not algorithm.replaces_step and algorithm.is_update(self.step):
            self._update_masks(optimizer, self.gradients.kept)
        self.divergence.warn_of_gradients(self.gradients.of_parameters, self.step)
        self.weights.apply_masks()
        self.compact.forget_gradients()
        self.gradients.are_there = False
        self.step += 1

    @property
    def has_dropped_gradients(self) -> bool:
        """Whether `before_step` has updated the masks instead of the step, and `after_step` has not been called yet."""
        updated_now = self.last_update is not None and self.last_update.step == self.step
        return self.gradients.are_there and self.algorithm.replaces_step and updated_now

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set the weights of inactive connections to zero; also those that a step which failed has left behind."""
        self.weights.apply_masks()

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of connections that do not learn to zero."""
        self.weights.mask_gradients()

    @torch.no_grad()
    def mask_optimizer_state(self, optimizer: Optimizer) -> None:
        """Reset the optimizer's state of inactive connections, as when momenta of a dense training were loaded."""
        check_owner(optimizer, self.parameters)
        self.warm_up.follow(optimizer, self._optimizer)
        self._optimizer = optimizer
        self.weights.reset_inactive_state(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs: plain numbers and CPU tensors, masks at one bit a connection."""
        own = {name: plain_state(getattr(self, name)) for name in _REMEMBERED}
        of_parts = {key: value for part in self._parts for key, value in part.state_dict().items()}
        return {**own, **of_parts, "algorithm": describe(self.algorithm)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what an earlier `state_dict` returned.

        Raises:
            ValueError: If it is that of other layers, of another algorithm, `adam_warm_up` or learning rate by density.
        """
        cautions.refuse_other_than_state(state)
        algorithm = self.algorithm.resolve(state["total_steps"])
        check_same(algorithm, state["algorithm"])
        for part in self._parts:
            part.load_state_dict(state)
        self.algorithm = algorithm
        for name in _REMEMBERED:  # older checkpoints have no initial weights and no last update
            setattr(self, name, plain_state(state.get(name, getattr(self, name))))
        self.last_update = MaskUpdate(*self.last_update) if self.last_update else None
        self.apply_masks()

    @torch.no_grad()
    def _begin(self, beginning: Beginning | None) -> None:
        if (caution := cautions.update_caution(self.algorithm, self.total_steps)) is not None:
            warnings.warn(caution, stacklevel=4, category=SparseTrainingWarning)
        if beginning is not None:
            self.initial_weights = dict(beginning.checksums)
            self.network.start_from(beginning.masks)
        else:
            shapes, generator = shapes_of(self.parameters), partial(layer_generator, self.seed)
            self.memory = self.algorithm.initial_memory(shapes, lambda name: generator(name, "memory"))
            self.initial_weights = {name: weight_checksum(parameter) for name, parameter in self.parameters.items()}
            self.network.start_from(self.algorithm.initial_masks(shapes, lambda name: generator(name, "initial")))
            self.network.start_from(self.algorithm.begin(self._layers({}, moment="begin"), self.memory))
        self.weights.follow_update(lambda: self.algorithm.learning_masks(self._layers({})))
        self.apply_masks()
        self.scaling.begin(self.algorithm, self.weights)

    def _layers(
        self, dense_gradients: Mapping[str, Tensor], names: Iterable[str] | None = None, moment: str | None = None
    ) -> dict[str, Connections]:
        """What an algorithm may see of all layers, or of some; ``moment`` tells random numbers of one step apart."""
        return {
            name: Connections(
                weight=for_scores(self.weights.of(name)),
                mask=self.masks[name],
                generator=layer_generator(self.seed, name, moment or str(self.step)),
                dense_grad=None if name not in dense_gradients else for_scores(dense_gradients[name]),
                dense_grad_average=self.gradients.averages.get(name),
                hessian_gradient=self.gradients.hessian.get(name),
                inputs_first=is_inputs_first(self.parameters[name]),
                is_used=name in self.gradients.used,
            )
            for name in (self.parameters if names is None else names)
        }

    def _update_masks(self, optimizer: Optimizer, dense: Mapping[str, Tensor]) -> None:
        layers_of = partial(self._layers, dense)
        self.last_update = self._updater.make(self.algorithm, optimizer, layers_of, self.step, self.memory)
        self.warm_up.note_growth(self._updater.grown, self.masks, optimizer)
        self.weights.follow_update(lambda: self.algorithm.learning_masks(self._layers(dense)))
        self.gradients.clear()
