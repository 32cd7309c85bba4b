"""Sparsifier: keeps a model, its gradients and its optimizer true to the masks, in any training loop."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.kernels.masking import zero_inactive_
from rigl_lightning.sparsity.algorithms import SparseAlgorithm, describe
from rigl_lightning.sparsity.compact_weights import CompactWeights
from rigl_lightning.sparsity.files.masks import check_fit, pack_masks, unpack_masks, weight_checksum
from rigl_lightning.sparsity.hidden_weights import HiddenWeights
from rigl_lightning.sparsity.masks import pack_mask
from rigl_lightning.sparsity.names import clean_name
from rigl_lightning.sparsity.optimizer_state import group_of, reset_state, set_at
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.selection import count_active, positions


class MaskUpdate(NamedTuple):
    """What one mask update did, over all layers.

    Attributes:
        step: Optimizer steps completed before it.
        drop_fraction: Fraction of the active connections it dropped.
        n_grown: Connections that were inactive before and are active now.
        n_grown_blindly: Those of them whose dense gradient was exactly zero, so that position alone chose them: there
            were too few non-zero gradients (dead units, a small batch, underflow).
        n_active: Active connections.
    """

    step: int
    drop_fraction: float
    n_grown: int
    n_grown_blindly: int
    n_active: int

    @property
    def churn(self) -> float:
        """Fraction of the active connections that are new."""
        return self.n_grown / max(self.n_active, 1)

    @property
    def blind_growth(self) -> float:
        """Fraction of the grown connections that position alone chose."""
        return self.n_grown_blindly / max(self.n_grown, 1)


class Sparsifier:
    """Masks of a set of parameters, and everything that has to follow them.

    Weights and gradients are masked in place, so the model stays the plain model: ``state_dict``, optimizer and
    compiled code see ordinary tensors. Inactive weights are zero before the first and after every optimizer step.

    Args:
        parameters: Sparse weights by name, as from `select_parameters`. Put them on their device before.
        algorithm: Which connections are active, and when they change.
        total_steps: Optimizer steps of the whole training; needed if the schedule gives fractions of it.
        seed: Seed of all randomness here: masks and growth depend on (seed, layer name, step) and nothing else.
        state: What an earlier `state_dict` returned, to go on exactly from there; the model's and the optimizer's
            own states may be loaded before or after.

    Attributes:
        masks: Boolean tensor by name, True where a connection is active. Changed in place.
        step: Optimizer steps completed.
        last_update: The most recent mask update, or None.
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
    ) -> None:
        _refuse_shards(parameters)
        self.parameters = dict(parameters)
        self.seed = seed if state is None else int(state["seed"])
        self.total_steps = total_steps if state is None else state["total_steps"]
        self.algorithm = algorithm.resolve(self.total_steps)
        self.step = 0
        self.last_update: MaskUpdate | None = None
        self._has_gradients = False
        self._kept_gradients: dict[str, Tensor] = {}
        self._hessian_gradients: dict[str, Tensor] = {}
        self._grad_averages: dict[str, Tensor] = {}
        self._masked_optimizer: Optimizer | None = None
        self.compact = CompactWeights()
        self._hidden = HiddenWeights(self.parameters) if self.algorithm.hides_inactive_weights else None
        if state is None:
            self._begin()
        else:
            self._restore(state)
        self._count()
        self.apply_masks()

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set the weights of inactive connections to zero; also those that a step which failed has left behind."""
        if self._hidden is not None and self._hidden.are_revealed:
            self._hidden.hide()
        for name in self._sparse:
            zero_inactive_(self.parameters[name], self.masks[name])

    @torch.no_grad()
    def apply_masks_to(self, module: nn.Module) -> None:
        """Set the same connections of a copy of the model to zero, such as an average of its weights.

        Args:
            module: Has parameters of the same names as the model; others are left alone.
        """
        for name, parameter in module.named_parameters():
            mask = self.masks.get(clean_name(name))
            if mask is not None:
                parameter.masked_fill_(~mask.to(parameter.device), 0)

    def before_backward(self, loss: Tensor, mean_over_ranks: Callable[[Tensor], Tensor] | None = None) -> None:
        """Call before ``loss.backward`` if the algorithm reads the Hessian's product with the gradient (GraSP).

        With gradient accumulation the products of the parts are added up.

        Args:
            loss: Scalar, with its graph; the graph is kept for the backward pass.
            mean_over_ranks: Averages a tensor over all processes, in place or not; None for a single process.

        Raises:
            RuntimeError: If the network has an operation without a second derivative. Autograd says nothing of a
                custom function marked ``once_differentiable``, whose part is then missing.
        """
        if not self.algorithm.needs_hessian_gradient(self.step):
            return
        try:
            products = _hessian_gradients(loss, self.parameters, mean_over_ranks or (lambda tensor: tensor))
        except RuntimeError as error:
            raise RuntimeError(
                f"Expected a network that can be differentiated twice, as {type(self.algorithm).__name__} needs, got: "
                f"{error} Leave out torch.compile, cuDNN's recurrent layers and fused attention, or set another "
                "algorithm, such as SNIP."
            ) from error
        for name, product in products.items():
            earlier = self._hessian_gradients.get(name)
            self._hessian_gradients[name] = product if earlier is None else earlier + product

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
            RuntimeError: If the algorithm needs `before_backward`, which was not called, or its products overflowed.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._has_gradients = bool(gradients)
        if not gradients:
            self._hessian_gradients = {}  # the step is skipped
        self._mask_state_once(optimizer)
        self.compact.follow(optimizer)
        dense_gradients = self._dense_gradients()
        self._average(dense_gradients)
        update_due = self._has_gradients and self.algorithm.is_update(self.step)
        if self.algorithm.replaces_step and update_due and self._are_usable(dense_gradients):
            if not self.has_dropped_gradients:  # a closure may be evaluated twice
                self._update_masks(optimizer, dense_gradients)
            self.compact.forget_gradients()
            optimizer.zero_grad(set_to_none=True)
            return
        if update_due and self.algorithm.needs_dense_gradient(self.step) and self.algorithm.grad_average_decay is None:
            # Those of compact weights are not in the parameters, and nobody masks them.
            self._kept_gradients = {n: g if n in self.compact else g.clone() for n, g in dense_gradients.items()}
        self._add_penalties()
        self.mask_gradients()
        # A GradScaler skips a step whose gradients overflowed, and nobody would hide the weights again.
        if self._hidden is not None and gradients and _all_finite(gradients):
            self._hidden.reveal(self.masks)

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
            if any(parameter.grad is not None for parameter in self.parameters.values()):
                raise RuntimeError(
                    "Expected `before_step` before every optimizer.step. In Lightning's manual optimization, step the "
                    "optimizers of self.optimizers(), without use_pl_optimizer=False."
                )
            return
        if self._hidden is not None and self._hidden.are_revealed:
            self._hidden.hide()  # before anyone asks for the weights
        self._adjust_weights(optimizer)
        if not self.algorithm.replaces_step and self.algorithm.is_update(self.step):
            self._update_masks(optimizer, self._kept_gradients)
            self._kept_gradients = {}
        self.apply_masks()
        self.compact.forget_gradients()
        self._has_gradients = False
        self.step += 1

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of connections that do not learn to zero."""
        if self._hidden is not None:
            self._hidden.mask_gradients()
            return
        for name in self._sparse:
            grad = self.parameters[name].grad
            if grad is not None:
                zero_inactive_(grad, self.masks[name])

    @torch.no_grad()
    def mask_optimizer_state(self, optimizer: Optimizer) -> None:
        """Reset the optimizer's state of inactive connections, as when momenta of a dense training were loaded."""
        self._masked_optimizer = optimizer
        if self._hidden is None:
            for name in self._sparse:
                reset_state(optimizer, self.parameters[name], ~self.masks[name])

    def why_not_compact(self) -> str:
        """Why the algorithm needs dense weights, or ""."""
        name = type(self.algorithm).__name__
        if self.algorithm.hides_inactive_weights:
            return f"the inactive weights of {name} keep their values"
        return "" if self.algorithm.grad_average_decay is None else f"{name} averages dense gradients"

    def store_compactly(self, name: str) -> None:
        """Let a parameter hold its active connections only, see `CompactWeight`; its layer has to compute so."""
        self.compact.add(name, self.parameters[name], self.masks[name])
        self._list_masked()

    def store_densely(self, name: str) -> None:
        """Undo `store_compactly`."""
        self.compact.remove(name)
        self._list_masked()

    @property
    def has_dropped_gradients(self) -> bool:
        """Whether `before_step` has updated the masks instead of the step, and `after_step` has not been called yet."""
        updated_now = self.last_update is not None and self.last_update.step == self.step
        return self._has_gradients and self.algorithm.replaces_step and updated_now

    def density(self) -> dict[str, float]:
        """Density of each layer, in [0, 1]. Counts masks, not non-zero weights: a grown connection starts at zero."""
        return {name: self.n_active[name] / self.masks[name].numel() for name in self.masks}

    def total_density(self) -> float:
        """Density of all layers together, in [0, 1]."""
        return sum(self.n_active.values()) / sum(mask.numel() for mask in self.masks.values())

    def weight_gradient_density(self) -> dict[str, float]:
        """Fraction of each layer's weights that get a gradient at this step: what its computation costs."""
        if self.algorithm.needs_dense_gradient(self.step):
            return dict.fromkeys(self.masks, 1.0)
        if self._hidden is None:
            return self.density()
        learning = self._hidden.learning
        return {name: count_active(learning[name]) / m.numel() if learning else 1.0 for name, m in self.masks.items()}

    def gradient_masks(self) -> Mapping[str, Tensor]:
        """Masks of the connections that learn: the active ones, and with them inactive ones that are hidden.

        Where all inactive ones learn (DNW), those of the active ones; see `needs_dense_gradient`.
        """
        learning = None if self._hidden is None else self._hidden.learning
        return self.masks if learning is None else learning

    def needs_dense_gradient(self) -> bool:
        """Whether the gradients of inactive connections are read at this step, `gradient_masks` aside."""
        return (
            self.algorithm.needs_dense_gradient(self.step)
            or (self.algorithm.replaces_step and self.algorithm.is_update(self.step))
            or (self._hidden is not None and self._hidden.learning is None)
        )

    def always_needs_dense_gradient(self) -> bool:
        """Whether that is so at every step: SNFS averages the dense gradient, with DNW all weights learn."""
        averages = self.algorithm.grad_average_decay is not None
        return averages or (self._hidden is not None and self._hidden.learning is None)

    def first_masks(self) -> dict[str, Tensor]:
        """The masks that training began with, on the CPU."""
        return unpack_masks(self._first_masks)

    def exploration(self) -> float:
        """Fraction of all connections that have been active at any time, in [0, 1].

        The in-time over-parameterisation rate of ITOP (Liu et al. 2021, arXiv 2102.02887, section 3.1).
        """
        return sum(self._n_explored.values()) / sum(mask.numel() for mask in self.masks.values())

    def checksums(self) -> dict[str, int]:
        """CRC-32 of each layer's mask, equal on every process that has the same masks."""
        return {name: zlib.crc32(pack_mask(mask).numpy().tobytes()) for name, mask in self.masks.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs: plain numbers and CPU tensors, masks at one bit a connection."""
        return {
            "masks": pack_masks(self.masks),
            "explored": pack_masks(self.explored),
            "first_masks": self._first_masks,
            "memory": {key: _on_cpu(value) for key, value in self.memory.items()},
            "hidden": None if self._hidden is None else self._hidden.state_dict(),
            "initial_weights": dict(self.initial_weights),
            "grad_averages": {name: average.to("cpu", copy=True) for name, average in self._grad_averages.items()},
            "step": self.step,
            "last_update": None if self.last_update is None else tuple(self.last_update),
            "total_steps": self.total_steps,
            "seed": self.seed,
            "algorithm": describe(self.algorithm),
        }

    def _begin(self) -> None:
        shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        self.memory = self.algorithm.initial_memory(shapes, lambda name: self._generator(name, "memory"))
        self.initial_weights = {name: weight_checksum(parameter) for name, parameter in self.parameters.items()}
        self.masks = self._on_devices(
            self.algorithm.initial_masks(shapes, lambda name: self._generator(name, "initial"))
        )
        self.masks = self._on_devices(self.algorithm.begin(self._layers({}, "begin"), self.memory))
        self.explored = self._on_devices(self.masks)
        self._first_masks = pack_masks(self.masks)
        if self._hidden is not None:
            self._hidden.learning = self.algorithm.learning_masks(self._layers({}))

    def _restore(self, state: Mapping[str, Any]) -> None:
        masks = unpack_masks(state["masks"])
        remedy = "Set the model, --sparse.include and --sparse.exclude as in the run that is resumed."
        check_fit(masks, {name: parameter.shape for name, parameter in self.parameters.items()}, remedy)
        if describe(self.algorithm) != state["algorithm"]:
            raise ValueError(
                f"Expected the algorithm of the run that is resumed, {state['algorithm']}, "
                f"got {describe(self.algorithm)}. Set --sparse.algorithm as in that run, or start a new run."
            )
        self.masks = self._on_devices(masks)
        self.explored = self._on_devices(unpack_masks(state["explored"]))
        self._first_masks = dict(state["first_masks"])
        self.step = int(state["step"])
        # Older checkpoints have neither.
        self.last_update = MaskUpdate(*state["last_update"]) if state.get("last_update") else None
        self.initial_weights = dict(state.get("initial_weights", {}))
        self.memory = {key: _on_cpu(value) for key, value in state["memory"].items()}
        if self._hidden is not None:
            self._hidden.load_state_dict(state["hidden"])
        self._grad_averages = {
            name: average.to(self.parameters[name].device, copy=True)
            for name, average in state["grad_averages"].items()
        }

    def _on_devices(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: torch.empty_like(parameter, dtype=torch.bool, requires_grad=False).copy_(masks[name])
            for name, parameter in self.parameters.items()
        }

    def _dense_gradients(self) -> dict[str, Tensor]:
        """Gradients of all connections, of those layers that have them."""
        own = {n: p.grad for n, p in self.parameters.items() if p.grad is not None and n not in self.compact}
        return {
            name: gradients[name]
            for name in self.parameters
            for gradients in (own, self.compact.gradients)
            if name in gradients
        }

    def _update_masks(self, optimizer: Optimizer, dense_gradients: Mapping[str, Tensor]) -> None:
        layers = self._layers(dense_gradients)
        new_masks = self.algorithm.update_masks(layers, self.step, self.memory)
        grown = [self._install(optimizer, layers[name], name, mask) for name, mask in new_masks.items()]
        self._list_masked()
        if self._hidden is not None:
            self._hidden.show()  # what is inactive now is hidden again when the masks are applied
            self._hidden.learning = self.algorithm.learning_masks(self._layers(dense_gradients))
            self.apply_masks()
        self._hessian_gradients = {}
        fraction = self.algorithm.drop_fraction_at(self.step)
        n_grown, n_blindly = (sum(counts) for counts in zip(*grown, strict=True))
        self.last_update = MaskUpdate(self.step, fraction, n_grown, n_blindly, sum(self.n_active.values()))

    def _layers(self, dense_gradients: Mapping[str, Tensor], moment: str | None = None) -> dict[str, Connections]:
        """What an algorithm may see; ``moment`` tells the random numbers of one step apart."""
        weights = self.parameters if self._hidden is None else self._hidden.weights
        return {
            name: Connections(
                weight=_for_scores(self.compact[name].dense() if name in self.compact else weights[name]),
                mask=self.masks[name],
                generator=self._generator(name, moment or str(self.step)),
                dense_grad=None if name not in dense_gradients else _for_scores(dense_gradients[name]),
                dense_grad_average=self._grad_averages.get(name),
                hessian_gradient=self._hessian_gradients.get(name),
            )
            for name in self.parameters
        }

    def _install(self, optimizer: Optimizer, layer: Connections, name: str, new_mask: Tensor) -> tuple[int, int]:
        """Make ``new_mask`` the layer's mask; returns the numbers of grown and of blindly grown connections."""
        mask = self.masks[name]
        if new_mask is mask:
            return 0, 0
        # A connection that was dropped and grown again in one update keeps its value and its optimizer state, as in
        # the reference (sparse_optimizers_base.py:328-334): it has not changed.
        changed = mask ^ new_mask
        at = positions(changed)
        if at.numel() == 0:
            return 0, 0
        if self._hidden is None:
            self._start_anew(optimizer, layer, name, changed, at)
        mask.copy_(new_mask)
        grown = at[mask.reshape(-1)[at]]
        self._n_explored[name] += _add_to(self.explored[name], grown)
        self.n_active[name] += 2 * grown.numel() - at.numel()
        n_blindly = 0 if layer.dense_grad is None else count_active(layer.dense_grad.reshape(-1)[grown] == 0)
        return grown.numel(), n_blindly

    def _start_anew(self, optimizer: Optimizer, layer: Connections, name: str, changed: Tensor, at: Tensor) -> None:
        """Values and optimizer state of connections that are dropped or grown."""
        parameter = self.parameters[name]
        initial = self.algorithm.grow_init(layer)
        if name in self.compact:
            self.compact[name].move(positions(changed ^ layer.mask), optimizer, initial)
            return
        set_at(parameter, changed, 0.0, at)
        if initial is not None:
            grown = changed & ~layer.mask
            parameter[grown] = initial[grown].to(parameter.dtype)
        reset_state(optimizer, parameter, changed, at)

    def _adjust_weights(self, optimizer: Optimizer) -> None:
        if type(self.algorithm).adjust_weights is SparseAlgorithm.adjust_weights:
            return
        groups = {name: group_of(optimizer, parameter) for name, parameter in self.parameters.items()}
        rates = {name: float(group["lr"]) for name, group in groups.items() if group is not None}
        layers = self._layers({}, f"{self.step}/adjust")
        adjusted = self.algorithm.adjust_weights(layers, self.step, rates, self.memory)
        for name, weight in adjusted.items():
            if name in self.compact:
                self.compact[name].set_to(weight)
            else:
                self.parameters[name].copy_(weight)

    def _add_penalties(self) -> None:
        if type(self.algorithm).penalty_gradient is SparseAlgorithm.penalty_gradient:
            return
        for name, layer in self._layers({}).items():
            grad = self.parameters[name].grad
            penalty = None if grad is None else self.algorithm.penalty_gradient(layer)
            if grad is not None and penalty is not None:
                penalty = self.compact[name].gather(penalty) if name in self.compact else penalty
                grad.add_(penalty.to(grad.dtype))

    def _are_usable(self, dense_gradients: Mapping[str, Tensor]) -> bool:
        if _all_finite(dense_gradients.values()):
            self._check_hessian_gradients()
            return True
        self._hessian_gradients = {}  # this step will be skipped, and its products are not those of the next
        return False

    def _check_hessian_gradients(self) -> None:
        if not self.algorithm.needs_hessian_gradient(self.step):
            return
        name = type(self.algorithm).__name__
        if not self._hessian_gradients:
            raise RuntimeError(
                f"Expected `before_backward(loss)` before loss.backward() at step {self.step}: {name} reads the "
                "product of the loss's Hessian and gradient. Add the call to the training loop; "
                "SparseTrainingCallback makes it by itself."
            )
        if not _all_finite(self._hessian_gradients.values()):
            raise RuntimeError(
                f"Expected a finite product of the loss's Hessian and gradient for {name}, got an overflow. Set "
                "--trainer.precision to 32-true or bf16-mixed."
            )

    def _mask_state_once(self, optimizer: Optimizer) -> None:
        # State that a dense training left in the optimizer; afterwards masked gradients keep it where it belongs.
        if optimizer is not self._masked_optimizer:
            self.mask_optimizer_state(optimizer)

    def _average(self, dense_gradients: Mapping[str, Tensor]) -> None:
        decay = self.algorithm.grad_average_decay
        if decay is None or not _all_finite(dense_gradients.values()):
            return
        for name, grad in dense_gradients.items():
            if name not in self._grad_averages:
                self._grad_averages[name] = torch.zeros_like(grad, dtype=torch.float32)
            self._grad_averages[name].mul_(decay).add_(grad, alpha=1 - decay)

    def _count(self) -> None:
        self.n_active = {name: count_active(mask) for name, mask in self.masks.items()}
        self._n_explored = {name: count_active(mask) for name, mask in self.explored.items()}
        self._list_masked()

    def _list_masked(self) -> None:
        self._sparse = [name for name in self.sparse_layers() if name not in self.compact]

    def sparse_layers(self) -> list[str]:
        """Names of the layers that have an inactive connection; the others need no masking."""
        return [name for name, count in self.n_active.items() if count < self.masks[name].numel()]

    def _generator(self, name: str, step: str) -> torch.Generator:
        # Not Python's hash: it differs between processes.
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{name}/{step}".encode()))


def _refuse_shards(parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        # By name: importing these classes takes torch.distributed, which not every build has.
        kinds = {kind.__name__ for kind in type(parameter).__mro__} & {"DTensor", "FlatParameter", "ShardedTensor"}
        if kinds or parameter.numel() == 0:
            what = kinds.pop() if kinds else "tensor without elements"
            raise ValueError(
                f"Expected whole weights on each process, got a {what} in {name!r}: connections are ranked over a "
                "whole layer. Use DistributedDataParallel instead of FSDP, ZeRO or tensor parallelism."
            )


def _hessian_gradients(
    loss: Tensor, parameters: Mapping[str, nn.Parameter], mean_over_ranks: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Product of the loss's Hessian with its gradient, of each layer, by differentiating twice."""
    weights = [p for p in parameters.values() if p.requires_grad]  # Lightning's toggle_optimizer freezes the others'
    if not weights:
        return {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in parameters.items()}
    gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    # The Hessian of the mean loss times the gradient of the mean loss, of which this process has its part.
    pairs = [(g, mean_over_ranks(g.detach().clone())) for g in gradients if g is not None and g.requires_grad]
    if not pairs:  # a loss that is linear in the weights has no curvature
        return {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in parameters.items()}
    product = torch.stack([(own * mean).sum() for own, mean in pairs]).sum()
    found = torch.autograd.grad(product, weights, retain_graph=True, allow_unused=True)
    products = {id(weight): value for weight, value in zip(weights, found, strict=True) if value is not None}
    return {
        name: mean_over_ranks(products.get(id(parameter), torch.zeros_like(parameter, requires_grad=False)).detach())
        for name, parameter in parameters.items()
    }


def _add_to(explored: Tensor, grown: Tensor) -> int:
    """Note positions as explored; returns how many are new."""
    flat = explored.view(-1) if explored.is_contiguous() else explored.reshape(-1)
    n_new = grown.numel() - count_active(flat[grown])
    flat[grown] = True
    if not explored.is_contiguous():
        explored.copy_(flat.view(explored.shape))
    return n_new


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    # A sum is the fastest reading of all values. It is not finite if one of them is not, or if it overflows.
    return all(bool(t.sum().isfinite()) or bool(t.isfinite().all()) for t in tensors)


def _for_scores(tensor: Tensor) -> Tensor:
    # Half precision has so few values that most scores would be ties.
    return tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()


def _on_cpu(value: Any) -> Any:
    return value.to("cpu", copy=True) if isinstance(value, Tensor) else value
