"""Checkpoints that an earlier version wrote, one of each algorithm, resume as they did then."""

import inspect
from pathlib import Path

import pytest
import torch

import rigl_lightning
from rigl_lightning.sparsity.algorithms import OneShot, SparseAlgorithm
from tests.helpers.write_checkpoints import ALGORITHMS, EXPECTED, SAVED_AT, STEPS, result, train

FOLDER = Path(__file__).parent / "checkpoints"  # of commit 22c099e, and of later ones for later algorithms and for ACDC


@pytest.fixture(scope="module")
def expected():
    return torch.load(FOLDER / EXPECTED, weights_only=True)


@pytest.fixture(autouse=True)
def _beside_the_ticket(monkeypatch):
    monkeypatch.chdir(FOLDER)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_old_checkpoint_resumes_as_it_did(name, expected):
    assert torch.load(FOLDER / f"{name}.ckpt", weights_only=True)["global_step"] == SAVED_AT
    network, sparse = train(ALGORITHMS[name], ckpt_path=str(FOLDER / f"{name}.ckpt"))
    assert sparse.sparsifier.step == STEPS
    got, then = result(network, sparse), expected[name]
    assert got["masks"].keys() == then["masks"].keys()
    assert all(torch.equal(got["masks"][key], mask) for key, mask in then["masks"].items())
    torch.testing.assert_close(got["weights"], then["weights"])
    assert got["metrics"] == pytest.approx(then["metrics"])


def test_every_algorithm_has_one():
    kinds = [getattr(rigl_lightning, name) for name in rigl_lightning.__all__]
    public = {kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, SparseAlgorithm)}
    assert public - {SparseAlgorithm, OneShot} == {type(algorithm) for algorithm in ALGORITHMS.values()}
