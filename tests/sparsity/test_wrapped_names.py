"""Names of wrapped modules: data parallelism, torch.compile, checkpointing, averaged models, an attribute."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rigl_lightning.sparsity.algorithms import FixedMasks, LotteryTicket, Static
from rigl_lightning.sparsity.names import same_tensors
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.sparsifier import Sparsifier
from tests.helpers.small_training import small_network, sparsify


class Wrapper(nn.Module):
    """Has the network as an attribute of a name."""

    def __init__(self, network, name="module"):
        super().__init__()
        setattr(self, name, network)


def checkpointed(network):
    """As torch's checkpoint wrapper names a layer."""
    network[4] = Wrapper(network[4], "_checkpoint_wrapped_module")
    return network


WRAPPED = {
    "data parallel": lambda network: nn.DataParallel(network),
    "torch.compile": lambda network: torch.compile(network),
    "averaged": lambda network: AveragedModel(network),
    "averaged of a compiled one": lambda network: AveragedModel(torch.compile(network)),
    "an attribute": lambda network: Wrapper(network, "net"),
    "one layer checkpointed": checkpointed,
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_masks_go_to_a_wrapped_copy(wrap):
    model = small_network()
    wrapped = wrap(copy.deepcopy(model))
    sparsifier = sparsify(model, Static(0.7))
    sparsifier.apply_masks_to(wrapped)
    weights = [p for p in wrapped.parameters() if p.ndim > 1]
    for weight, mask in zip(weights, sparsifier.masks.values(), strict=True):
        assert torch.equal(weight != 0, mask)


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_masks_of_a_wrapped_model_go_to_the_plain_one(wrap):
    model = small_network()
    wrapped = wrap(copy.deepcopy(model))
    parameters = {name: p for name, p in wrapped.named_parameters() if p.ndim > 1}
    sparsifier = Sparsifier(parameters, Static(0.7))
    sparsifier.apply_masks_to(model)
    for weight, mask in zip(select_parameters(model).values(), sparsifier.masks.values(), strict=True):
        assert torch.equal(weight != 0, mask)


def test_a_module_without_the_weights_is_refused():
    sparsifier = sparsify(small_network(), Static(0.7))
    with pytest.raises(ValueError, match=r"Expected a copy of the model.*4\.weight.*got a Linear"):
        sparsifier.apply_masks_to(nn.Linear(2, 2))


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("algorithm", [FixedMasks, LotteryTicket])
def test_the_file_of_a_wrapped_model_serves_the_plain_one(algorithm, wrap, tmp_path, recwarn):
    wrapped = wrap(small_network())
    parameters = {name: p for name, p in wrapped.named_parameters() if p.ndim > 1}
    saved = Sparsifier(parameters, Static(0.7))
    torch.save(saved.state_dict(), tmp_path / "wrapped.pt")
    sparsifier = sparsify(small_network(), algorithm(tmp_path / "wrapped.pt"))
    for mask, expected in zip(sparsifier.masks.values(), saved.masks.values(), strict=True):
        assert torch.equal(mask, expected)
    assert not [w for w in recwarn if "initial weights" in str(w.message)]


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (["a.w", "b.w"], ["a.w", "a.b", "b.w"], {"a.w": "a.w", "b.w": "b.w"}),
        (["module.a.w"], ["a.w"], {"module.a.w": "a.w"}),
        (["module.a.w"], ["module.module.a.w"], {"module.a.w": "module.module.a.w"}),  # a model's own attribute
        (["a.w", "b.w"], ["net.a.w"], None),
        (["a.w"], ["module.a.w", "_orig_mod.module.a.w"], None),  # which of the two?
        (["a.w", "c.w"], ["x.a.w", "y.a.w", "y.c.w"], {"a.w": "y.a.w", "c.w": "y.c.w"}),
    ],
)
def test_names_by_hand(names, known, expected):
    assert same_tensors(names, known) == expected
