"""Sparsifier: keeps a model, its gradients and its optimizer true to the masks, in any training loop."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import SettingError, SparseTrainingWarning, StateError
from rigl_lightning.kernels.grouped import all_finite, is_captured
from rigl_lightning.kernels.stored_types import TakeGradient
from rigl_lightning.sparsity.adam_warm_up import AdamWarmUp
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.algorithms.drop_grow import DropGrow
from rigl_lightning.sparsity.cautions import refuse_capture, schedule_caution, update_left_out
from rigl_lightning.sparsity.compact_gradients import GradientTaker, StreamingTaker
from rigl_lightning.sparsity.compact_weights import CompactWeight, CompactWeights
from rigl_lightning.sparsity.distributions import active_counts
from rigl_lightning.sparsity.files.masks import unpack_masks, weight_checksum
from rigl_lightning.sparsity.gradients import Gradients, Mean, for_scores, gradients_of
from rigl_lightning.sparsity.hidden_weights import HiddenWeights
from rigl_lightning.sparsity.layouts import MARK, rows_are_units, shapes_of
from rigl_lightning.sparsity.mask_update import MaskUpdate, MaskUpdater
from rigl_lightning.sparsity.masks import random_mask
from rigl_lightning.sparsity.names import same_tensors
from rigl_lightning.sparsity.network_masks import NetworkMasks
from rigl_lightning.sparsity.optimizer_state import check_owner, learning_rates, reset_state
from rigl_lightning.sparsity.parameters import check_weights
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.settings import describe, differences
from rigl_lightning.sparsity.streamed_growth import can_stream

__all__ = ["MaskUpdate", "Sparsifier"]


class Beginning(NamedTuple):
    """Layers that are compact from the beginning, with random masks: their dense weights are gone.

    Attributes:
        compact: By layer name.
        checksums: `weight_checksum` of every layer's first weights.
    """

    compact: dict[str, CompactWeight]
    checksums: dict[str, int]


class Sparsifier:
    """Masks of a set of parameters, and everything that has to follow them.

    Weights and gradients are masked in place, so the model stays the plain model: ``state_dict``, optimizer and
    compiled code see ordinary tensors. Inactive weights are zero before the first and after every optimizer step.

    Args:
        parameters: Sparse weights by name, as from `select_parameters`. Put them on their device before.
        algorithm: Which connections are active, and when they change.
        total_steps: Optimizer steps of the whole training; needed if the schedule gives fractions of it.
        seed: Seed of all randomness here: masks and growth depend on (seed, layer name, step) and nothing else.
        beginning: Layers that have no dense weights to begin with, from `build_sparse`.
        state: What an earlier `state_dict` returned, to go on exactly from there; the model's and the optimizer's
            own states may be loaded before or after.
        adam_warm_up: None, as in the reference: under Adam the first step of a grown connection is up to 3.2 times the
            learning rate. A number n: Adam and AdamW correct its moments by its own age instead of the optimizer's,
            and its step grows over the first n steps (0: at once), see `AdamWarmUp`.

    Attributes:
        network: The masks, and what is known of them.
        masks: Boolean tensor by name, True where a connection is active. Changed in place.
        explored: The same, True where one ever was.
        n_active: Active connections by name.
        compact: The weights that hold their active connections only.
        step: Optimizer steps completed.
        last_update: The most recent mask update, or None.
        memory: What the algorithm remembers from one update to the next.
        initial_weights: `weight_checksum` of each layer before it was first masked, to tell one start from another.

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
    ) -> None:
        check_weights(parameters)
        if not isinstance(algorithm, SparseAlgorithm):
            raise SettingError(f"Expected `algorithm` to be one such as RigL(sparsity=0.9), got {algorithm!r}.")
        self.parameters = dict(parameters)
        self.seed = int(seed)
        self.total_steps = None if total_steps is None else int(total_steps)
        self.algorithm = algorithm if state is not None else algorithm.resolve(self.total_steps)
        self.step = 0
        self.last_update: MaskUpdate | None = None
        self.memory: dict[str, Any] = {}
        self.initial_weights: dict[str, int] = {}
        self.network = NetworkMasks(self.parameters, None if beginning is None else beginning.compact)
        self.masks: Mapping[str, Tensor] = self.network.masks
        self.explored: Mapping[str, Tensor] = self.network.explored
        self.n_active = self.network.n_active
        self.compact = CompactWeights()
        self.compact.update({} if beginning is None else beginning.compact)
        self._hidden = HiddenWeights(self.parameters) if self.algorithm.hides_inactive_weights else None
        self._gradients = Gradients(self.parameters, self.compact)
        self._updater = MaskUpdater(self.parameters, self.network, self.compact)
        self._warm_up = None if adam_warm_up is None else AdamWarmUp(self.parameters, self.algorithm, adam_warm_up)
        self._has_gradients = False
        self._overflowed: list[str] = []
        self._optimizer: Optimizer | None = None
        if state is None:
            self._begin(beginning)
            self.apply_masks()
        else:
            self.load_state_dict(state)

    # ---- one step ----------------------------------------------------------------------------------------------

    def before_backward(self, loss: Tensor, mean_over_ranks: Mean | None = None) -> None:
        """Call before ``loss.backward`` if the algorithm reads the Hessian's product with the gradient (GraSP).

        With gradient accumulation the products of the parts are added up.

        Args:
            loss: Scalar, with its graph; the graph is kept for the backward pass.
            mean_over_ranks: Averages a tensor over all processes, in place or not; None for a single process.

        Raises:
            RuntimeError: If the network has an operation without a second derivative. Autograd says nothing of a
                custom function marked ``once_differentiable``, whose part is then missing.
        """
        if self.algorithm.needs_hessian_gradient(self.step):
            self._gradients.add_hessian_products(loss, mean_over_ranks, type(self.algorithm).__name__)

    @torch.no_grad()
    def before_step(self, optimizer: Optimizer) -> None:
        """Call between ``backward`` and ``optimizer.step``, with unscaled, reduced and not yet clipped gradients.

        Masks the gradients. On an update step of an algorithm that replaces the gradient step it updates the masks
        and drops all gradients of ``optimizer`` instead, so that the following ``optimizer.step`` changes nothing.
        No update is made from gradients that are not finite; under a GradScaler, which skips that step, the update
        is made at the next one.

        Args:
            optimizer: The optimizer of the sparse parameters.

        Raises:
            ValueError: If it has not all of them.
            RuntimeError: If the algorithm needs `before_backward`, which was not called, or its products overflowed.
        """
        if optimizer is not self._optimizer:
            self.mask_optimizer_state(optimizer)
        self.compact.follow(optimizer)
        gradients = gradients_of(optimizer)
        self._has_gradients, self._overflowed = bool(gradients), []
        if not gradients:
            self._gradients.clear()  # the step is skipped
        algorithm = self.algorithm
        if algorithm.grad_average_decay is not None:
            self._gradients.add_to_averages(algorithm.grad_average_decay)
        is_due = self._has_gradients and algorithm.is_update(self.step)
        if is_captured(self.parameters):
            refuse_capture(algorithm, self.step, is_due)
        if is_due and algorithm.replaces_step:
            if self._can_update():
                if not self.has_dropped_gradients:  # a closure may be evaluated twice
                    self._update_masks(optimizer, self._gradients.dense())
                self.compact.forget_gradients()
                optimizer.zero_grad(set_to_none=True)
                return
        elif is_due and algorithm.needs_dense_gradient(self.step) and algorithm.grad_average_decay is None:
            self._gradients.keep()
        self._add_penalties()
        self.mask_gradients()
        if self._warm_up is not None:
            self._warm_up.before_step()
        # A GradScaler skips a step whose gradients overflowed, and nobody would hide the weights again.
        if self._hidden is not None and gradients and all_finite(gradients):
            self._hidden.swap_in_all(self.masks)

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        """Call after ``optimizer.step`` has changed the weights, and not if it was skipped (GradScaler).

        Updates the masks on an update step of an algorithm that follows the gradient step, zeroes what leaked into
        inactive connections, and counts the step. A step without any gradient does not count.

        Args:
            optimizer: The optimizer of the sparse parameters.

        Raises:
            RuntimeError: If there are gradients that `before_step` has not seen.
        """
        if not self._has_gradients:
            if self._gradients.of_parameters():
                raise StateError(
                    "Expected `before_step` before every optimizer.step. In Lightning's manual optimization, step the "
                    "optimizers of self.optimizers(), without use_pl_optimizer=False."
                )
            return
        if self._hidden is not None and self._hidden.holds_all:
            self._hidden.hide()  # before anyone asks for the weights
        if self._warm_up is not None:
            self._warm_up.after_step(optimizer)
        self._adjust_weights(optimizer)
        if not self.algorithm.replaces_step and self.algorithm.is_update(self.step):
            self._update_masks(optimizer, self._gradients.kept)
        elif self._overflowed:
            warnings.warn(
                update_left_out(self.algorithm, self.step, self._overflowed),
                stacklevel=2,
                category=SparseTrainingWarning,
            )
        self.apply_masks()
        self.compact.forget_gradients()
        self._has_gradients = False
        self.step += 1

    @property
    def has_dropped_gradients(self) -> bool:
        """Whether `before_step` has updated the masks instead of the step, and `after_step` has not been called yet."""
        updated_now = self.last_update is not None and self.last_update.step == self.step
        return self._has_gradients and self.algorithm.replaces_step and updated_now

    # ---- what the masks hold -----------------------------------------------------------------------------------

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set the weights of inactive connections to zero; also those that a step which failed has left behind."""
        if self._hidden is not None and self._hidden.holds_all:
            self._hidden.hide()
        self.network.zero_inactive_(self.parameters)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of connections that do not learn to zero."""
        if self._hidden is not None:
            self._hidden.mask_gradients()
        else:
            self.network.zero_inactive_(self._gradients.of_parameters())

    @torch.no_grad()
    def mask_optimizer_state(self, optimizer: Optimizer) -> None:
        """Reset the optimizer's state of inactive connections, as when momenta of a dense training were loaded.

        Later masked gradients keep it where it belongs.

        Raises:
            ValueError: If the optimizer has not all of the sparse weights.
        """
        check_owner(optimizer, self.parameters)
        if self._warm_up is not None:
            self._warm_up.check(optimizer)
        self._optimizer = optimizer
        if self._hidden is None:
            for name in self.network.masked_layers:
                reset_state(optimizer, self.parameters[name], ~self.masks[name])

    @torch.no_grad()
    def apply_masks_to(self, module: nn.Module) -> None:
        """Set the same connections of a copy of the model to zero, such as an average of its weights.

        Args:
            module: Has the sparse parameters by the same names as the model, or wrapped ones (DDP, torch.compile,
                AveragedModel, as an attribute); others are left alone.

        Raises:
            ValueError: If it does not have all of them.
        """
        parameters = dict(module.named_parameters())
        names = same_tensors(self.masks, parameters)
        if names is None:
            raise SettingError(
                f"Expected a copy of the model, with its sparse weights {list(self.masks)}, got a "
                f"{type(module).__name__} with {list(parameters)}. Give the module whose weights are copies."
            )
        for name, mask in self.masks.items():
            parameter = parameters[names[name]]
            parameter.masked_fill_(~mask.to(parameter.device), 0)

    # ---- how weights are stored --------------------------------------------------------------------------------

    def why_not_compact(self) -> str:
        """Why the algorithm needs dense weights, or ""."""
        name = type(self.algorithm).__name__
        if self._warm_up is not None:
            return "Adam's warm-up reads single connections"
        if self.algorithm.hides_inactive_weights:
            return f"the inactive weights of {name} keep their values"
        return "" if self.algorithm.grad_average_decay is None else f"{name} averages dense gradients"

    def taker(self, name: str, keeps: bool = True) -> TakeGradient | None:
        """What a compact layer gives its dense gradient to, in a forward pass of this step; None if nobody reads it.

        Args:
            name: Of the layer's weight.
            keeps: Keep it until the step is over. Otherwise what `can_stream` looks at it in pieces and lets it go;
                then there can be one backward pass of the layer in a step.
        """
        if not self.needs_dense_gradient():
            return None
        weight = self.compact[name]
        if keeps or not can_stream(self.algorithm):
            return GradientTaker(self.compact, name)
        assert isinstance(self.algorithm, DropGrow)
        n_update = self.algorithm.n_update(weight.n_active, self.step)
        return StreamingTaker(self.compact, name, n_update)

    def store_compactly(self, name: str) -> None:
        """Let a parameter hold its active connections only, see `CompactWeight`; its layer has to compute so."""
        self.compact.add(name, self.parameters[name], self.masks[name])
        self.network.store_compactly(name, self.compact[name])

    def store_densely(self, name: str) -> None:
        """Undo `store_compactly`."""
        self.network.store_densely(name)
        self.compact.remove(name)

    # ---- which gradients are read ------------------------------------------------------------------------------

    def weight_gradient_density(self) -> dict[str, float]:
        """Fraction of each layer's weights that get a gradient at this step: what its computation costs."""
        if self.algorithm.needs_dense_gradient(self.step):
            return dict.fromkeys(self.masks, 1.0)
        if self._hidden is None:
            return self.density()
        return self._hidden.learning_density()

    def gradient_masks(self) -> Mapping[str, Tensor]:
        """Masks of the connections that learn: the active ones, and with them inactive ones that are hidden.

        Where all inactive ones learn (DNW), those of the active ones; see `needs_dense_gradient`.
        """
        learning = None if self._hidden is None else self._hidden.learning
        return self.masks if learning is None else learning

    def needs_dense_gradient(self) -> bool:
        """Whether the gradients of inactive connections are read at this step, `gradient_masks` aside."""
        replaced = self.algorithm.replaces_step and self.algorithm.is_update(self.step)
        return replaced or self.algorithm.needs_dense_gradient(self.step) or self._all_weights_learn()

    def always_needs_dense_gradient(self) -> bool:
        """Whether that is so at every step: SNFS averages the dense gradient, with DNW all weights learn."""
        return self.algorithm.grad_average_decay is not None or self._all_weights_learn()

    def _all_weights_learn(self) -> bool:
        return self._hidden is not None and self._hidden.learning is None

    # ---- what is known of the masks, see `NetworkMasks` ---------------------------------------------------------

    def density(self) -> dict[str, float]:
        """Density of each layer, in [0, 1]."""
        return self.network.density()

    def total_density(self) -> float:
        """Density of all layers together, in [0, 1]."""
        return self.network.total_density()

    def exploration(self) -> float:
        """Fraction of all connections that have been active at any time, in [0, 1]."""
        return self.network.exploration()

    def checksums(self) -> dict[str, int]:
        """CRC-32 of each layer's mask, equal on every process that has the same masks."""
        return self.network.checksums()

    def by_units(self, name: str) -> Tensor:
        """A layer's mask with its units (outputs) first, however the weight is stored."""
        return rows_are_units(self.masks[name], hasattr(self.parameters[name], MARK))

    def first_masks(self) -> dict[str, Tensor]:
        """The masks that training began with, on the CPU."""
        return unpack_masks(self.network.first)

    def sparse_layers(self) -> list[str]:
        """Names of the layers that have an inactive connection."""
        return list(self.network.sparse_layers)

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs: plain numbers and CPU tensors, masks at one bit a connection."""
        return {
            **self.network.state_dict(),
            "memory": {key: _on_cpu(value) for key, value in self.memory.items()},
            "hidden": None if self._hidden is None else self._hidden.state_dict(),
            "initial_weights": dict(self.initial_weights),
            **self._gradients.state_dict(),
            "step": self.step,
            "last_update": None if self.last_update is None else tuple(self.last_update),
            "total_steps": self.total_steps,
            "seed": self.seed,
            "algorithm": describe(self.algorithm),
            **({} if self._warm_up is None else {"adam_warm_up": self._warm_up.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what an earlier `state_dict` returned.

        Raises:
            ValueError: If it is that of other layers or of another algorithm.
        """
        algorithm = self.algorithm.resolve(state["total_steps"])
        if describe(algorithm) != state["algorithm"]:
            raise SettingError(
                f"Expected the algorithm of the run that is resumed, {state['algorithm']}, got "
                f"{describe(algorithm)}: {differences(algorithm, state['algorithm'])}. Set --sparse.algorithm as in "
                "that run, or start a new run."
            )
        self.network.load_state_dict(state)
        self._gradients.load_state_dict(state)
        self.algorithm, self.total_steps, self.seed = algorithm, state["total_steps"], int(state["seed"])
        self.step = int(state["step"])
        # Older checkpoints have neither.
        self.last_update = MaskUpdate(*state["last_update"]) if state.get("last_update") else None
        self.initial_weights = dict(state.get("initial_weights", {}))
        self.memory = {key: _on_cpu(value) for key, value in state["memory"].items()}
        if self._hidden is not None:
            self._hidden.load_state_dict(state["hidden"])
        if self._warm_up is not None:
            self._warm_up.load_state_dict(state.get("adam_warm_up", {}))
        self.apply_masks()

    # ---- parts -------------------------------------------------------------------------------------------------

    def _begin(self, beginning: Beginning | None) -> None:
        caution = schedule_caution(self.algorithm, self.total_steps)
        if caution is not None:
            warnings.warn(caution, stacklevel=3, category=SparseTrainingWarning)
        if beginning is not None:
            self._begin_compactly(beginning)
            return
        shapes = shapes_of(self.parameters)
        self.memory = self.algorithm.initial_memory(shapes, lambda name: self._generator(name, "memory"))
        self.initial_weights = {name: weight_checksum(parameter) for name, parameter in self.parameters.items()}
        self.network.start_from(self.algorithm.initial_masks(shapes, lambda name: self._generator(name, "initial")))
        self.network.start_from(self.algorithm.begin(self._layers({}, "begin"), self.memory))
        if self._hidden is not None:
            self._hidden.learning = self.algorithm.learning_masks(self._layers({}))

    def _begin_compactly(self, beginning: Beginning) -> None:
        weights = {name: self.compact.get(name, parameter) for name, parameter in self.parameters.items()}
        shapes = {name: weight.shape for name, weight in weights.items()}
        counts = active_counts(shapes, self.algorithm.layer_sparsities(shapes, 0))
        self.initial_weights = dict(beginning.checksums)
        dense = {
            n: random_mask(shapes[n], counts[n], self._generator(n, "initial")) for n in shapes if n not in self.compact
        }
        self.network.start_from(dense)

    def _layers(
        self, dense_gradients: Mapping[str, Tensor], moment: str | None = None, names: Iterable[str] | None = None
    ) -> dict[str, Connections]:
        """What an algorithm may see of all layers, or of some; ``moment`` tells random numbers of one step apart."""
        weights = self.parameters if self._hidden is None else self._hidden.weights
        return {
            name: Connections(
                weight=for_scores(self.compact[name].dense() if name in self.compact else weights[name]),
                mask=self.masks[name],
                generator=self._generator(name, moment or str(self.step)),
                dense_grad=None if name not in dense_gradients else for_scores(dense_gradients[name]),
                dense_grad_average=self._gradients.averages.get(name),
                hessian_gradient=self._gradients.hessian.get(name),
                inputs_first=hasattr(self.parameters[name], MARK),
            )
            for name in names or self.parameters
        }

    def _generator(self, name: str, moment: str) -> torch.Generator:
        # Not Python's hash: it differs between processes.
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{name}/{moment}".encode()))

    def _can_update(self) -> bool:
        """Whether the gradients are such that masks can be updated by them."""
        dense = self._gradients.dense()
        if not all_finite(dense.values()):
            self._overflowed = [name for name, grad in dense.items() if not all_finite([grad])]
            self._gradients.clear()  # this step will be skipped, and its products are not those of the next
            return False
        streamed = self.compact.updates.items()
        self._overflowed = [name for name, update in streamed if not update.is_finite]
        if self._overflowed:
            return False
        if self.algorithm.needs_hessian_gradient(self.step):
            self._gradients.check_hessian_products(self.step, type(self.algorithm).__name__)
        return True

    def _update_masks(self, optimizer: Optimizer, dense: Mapping[str, Tensor]) -> None:
        def see(names: Iterable[str]) -> dict[str, Connections]:
            return self._layers(dense, names=names)

        self.last_update = self._updater.make(self.algorithm, optimizer, see, self.step, self.memory)
        if self._warm_up is not None:
            self._warm_up.note_growth(self._updater.grown, self.masks, optimizer)
        if self._hidden is not None:
            self._hidden.copy_all()  # what is inactive now is hidden again when the masks are applied
            self._hidden.learning = self.algorithm.learning_masks(self._layers(dense))
            self.apply_masks()
        self._gradients.clear()

    def _adjust_weights(self, optimizer: Optimizer) -> None:
        if self.algorithm.adjust_weights is None:
            return
        rates = learning_rates(optimizer, self.parameters)
        layers = self._layers({}, f"{self.step}/adjust")
        for name, weight in self.algorithm.adjust_weights(layers, self.step, rates, self.memory).items():
            if name in self.compact:
                self.compact[name].set_to(weight)
            else:
                self.parameters[name].copy_(weight)

    def _add_penalties(self) -> None:
        if self.algorithm.penalty_gradient is None:
            return
        for name, layer in self._layers({}).items():
            grad = self.parameters[name].grad
            penalty = None if grad is None else self.algorithm.penalty_gradient(layer)
            if grad is not None and penalty is not None:
                penalty = self.compact[name].gather(penalty) if name in self.compact else penalty
                grad.add_(penalty.to(grad.dtype))


def _on_cpu(value: Any) -> Any:
    return value.to("cpu", copy=True) if isinstance(value, Tensor) else value
