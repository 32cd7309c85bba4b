import pytest
import torch

from rigl_lightning.sparsity.algorithms import OneShotMagnitude
from rigl_lightning.sparsity.costs.training import planned_training_flops
from rigl_lightning.sparsity.distributions import Uniform
from rigl_lightning.sparsity.scores import Connections, saliency
from tests.helpers.small_training import flags, small_network, sparsify, train, written

EVERYWHERE = Uniform(first_layer_dense=False)


def layers():
    weights = {"large": torch.tensor([0.9, -0.8, 0.7, 0.6]), "small": torch.tensor([0.1, 0.4, -0.2, 0.3])}
    return {name: Connections(weight, torch.ones(4).bool()) for name, weight in weights.items()}


def test_the_largest_weights_of_each_layer_stay():
    new = OneShotMagnitude(0.5, EVERYWHERE, at=1).update_masks(layers(), 0, {})
    assert {n: written(m) for n, m in new.items()} == {"large": "11..", "small": ".1.1"}


def test_or_the_largest_of_the_network_and_one_of_each_layer():
    new = OneShotMagnitude(0.5, EVERYWHERE, global_ranking=True, at=1).update_masks(layers(), 0, {})
    assert {n: written(m) for n, m in new.items()} == {"large": "111.", "small": ".1.."}


@pytest.mark.parametrize(("at", "n_dense"), [(3, 3), (0.5, 5), (1.0, 10), (10, 10)])
def test_it_is_dense_for_that_many_steps_and_static_after(at, n_dense):
    model = small_network()
    sparsifier = sparsify(model, OneShotMagnitude(0.7, EVERYWHERE, at=at), total_steps=10)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    densities, checksums = [], []
    for step in range(10):
        densities.append(sparsifier.density()["4.weight"])
        checksums.append(sparsifier.checksums()["4.weight"])
        train(model, optimizer, sparsifier, [step])
    assert densities == [1.0] * n_dense + [77 / 256] * (10 - n_dense)
    assert sparsifier.n_active["4.weight"] == 77
    assert len(set(checksums[n_dense:])) <= 1
    assert sparsifier.last_update.step == n_dense - 1


def test_at_the_beginning_it_prunes_the_initial_weights():
    model = small_network()
    weight = model[4].weight.detach().clone()
    sparsifier = sparsify(model, OneShotMagnitude(0.75, EVERYWHERE, at=0))
    mask = sparsifier.masks["4.weight"]
    assert mask.sum() == 64
    assert weight.abs()[mask].min() > weight.abs()[~mask].max()
    assert list(sparsifier.algorithm.update_steps()) == []


def test_the_cost_is_dense_before_and_sparse_after():
    algorithm = OneShotMagnitude(0.9, EVERYWHERE, at=0.25).resolve(100)
    cost = planned_training_flops(algorithm, {"a": (10, 10)}, {"a": 200}, 100)
    assert cost == pytest.approx(0.25 + 0.75 * 0.1)


@pytest.mark.parametrize("at", [-1, 1.5, True, -0.1])
def test_a_point_outside_of_training_is_refused(at):
    with pytest.raises(ValueError, match=r"Expected `at`.*Set `at` of OneShotMagnitude"):
        OneShotMagnitude(at=at)


def test_a_point_that_cannot_be_placed_is_refused():
    with pytest.raises(ValueError, match="known number of training steps"):
        OneShotMagnitude(at=0.5).resolve(None)
    with pytest.raises(ValueError, match=r"Expected pruning before training ends, got at=11 and 10 steps"):
        OneShotMagnitude(at=11).resolve(10)
    with pytest.raises(ValueError, match="no gradient, got saliency"):
        OneShotMagnitude(at=0, score=saliency)


def test_a_score_of_gradients_sees_those_of_the_last_dense_step():
    model = small_network()
    sparsifier = sparsify(model, OneShotMagnitude(0.7, score=saliency, at=2))
    train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, range(4))
    assert sum(sparsifier.n_active.values()) == 292 - 204
    assert not torch.equal(sparsifier.masks["4.weight"].view(-1), flags("1" * 77 + "." * 179))
