"""Grown connections under Adam: moments corrected by their own age, against Adam itself started with them."""

import pytest
import torch
from torch import nn

from rigl_lightning.sparsity.algorithms import DNW, SET, RigL, Static
from rigl_lightning.sparsity.distributions import Uniform
from rigl_lightning.sparsity.schedules import UpdateSchedule, constant
from rigl_lightning.sparsity.sparsifier import Sparsifier
from tests.helpers.small_training import backward, small_network, sparsify, through_disk, train

EVERYWHERE = Uniform(first_layer_dense=False)
LATE = 4000


def gradient(step):
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(step))


def grow_late(optimizer_class, warm_up, steps=5, channels_last=False, **settings):
    """Weights after each of some steps from an update at step LATE on; which were grown; and where they started."""
    shape = (6, 2, 2, 2) if channels_last else (6, 8)
    values = gradient(999).view(shape)
    weight = nn.Parameter(values.to(memory_format=torch.channels_last) if channels_last else values)
    algorithm = RigL(0.5, EVERYWHERE, UpdateSchedule(LATE, LATE, LATE + 1), drop_fraction=0.5, decay=constant)
    sparsifier = Sparsifier({"w": weight}, algorithm, adam_warm_up=warm_up)
    sparsifier.step = LATE
    optimizer = optimizer_class([weight], lr=0.01, **settings)
    zeros = [torch.zeros_like(weight) for _ in range(3)]
    keys = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if settings.get("amsgrad") else 2]
    optimizer.state[weight] = {"step": torch.tensor(float(LATE)), **dict(zip(keys, zeros, strict=False))}
    before, path = sparsifier.masks["w"].clone(), []
    for step in range(steps + 1):  # the first one updates the masks
        weight.grad = (
            gradient(step).view(shape).to(memory_format=torch.channels_last) if channels_last else gradient(step)
        )
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        path.append(weight.detach().clone())
    grown = sparsifier.masks["w"] & ~before
    assert int(grown.sum()) >= 5
    return path, grown, sparsifier


def test_without_it_the_first_step_is_three_times_the_learning_rate():
    path, grown, _ = grow_late(torch.optim.Adam, None, steps=1)
    moved = path[1][grown].abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.0316), rtol=0.02)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("optimizer_class", "settings"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True, "betas": (0.8, 0.95), "eps": 1e-3}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {"fused": True}),
    ],
    ids=["Adam", "Adam with all settings", "AdamW", "fused AdamW"],
)
def test_a_grown_connection_takes_the_steps_of_an_adam_that_started_with_it(optimizer_class, settings, channels_last):
    path, grown, _ = grow_late(optimizer_class, 0, channels_last=channels_last, **settings)
    fresh = nn.Parameter(torch.zeros(int(grown.sum())))
    witness = optimizer_class([fresh], lr=0.01, **settings)
    for step in range(1, 6):
        fresh.grad = gradient(step).view(grown.shape)[grown].clone()
        witness.step()
        assert torch.allclose(path[step][grown], fresh.detach(), rtol=1e-4, atol=1e-7), step


def test_other_connections_step_as_ever():
    plain, grown, _ = grow_late(torch.optim.Adam, None)
    corrected, also_grown, _ = grow_late(torch.optim.Adam, 0)
    assert torch.equal(grown, also_grown)
    for one, other in zip(plain, corrected, strict=True):
        assert torch.equal(one[~grown], other[~grown])


def test_a_ramp_multiplies_the_first_steps():
    path, grown, _ = grow_late(torch.optim.Adam, 4, steps=1)
    moved = path[1][grown].abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.01 / 4), rtol=1e-3)


def test_a_step_that_is_skipped_before_an_update_leaves_nothing_behind():
    model = small_network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    sparsifier = sparsify(model, RigL(0.7, schedule=UpdateSchedule(2, 0, 10)), total_steps=10, adam_warm_up=0)
    train(model, optimizer, sparsifier, range(4))  # young since steps 0 and 2
    backward(model, 4)
    model[4].weight.grad[0, 0] = torch.inf
    sparsifier.before_step(optimizer)  # a GradScaler now skips optimizer.step, and so after_step
    weights, before = [p.detach().clone() for p in model.parameters()], dict(sparsifier.masks)
    before = {name: mask.clone() for name, mask in before.items()}
    train(model, optimizer, sparsifier, [4])
    assert sparsifier.last_update.step == 4
    for weight, (name, parameter) in zip(weights, model.named_parameters(), strict=True):
        stays = before[name] & sparsifier.masks[name] if name in before else torch.ones_like(weight, dtype=torch.bool)
        assert torch.equal(parameter.detach(), torch.where(stays, weight, 0.0)), name


@pytest.mark.parametrize("algorithm", [RigL, SET])
def test_under_a_new_optimizer_connections_are_as_young_as_its_moments(algorithm):
    trained = []
    for warm_up in (None, 0):
        model = small_network()
        schedule = UpdateSchedule(3, 0, 13)
        sparsifier = sparsify(model, algorithm(0.7, schedule=schedule), total_steps=20, adam_warm_up=warm_up)
        train(model, torch.optim.Adam(model.parameters(), 0.0), sparsifier, range(14))
        train(model, torch.optim.Adam(model.parameters(), 0.01), sparsifier, range(14, 20))
        trained.append(list(model.parameters()))
    assert all(torch.equal(plain, corrected) for plain, corrected in zip(*trained, strict=True))


def test_connections_grow_up():
    """With beta2 of 0.5 after six steps: 0.5^6 < 0.02."""
    _, _, sparsifier = grow_late(torch.optim.Adam, 0, steps=4, betas=(0.5, 0.5))
    assert sparsifier.state_dict()["adam_warm_up"]["w"]["at"].numel() >= 5
    _, _, sparsifier = grow_late(torch.optim.Adam, 0, steps=7, betas=(0.5, 0.5))
    assert sparsifier.state_dict()["adam_warm_up"]["w"]["at"].numel() == 0


@pytest.mark.parametrize("algorithm", [RigL, SET])
@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(algorithm, optimizer_class):
    def start(seed=0, state=None):
        model = small_network(seed)
        algo = algorithm(0.7, schedule=UpdateSchedule(3, 0, 12), drop_fraction=0.5)
        return model, optimizer_class(model.parameters(), 0.01), sparsify(model, algo, state=state, adam_warm_up=3)

    model, optimizer, sparsifier = start()
    train(model, optimizer, sparsifier, range(8))
    saved = through_disk(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "s": sparsifier.state_dict()}
    )
    train(model, optimizer, sparsifier, range(8, 14))
    resumed, resumed_optimizer, resumed_sparsifier = start(99, saved["s"])
    resumed.load_state_dict(saved["model"])
    resumed_optimizer.load_state_dict(saved["optimizer"])
    train(resumed, resumed_optimizer, resumed_sparsifier, range(8, 14))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), resumed.parameters(), strict=True))
    assert not any(p[~sparsifier.masks[n]].any() for n, p in sparsifier.parameters.items())


@pytest.mark.parametrize("other", [None, 4])
def test_a_run_is_not_resumed_with_another_warm_up(other):
    state = through_disk(sparsify(small_network(), Static(0.7), adam_warm_up=3).state_dict())
    with pytest.raises(ValueError, match=f"the `adam_warm_up` of the run that is resumed, 3, got {other}. Set it as"):
        sparsify(small_network(), Static(0.7), state=state, adam_warm_up=other)
    del state["adam_warm_up_steps"]  # an older checkpoint
    sparsify(small_network(), Static(0.7), state=state, adam_warm_up=other)


def test_off_it_leaves_the_state_as_it_was():
    assert "adam_warm_up" not in sparsify(small_network(), Static(0.7)).state_dict()


@pytest.mark.parametrize(
    ("algorithm", "optimizer_class", "warm_up", "message"),
    [
        (RigL(0.7), torch.optim.SGD, 0, "Adam or AdamW of torch.optim for adam_warm_up, got SGD"),
        (RigL(0.7), torch.optim.NAdam, 0, "got NAdam"),
        (DNW(0.7), torch.optim.Adam, 0, "got DNW: its inactive weights keep their moments"),
        (RigL(0.7), torch.optim.Adam, -1, "`adam_warm_up` to be a number of steps, 0 or more, got -1"),
        (RigL(0.7), torch.optim.Adam, True, "got True"),
    ],
)
def test_what_it_cannot_do_is_refused(algorithm, optimizer_class, warm_up, message):
    model = small_network()
    with pytest.raises(ValueError, match=message):
        sparsify(model, algorithm, total_steps=100, adam_warm_up=warm_up).mask_optimizer_state(
            optimizer_class(model.parameters(), 0.1)
        )
