"""The user's modules stay what they are: nothing of SparseCompute is left in them, their copies or their files."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from rigl_lightning import Sparsifier, Static, select_parameters
from rigl_lightning.compute import SparseCompute
from rigl_lightning.sparsity.costs.flops import FlopCounter


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))


@pytest.fixture
def installed():
    module = network()
    with SparseCompute(module, Sparsifier(select_parameters(module), Static(0.6)), "sparse") as compute:
        yield module, compute


def test_installed_modules_are_of_their_classes_and_look_so(installed):
    module, _ = installed
    assert isinstance(module[0], nn.Conv2d)
    assert isinstance(module[3], nn.Linear)
    assert repr(module) == repr(network())
    assert module.state_dict().keys() == network().state_dict().keys()
    assert vars(module[3]).keys() == vars(network()[3]).keys()


@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_are_plain(installed, how):
    module, _ = installed
    twin = how(module)
    assert [type(child) for child in twin] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear] or how is copy.copy
    assert [type(how(child)) for child in module] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
    alone = how(module[3])
    if how is not copy.copy:
        alone.weight.data.normal_()  # dense: a copy knows of no masks
    x = torch.randn(3, 36)
    assert torch.equal(alone(x), nn.functional.linear(x, alone.weight, alone.bias))


def test_a_saved_module_needs_nothing_of_ours(installed):
    module, _ = installed
    file = io.BytesIO()
    torch.save(module, file)
    assert b"rigl_lightning" not in file.getvalue()
    file.seek(0)
    assert type(torch.load(file, weights_only=False)[3]) is nn.Linear


def test_after_removal_nothing_is_left():
    module = network()
    compute = SparseCompute(module, Sparsifier(select_parameters(module), Static(0.6)), "sparse")
    for _ in range(2):
        compute.install()
        assert type(module[3]) is not nn.Linear
        compute.remove()
        assert [type(child) for child in module] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
        assert vars(module[3]).keys() == vars(network()[3]).keys()


def test_it_is_removed_when_the_training_fails():
    module = network()
    with pytest.raises(ZeroDivisionError), SparseCompute(module, Sparsifier(select_parameters(module), Static(0.6))):
        raise ZeroDivisionError
    assert type(module[3]) is nn.Linear


def test_hooks_see_what_they_see_without(installed):
    module, compute = installed
    seen = []
    module[3].register_forward_hook(lambda m, args, out: seen.append(("forward", args[0].shape, out.shape)))
    module[3].register_forward_pre_hook(lambda m, args: seen.append(("before", args[0].shape)))
    module[3].register_full_backward_hook(lambda m, into, out: seen.append(("backward", into[0].shape, out[0].shape)))
    module(torch.randn(2, 1, 5, 5)).sum().backward()
    shapes = (torch.Size([2, 36]), torch.Size([2, 5]))
    assert seen == [("before", shapes[0]), ("forward", *shapes), ("backward", *shapes)]
    assert all(layer.is_sparse for layer in compute.layers)


def test_flops_are_counted_the_same(installed):
    module, compute = installed
    with FlopCounter(module) as counter:
        module(torch.randn(2, 1, 5, 5))
    assert all(layer.is_sparse for layer in compute.layers)
    with FlopCounter(plain := network()) as expected:
        plain(torch.randn(2, 1, 5, 5))
    assert counter.flops == expected.flops
    assert counter.outputs == expected.outputs


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_flops_of_recurrent_layers_are_counted_the_same(kind):
    module = kind(4, 6, 2)
    x = torch.randn(5, 3, 4)
    with FlopCounter(module) as expected:
        module(x)
    with SparseCompute(module, Sparsifier(select_parameters(module), Static(0.6)), "sparse") as compute:
        with FlopCounter(module) as counter:
            module(x)
        assert compute.layers[0].is_sparse
    assert counter.flops == expected.flops


def test_a_parametrization_put_on_top_is_dense_and_survives_removal():
    module = nn.Linear(6, 4)
    compute = SparseCompute(module, Sparsifier(select_parameters(module), Static(0.6)), "sparse")
    compute.install()
    nn.utils.parametrizations.weight_norm(module)
    x = torch.randn(3, 6)
    expected = nn.functional.linear(x, module.weight, module.bias)
    assert torch.equal(module(x), expected)
    compute.remove()
    assert torch.equal(module(x), expected)
