"""Running statistics are those of the weights at hand, and nothing else changes."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from rigl_lightning import RigL
from rigl_lightning.modules.batch_norm import reestimate_batch_norm
from tests.helpers.small_runs import SCHEDULE, SmallModel, fit, plain_loader


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.BatchNorm1d(8, momentum=0.3), nn.ReLU(), nn.Linear(8, 3))


def test_statistics_are_the_mean_over_the_batches():
    model = network().eval()
    reestimate_batch_norm(model, plain_loader())
    hidden = [model[0](x) for x, _ in plain_loader()]  # without dropout
    torch.testing.assert_close(model[2].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(model[2].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    assert model[2].num_batches_tracked == 6


def test_nothing_else_changes():
    model = network()
    model[0].eval()  # a mixed mode, as when layers are frozen
    weights = [p.detach().clone() for p in model.parameters()]
    modes, rng = [m.training for m in model.modules()], torch.get_rng_state()
    reestimate_batch_norm(model, plain_loader(), max_batches=2)
    assert [m.training for m in model.modules()] == modes
    assert model[2].momentum == 0.3
    assert model[2].num_batches_tracked == 2
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_modes_and_momentum_come_back_after_an_error():
    model = network()
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(model, [torch.zeros(4, 7)])
    assert model[2].momentum == 0.3
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize(
    ("batches", "error"),
    [([], ValueError), ([torch.randn(4, 6), torch.zeros(4, 7)], RuntimeError)],
    ids=["none", "the second is wrong"],
)
def test_statistics_are_those_of_before_after_an_error(batches, error):
    model = network()
    model(torch.randn(8, 6))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error):
        reestimate_batch_norm(model, batches)
    assert model[2].num_batches_tracked == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_no_batch_is_an_error_and_no_batch_norm_is_none():
    with pytest.raises(ValueError, match="at least one batch"):
        reestimate_batch_norm(network(), [])
    reestimate_batch_norm(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False)), [])


@pytest.mark.skipif(not hasattr(pl.callbacks, "EMAWeightAveraging"), reason="Lightning before 2.6")
def test_an_averaged_sparse_network_gets_its_own_statistics():
    class Normed(SmallModel):
        def __init__(self):
            super().__init__()
            self.net = network()

    model, sparse, _ = fit(RigL(0.7, schedule=SCHEDULE), Normed(), callbacks=[pl.callbacks.EMAWeightAveraging()])
    averaged = model.net  # after training the module holds the averages
    before = averaged[2].running_mean.clone()
    reestimate_batch_norm(averaged, plain_loader())
    assert not torch.allclose(averaged[2].running_mean, before)
    for name, mask in sparse.sparsifier.masks.items():
        assert not model.state_dict()[name][~mask].any()
    averaged.eval()
    normed = torch.cat([averaged[2](averaged[0](x)) for x, _ in plain_loader(24)])
    assert normed.mean(0).abs().max() < 0.1 + averaged[2].bias.abs().max()
