"""The promises that every algorithm makes. A new algorithm is one line in the table."""

import pytest
import torch
from small_training import small_network, sparsify, through_disk, train

from rigl_lightning.sparsity import algorithms
from rigl_lightning.sparsity.algorithms import (
    SET,
    SETITOP,
    SNFS,
    SNIP,
    Dense,
    DropGrow,
    FixedMasks,
    GradualMagnitudePruning,
    GraNet,
    RigL,
    RigLITOP,
    SparseAlgorithm,
    Static,
)
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import gradient_magnitude
from rigl_lightning.sparsity.structures import NM, Blocks, ConstantFanIn

EVERY_FOURTH = UpdateSchedule(interval=4, begin=0, end=0.9)

ALGORITHMS = {
    "Dense": lambda file: Dense(),
    "Static": lambda file: Static(0.7),
    "FixedMasks": FixedMasks,
    "SNIP": lambda file: SNIP(0.7),
    "SNIP global": lambda file: SNIP(0.7, global_ranking=True),
    "SET": lambda file: SET(0.7, schedule=EVERY_FOURTH, drop_fraction=0.5),
    "SNFS": lambda file: SNFS(0.7, schedule=EVERY_FOURTH, drop_fraction=0.5),
    "RigL": lambda file: RigL(0.7, schedule=EVERY_FOURTH, drop_fraction=0.5),
    "DropGrow": lambda file: DropGrow(0.7, schedule=EVERY_FOURTH, drop_fraction=0.5, grow_score=gradient_magnitude),
    "GradualMagnitudePruning": lambda file: GradualMagnitudePruning(0.7, ErdosRenyi(), EVERY_FOURTH),
}
MOVING_AFTER_RIGL = {
    "SETITOP": lambda file: SETITOP(0.7, schedule=EVERY_FOURTH),
    "RigLITOP": lambda file: RigLITOP(0.7, schedule=EVERY_FOURTH),
    "GraNet": lambda file: GraNet(0.7, 0.3, schedule=EVERY_FOURTH, ramp_end=9),
    "GraNet dense, per layer": lambda file: GraNet(0.7, 0.0, schedule=EVERY_FOURTH, global_ranking=False),
    # The first layer, with one input, stays dense.
    "RigL 2:4": lambda file: RigL(0.5, Uniform(), EVERY_FOURTH, 0.5, structure=NM(2, 4)),
    "RigL blocks": lambda file: RigL(0.7, Uniform(), EVERY_FOURTH, 0.5, structure=Blocks((2, 4))),
    "RigL constant fan-in": lambda file: RigL(0.7, schedule=EVERY_FOURTH, drop_fraction=0.5, structure=ConstantFanIn()),
}
ALGORITHMS |= MOVING_AFTER_RIGL
ALGORITHMS["Static 1:4"] = lambda file: Static(0.75, Uniform(), NM(1, 4))
MOVING = ["SNIP", "SNIP global", "SET", "SNFS", "RigL", "DropGrow", "GradualMagnitudePruning", *MOVING_AFTER_RIGL]

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Nesterov and weight decay": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampening, not foreach": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5, foreach=False),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "fused AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01, initial_accumulator_value=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01, weight_decay=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01),
}
TOTAL = 14


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A ticket for FixedMasks."""
    path = tmp_path_factory.mktemp("ticket") / "ticket.pt"
    torch.save(sparsify(small_network(), Static(0.7), seed=3).state_dict(), path)
    return path


def start(name, file, optimizer="momentum", seed=0, state=None):
    model = small_network(seed)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    return model, optimizer, sparsify(model, ALGORITHMS[name](file), total_steps=TOTAL, state=state)


def test_the_table_forgets_no_algorithm():
    public = {name for name in algorithms.__all__ if isinstance(getattr(algorithms, name), type)}
    assert public - {SparseAlgorithm.__name__} == {name.split()[0] for name in ALGORITHMS}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ALGORITHMS)
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


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name not in ("SGD", "Adagrad", "RMSprop")])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_momentum_is_left_outside_a_mask(name, optimizer, file):
    model, optimizer, sparsifier = start(name, file, optimizer)
    for step in range(TOTAL):
        train(model, optimizer, sparsifier, [step])
        for parameter_name, parameter in sparsifier.parameters.items():
            for key, value in optimizer.state[parameter].items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    assert not value[~sparsifier.masks[parameter_name]].any(), (step, parameter_name, key)


@pytest.mark.parametrize("optimizer", ["momentum", "Adam"])
@pytest.mark.parametrize("name", ["SET", "SNFS", "RigL", "DropGrow"])
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


@pytest.mark.parametrize("name", ["SET", "SNFS", "RigL", "DropGrow", "Static", "FixedMasks", "Dense"])
def test_the_number_of_connections_of_a_layer_never_changes(name, file):
    model, optimizer, sparsifier = start(name, file)
    counts = {n: int(m.sum()) for n, m in sparsifier.masks.items()}
    for step in range(TOTAL):
        train(model, optimizer, sparsifier, [step])
        assert {n: int(m.sum()) for n, m in sparsifier.masks.items()} == counts == sparsifier.n_active


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_announced_is_what_happens(name, file):
    """`update_steps`, `is_update` and `layer_sparsities` agree with the masks of a run."""
    model, optimizer, sparsifier = start(name, file)
    algorithm, shapes = sparsifier.algorithm, {n: p.shape for n, p in sparsifier.parameters.items()}
    sizes = {n: shape.numel() for n, shape in shapes.items()}
    announced = [step for step in range(TOTAL) if algorithm.is_update(step)]
    assert sorted(set(algorithm.update_steps())) == announced
    updates = []
    for step in range(TOTAL):
        zeros = sum(s * sizes[n] for n, s in algorithm.layer_sparsities(shapes, step).items())
        assert sum(sparsifier.n_active.values()) == pytest.approx(sum(sizes.values()) - zeros, abs=1), step
        before = sparsifier.last_update
        train(model, optimizer, sparsifier, [step])
        if sparsifier.last_update is not before:
            updates.append(sparsifier.last_update.step)
    assert updates == announced
    assert bool(updates) == (name in MOVING)


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
    assert not all(torch.equal(p, before) for p, before in zip(resumed.parameters(), middle, strict=True))


@pytest.mark.parametrize("name", ["SET", "SNFS", "RigL", "DropGrow"])
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
