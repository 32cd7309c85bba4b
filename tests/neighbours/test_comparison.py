"""What docs/migration.md says of torch.nn.utils.prune, ModelPruning and sparselab, seen in those installed."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelPruning
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from rigl_lightning import RigL, SparseTrainingCallback, UpdateSchedule


def pruned_layer():
    layer = nn.Linear(20, 10)
    prune.random_unstructured(layer, "weight", amount=0.5)
    return layer, layer.weight_mask == 0


class TestTorchPrune:
    def test_gives_no_gradient_by_which_a_connection_could_grow_back(self):
        layer, inactive = pruned_layer()
        layer(torch.randn(4, 20)).square().sum().backward()
        assert (layer.weight_orig.grad[inactive] == 0).all()

    def test_lets_the_optimizer_move_what_is_pruned(self):
        layer, inactive = pruned_layer()
        before = layer.weight_orig.detach().clone()
        optimizer = torch.optim.AdamW(layer.parameters(), weight_decay=0.1)
        layer(torch.randn(4, 20)).square().sum().backward()
        optimizer.step()
        assert (layer.weight_orig[inactive] != before[inactive]).all()

    def test_saves_other_keys_than_the_plain_module(self):
        layer, _ = pruned_layer()
        assert "weight" not in layer.state_dict()
        assert {"weight_orig", "weight_mask"} <= layer.state_dict().keys()

    def test_takes_its_masks_back_only_in_a_module_that_is_pruned_alike(self):
        layer, inactive = pruned_layer()
        with pytest.raises(RuntimeError, match="weight_orig"):
            nn.Linear(20, 10).load_state_dict(layer.state_dict())
        alike, _ = pruned_layer()
        alike.load_state_dict(layer.state_dict())
        assert torch.equal(alike.weight_mask == 0, inactive)


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 10)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sub(1).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(folder, callback, epochs, path=None, others=()):
    module = Regression()
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[callback, *others], default_root_dir=folder, logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    x = torch.randn(32, 20, generator=torch.Generator().manual_seed(0))
    trainer.fit(module, DataLoader(TensorDataset(x), 8), ckpt_path=path)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return float((module.layer.weight != 0).float().mean()), folder / f"{epochs}.ckpt"


def model_pruning():
    """Prunes half of all weights and biases at the end of the first epoch."""
    return ModelPruning("random_unstructured", amount=lambda epoch: 0.5 * (epoch == 0))


class Outside(pl.Callback):
    """What happens outside the mask in the last epoch: gradients, and how far the optimizer moves what is there."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch > 0:
            self.inactive = module.layer.weight_mask == 0
            self.before = module.layer.weight_orig.detach()[self.inactive].clone()

    def on_after_backward(self, trainer, module):
        if trainer.current_epoch > 0:
            self.gradients = module.layer.weight_orig.grad[self.inactive].clone()

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.current_epoch > 0:
            self.moved = (module.layer.weight_orig.detach()[self.inactive] - self.before).abs()


class TestModelPruning:
    def test_has_the_mechanism_of_torch_prune(self, tmp_path):
        outside = Outside()
        fit(tmp_path, model_pruning(), 2, others=[outside])
        assert len(outside.gradients) > 0
        assert (outside.gradients == 0).all()  # nothing could grow back
        assert (outside.moved > 0).all()  # momentum goes on

    def test_saves_the_plain_module_without_masks(self, tmp_path):
        density, path = fit(tmp_path, model_pruning(), 1)
        saved = torch.load(path, weights_only=False)
        plain = nn.Linear(20, 10)
        plain.load_state_dict({key.removeprefix("layer."): value for key, value in saved["state_dict"].items()})
        assert float((plain.weight != 0).float().mean()) == density < 1
        assert not any("mask" in key for key in saved["state_dict"])


class TestAResumedRun:
    def test_of_model_pruning_has_lost_its_masks(self, tmp_path):
        density, path = fit(tmp_path, model_pruning(), 1)
        assert density < 0.6  # of the weight; biases are pruned along
        assert fit(tmp_path, model_pruning(), 2, path)[0] == 1.0

    def test_of_this_callback_has_them(self, tmp_path):
        def callback():
            return SparseTrainingCallback(RigL(sparsity=0.5, schedule=UpdateSchedule(interval=2, end=3)))

        _, path = fit(tmp_path, callback(), 1)
        assert 0.4 < fit(tmp_path, callback(), 2, path)[0] <= 0.5


class TestSparselab:
    @pytest.fixture
    def trained(self):
        sparselab = pytest.importorskip("sparselab")
        torch.manual_seed(0)
        layer = sparselab.SparseLinear(64, 32, sparsity=0.8)
        optimizer = torch.optim.SGD(layer.parameters(), 0.01, momentum=0.9)
        rigl = sparselab.RigL(sparsity=0.8, drop_fraction=0.3, update_freq=3)
        layer.apply(rigl)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.randn(8, 64, requires_grad=True)).square().sum().backward()
            optimizer.step()
            places = torch.tensor(layer._csr.col_indices)
            rigl.step()
        return sparselab, layer, optimizer, places

    def test_moves_connections_and_leaves_momenta_in_their_places(self, trained):
        _, layer, optimizer, places = trained
        changed = places != torch.tensor(layer._csr.col_indices)
        momenta = optimizer.state[layer._values]["momentum_buffer"]
        assert changed.any()
        assert (momenta[changed] != 0).any()

    def test_saves_values_without_their_places(self, trained):
        sparselab, layer, _, _ = trained
        assert layer.state_dict().keys() == {"_values", "bias"}
        with pytest.raises(RuntimeError, match="_values|Missing"):
            nn.Linear(64, 32).load_state_dict(layer.state_dict())
        assert not hasattr(sparselab, "SparseConv2d")
