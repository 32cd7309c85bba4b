"""Weights that are stored inputs first: transformers' Conv1D, known by name and form, and transposed convolutions."""

import warnings

import pytest
import torch
from torch import nn

from rigl_lightning.base.errors import SparseTrainingWarning
from rigl_lightning.sparsity.algorithms import RigL, Static
from rigl_lightning.sparsity.costs.flops import trace_flops
from rigl_lightning.sparsity.density_scaling import ByDensity
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform
from rigl_lightning.sparsity.layouts import (
    InputsFirst,
    copy_of,
    is_inputs_first,
    outputs_first,
    rows_are_units,
    shapes_of,
)
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.schedules import UpdateSchedule, constant
from rigl_lightning.sparsity.scores import channel_normalised_gradient, gradient_magnitude, live_channel_gradient
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.sparsity.statistics import dead_units
from rigl_lightning.sparsity.structures import NM, Blocks, ConstantFanIn
from rigl_lightning.sparsity.transposable import TransposableNM
from rigl_lightning.trainer.checks import warn_of_dense, warn_of_missed_updates
from rigl_lightning.trainer.metrics import mask_metrics

EVERYWHERE = Uniform(first_layer_dense=False)


class Conv1D(nn.Module):
    """As in transformers (pytorch_utils.py): ``nf`` outputs, ``nx`` inputs."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


def block():
    torch.manual_seed(0)
    return nn.Sequential(Conv1D(24, 8), nn.ReLU(), Conv1D(8, 24))


def test_it_is_selected_and_its_shape_says_that_inputs_come_first():
    parameters = select_parameters(block())
    assert list(parameters) == ["0.weight", "2.weight"]
    shapes = shapes_of(parameters)
    assert all(isinstance(shape, InputsFirst) for shape in shapes.values())
    assert shapes["0.weight"] == (8, 24)


def test_another_module_of_that_name_is_left_alone():
    other = nn.Sequential(nn.Linear(4, 4))
    other.add_module("norm", type("Conv1D", (nn.Module,), {"weight": nn.Parameter(torch.ones(4, 4))})())
    assert list(select_parameters(other)) == ["0.weight"]


@pytest.mark.parametrize("distribution", [ErdosRenyi(), ErdosRenyi(kernel=False), Uniform()])
def test_densities_are_those_of_the_linear_layer(distribution):
    shapes = shapes_of(select_parameters(block()))
    linear = {name: tuple(reversed(shape)) for name, shape in shapes.items()}
    assert distribution(shapes, 0.8) == distribution(linear, 0.8)


def test_flops_are_those_of_the_linear_layer():
    assert trace_flops(block(), torch.zeros(2, 5, 8)) == {"0.weight": 2 * 8 * 24 * 10, "2.weight": 2 * 8 * 24 * 10}


def train(algorithm):
    model = block()
    sparsifier = Sparsifier(select_parameters(model), algorithm, total_steps=8)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    masks = [{name: mask.clone() for name, mask in sparsifier.masks.items()}]
    for step in range(8):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        masks.append({name: mask.clone() for name, mask in sparsifier.masks.items()})
    assert not any(p[~sparsifier.masks[n]].any() for n, p in sparsifier.parameters.items())
    return masks, sparsifier


SCHEDULE = UpdateSchedule(2, 0, 8)


@pytest.mark.parametrize("algorithm", [RigL, Static])
def test_groups_are_of_consecutive_inputs(algorithm):
    settings = {} if algorithm is Static else {"schedule": SCHEDULE}
    masks, _ = train(algorithm(0.5, EVERYWHERE, structure=NM(2, 4), **settings))
    for mask in (mask for moment in masks for mask in moment.values()):
        inputs, outputs = mask.shape
        assert (mask.t().reshape(outputs, inputs // 4, 4).sum(2) == 2).all()
    assert (masks[0]["0.weight"] != masks[-1]["0.weight"]).any() == (algorithm is RigL)


def test_blocks_span_outputs_and_inputs():
    masks, _ = train(RigL(0.5, EVERYWHERE, SCHEDULE, structure=Blocks((2, 4))))
    for mask in (mask for moment in masks for mask in moment.values()):
        inputs, outputs = mask.shape
        blocks = mask.t().reshape(outputs // 2, 2, inputs // 4, 4).sum((1, 3))
        assert set(blocks.unique().tolist()) <= {0, 8}


def test_what_is_said_before_and_after_training_reads_the_same_shapes():
    model = nn.Sequential(Conv1D(6, 8), nn.ReLU(), Conv1D(10, 8))  # four inputs in a group, and no four outputs
    algorithm = RigL(0.5, EVERYWHERE, UpdateSchedule(1, 0, 4), structure=NM(2, 4))
    with pytest.warns(SparseTrainingWarning, match=r"The network is dense: 0\.0% .* RigL leaves 50\.0%"):
        warn_of_dense(model, select_parameters, algorithm)
    sparsifier = Sparsifier(select_parameters(model), algorithm)
    sparsifier.step = 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_missed_updates(sparsifier)  # none was made, and the network is as sparse as planned


def test_every_unit_has_the_same_number_of_inputs_or_none():
    masks, sparsifier = train(RigL(0.75, EVERYWHERE, SCHEDULE, structure=ConstantFanIn(ablation=False)))
    for moment in masks:
        assert moment["0.weight"].sum(0).tolist() == [2] * 24
        assert moment["2.weight"].sum(0).tolist() == [6] * 8
    inputs_first = is_inputs_first(sparsifier.parameters["0.weight"])
    assert rows_are_units(sparsifier.masks["0.weight"], inputs_first).shape == (24, 8)


def test_neurons_can_be_ablated():
    masks, _ = train(RigL(0.75, EVERYWHERE, SCHEDULE, structure=ConstantFanIn(min_salient=1.0)))
    fan_ins = masks[-1]["0.weight"].sum(0)
    assert len(set(fan_ins[fan_ins > 0].tolist())) == 1


def upsampling():
    torch.manual_seed(0)
    first, second = nn.ConvTranspose2d(8, 12, 3), nn.ConvTranspose2d(12, 16, 1)
    return nn.Sequential(first, nn.ReLU(), second, nn.Conv2d(16, 4, 1))


def train_upsampling(algorithm, **settings):
    """By units: masks at the end, (out, in, *kernel), and weights before and after."""
    model = upsampling()
    sparsifier = Sparsifier(select_parameters(model), algorithm, total_steps=8, **settings)
    begin = [model[layer].weight.detach().clone() for layer in (0, 2)]
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(8):
        optimizer.zero_grad()
        model(torch.randn(2, 8, 2, 2, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
    return [sparsifier.masks[f"{layer}.weight"].transpose(0, 1) for layer in (0, 2)], begin, sparsifier


def test_structures_of_transposed_convolutions_are_those_of_their_units():
    masks, *_ = train_upsampling(RigL(0.5, EVERYWHERE, SCHEDULE, structure=NM(2, 4)))
    for mask in masks:
        assert (mask.unflatten(1, (-1, 4)).sum(2) == 2).all()
    masks, *_ = train_upsampling(RigL(0.5, EVERYWHERE, SCHEDULE, structure=TransposableNM(2, 4)))
    for mask in masks:
        assert (mask.unflatten(1, (-1, 4)).sum(2) == 2).all()
        assert (mask.unflatten(0, (-1, 4)).sum(1) == 2).all()
    masks, *_ = train_upsampling(RigL(0.5, EVERYWHERE, SCHEDULE, structure=Blocks((4, 2))))
    for mask in masks:
        assert set(mask.unflatten(0, (-1, 4)).unflatten(2, (-1, 2)).sum((1, 3)).unique().tolist()) == {0, 8}
    masks, *_ = train_upsampling(RigL(0.75, EVERYWHERE, SCHEDULE, structure=ConstantFanIn(ablation=False)))
    assert [set(mask.flatten(1).sum(1).tolist()) for mask in masks] == [{18}, {3}]


@pytest.mark.parametrize("score", [gradient_magnitude, live_channel_gradient, channel_normalised_gradient])
def test_units_of_transposed_convolutions_keep_a_minimum_fan_in(score):
    algorithm = RigL(0.9, EVERYWHERE, SCHEDULE, 0.9, constant, grow_score=score, min_fan_in=1)
    masks, *_ = train_upsampling(algorithm)
    assert [dead_units(mask) for mask in masks] == [0, 0]


def test_dead_units_and_first_weights_of_transposed_convolutions_are_by_unit():
    masks, begin, sparsifier = train_upsampling(Static(0.96, EVERYWHERE), by_density=ByDensity(init=True))
    assert mask_metrics(sparsifier, by_layer=True)["dead_units/2.weight"] == dead_units(masks[1]) > 0
    for layer, mask, weight in zip((0, 2), masks, begin, strict=True):
        fan_in = mask.flatten(1).sum(1).clamp(min=1)
        scaled = upsampling()[layer].weight.transpose(0, 1) * (mask[0].numel() / fan_in).sqrt().view(-1, 1, 1, 1)
        torch.testing.assert_close(weight.transpose(0, 1), (scaled * mask).detach())


def test_a_transposed_convolution_with_groups_is_not_marked():
    model = nn.Sequential(nn.ConvTranspose1d(8, 4, 3, groups=2), nn.ConvTranspose3d(4, 8, 1))
    shapes = shapes_of(select_parameters(model))
    assert [isinstance(shape, InputsFirst) for shape in shapes.values()] == [False, True]
    assert outputs_first(shapes["1.weight"]) == (8, 4, 1, 1, 1)


def test_a_copy_has_the_layout():
    weight = select_parameters(block())["0.weight"]
    copy = copy_of(weight)
    assert is_inputs_first(copy)
    assert torch.equal(copy, weight)
    assert not is_inputs_first(copy_of(nn.Parameter(torch.zeros(2, 2))))


def test_an_empty_selection_lists_what_could_be_named():
    module = nn.Module()
    module.embedding = nn.Embedding(10, 4)
    module.mixing = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"`include` could name mixing, embedding\.weight\. Set `include`"):
        select_parameters(module)
    with pytest.raises(ValueError, match="there is no trainable matrix"):
        select_parameters(nn.BatchNorm1d(3))
