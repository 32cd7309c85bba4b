import pytest
import torch

from rigl_lightning.sparsity.algorithms import RigL
from rigl_lightning.sparsity.invariants import violations
from rigl_lightning.sparsity.schedules import UpdateSchedule
from tests.helpers.small_training import small_network, sparsify, train


@pytest.fixture
def trained():
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = sparsify(model, RigL(0.7, schedule=UpdateSchedule(interval=2, end=10)))
    train(model, optimizer, sparsifier, range(5))
    return sparsifier, optimizer


def outside(sparsifier):
    return ~sparsifier.masks["4.weight"]


def test_a_sound_network_has_none(trained):
    assert violations(*trained) == []


def test_a_leaked_weight_is_named_with_its_layer(trained):
    sparsifier, optimizer = trained
    with torch.no_grad():
        sparsifier.parameters["4.weight"].view(-1)[outside(sparsifier).view(-1).nonzero()[:3]] = 0.5
    assert violations(sparsifier, optimizer) == ["4.weight: 3 inactive weights are not zero"]


def test_a_leaked_momentum_is_named_with_its_layer(trained):
    sparsifier, optimizer = trained
    optimizer.state[sparsifier.parameters["4.weight"]]["momentum_buffer"][outside(sparsifier)] = 1.0
    (sentence,) = violations(sparsifier, optimizer)
    assert sentence.startswith("4.weight: the optimizer's 'momentum_buffer' is not zero at ")
    assert violations(sparsifier) == []


def test_a_mask_changed_by_hand_is_named(trained):
    sparsifier, _ = trained
    sparsifier.masks["4.weight"][outside(sparsifier)] = True
    first, second = violations(sparsifier)
    assert first.startswith("4.weight: 256 connections are active, ")
    assert second == "4.weight: active connections are missing among the explored"


def test_a_mask_of_another_shape_is_named(trained):
    sparsifier, _ = trained
    sparsifier.masks.replace("4.weight", torch.ones(3, dtype=torch.bool))
    assert violations(sparsifier) == ["4.weight: the mask has shape (3,), the weight (4, 64)"]


def test_state_that_starts_at_a_number_is_no_leak():
    timm_optim = pytest.importorskip("timm.optim")
    model = small_network()
    optimizer = timm_optim.RMSpropTF(model.parameters(), 0.01)
    sparsifier = sparsify(model, RigL(0.7, schedule=UpdateSchedule(interval=2, end=10)))
    train(model, optimizer, sparsifier, range(5))
    assert violations(sparsifier, optimizer) == []
