"""Biases and other vectors are sparse on request: chosen by their names, held to their masks, moved by every method."""

import pytest
import torch
from torch import nn

from rigl_lightning import ByDensity, Sparsifier, select_parameters
from rigl_lightning.compute import build_sparse
from rigl_lightning.sparsity.algorithms import ACDC, MEST, SET, SNFS, AnnealedTopK, CHTs, DropGrow, RigL, Static
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import channel_normalised_gradient, relative_importance
from rigl_lightning.sparsity.statistics import dead_units
from rigl_lightning.sparsity.structures import NM, Blocks, ConstantFanIn
from rigl_lightning.sparsity.transposable import TransposableNM

EVERY = UpdateSchedule(interval=2, begin=0, end=1.0)
ALL_ALIKE = Uniform(first_layer_dense=False)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 16))


def chosen(*patterns):
    return list(select_parameters(network(), include=patterns))


def test_vectors_are_chosen_by_their_own_names_only():
    assert chosen("*.bias") == ["1.bias", "2.bias", "4.bias"]
    assert chosen("1.bias", "4.weight") == ["1.bias", "4.weight"]
    assert chosen("*.weight") == ["0.weight", "1.weight", "4.weight"]  # not the norm's
    assert chosen("1", "4*") == ["1.weight", "4.weight"]
    assert chosen("2.weight") == ["2.weight"]
    model = network()
    assert list(select_parameters(model, include=["*.weight", "*.bias"], exclude=["2.bias", "0"])) == [
        "1.weight", "1.bias", "4.weight", "4.bias",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"'3\.bias' matches none"):
        chosen("3.bias")


MOVING = {
    "RigL": RigL(0.5, ALL_ALIKE, EVERY, 0.5),
    "RigL with a minimum fan-in": RigL(0.5, ALL_ALIKE, EVERY, 0.5, min_fan_in=2),
    "RigL, normalised": RigL(0.5, ALL_ALIKE, EVERY, 0.5, grow_score=channel_normalised_gradient),
    "SET": SET(0.5, ALL_ALIKE, EVERY, 0.5),
    "SNFS": SNFS(0.5, ALL_ALIKE, EVERY, 0.5),
    "MEST": MEST(0.5, ALL_ALIKE, EVERY, 0.5),
    "CHTs": CHTs(0.5, ALL_ALIKE, EVERY, 0.5),
    "relative importance": DropGrow(0.5, ALL_ALIKE, EVERY, 0.5, drop_score=relative_importance),
    "ACDC": ACDC(0.5, ALL_ALIKE, global_ranking=False, warm_up=1, phase=2, last=9),
    "AnnealedTopK": AnnealedTopK(0.5, min_fan_in=2),
}


def train(algorithm, steps=12, **settings):
    model = network()
    parameters = select_parameters(model, include=["1.*", "1.bias", "4.*", "4.bias"])
    with torch.no_grad():
        model[4].bias.copy_(torch.linspace(-1, 1, 16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    sparsifier = Sparsifier(parameters, algorithm, total_steps=steps, **settings)
    first = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randint(20, (8,), generator=torch.Generator().manual_seed(step))).square().mean().backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        assert all((model.get_parameter(name)[~mask] == 0).all() for name, mask in sparsifier.masks.items())
    return model, sparsifier, first


@pytest.mark.parametrize("name", MOVING)
def test_every_method_moves_them_and_holds_their_number(name):
    _, sparsifier, first = train(MOVING[name])
    assert {name: int(mask.sum()) for name, mask in sparsifier.masks.items()} == {
        "1.weight": 256, "1.bias": 16, "4.weight": 256, "4.bias": 8,
    }  # fmt: skip
    if name != "CHTs":  # grows where paths lead, and none lead to a bias: the dropped ones come back
        assert any((sparsifier.masks[bias] != first[bias]).any() for bias in ("1.bias", "4.bias"))


def test_by_magnitude_the_largest_of_a_vector_stay():
    model, sparsifier, _ = train(AnnealedTopK(0.5, anneal_begin=0, anneal_end=1, min_fan_in=1), steps=2)
    assert sparsifier.masks["4.bias"].tolist() == [True] * 4 + [False] * 8 + [True] * 4


def test_er_leaves_them_dense_and_structures_do():
    shapes = {"a.weight": (32, 16), "a.bias": (32,), "b.weight": (16, 32), "b.bias": (16,)}
    assert ErdosRenyi()(shapes, 0.8)["a.bias"] == 0
    for structure in (NM(2, 4), TransposableNM(2, 4), Blocks((4, 4)), ConstantFanIn()):
        planned = structure.layer_sparsities(shapes, ALL_ALIKE(shapes, 0.5))
        assert planned == {"a.weight": 0.5, "a.bias": 0.0, "b.weight": 0.5, "b.bias": 0.0}
        train(RigL(0.5, ALL_ALIKE, EVERY, 0.5, structure=structure))


def test_the_neurons_before_a_last_bias_are_the_outputs_and_stay():
    algorithm = RigL(0.8, ALL_ALIKE, EVERY, 0.9, structure=ConstantFanIn(min_salient=1.0))
    _, sparsifier, _ = train(algorithm, steps=20)
    assert list(sparsifier.masks)[-1] == "4.bias"
    assert dead_units(sparsifier.masks["1.weight"]) > 0
    assert dead_units(sparsifier.masks["4.weight"]) == 0


def test_a_network_built_sparse_may_have_them():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20))
    compute = build_sparse(model, Static(0.8, ALL_ALIKE), total_steps=10, include=["0", "*.bias", "2"])
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(240,), (30,), (120,), (20,)]
    model(torch.randn(8, 40)).sum().backward()
    assert [int((bias != 0).sum()) for bias in (model[0].bias, model[2].bias)] == [6, 4]
    assert compute.sparsifier.density()["0.bias"] == 0.2


def test_inactive_biases_are_no_dead_units_and_keep_their_size_by_density():
    assert dead_units(torch.tensor([True, False, False])) == 0
    model, _, _ = train(Static(0.5, ALL_ALIKE), steps=0, by_density=ByDensity(init=True))
    assert set(model[4].bias.abs().tolist()) <= {0.0, *torch.linspace(-1, 1, 16).abs().tolist()}
