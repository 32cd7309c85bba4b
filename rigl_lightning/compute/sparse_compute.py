"""SparseCompute: lets the layers of a module compute with their active connections only, while it trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rigl_lightning.base.errors import SettingError
from rigl_lightning.compute.batch_norms import replace_batch_norms
from rigl_lightning.compute.installation import Forward, is_replaced, replace_forward, restore_forward
from rigl_lightning.compute.layers import KINDS, Kind, LayerPatterns, Tensors
from rigl_lightning.compute.pattern_cache import PatternCache
from rigl_lightning.compute.step_trial import StepTrial
from rigl_lightning.compute.storage import LayerStorage, Storage
from rigl_lightning.compute.stored_layers import StoredTensors, call_refusal, compute_stored
from rigl_lightning.compute.timed_choice import SAMPLED, Choice, decide, decide_without_timing, pooled
from rigl_lightning.kernels import SparsePattern, release
from rigl_lightning.kernels.tiers import recorded
from rigl_lightning.sparsity.layouts import shapes_of
from rigl_lightning.sparsity.names import clean_name, without_numbers
from rigl_lightning.sparsity.needed_gradients import (
    always_needs_dense_gradient,
    gradient_masks,
    needs_dense_gradient,
)
from rigl_lightning.sparsity.sparsifier import Sparsifier

Compute = Literal["auto", "sparse", "dense"]
_DTYPES = (torch.float32, torch.float64)


class SparseCompute:
    """Replaces the forward of a module's layers by the sparse kernels, until `remove`.

    Layers are `torch.nn.Linear`, `Conv2d` of one group, `GRU` and `LSTM` on the CPU in float32 (or float64), with
    their own forward. All others, and all calls without gradients (validation), are left as they are. Weights stay
    dense parameters that are zero where inactive; gradients come out as dense tensors, zero where inactive, except on
    steps whose mask update reads the dense gradient. So any layer may be computed either way at any time.

    A layer that reads the weight in another way than by its module's forward is dense there. Derivatives of a higher
    order are computed by dense operators. Beside convolutions, batch norms in training go by `batch_norm2d`.

    Args:
        module: Any module.
        sparsifier: Of its weights.
        compute: "sparse": wherever the kernels can. "auto": where they are also faster, which is measured on the first
            inputs, of layers that are alike together, and again when a density has changed by a quarter. Where layers
            gain little, twelve of the first steps tell whether whole steps gain (`StepTrial`). Under
            `torch.use_deterministic_algorithms` "auto" is dense: what is faster may differ from run to run.
            "dense": nowhere.
        choices: What an earlier `state_dict` returned: layers are computed as they were, without timing them again.
        storage: "connections": while this is installed, the weights of layers that compute sparsely are vectors of
            their active values, and so are gradients and optimizer state (see `CompactWeight`), wherever an algorithm
            and what hangs on the weight allow it. ``state_dict`` of module and optimizer stay the dense ones. "auto":
            the same, where sparse was also chosen as the faster implementation. "dense": weights stay dense.
        why_dense: Why no weight may be stored as connections, or "".

    Raises:
        ValueError: If ``compute`` or ``storage`` is none of the three, or connections cannot be computed with.

    >>> from rigl_lightning.sparsity.algorithms import Static
    >>> model = nn.Linear(20, 10)
    >>> sparsifier = Sparsifier({"weight": model.weight}, Static(0.9))
    >>> with SparseCompute(model, sparsifier, "sparse") as compute:
    ...     model(torch.randn(8, 20)).sum().backward()
    >>> [(layer.name, layer.is_sparse) for layer in compute.layers], int((model.weight.grad != 0).sum())
    ([('weight', True)], 20)
    """

    def __init__(
        self,
        module: nn.Module,
        sparsifier: Sparsifier,
        compute: Compute = "auto",
        choices: Mapping[str, Any] | None = None,
        storage: Storage = "dense",
        why_dense: str = "",
    ) -> None:
        check_compute(compute)
        check_storage(storage, compute)
        self.compute = compute
        self.storage = storage
        self._why_dense = why_dense
        self.module = module
        self.sparsifier = sparsifier
        self.patterns = PatternCache()
        homes = Counter(id(p) for child in module.modules() for p in child._parameters.values())
        self._shared = {name for name, p in sparsifier.parameters.items() if homes[id(p)] > 1}
        self.layers = list(self._find_layers(module))
        for layer in self.layers:
            if compute == "auto" and layer.name in (choices or {}):
                layer.choice = Choice(*(choices or {})[layer.name])
        self.pools: dict[Hashable, Choice] = {}
        self.trial: StepTrial | None = None
        if compute == "auto" and storage != "connections" and not choices:
            self.trial = StepTrial(sparsifier, self.layers)
        self._installed: list[LayerCompute] = []
        self._norms: list[nn.Module] = []
        self._step, self._needs_dense = -1, False

    def install(self, compact: bool = True) -> None:
        """Replace the forwards.

        Args:
            compact: With ``storage="connections"`` make weights compact now, and not at the first call of each layer.
        """
        if self.compute == "dense":
            return
        for layer in self.layers:
            if not layer.refusal:
                stored = None if self.storage == "dense" else layer.storage
                replace_forward(layer.module, layer.wrap_forward, stored)
                self._installed.append(layer)
                if compact:
                    layer.storage.compact_if_asked()
        if any(isinstance(layer.module, nn.Conv2d) for layer in self._installed):
            self._norms = replace_batch_norms(self.module, self.compute == "sparse")

    def remove(self) -> None:
        """Give every module its own forward back, and free what the kernels keep."""
        for layer in self._installed:
            # Should somebody have changed the module's class meanwhile, it can no longer be given back.
            layer.is_on = False
            layer.storage.expand()
            restore_forward(layer.module)
        for norm in self._norms:
            restore_forward(norm)
        self._installed, self._norms = [], []
        self.patterns = PatternCache()
        release()

    @contextmanager
    def dense_weights(self) -> Iterator[None]:
        """Within, weights are stored densely."""
        for layer in self.layers:
            layer.storage.pause()
        try:
            yield
        finally:
            for layer in self.layers:
                layer.storage.resume()

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Within, states of the module and of the optimizer hold vectors of active values, and take them."""
        with ExitStack() as stack:
            for layer in self.layers:
                stack.enter_context(layer.storage.bare())
            stack.enter_context(self.sparsifier.compact.bare())
            yield

    def __enter__(self) -> SparseCompute:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def stores(self, layer: LayerCompute) -> bool:
        """Whether a layer is called by a forward that takes active values, and nothing needs its dense weight."""
        return layer in self._installed and not layer.storage.why_dense

    def state_dict(self) -> dict[str, Any]:
        """The choices made so far, as plain numbers and strings."""
        return {layer.name: tuple(layer.choice) for layer in self.layers if layer.choice is not None}

    def needs_dense_gradient(self) -> bool:
        """Whether the gradients of inactive connections are read at this step."""
        if self._step != self.sparsifier.step:
            self._step, self._needs_dense = self.sparsifier.step, needs_dense_gradient(self.sparsifier)
        return self._needs_dense

    def why_shared(self, names: Iterable[str]) -> str:
        """Why weights cannot be compact that another module has too, or ""."""
        return "its weight is shared with another module" if self._shared.intersection(names) else ""

    def _find_layers(self, module: nn.Module) -> Iterator[LayerCompute]:
        parameters, shapes = self.sparsifier.parameters, shapes_of(self.sparsifier.parameters)
        # Vectors, such as biases, are added to what a layer computes: dense, with zeros.
        names = {id(parameter): name for name, parameter in parameters.items() if len(shapes[name]) > 1}
        found: set[str] = set()
        for path, child in module.named_modules():
            own = {
                attribute: names[id(parameter)]
                for attribute, parameter in child._parameters.items()
                if parameter is not None and id(parameter) in names
            }
            if own:
                found.update(own.values())
                yield LayerCompute(self, child, own, clean_name(path) if len(own) > 1 else next(iter(own.values())))
        for name in names.values():
            if name not in found:
                yield LayerCompute(self, module, {}, name)


class LayerCompute:
    """How one layer is computed.

    Attributes:
        name: Of its weight, or of the module if it has several.
        refusal: Why it is always dense, or "".
        choice: What was chosen; None before the first call.
        last_refusal: Why its last call was dense although sparse was chosen, or "".
        is_sparse: Whether its last call went through the kernels.
        was_called: Whether it was called at all while training.
    """

    def __init__(self, owner: SparseCompute, module: nn.Module, weights: Mapping[str, str], name: str) -> None:
        self.owner = owner
        self.module = module
        self.name = name
        self.is_on = True
        self.is_sparse = False
        self.was_called = False
        self.last_refusal = ""
        self.choice: Choice | None = None
        self._versions: list[tuple[int, int]] | None = None
        self._weights = dict(weights)
        kind = next((kind for kind in KINDS if isinstance(module, kind.base)), None) if weights else None
        self.refusal = self._find_refusal(kind)
        why_dense = owner._why_dense or self.refusal or owner.why_shared(weights.values())
        self.storage = LayerStorage(owner.sparsifier, module, weights, owner.storage, why_dense)
        if kind is not None and not self.refusal:
            self._kind: Kind = kind
            self._names = kind.names(module)

    def wrap_forward(self, dense: Forward) -> Forward:
        """The forward that takes the place of ``dense``."""
        owner_stores = self.owner.storage != "dense"

        def forward(input: Any, *rest: Any, **named: Any) -> Any:
            if self.owner.trial is not None and not self.owner.trial.is_over and not recorded():
                self.owner.trial.begin_call()
            if self.is_on and owner_stores:
                self.storage.begin_call()
                if self.storage.is_compact:
                    return self._compact_call(dense, input, *rest, **named)
            # Calls without gradients are no training, and compilers record torch's own operators.
            if not self.is_on or not torch.is_grad_enabled() or recorded():
                return dense(input, *rest, **named)
            self.was_called = True
            self.is_sparse = self._wants_sparse(input)
            if not self.is_sparse:
                self.storage.note_dense_use()
                return dense(input, *rest, **named)
            if self._compact():
                return self._compact_call(dense, input, *rest, **named)
            self.storage.note_dense_use()
            tensors, patterns = self._tensors(), self._patterns()
            dense_grad = self.owner.needs_dense_gradient()
            return self._kind.sparse(self.module, input, tensors, patterns, dense_grad, *rest, **named)

        return forward

    def set_dense(self, dense: bool) -> None:
        """Compute and store it densely, or as it was chosen."""
        self.is_on = not dense
        if dense:
            self.storage.pause()
            return
        self.storage.is_paused = False
        if self.choice is not None and self.choice.is_sparse:
            self._compact()

    def _compact(self) -> bool:
        """Store the active connections only where that is asked for and possible; whether it is so now."""
        if self.storage.is_compact:
            return True
        if self.owner.storage == "dense" or not self.storage.is_possible():
            return False
        self.storage.compact()
        for name in self._weights.values():
            self.owner.patterns.forget(name)
        return True

    def _compact_call(self, dense: Forward, input: Any, *rest: Any, **named: Any) -> Any:
        """The layer from values; by torch's operators where the kernels do not support the call."""
        self.was_called = True
        refusal = "recorded by a compiler" if recorded() else self._call_refusal(input)
        self.last_refusal = refusal or call_refusal(self.module, input)
        self.is_sparse = not self.last_refusal
        if self.is_sparse:
            return compute_stored(
                self.module, input, self.storage.tensors(self._names, self._patterns()), *rest, **named
            )
        with self.storage.dense_parameters():
            return dense(input, *rest, **named)

    @property
    def shapes(self) -> str:
        """Shapes of its weights, as text."""
        masks = self.owner.sparsifier.masks
        names = [*self._weights.values()] or [self.name]
        return " ".join("x".join(map(str, masks[name].shape)) for name in names)

    @property
    def density(self) -> float:
        """Fraction of the connections that are read: the active ones, or those that learn."""
        masks = gradient_masks(self.owner.sparsifier)
        counts = [int(torch.count_nonzero(masks[name])) for name in self._weights.values()]
        return sum(counts) / sum(self.owner.sparsifier.network.sizes[name] for name in self._weights.values())

    def _wants_sparse(self, x: Any) -> bool:
        sparsifier, choice = self.owner.sparsifier, self.choice
        # The usual case of a small layer, whose time every further question would show in.
        if choice is not None and not choice.is_sparse and not self._is_outdated(choice):
            return False
        if all(sparsifier.n_active[name] == sparsifier.network.sizes[name] for name in self._weights.values()):
            self.last_refusal = "no inactive connections"
            return False
        self.last_refusal = self._call_refusal(x)
        if self.last_refusal:
            return False
        if self.owner.compute == "auto":
            if self.choice is None or self._is_outdated(self.choice):
                self.choice = self._choose(x)
            return self.choice.is_sparse
        return True

    def _find_refusal(self, kind: Kind | None) -> str:
        if kind is None:
            return "not a Linear, Conv2d, GRU or LSTM" if self._weights else "its weight is none of a module's own"
        if is_replaced(self.module):
            return "another SparseCompute computes it"
        if type(self.module).forward is not kind.base.forward or "forward" in vars(self.module):
            return f"{type(self.module).__name__} has a forward of its own"
        weights = [getattr(self.module, attribute) for attribute in self._weights]
        if any(weight.device.type != "cpu" for weight in weights):
            return f"on {weights[0].device.type}"
        if any(weight.dtype not in _DTYPES for weight in weights):
            return f"in {str(weights[0].dtype).removeprefix('torch.')}"
        return kind.refusal(self.module)

    def _call_refusal(self, x: Any) -> str:
        if self._is_elsewhere():
            return "called with other weights"
        parameters = self.owner.sparsifier.parameters
        weight = parameters[next(iter(self._weights.values()))]
        if type(x) is not Tensor and type(x) is not nn.Parameter:
            return f"called with a {type(x).__name__}"
        if x.device != weight.device or weight.device.type != "cpu":
            return f"on {weight.device.type}"
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            return "in a function transform of torch.func"
        if not torch.is_autocast_enabled("cpu") and x.dtype != weight.dtype:
            return f"called in {str(x.dtype).removeprefix('torch.')}"
        if self.owner.sparsifier.algorithm.needs_hessian_gradient(self.owner.sparsifier.step):
            return "differentiated twice at this step"
        return self._kind.call_refusal(self.module, x)

    def _is_elsewhere(self) -> bool:
        """Whether the module has other weights at the moment."""
        parameters, own = self.owner.sparsifier.parameters, self.module._parameters
        return any(own.get(attribute) is not parameters[name] for attribute, name in self._weights.items())

    def _is_outdated(self, choice: Choice) -> bool:
        # Counting reads the masks; whether one has changed is known without.
        versions = self._mask_versions()
        if versions == self._versions:
            return False
        self._versions = versions
        return not choice.holds_at(self.density)

    def _choose(self, x: Tensor) -> Choice:
        density = self.density
        self._versions = self._mask_versions()
        if torch.are_deterministic_algorithms_enabled():
            return Choice(False, "deterministic algorithms are asked for", density)
        vectors = x.numel() / max(x.shape[1 if x.ndim == 4 else -1], 1)
        connections = sum(self.owner.sparsifier.network.sizes[name] for name in self._weights.values())
        clear = decide_without_timing(density, 2 * vectors * connections)
        if clear is not None:
            return clear
        pool = (*self.likeness, tuple(x.shape), x.dtype, x.requires_grad, torch.is_autocast_enabled("cpu"))
        found = self.owner.pools.get(pool)
        if found is None or not found.holds_at(density):
            timed = [layer._timed(x) for layer in self._sampled(density)]
            found = self.owner.pools[pool] = pooled(timed, density)
        return found

    @property
    def likeness(self) -> tuple[Hashable, ...]:
        """What layers that are alike have in common: all but the numbers in their names."""
        kind = next((kind.base.__name__ for kind in KINDS if isinstance(self.module, kind.base)), "")
        settings = self.module.extra_repr()
        return without_numbers(self.name), kind, settings, self.shapes, self.storage.is_possible()

    def _sampled(self, density: float) -> list[LayerCompute]:
        """This layer, and others that are alike: those to time."""
        others = (layer for layer in self.owner.layers if layer is not self and layer.likeness == self.likeness)
        usable = (layer for layer in others if not (layer.refusal or layer.storage.is_compact or layer._is_elsewhere()))
        near = (layer for layer in usable if Choice(False, "", density).holds_at(layer.density))
        return [self, *islice(near, SAMPLED - 1)]

    def _timed(self, x: Tensor) -> Choice:
        """Both implementations timed on an input."""
        density, dense, upkeep = self.density, partial(self._kind.dense, self.module), self._upkeep()
        if self.owner.storage != "dense" and self.storage.is_possible():
            stored = self.storage.preview(self._names, self._patterns())
            sparse = partial(self._timed_sparse_values, stored=stored)
            return decide(dense, sparse, x, self._tensors(), density, upkeep, stored.tensors)
        dense_grad = always_needs_dense_gradient(self.owner.sparsifier)
        sparse = partial(self._timed_sparse, patterns=self._patterns(), dense_grad=dense_grad)
        return decide(dense, sparse, x, self._tensors(), density, upkeep)

    def _timed_sparse(self, x: Tensor, tensors: Tensors, patterns: LayerPatterns, dense_grad: bool) -> Any:
        return self._kind.sparse(self.module, x, tensors, patterns, dense_grad)

    def _timed_sparse_values(self, x: Tensor, tensors: Tensors, stored: StoredTensors) -> Any:
        return compute_stored(self.module, x, stored.with_tensors(tensors))

    def _upkeep(self) -> float:
        """Seconds a step that building patterns takes: much where masks change at every step."""
        sparsifier, masks = self.owner.sparsifier, gradient_masks(self.owner.sparsifier)
        seconds = sum(self.owner.patterns.seconds(name, masks) for name in self._weights.values())
        steps = sparsifier.algorithm.update_steps()
        length = sparsifier.total_steps or (max(steps) + 1 if steps else 1)
        return seconds * len(steps) / max(length, 1)

    def _mask_versions(self) -> list[tuple[int, int]]:
        masks = gradient_masks(self.owner.sparsifier)
        return [(id(masks[name]), masks[name]._version) for name in self._weights.values()]

    def _tensors(self) -> list[Tensor | None]:
        return [self.module._parameters.get(name) for name in self._names]

    def _patterns(self) -> LayerPatterns:
        masks, cache = gradient_masks(self.owner.sparsifier), self.owner.patterns
        patterns: list[SparsePattern | None] = []
        for attribute in self._names:
            if attribute in self._weights:
                name = self._weights[attribute]
                compact = self.owner.sparsifier.compact.get(name)
                patterns.append(cache.of(name, masks) if compact is None else compact.pattern)
            else:
                tensor = self.module._parameters.get(attribute)
                patterns.append(cache.full(tensor.shape) if tensor is not None and tensor.ndim > 1 else None)
        return patterns


def check_storage(storage: str, compute: str) -> None:
    """Raise a ValueError unless ``storage`` is one of the three, and possible with ``compute``."""
    if storage not in ("auto", "connections", "dense"):
        raise SettingError(
            f"Expected `storage` of auto, connections or dense, got {storage!r}. Set `storage` of "
            "SparseTrainingCallback or SparseCompute."
        )
    if storage == "connections" and compute == "dense":
        raise SettingError(
            "Expected compute auto or sparse with storage of connections only, which dense products cannot read, got "
            "dense. Set `compute` or `storage` of SparseTrainingCallback or SparseCompute."
        )


def check_compute(compute: str) -> None:
    """Raise a ValueError unless ``compute`` is one of the three."""
    if compute not in ("auto", "sparse", "dense"):
        raise SettingError(
            f"Expected `compute` of auto, sparse or dense, got {compute!r}. Set `compute` of SparseTrainingCallback or "
            "SparseCompute."
        )
