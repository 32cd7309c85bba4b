"""Settings of all frozen dataclasses: numbers of numpy and torch, words and classes in the place of an object."""

import importlib
import pkgutil
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

import rigl_lightning.sparsity as package
from rigl_lightning.reports.summary import summary
from rigl_lightning.sparsity.algorithms import (
    DNW,
    MEST,
    SRSTE,
    DeepR,
    FixedMasks,
    GradualMagnitudePruning,
    GraNet,
    LotteryTicket,
    OneShotMagnitude,
    RigL,
    Static,
    TopKAST,
    describe,
)
from rigl_lightning.sparsity.algorithms.constant_sparsity import ConstantSparsity
from rigl_lightning.sparsity.algorithms.top_k import TopK
from rigl_lightning.sparsity.density_scaling import ByDensity
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform
from rigl_lightning.sparsity.schedules import InversePower, UpdateSchedule
from rigl_lightning.sparsity.settings import differences, plain
from rigl_lightning.sparsity.structures import NM, Blocks, ConstantFanIn
from tests.helpers.small_training import small_network, sparsify, through_disk, train

SCALARS = {
    "numpy": lambda value: np.asarray(value)[()],
    "numpy, half as wide": lambda value: np.asarray(value, dtype="int32" if isinstance(value, int) else "float32")[()],
    "numpy without dimensions": np.asarray,
    "torch": torch.tensor,
}
# A value for every setting that is a number, exact in single precision.
NUMBERS = {int: 2, float: 0.5}


def settings_classes():
    """Every frozen dataclass of the package that has a number among its settings, and the names of these."""
    for module in pkgutil.walk_packages(package.__path__, "rigl_lightning.sparsity."):
        for cls in vars(importlib.import_module(module.name)).values():
            if isinstance(cls, type) and is_dataclass(cls) and cls.__module__ == module.name:
                names = [f.name for f in fields(cls) if type(f.default) in NUMBERS]
                if names and cls.__dataclass_params__.frozen and not getattr(cls, "__abstractmethods__", None):
                    yield cls, names


CLASSES = dict(sorted((c.__name__, (c, names)) for c, names in settings_classes()))
VALID = {  # where a half or a two is not accepted
    "UpdateSchedule": {"interval": 2, "begin": 1, "end": 0.5},
    "NM": {"n": 2, "m": 8},
    "TransposableNM": {"n": 2, "m": 4},
    "TopKAST": {"sparsity": 0.75, "backward_sparsity": 0.5, "penalty": 0.25},
    "GraNet": {"sparsity": 0.75, "initial_sparsity": 0.5, "ramp_end": 0.5, "drop_fraction": 0.25},
}


def test_the_classes_are_found():
    assert {"RigL", "UpdateSchedule", "InversePower", "NM", "DSR", "TopKAST", "ConstantFanIn"} <= CLASSES.keys()


@pytest.mark.parametrize("scalar", SCALARS.values(), ids=SCALARS)
@pytest.mark.parametrize("name", CLASSES)
def test_numbers_of_numpy_and_torch_are_those_of_python(name, scalar):
    cls, names = CLASSES[name]
    values = VALID.get(name) or {n: NUMBERS[type(cls.__dataclass_fields__[n].default)] for n in names}
    given, expected = cls(**{n: scalar(v) for n, v in values.items()}), cls(**values)
    assert given == expected
    assert describe(given) == describe(expected)
    assert [type(getattr(given, n)) for n in values] == [type(v) for v in values.values()]


def test_numbers_inside_lists_and_mappings_too():
    given = Uniform(custom={"fc": np.float32(0.5)}, dense=("conv",))
    assert repr(given.custom) == "{'fc': 0.5}"
    assert type(Blocks((np.int64(2), np.int64(4))).shape[0]) is int
    assert plain([np.float64(1), "a", None]) == [1.0, "a", None]


class TestWhatWentWrongWithNumpy:
    def test_a_fraction_in_single_precision_is_a_fraction(self):
        assert len(UpdateSchedule(interval=10, end=np.float32(0.75)).resolve(100).update_steps()) == 8
        assert OneShotMagnitude(at=np.float32(0.5)).resolve(100).at == 50
        assert GraNet(ramp_end=np.float32(0.5)).resolve(4000).ramp_end == 2000

    def test_pruning_reaches_its_sparsity(self):
        ramp = UpdateSchedule(interval=1, end=np.float32(0.5))
        model = small_network()
        sparsifier = sparsify(model, GradualMagnitudePruning(0.75, schedule=ramp), total_steps=8)
        train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, range(8))
        assert sparsifier.density()["4.weight"] == 0.25

    def test_a_checkpoint_resumes_whichever_number_was_given(self):
        saved = sparsify(small_network(), RigL(np.float64(0.7)), total_steps=np.int64(100), seed=np.int64(3))
        state = through_disk(saved.state_dict())
        assert sparsify(small_network(), RigL(0.7), state=state).checksums() == saved.checksums()
        assert (type(state["seed"]), type(state["total_steps"])) == (int, int)


class TestWords:
    @pytest.mark.parametrize(
        ("cls", "settings", "message"),
        [
            (RigL, {"distribution": "ERK"}, r"`distribution` to be one such as ErdosRenyi\(\), got 'ERK'"),
            (RigL, {"distribution": ErdosRenyi}, r"`distribution` .*got the class ErdosRenyi, without brackets"),
            (RigL, {"schedule": 100}, r"`schedule` to be one such as UpdateSchedule\(\), got 100"),
            (RigL, {"schedule": None}, r"`schedule` to be one such as UpdateSchedule\(\), got None"),
            (RigL, {"grow_score": "gradient"}, r"`grow_score` to be one such as gradient_magnitude, got 'gradient'"),
            (RigL, {"decay": "cosine"}, "`decay` to be one such as cosine, got 'cosine'"),
            (RigL, {"decay": InversePower}, "got the class InversePower"),
            (RigL, {"structure": "2:4"}, r"`structure` to be one such as Unstructured\(\), got '2:4'"),
            (Static, {"distribution": "uniform"}, "`distribution`"),
            (DNW, {"schedule": 1}, "`schedule`"),
            (RigL, {"sparsity": "0.9"}, "`sparsity` to be a number, got '0.9'. Set `sparsity` of RigL"),
            (RigL, {"sparsity": None}, "`sparsity` to be a number, got None"),
            (RigL, {"drop_fraction": [0.3]}, r"`drop_fraction` to be a number, got \[0.3\]"),
            (RigL, {"sparsity": torch.tensor([0.5])}, r"`sparsity` to be a number, got tensor\(\[0.5"),
            (RigL, {"drop_fraction": np.array([0.5])}, r"`drop_fraction` to be a number, got array\(\[0.5"),
            (UpdateSchedule, {"end": np.array([0.5])}, r"`end` to be a number, got array\(\[0.5"),
            (UpdateSchedule, {"begin": 1j}, "`begin` to be a number, got 1j"),
            (GraNet, {"ramp_end": b"1"}, "`ramp_end` to be a number, got b'1'"),
            (RigL, {"distribution": {"fc": 0.9}}, r"`distribution` to be one such as ErdosRenyi\(\), got {'fc': 0.9}"),
            (Uniform, {"first_layer_dense": 0.9}, "`first_layer_dense` to be True or False, got 0.9"),
            (FixedMasks, {"checkpoint": {}}, "`checkpoint` to be a file, got a dict"),
            (ErdosRenyi, {"dense": "fc"}, "`dense` to be a list, got 'fc'. Use brackets"),
            (ErdosRenyi, {"dense": 1}, "`dense` to be a list, got 1. Use brackets"),
            (Uniform, {"dense": None}, "`dense` to be a list, got None"),
            (Uniform, {"custom": ["fc", 0.5]}, r"`custom` to be a mapping, got \['fc', 0.5\]. Set `custom` of Uniform"),
            (ErdosRenyi, {"custom": None}, "`custom` to be a mapping, got None"),
            (ConstantFanIn, {"never_ablate": "fc"}, "`never_ablate` to be a list"),
            (Blocks, {"shape": 4}, "`shape` to be a list, got 4"),
        ],
    )
    def test_a_word_or_a_class_is_refused_at_once(self, cls, settings, message):
        with pytest.raises(ValueError, match=message):
            cls(**settings)

    @pytest.mark.parametrize("base", [TopK, ConstantSparsity])
    def test_a_base_is_no_algorithm(self, base):
        with pytest.raises(TypeError, match="abstract"):
            base()

    @pytest.mark.parametrize("length", ["100", 99.5, True, -1])
    def test_a_length_is_a_number_of_steps(self, length):
        with pytest.raises(ValueError, match="Set `total_steps` of Sparsifier"):
            sparsify(small_network(), RigL(), total_steps=length)
        with pytest.raises(ValueError, match="Set `total_steps`"):
            summary(small_network(), RigL(), total_steps=length)

    @pytest.mark.parametrize(
        ("cls", "name"), [(TopKAST, "penalty"), (SRSTE, "penalty"), (MEST, "gradient_weight"), (DeepR, "temperature")]
    )
    def test_a_number_without_end_is_refused(self, cls, name):
        with pytest.raises(ValueError, match=f"`{name}` of at least 0, got inf"):
            cls(**{name: float("inf")})

    @pytest.mark.parametrize("seed", [None, "1", 0.5, float("nan"), True, [1], torch.tensor([1])])
    def test_a_seed_is_a_whole_number(self, seed):
        with pytest.raises(ValueError, match="Expected `seed` to be a whole number, got .* Set `seed` of Sparsifier"):
            sparsify(small_network(), RigL(), total_steps=100, seed=seed)

    @pytest.mark.parametrize("by_density", [True, False, 0.5, "init", {"init": True}, ByDensity])
    def test_by_density_is_one(self, by_density):
        with pytest.raises(ValueError, match="`by_density` to be a ByDensity or None, got .* of Sparsifier"):
            sparsify(small_network(), RigL(), total_steps=100, by_density=by_density)

    @pytest.mark.parametrize("state", [{}, "last.ckpt", 1, {"state_dict": {}, "callbacks": {}}, [("step", 1)]])
    def test_a_state_is_that_of_a_sparsifier(self, state):
        with pytest.raises(
            ValueError, match="what `state_dict` of a Sparsifier returned, got .* FixedMasks.*ckpt_path"
        ):
            sparsify(small_network(), RigL(), total_steps=100, state=state)

    @pytest.mark.parametrize("algorithm", [RigL, "RigL"])
    def test_an_algorithm_that_is_none_is_refused(self, algorithm):
        with pytest.raises(ValueError, match=r"`algorithm` to be one such as RigL\(sparsity=0.9\), got"):
            sparsify(small_network(), algorithm)
        with pytest.raises(ValueError, match=r"`algorithm` to be one such as RigL\(sparsity=0.9\), got"):
            summary(small_network(), algorithm, total_steps=100)
        with pytest.raises(ValueError, match="`algorithm` to be one such as"):
            LotteryTicket("ticket.pt", algorithm)


class TestOneNameForASchedule:
    STEPS = UpdateSchedule(5, 0, 50)

    @pytest.mark.parametrize(
        ("cls", "word"),
        [(GradualMagnitudePruning, "ramp"), (DeepR, "rewiring"), (DNW, "renewal"), (TopKAST, "renewal")],
    )
    def test_the_earlier_word_is_an_alias(self, cls, word):
        named, alias = cls(schedule=self.STEPS), cls(**{word: self.STEPS})
        assert named == alias
        assert named.schedule == self.STEPS
        assert describe(named) == f"{cls.__name__}({word}=UpdateSchedule(interval=5, end=50))"  # as checkpoints have it

    def test_both_names_at_once_are_refused(self):
        with pytest.raises(TypeError, match="`ramp` is `schedule`"):
            GradualMagnitudePruning(schedule=self.STEPS, ramp=self.STEPS)


class TestDifferences:
    @pytest.mark.parametrize(
        ("here", "there", "expected"),
        [
            (RigL(), RigL(0.8), "sparsity 0.8 there and 0.9 here"),
            (RigL(0.8), RigL(), "sparsity 0.9 there and 0.8 here"),
            (
                RigL(schedule=UpdateSchedule(50)),
                RigL(schedule=UpdateSchedule(end=30)),
                "schedule UpdateSchedule(end=30) there and UpdateSchedule(interval=50) here",
            ),
            (
                GradualMagnitudePruning(),
                GradualMagnitudePruning(schedule=UpdateSchedule(7)),
                "ramp UpdateSchedule(interval=7) there and UpdateSchedule(begin=0.2) here",
            ),
            (RigL(), Static(), "Static() there and RigL() here"),
            (
                RigL(distribution=Uniform(dense=("a", "b"))),
                RigL(),
                "distribution ErdosRenyi() there and Uniform(dense=('a', 'b')) here",
            ),
        ],
    )
    def test_both_values_are_shown_defaults_too(self, here, there, expected):
        assert differences(here, describe(there)) == expected

    def test_a_resumed_run_says_it(self):
        state = sparsify(small_network(), RigL(0.8), total_steps=100).state_dict()
        with pytest.raises(ValueError, match=r"sparsity 0\.8 there and 0\.9 here\. Set the algorithm as in that run"):
            sparsify(small_network(), RigL(), state=state)


def test_structures_check_what_they_are_given_after_all():
    with pytest.raises(ValueError, match="1 <= n < m"):
        NM(np.int64(4), np.int64(4))
