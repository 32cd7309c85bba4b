"""Group: a different algorithm for each part of a network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.algorithms.base import GeneratorOf, LearningRates, Masks, Memory, SparseAlgorithm
from rigl_lightning.sparsity.distributions import Shapes
from rigl_lightning.sparsity.names import matching_names
from rigl_lightning.sparsity.scores import Connections

_Value = TypeVar("_Value")
_ONE_FOR_ALL = ("replaces_step", "grad_average_decay", "hides_inactive_weights", "forgets_inactive_weights")
"""What the step asks of the whole network: members that update their masks must have it alike."""
_HANDED_ON = ("adjust_weights", "restarts_optimizer")
"""Questions that a Group answers if one of its members does."""
_WITHOUT_NAMES = ("penalty_gradient", "grow_init")
"""Questions that are asked of a layer without its name."""


@dataclass(frozen=True)
class Group(SparseAlgorithm):
    """Algorithms by name pattern: ``Group({"*.attn.*": Static(0.5), "*": RigL(0.9)})``.

    Each algorithm sees its own layers only: its distribution shares its sparsity among them (the first of them is the
    first layer of `Uniform`), and its schedule updates their masks. A layer that several patterns match belongs to the
    first of them. Algorithms that cannot share a step are refused: one that updates instead of the gradient step (RigL)
    with one that updates after it (SET), and one whose inactive weights learn (DNW) with one whose do not. So are a
    layer that no pattern matches and a pattern without a layer. Algorithms whose masks never change (Static, Dense,
    FixedMasks) can be combined with all.

    Where a member reads dense gradients at a step, those of all layers are computed; the counted costs include this.
    Where a member restarts the optimizer (AC/DC), its state of all parameters begins anew.

    Attributes:
        algorithms: Algorithm of each pattern of parameter or module names, see `matching_names`.
    """

    algorithms: Mapping[str, SparseAlgorithm]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.algorithms, Mapping) or not self.algorithms:
            raise SettingError(
                'Expected `algorithms` to be patterns with algorithms, such as {"*.mlp.*": RigL(0.9)}, got '
                f"{self.algorithms!r}. Set `algorithms` of {type(self).__name__}."
            )
        for pattern, member in self.algorithms.items():
            self._check_member(pattern, member)
        moving = {pattern: member for pattern, member in self.algorithms.items() if _moves(member)}
        for name in _ONE_FOR_ALL:
            values = {pattern: getattr(member, name) for pattern, member in moving.items()}
            if len({*values.values()}) > 1:
                raise _refusal(name, values, self.algorithms)
            object.__setattr__(self, name, next(iter(values.values()), getattr(SparseAlgorithm, name)))
        for name in _HANDED_ON:
            if any(getattr(member, name) is not None for member in self.algorithms.values()):
                object.__setattr__(self, name, getattr(self, f"_{name}"))

    @staticmethod
    def _check_member(pattern: str, member: Any) -> None:
        if not isinstance(member, SparseAlgorithm):
            raise SettingError(f"Expected an algorithm for {pattern!r}, got {member!r}. Set one such as RigL().")
        asked = [name for name in _WITHOUT_NAMES if getattr(member, name) is not None]
        for name in asked if member.all_weights_learn else [*asked, "learning_masks"]:
            raise SettingError(
                f"Expected algorithms that know their layers by name for a Group, got {type(member).__name__} for "
                f"{pattern!r}: its {name.replace('_', ' ')} would be that of all layers. Use it for the whole "
                "network, or another one."
            )

    # ---- which layer is whose ----------------------------------------------------------------------------------

    def parts(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Layers of each pattern, in the order of the network.

        Raises:
            ValueError: If a layer has no algorithm, or a pattern no layer.
        """
        names = list(names)
        left, found = list(names), {}
        for pattern in self.algorithms:
            matched = matching_names(pattern, names, "algorithms")
            found[pattern] = [name for name in left if name in matched]
            if not found[pattern]:
                raise SettingError(
                    f"Expected a layer for each pattern, got none that is left for {pattern!r}: patterns before it "
                    "name all of its layers. Set `algorithms` of Group in another order, or leave it out."
                )
            left = [name for name in left if name not in matched]
        if left:
            raise SettingError(
                f"Expected an algorithm for every sparse layer, got none for {', '.join(left[:5])}. Add a pattern to "
                '`algorithms` of Group, at last "*" for all others.'
            )
        return found

    def _by_part(self, layers: Mapping[str, _Value]) -> dict[str, dict[str, _Value]]:
        parts = self.parts(layers)
        return {pattern: {name: layers[name] for name in names} for pattern, names in parts.items()}

    def _merged(
        self, layers: Mapping[str, Any], ask: Callable[[SparseAlgorithm, str, dict[str, Any]], Mapping[str, _Value]]
    ) -> dict[str, _Value]:
        """Answers of all members about their own layers, in the order of the network."""
        answers: dict[str, _Value] = {}
        for pattern, own in self._by_part(layers).items():
            answers |= ask(self.algorithms[pattern], pattern, own)
        return {name: answers[name] for name in layers if name in answers}

    # ---- what is asked of an algorithm -------------------------------------------------------------------------

    def resolve(self, total_steps: int | None) -> "Group":
        """The same group with every member resolved."""
        return replace(self, algorithms={p: member.resolve(total_steps) for p, member in self.algorithms.items()})

    def stretched(self, factor: float) -> "Group":
        """The same group with every member stretched."""
        return replace(self, algorithms={p: member.stretched(factor) for p, member in self.algorithms.items()})

    def layer_sparsities(self, shapes: Shapes, step: int) -> dict[str, float]:
        """Those of the members."""
        return self._merged(shapes, lambda member, _, own: member.layer_sparsities(own, step))

    def has_planned_layers(self) -> bool:
        """If all members have."""
        return all(member.has_planned_layers() for member in self.algorithms.values())

    def further_updates(self) -> Sequence[int]:
        """Update steps of all members."""
        return sorted({step for member in self.algorithms.values() for step in member.update_steps()})

    def is_update(self, step: int) -> bool:
        """Whether one of the members updates its masks."""
        return any(member.is_update(step) for member in self.algorithms.values())

    def drop_fraction_at(self, step: int) -> float:
        """The largest of the members that update at ``step``."""
        updating = (member for member in self.algorithms.values() if member.is_update(step))
        return max((member.drop_fraction_at(step) for member in updating), default=0.0)

    def initial_masks(self, shapes: Shapes, generator: GeneratorOf) -> Masks:
        """Those of the members."""
        return self._merged(shapes, lambda member, _, own: member.initial_masks(own, generator))

    def initial_memory(self, shapes: Shapes, generator: GeneratorOf) -> Memory:
        """Those of the members, each under its pattern."""
        memory: Memory = {}
        for pattern, own in self._by_part(shapes).items():
            _keep(memory, pattern, self.algorithms[pattern].initial_memory(own, generator))
        return memory

    def begin(self, layers: Mapping[str, Connections], memory: Memory) -> Masks:
        """As the members begin."""
        return self._merged(
            layers, lambda member, pattern, own: _remembering(memory, pattern, lambda of: member.begin(own, of))
        )

    def update_masks(self, layers: Mapping[str, Connections], step: int, memory: Memory) -> Masks:
        """New masks of the members that update at ``step``; the others keep theirs."""

        def ask(member: SparseAlgorithm, pattern: str, own: dict[str, Connections]) -> Masks:
            if not member.is_update(step):
                return {name: layer.mask for name, layer in own.items()}
            return _remembering(memory, pattern, lambda of: member.update_masks(own, step, of))

        return self._merged(layers, ask)

    @cached_property
    def reads_gradient(self) -> bool:
        """If one of the members does."""
        return any(member.reads_gradient for member in self.algorithms.values())

    def needs_dense_gradient(self, step: int) -> bool:
        """If one of the members does."""
        return any(member.needs_dense_gradient(step) for member in self.algorithms.values())

    def needs_hessian_gradient(self, step: int) -> bool:
        """If one of the members does."""
        return any(member.needs_hessian_gradient(step) for member in self.algorithms.values())

    def _adjust_weights(
        self, layers: Mapping[str, Connections], step: int, learning_rates: LearningRates, memory: Memory
    ) -> Masks:
        def ask(member: SparseAlgorithm, pattern: str, own: dict[str, Connections]) -> Masks:
            move = member.adjust_weights
            rates = {name: rate for name, rate in learning_rates.items() if name in own}
            return {} if move is None else _remembering(memory, pattern, lambda of: move(own, step, rates, of))

        return self._merged(layers, ask)

    def _restarts_optimizer(self, step: int) -> bool:
        asked = (member.restarts_optimizer for member in self.algorithms.values())
        return any(restarts(step) for restarts in asked if restarts is not None)


def with_members(algorithm: SparseAlgorithm) -> list[SparseAlgorithm]:
    """The algorithm, and those of a Group."""
    members = algorithm.algorithms.values() if isinstance(algorithm, Group) else ()
    return [algorithm, *(part for member in members for part in with_members(member))]


def _moves(member: SparseAlgorithm) -> bool:
    return member.schedule is not None or not member.updates_by_schedule


def _keep(memory: Memory, pattern: str, own: Memory) -> None:
    memory |= {f"{pattern}: {key}": value for key, value in own.items()}


def _remembering(memory: Memory, pattern: str, ask: Callable[[Memory], Masks]) -> Masks:
    """Let a member answer with its part of the memory, which it may change."""
    mark = f"{pattern}: "
    own = {key.removeprefix(mark): value for key, value in memory.items() if key.startswith(mark)}
    answer = ask(own)
    _keep(memory, pattern, own)
    return answer


def _refusal(name: str, values: Mapping[str, Any], algorithms: Mapping[str, SparseAlgorithm]) -> SettingError:
    got = ", ".join(f"{type(algorithms[p]).__name__} for {p!r} ({value})" for p, value in values.items())
    return SettingError(
        f"Expected algorithms that can share a step in a Group, got {got}: `{name}` holds for the whole network. "
        "Set `algorithms` of Group to ones that are alike in it, or to Static."
    )
