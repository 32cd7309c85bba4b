import pytest
import torch
from torch import nn

from rigl_lightning.sparsity.algorithms import SNIP
from rigl_lightning.sparsity.algorithms.global_ranking import topk_of_all_layers
from rigl_lightning.sparsity.distributions import Uniform
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.sparsifier import Sparsifier
from tests.helpers.small_training import flags, small_network, sparsify, train, written

EVERYWHERE = Uniform(first_layer_dense=False)


class TwoLayers(nn.Module):
    """y = second (first x), with x = (1, 1).

    first x = (1 + 3, 2 - 40) = (4, -38), so d y / d second = (4, -38) and |w g| = (4, 38).
    d y / d first = second^T x^T = ((1, 1), (-1, -1)), so |w g| = ((1, 3), (2, 40)).
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.tensor([[1.0, 3.0], [2.0, -40.0]]))
        self.second = nn.Parameter(torch.tensor([[1.0, -1.0]]))

    def forward(self):
        return (self.second @ (self.first @ torch.ones(2))).sum()


def first_step(algorithm):
    model = TwoLayers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    sparsifier = Sparsifier(dict(model.named_parameters()), algorithm)
    assert sparsifier.density() == {"first": 1.0, "second": 1.0}
    model().backward()
    sparsifier.before_step(optimizer)
    optimizer.step()
    sparsifier.after_step(optimizer)
    return model, sparsifier, optimizer


def test_each_layer_ranks_its_own_connections():
    _, sparsifier, _ = first_step(SNIP(0.5, EVERYWHERE))
    assert written(sparsifier.masks["first"]) == ".1.1"  # 3 and 40
    assert written(sparsifier.masks["second"]) == ".1"  # 38


def test_a_global_ranking_compares_all_layers():
    _, sparsifier, _ = first_step(SNIP(0.5, EVERYWHERE, global_ranking=True))
    assert written(sparsifier.masks["first"]) == "...1"  # 40, 38 and 4 are the three largest of six
    assert written(sparsifier.masks["second"]) == "11"


def test_the_first_batch_makes_no_gradient_step():
    model, sparsifier, optimizer = first_step(SNIP(0.5, EVERYWHERE))
    assert torch.equal(model.first.detach(), torch.tensor([[0.0, 3.0], [0.0, -40.0]]))
    assert torch.equal(model.second.detach(), torch.tensor([[0.0, -1.0]]))
    assert sparsifier.step == 1
    assert not optimizer.state


def test_a_global_ranking_takes_scores_that_are_whole_numbers_or_infinite():
    ranked = {"a": torch.tensor([[1, 2], [3, 9]]), "b": torch.tensor([0, 1, 2])}
    assert [m.int().tolist() for m in topk_of_all_layers(ranked, 3).values()] == [[[0, 0], [1, 1]], [0, 0, 1]]
    ranked = {"a": torch.full((3,), torch.inf), "b": torch.tensor([1.0, 2.0])}
    assert [m.int().tolist() for m in topk_of_all_layers(ranked, 3).values()] == [[1, 1, 0], [0, 1]]


def test_a_global_ranking_leaves_every_layer_its_best_connection():
    layers = {
        "strong": Connections(torch.ones(6), torch.ones(6).bool(), dense_grad=torch.arange(10.0, 16)),
        "weak": Connections(torch.ones(2), torch.ones(2).bool(), dense_grad=torch.tensor([1e-6, 2e-6])),
        "unused": Connections(torch.ones(2), torch.ones(2).bool()),
    }
    new = SNIP(0.5, EVERYWHERE, global_ranking=True).update_masks(layers, 0, {})
    assert {n: written(m) for n, m in new.items()} == {"strong": "...111", "weak": ".1", "unused": "1."}


def test_ties_go_to_the_first_layer_and_position():
    def ones(size):
        return Connections(torch.ones(size), torch.ones(size).bool(), dense_grad=torch.ones(size))

    new = SNIP(0.5, EVERYWHERE, global_ranking=True).update_masks({"a": ones(4), "b": ones(4)}, 0, {})
    assert (written(new["a"]), written(new["b"])) == ("111.", "1...")  # b keeps its first, as its best
    new = SNIP(0.5, EVERYWHERE).update_masks({"a": ones(4), "b": ones(4)}, 0, {})
    assert torch.equal(new["b"], flags("11.."))


@pytest.mark.parametrize("global_ranking", [False, True])
def test_the_total_is_exact_and_never_changes_after_the_first_batch(global_ranking):
    model = small_network()
    sparsifier = sparsify(model, SNIP(0.8, global_ranking=global_ranking))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, sparsifier, range(1))
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    assert sum(sparsifier.n_active.values()) == 292 - 233  # 233.6 zeros of 36 + 256
    train(model, optimizer, sparsifier, range(1, 6))
    assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in masks.items())


@pytest.mark.parametrize("sparsity", [1.2, -1, 1.0])
def test_a_sparsity_out_of_range_is_refused_at_once(sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        SNIP(sparsity)
