"""Networks that were trained on another device than the CPU are exported as they are."""

import pytest
import torch

from rigl_lightning.export import compact, load_compact, save_compact
from tests.helpers.emulated_device import Emulation, put_elsewhere
from tests.helpers.networks import network


@torch.no_grad()
@pytest.mark.parametrize("name", ["wrn", "lenet", "vit"])
def test_compact_takes_it_to_the_cpu(name):
    model, shape = network(name)
    x = torch.randn(2, *shape)
    expected = model(x)
    with Emulation():
        elsewhere = put_elsewhere(model)
        small = compact(elsewhere, x, compute="sparse")
        assert all(parameter.device.type == "meta" for parameter in elsewhere.parameters())
    torch.testing.assert_close(small(x), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_files_have_every_layer(tmp_path):
    model, _ = network("wrn")
    with Emulation():
        save_compact(put_elsewhere(model), tmp_path / "net.pt")
    other, _ = network("wrn", sparsity=0.5)
    load_compact(tmp_path / "net.pt", other)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
