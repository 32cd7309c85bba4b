"""Whole steps decide where layers gain little; what they decide is kept, and nothing is trained otherwise."""

import pytest
import torch
from torch import nn

from rigl_lightning import RigL, Sparsifier, Static, UpdateSchedule, select_parameters
from rigl_lightning.compute import SparseCompute, step_trial, timed_choice, whole_step_line
from rigl_lightning.compute.timed_choice import Choice


@pytest.fixture
def clock(monkeypatch):
    """Layers gain a fifth, and steps take what the test says, by whether their layers are dense."""
    now = [0.0]
    monkeypatch.setattr(step_trial, "clock", lambda: now[0])
    monkeypatch.setattr(timed_choice, "LEAST_FLOPS", 0)
    monkeypatch.setattr(
        "rigl_lightning.compute.sparse_compute.pooled", lambda timed, density: Choice(True, "", density, 1.2, 1.0)
    )
    return now


def train(now, seconds, steps, storage="auto", algorithm=None, choices=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = Sparsifier(select_parameters(model), algorithm or Static(0.8), total_steps=steps)
    compute = SparseCompute(model, sparsifier, "auto", choices, storage)
    generator, seen = torch.Generator().manual_seed(1), []
    with compute:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 12, generator=generator)).square().mean().backward()
            sparse = [layer.is_on and layer.is_sparse for layer in compute.layers]
            seen.append(all(sparse))
            now[0] += seconds[all(sparse)]
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
        state = compute.state_dict()
    return model, compute, seen, state


@pytest.mark.parametrize("storage", ["auto", "dense"])
def test_steps_that_are_slower_with_sparse_layers_make_all_dense(clock, storage):
    _, compute, seen, state = train(clock, {True: 1.1, False: 1.0}, 20, storage)
    assert compute.trial.result == pytest.approx((1.0, 1.1))
    assert seen[:2] == [True, True]
    assert seen[2:12] == [False, True] * 5
    assert not any(seen[12:])
    assert {choice[1] for choice in state.values()} == {"whole steps are faster dense"}
    assert whole_step_line(compute).endswith("0.91 times as fast; all layers are dense from now on")


@pytest.mark.parametrize("storage", ["auto", "dense"])
def test_steps_that_gain_stay_as_chosen(clock, storage):
    _, compute, seen, _ = train(clock, {True: 0.9, False: 1.0}, 20, storage)
    assert all(seen[12:])
    assert "1.11 times as fast; the layers stay as chosen" in whole_step_line(compute)


@pytest.mark.parametrize("storage", ["auto", "dense"])
def test_it_trains_the_same_network(clock, storage):
    algorithm = RigL(0.8, schedule=UpdateSchedule(interval=3, end=1.0))
    tried, compute, _, _ = train(clock, {True: 1.1, False: 1.0}, 24, storage, algorithm)
    assert compute.trial.is_over
    plain = train(clock, {True: 1.0, False: 1.0}, 24, "dense", algorithm, {"0.weight": (False, "", 0.2)})[0]
    for one, other in zip(tried.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_steps_of_mask_updates_do_not_count(clock):
    algorithm = RigL(0.8, schedule=UpdateSchedule(interval=2, end=1.0))
    _, compute, _, _ = train(clock, {True: 0.9, False: 1.0}, 40, "auto", algorithm)
    assert compute.trial.is_over
    assert compute.trial.result == pytest.approx((1.0, 0.9))


@pytest.mark.parametrize(
    ("choice", "storage"),
    [
        (Choice(True, "", 0.2, 3.0, 1.0), "auto"),  # a clear gain
        (Choice(False, "dense is faster", 0.2, 1.0, 2.0), "auto"),  # nothing to lose
        (Choice(True, "", 0.2, 1.2, 1.0), "connections"),  # never dense
    ],
)
def test_nothing_is_tried_where_it_is_clear(clock, monkeypatch, choice, storage):
    monkeypatch.setattr("rigl_lightning.compute.sparse_compute.pooled", lambda timed, density: choice)
    _, compute, seen, _ = train(clock, {True: 2.0, False: 1.0}, 20, storage)
    assert set(seen) == {choice.is_sparse}
    assert whole_step_line(compute) == ""


def test_a_resumed_training_keeps_what_was_decided(clock):
    _, _, _, state = train(clock, {True: 1.1, False: 1.0}, 20)
    _, compute, seen, _ = train(clock, {True: 1.1, False: 1.0}, 20, choices=state)
    assert compute.trial is None
    assert not any(seen)
