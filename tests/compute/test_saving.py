"""Files of a network stored as connections: exact on resume, and nothing dense on the way."""

import copy

import pytest
import torch

from rigl_lightning import RigL, Sparsifier, select_parameters
from rigl_lightning.compute import SparseCompute, build_sparse, load_sparse, save_sparse
from rigl_lightning.sparsity import packed_masks
from rigl_lightning.sparsity.compact_weights import CompactWeight
from tests.compute.test_building import RIGL as BUILT
from tests.compute.test_building import Network as BuiltNetwork
from tests.compute.test_storage import assert_equal, begin, flat, loss_of, train


def built(seed=0):
    with torch.device("meta"):
        model = BuiltNetwork()
    torch.manual_seed(seed)
    compute = build_sparse(model, BUILT, 20, seed=seed)
    return model, torch.optim.Adam(model.parameters(), lr=0.01), compute.sparsifier, compute


def refuse(*_):
    raise AssertionError("a dense weight was made")


@pytest.mark.parametrize("make", [built, begin], ids=["built", "installed"])
def test_a_training_goes_on_exactly(make, tmp_path, monkeypatch):
    model, optimizer, sparsifier, compute = make()
    compute.install()
    train(model, optimizer, sparsifier, range(5))
    with monkeypatch.context() as patch:
        patch.setattr(CompactWeight, "scatter", refuse)
        n_bytes = save_sparse(compute, tmp_path / "network.pt", optimizer)
    assert n_bytes == (tmp_path / "network.pt").stat().st_size
    train(model, optimizer, sparsifier, range(5, 11))
    expected, checksums = [copy.deepcopy(part.state_dict()) for part in (model, optimizer)], sparsifier.checksums()
    for other in (None, (model, optimizer, sparsifier, compute)):  # a new network, and this one in the middle
        model, optimizer, sparsifier, compute = other or make()
        compute.install()
        with monkeypatch.context() as patch:
            patch.setattr(CompactWeight, "scatter", refuse)
            load_sparse(compute, tmp_path / "network.pt", optimizer)
        assert sparsifier.step == 5
        train(model, optimizer, sparsifier, range(5, 11))
        assert sparsifier.checksums() == checksums
        assert_equal(model.state_dict(), expected[0], rtol=0, atol=0)
        assert_equal(flat(optimizer.state_dict()), flat(expected[1]), rtol=0, atol=0)


def test_a_network_of_another_start_predicts_the_same(tmp_path):
    model, optimizer, sparsifier, compute = built()
    train(model, optimizer, sparsifier, range(5))
    save_sparse(compute, tmp_path / "network.pt")
    again, other, _, compute = built(seed=7)
    load_sparse(compute, tmp_path / "network.pt")
    with torch.no_grad():
        assert torch.equal(loss_of(again, 0), loss_of(model, 0))
    with pytest.raises(ValueError, match="state of an optimizer"):
        load_sparse(compute, tmp_path / "network.pt", other)


def one_step(model, optimizer, sparsifier):
    optimizer.zero_grad()
    model(torch.ones(4, 20)).square().mean().backward()
    sparsifier.before_step(optimizer)
    optimizer.step()
    sparsifier.after_step(optimizer)


@pytest.mark.parametrize("storage", ["dense", "auto", "connections"])
@pytest.mark.parametrize("installed", [True, False])
def test_a_network_whose_layers_take_no_vectors_gets_dense_weights(storage, installed, tmp_path):
    def network():
        return torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 5))

    with torch.device("meta"):
        model = network()
    before = build_sparse(model, RigL(0.9), 20)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        one_step(model, optimizer, before.sparsifier)
    save_sparse(before, tmp_path / "network.pt", optimizer)
    other = network()
    compute = SparseCompute(other, Sparsifier(select_parameters(other), RigL(0.9), 20), "sparse", storage=storage)
    if installed:
        compute.install()
    second = torch.optim.Adam(other.parameters())
    load_sparse(compute, tmp_path / "network.pt", second)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(other(torch.ones(2, 20)), model(torch.ones(2, 20)))
        one_step(model, optimizer, before.sparsifier)
        one_step(other, second, compute.sparsifier)
    assert compute.sparsifier.checksums() == before.sparsifier.checksums()


def test_the_file_has_no_dense_weight(tmp_path):
    with torch.device("meta"):
        large = torch.nn.Sequential(torch.nn.Linear(800, 900), torch.nn.ReLU(), torch.nn.Linear(900, 10))
    compute = build_sparse(large, RigL(0.99), 20)
    optimizer = torch.optim.Adam(large.parameters())
    large(torch.randn(4, 800)).square().mean().backward()
    compute.sparsifier.before_step(optimizer)
    optimizer.step()
    compute.sparsifier.after_step(optimizer)
    n_bytes = save_sparse(compute, tmp_path / "network.pt", optimizer)
    weights = 800 * 900 + 900 * 10
    assert n_bytes < 3 * weights / 8 + 16 * 0.01 * weights + 4 * 3 * 910 + 20_000


@pytest.mark.parametrize("content", [{"format": "x"}, [1], {"state_dict": {}}])
def test_other_files_are_refused(content, tmp_path):
    *_, compute = built()
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="file of connections .* got other content"):
        load_sparse(compute, tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="file of connections"):
        load_sparse(compute, tmp_path / "none.pt")


def test_another_network_is_refused(tmp_path):
    *_, compute = built()
    save_sparse(compute, tmp_path / "network.pt")
    with torch.device("meta"):
        other = torch.nn.ModuleDict({"fc": torch.nn.Linear(8, 10), "last": torch.nn.Linear(10, 4)})
    with pytest.raises(ValueError, match="to fit the model"):
        load_sparse(build_sparse(other, BUILT, 20), tmp_path / "network.pt")


def test_bits_are_counted_piece_by_piece(monkeypatch):
    monkeypatch.setattr(packed_masks, "_PIECE", 3)
    mask = torch.rand(101, generator=torch.Generator().manual_seed(0)) < 0.3
    assert packed_masks.PackedMask.of(mask).count() == int(mask.sum())
