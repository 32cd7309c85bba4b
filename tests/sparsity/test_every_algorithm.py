"""The promises that every algorithm makes. A new algorithm is one line in the table of `helpers/every_algorithm.py`."""

import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from pytorch_lightning.cli import LightningArgumentParser

import rigl_lightning
from rigl_lightning import SparseTrainingCallback
from rigl_lightning.sparsity import algorithms
from rigl_lightning.sparsity.algorithms import (
    DNW,
    LotteryTicket,
    RigL,
    SparseAlgorithm,
    Static,
)
from rigl_lightning.sparsity.distributions import active_counts
from rigl_lightning.sparsity.invariants import violations
from rigl_lightning.sparsity.needed_gradients import weight_gradient_density
from rigl_lightning.sparsity.ramps import SparsityRamp
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.structures import NM
from tests.helpers.every_algorithm import (
    ALGORITHMS,
    DROP_GROW,
    GROWING,
    HIDING,
    KEEPING,
    MOVING,
    MOVING_BETWEEN_LAYERS,
    OPTIMIZERS,
    TOTAL,
)
from tests.helpers.small_training import small_network, sparsify, through_disk, train

# A second set of settings ("DNW every fourth") meets the two optimizers that are most used, the first all.
PAIRS = [(name, o) for name in ALGORITHMS for o in OPTIMIZERS if " " not in name or o in ("momentum", "Adam")]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A ticket for FixedMasks and LotteryTicket."""
    path = tmp_path_factory.mktemp("ticket") / "ticket.pt"
    torch.save(sparsify(small_network(), Static(0.7), seed=3).state_dict(), path)
    return str(path)


def start(name, file, optimizer="momentum", seed=0, state=None):
    model = small_network(seed)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    return model, optimizer, sparsify(model, ALGORITHMS[name](file), total_steps=TOTAL, state=state)


def algorithms_of_the_package():
    """Every class of every module that can be made: not only those that somebody remembered to export."""
    for module in pkgutil.walk_packages(rigl_lightning.__path__, "rigl_lightning."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, left = set(), [SparseAlgorithm]
    while left:
        left += (subclasses := left.pop().__subclasses__())
        found |= {c for c in subclasses if c.__module__.startswith("rigl_lightning.") and not inspect.isabstract(c)}
    return {c for c in found if is_dataclass(c) or not c.__subclasses__()}  # others are bases of methods


def test_the_table_forgets_no_algorithm():
    found = algorithms_of_the_package()
    assert {RigL, DNW, LotteryTicket} <= found
    assert {c.__name__ for c in found} == {name.split()[0] for name in ALGORITHMS}
    assert found <= {getattr(algorithms, name) for name in algorithms.__all__}


def test_the_lists_of_this_file_say_what_the_algorithms_say(file):
    made = {name: make(file) for name, make in ALGORITHMS.items()}
    assert {name for name, algorithm in made.items() if algorithm.hides_inactive_weights} == {*HIDING}
    assert all(any(getattr(made[n], f.name) != f.default for f in fields(made[n])) for n in made if n != "Dense")
    updating = {name for name, algorithm in made.items() if algorithm.resolve(TOTAL).update_steps()}
    assert updating == set(MOVING)


@pytest.mark.parametrize(("name", "optimizer"), PAIRS)
def test_nothing_leaks_outside_a_mask_at_any_step(name, optimizer, file):
    model, optimizer, sparsifier = start(name, file, optimizer)
    start_weight = model[4].weight.detach().clone()
    for step in range(TOTAL):
        for parameter_name, parameter in sparsifier.parameters.items():
            assert not parameter[~sparsifier.masks[parameter_name]].any(), "before the step"
        train(model, optimizer, sparsifier, [step])
        for parameter_name, parameter in sparsifier.parameters.items():
            assert not parameter[~sparsifier.masks[parameter_name]].any(), (step, parameter_name)
    assert all(p.isfinite().all() for p in model.parameters())
    assert not torch.equal(model[4].weight, start_weight)
    assert sparsifier.step == TOTAL


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_masks_hold_after_a_conversion_of_the_module(name, dtype, file):
    model, optimizer, sparsifier = start(name, file)
    train(model, optimizer, sparsifier, range(5))
    model.to(dtype).register_forward_pre_hook(lambda _, inputs: tuple(x.to(dtype) for x in inputs))
    optimizer = OPTIMIZERS["momentum"](model.parameters())  # one that has no state of the other dtype
    for step in range(5, TOTAL):
        train(model, optimizer, sparsifier, [step])
        assert not violations(sparsifier, optimizer)


@pytest.mark.parametrize(
    ("name", "optimizer"), [(n, o) for n, o in PAIRS if n not in HIDING and o not in ("SGD", "Adagrad", "RMSprop")]
)
def test_no_momentum_is_left_outside_a_mask(name, optimizer, file):
    model, optimizer, sparsifier = start(name, file, optimizer)
    for step in range(TOTAL):
        train(model, optimizer, sparsifier, [step])
        for parameter_name, parameter in sparsifier.parameters.items():
            for key, value in optimizer.state[parameter].items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    assert not value[~sparsifier.masks[parameter_name]].any(), (step, parameter_name, key)


@pytest.mark.parametrize("optimizer", ["momentum", "Adam"])
@pytest.mark.parametrize("name", KEEPING)
def test_hidden_weights_keep_learning_with_a_state_of_their_own(name, optimizer, file):
    model, optimizer, sparsifier = start(name, file, optimizer)
    train(model, optimizer, sparsifier, range(2))
    masks = {n: m.clone() for n, m in sparsifier.masks.items()}
    before = {n: w.clone() for n, w in sparsifier.state_dict()["hidden"]["weights"].items()}
    train(model, optimizer, sparsifier, range(2, 3))
    for parameter_name, weight in sparsifier.state_dict()["hidden"]["weights"].items():
        outside = ~masks[parameter_name]
        assert (weight != before[parameter_name])[outside].any()
        assert weight[outside].all()
        state = optimizer.state[sparsifier.parameters[parameter_name]]
        assert any(torch.is_tensor(v) and v.shape == weight.shape and v[outside].any() for v in state.values())


@pytest.mark.parametrize("optimizer", ["momentum", "Adam"])
@pytest.mark.parametrize("name", DROP_GROW)
def test_right_after_an_update_the_state_of_grown_connections_is_zero(name, optimizer, file):
    model, optimizer, sparsifier = start(name, file, optimizer)
    checked = 0
    for step in range(TOTAL):
        masks = {n: m.clone() for n, m in sparsifier.masks.items()}
        train(model, optimizer, sparsifier, [step])
        for parameter_name, parameter in sparsifier.parameters.items():
            grown = sparsifier.masks[parameter_name] & ~masks[parameter_name]
            assert not parameter[grown].any()
            for value in optimizer.state[parameter].values():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    assert not value[grown].any()
                    checked += int(grown.sum())
    assert checked > 30


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_number_of_connections_is_exact_at_every_step(name, file):
    """Of each layer; of their total where the algorithm says that it does not plan layers (DSR, global rankings)."""
    model, optimizer, sparsifier = start(name, file)
    algorithm, shapes = sparsifier.algorithm, {n: p.shape for n, p in sparsifier.parameters.items()}
    for step in range(TOTAL + 1):
        counts = {n: int(m.sum()) for n, m in sparsifier.masks.items()}
        planned = active_counts(shapes, algorithm.layer_sparsities(shapes, step))
        assert sum(counts.values()) == sum(planned.values()), step
        assert counts == planned or not algorithm.has_planned_layers(), step
        assert counts == sparsifier.n_active
        assert all(counts.values())
        if step < TOTAL:
            train(model, optimizer, sparsifier, [step])
    assert algorithm.has_planned_layers() == (name not in MOVING_BETWEEN_LAYERS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_announced_is_what_happens(name, file):
    """`update_steps`, `is_update` and the cost of gradients agree with what happens in a run."""
    model, optimizer, sparsifier = start(name, file)
    algorithm, shapes = sparsifier.algorithm, {n: p.shape for n, p in sparsifier.parameters.items()}
    announced = [step for step in range(TOTAL) if algorithm.is_update(step)]
    assert sorted(set(algorithm.update_steps())) == announced
    updates, costs = [], []
    for step in range(TOTAL):
        density = weight_gradient_density(sparsifier)
        planned = algorithm.weight_gradient_sparsities(shapes, step)
        if algorithm.has_planned_layers():
            assert density == pytest.approx({n: 1 - s for n, s in planned.items()}, abs=1 / 36), step
        costs.append((algorithm.layer_sparsities(shapes, step), planned))
        before = sparsifier.last_update
        train(model, optimizer, sparsifier, [step])
        if sparsifier.last_update is not before:
            updates.append(sparsifier.last_update.step)
    assert updates == announced
    assert bool(updates) == (name in MOVING)
    assert {step for step in range(1, TOTAL) if costs[step] != costs[step - 1]} <= set(algorithm.cost_changes())


@pytest.mark.parametrize("optimizer", ["momentum", "Adam"])
@pytest.mark.parametrize("stop", [6, 8], ids=["in mid-interval", "right before an update"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name, stop, optimizer, file):
    model, sgd, sparsifier = start(name, file, optimizer)
    train(model, sgd, sparsifier, range(stop))
    saved = through_disk({"model": model.state_dict(), "optimizer": sgd.state_dict(), "s": sparsifier.state_dict()})
    middle = [p.detach().clone() for p in model.parameters()]
    train(model, sgd, sparsifier, range(stop, TOTAL))

    # Everything else in the new process is different: the model's first weights, and torch's random state.
    torch.manual_seed(99)
    resumed, resumed_sgd, resumed_sparsifier = start(name, file, optimizer, seed=99, state=saved["s"])
    resumed.load_state_dict(saved["model"])
    resumed_sgd.load_state_dict(saved["optimizer"])
    assert all(torch.equal(p, before) for p, before in zip(resumed.parameters(), middle, strict=True))
    train(resumed, resumed_sgd, resumed_sparsifier, range(stop, TOTAL))

    assert resumed_sparsifier.checksums() == sparsifier.checksums()
    for key, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    for old, new in zip(sgd.state.values(), resumed_sgd.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(new[key]), torch.as_tensor(value)) for key, value in old.items())
    averages = resumed_sparsifier.state_dict()["grad_averages"]
    assert all(torch.equal(averages[n], a) for n, a in sparsifier.state_dict()["grad_averages"].items())
    assert_equal(resumed_sparsifier.state_dict(), sparsifier.state_dict())
    assert not all(torch.equal(p, before) for p, before in zip(resumed.parameters(), middle, strict=True))


@pytest.mark.parametrize("name", GROWING)
def test_masks_move_after_a_resumption(name, file):
    """Else the comparison above would hold of an algorithm that does nothing."""
    model, optimizer, sparsifier = start(name, file)
    train(model, optimizer, sparsifier, range(8))
    before = sparsifier.checksums()
    train(model, optimizer, sparsifier, range(8, TOTAL))
    assert sparsifier.checksums() != before


@pytest.mark.parametrize("name", ALGORITHMS)
def test_training_alone_decides_the_masks_not_the_number_of_threads(name, file):
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model, optimizer, sparsifier = start(name, file)
        train(model, optimizer, sparsifier, range(5))
        results.append(sparsifier.checksums())
    assert results[0] == results[1]


def assert_equal(one, other):
    """Of nested dictionaries with tensors."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    else:
        assert torch.equal(one, other) if torch.is_tensor(one) else one == other


def as_configuration(value):
    """A setting as a user writes it in YAML."""
    if is_dataclass(value):
        words = getattr(value, "outside_words", {})
        settings = {words.get(f.name, f.name): as_configuration(getattr(value, f.name)) for f in fields(value)}
        path = f"{type(value).__module__}.{type(value).__qualname__}"
        return (
            settings
            if isinstance(value, UpdateSchedule | SparsityRamp)
            else {"class_path": path, "init_args": settings}
        )
    if inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, dict):
        return {key: as_configuration(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_command_line_reads_what_it_writes(name, file):
    """With all settings from the table, and once more with a sparsity that no default has."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(SparseTrainingCallback, "sparse")
    algorithm = ALGORITHMS[name](file)
    if isinstance(getattr(algorithm, "sparsity", None), float) and not isinstance(algorithm.structure, NM):
        algorithm = replace(algorithm, sparsity=0.4321, **({"backward_sparsity": 0.1} if name == "TopKAST" else {}))
    for _ in range(2):
        written = parser.dump(parser.parse_object({"sparse": {"algorithm": as_configuration(algorithm)}}))
        read = parser.instantiate_classes(parser.parse_string(written)).sparse.algorithm
        assert read == algorithm
        algorithm = read
