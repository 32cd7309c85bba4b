from dataclasses import dataclass
from functools import partial

import pytest
import torch

from rigl_lightning.sparsity.algorithms import SET, SNFS, Dense, RigL, SparseAlgorithm, Static, describe
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform, active_counts
from rigl_lightning.sparsity.schedules import InversePower, UpdateSchedule
from rigl_lightning.sparsity.scores import saliency

SHAPES = {"conv": (8, 3, 3, 3), "fc": (10, 50)}


def generator_of(name):
    return torch.Generator().manual_seed(len(name))


def my_decay(progress, floor):
    return max(1 - progress, floor)


class PlainDecay:
    def __call__(self, progress):
        return 1.0


class TestDescribe:
    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (RigL(), "RigL()"),
            (RigL(sparsity=0.9), "RigL()"),
            (SET(sparsity=0.8), "SET(sparsity=0.8)"),
            (SNFS(grad_average_decay=0.99), "SNFS(grad_average_decay=0.99)"),
            (RigL(decay=InversePower(3)), "RigL(decay=InversePower())"),
            (RigL(grow_score=saliency), "RigL(grow_score=saliency)"),
            (RigL(distribution=ErdosRenyi()), "RigL()"),
            (RigL(distribution=Uniform(dense=("fc",))), "RigL(distribution=Uniform(dense=('fc',)))"),
            (RigL(schedule=UpdateSchedule(end=30)), "RigL(schedule=UpdateSchedule(end=30))"),
            (Dense(), "Dense()"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_says_the_class_and_what_differs_from_the_defaults(self, value, words):
        assert describe(value) == words

    @pytest.mark.parametrize(
        "decay", [partial(my_decay, floor=0.1), PlainDecay()], ids=["functools.partial", "object with __call__"]
    )
    def test_holds_no_address_that_another_process_would_not_have(self, decay):
        assert " at 0x" not in describe(RigL(decay=decay))


class TestDefaults:
    def test_initial_masks_are_random_with_exact_counts(self):
        static = Static(0.7)
        masks = static.initial_masks(SHAPES, generator_of)
        counts = active_counts(SHAPES, ErdosRenyi()(SHAPES, 0.7))
        assert {name: int(mask.sum()) for name, mask in masks.items()} == counts
        assert {name: tuple(mask.shape) for name, mask in masks.items()} == SHAPES
        again = static.initial_masks(SHAPES, generator_of)
        other = static.initial_masks(SHAPES, lambda name: torch.Generator().manual_seed(99))
        assert all(torch.equal(masks[name], again[name]) for name in masks)
        assert not torch.equal(masks["fc"], other["fc"])

    def test_an_algorithm_that_says_nothing_never_updates(self):
        @dataclass(frozen=True)
        class Silent(SparseAlgorithm):
            def layer_sparsities(self, shapes, step):
                return dict.fromkeys(shapes, 0.5)

        silent = Silent()
        assert silent.resolve(None) is silent
        assert not any(silent.is_update(step) or silent.needs_dense_gradient(step) for step in range(300))
        assert list(silent.update_steps()) == []
        assert silent.drop_fraction_at(0) == 0
        with pytest.raises(NotImplementedError, match="Silent"):
            silent.update_masks({}, 0, {})
