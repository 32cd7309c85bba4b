"""Every algorithm has the masks of the masked dense computation when its layers compute sparsely."""

import pytest
import torch
from torch import nn

from rigl_lightning import Sparsifier, Static, select_parameters
from rigl_lightning.compute import SparseCompute
from rigl_lightning.kernels import available, use_tier
from tests.helpers import small_training
from tests.helpers.every_algorithm import ALGORITHMS, HIDING, OPTIMIZERS, TOTAL

NEED_DENSE = {*HIDING, "SNFS", "SNFS from dense"}


class Network(nn.Module):
    """Every kind of layer once; no batch norm, which blows rounding up in dead channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.pointwise = nn.Conv2d(8, 8, 1, stride=2)
        self.gru = nn.GRU(16, 12, batch_first=True)
        self.lstm = nn.LSTM(12, 12)
        self.fc = nn.Linear(24, 4)

    def forward(self, images):
        x = self.pointwise(self.conv(images).tanh()).tanh()
        x = self.gru(x.flatten(2).view(-1, 2, 16))[0]
        return self.fc(self.lstm(x)[0].flatten(1))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ticket") / "ticket.pt"
    torch.manual_seed(0)
    torch.save(Sparsifier(select_parameters(Network()), Static(0.7), seed=3).state_dict(), path)
    return str(path)


def train(name, file, how, storage="dense"):
    torch.manual_seed(0)
    model = Network()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    sparsifier = Sparsifier(select_parameters(model), ALGORITHMS[name](file), total_steps=TOTAL)
    compute = SparseCompute(model, sparsifier, how, storage=storage)
    masks, n_sparse, n_compact = [], 0, 0
    with compute:
        for step in range(TOTAL):
            small_training.train(model, optimizer, sparsifier, [step])
            masks.append(sparsifier.checksums())
            n_sparse += sum(layer.is_sparse for layer in compute.layers)
            n_compact += len(sparsifier.compact)
    assert all(parameter.ndim > 1 for parameter in sparsifier.parameters.values())
    return model, masks, n_sparse, n_compact


@pytest.mark.parametrize("storage", ["dense", "connections"])
@pytest.mark.parametrize("tier", available()[:-1])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_masks_are_those_of_the_dense_computation_at_every_step(name, tier, storage, file):
    if name in ("RigL 2:4", "RigL blocks", "Static 1:4") and tier != available()[0]:
        pytest.skip("structures are nothing to a tier")
    expected_model, expected, none, _ = train(name, file, "dense")
    with use_tier(tier):
        model, masks, n_sparse, n_compact = train(name, file, "sparse", storage)
    assert none == 0
    assert n_sparse > 10 or name == "Dense"
    assert (n_compact > 0) == (storage == "connections" and name != "Dense" and name not in NEED_DENSE)
    for step, (found, right) in enumerate(zip(masks, expected, strict=True)):
        assert found == right, f"after step {step}"
    for (key, found), right in zip(model.state_dict().items(), expected_model.state_dict().values(), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", ["RigL", "SET", *HIDING])
def test_two_sparse_runs_are_equal_to_the_bit(name, file):
    one, other = (train(name, file, "sparse")[0].state_dict() for _ in range(2))
    assert all(torch.equal(other[key], value) for key, value in one.items())
