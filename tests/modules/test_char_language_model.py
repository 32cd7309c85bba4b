"""CharLanguageModel counts every character alike and learns."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from rigl_lightning.models import CharGRU
from rigl_lightning.modules import CharLanguageModel

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def _module(**settings):
    return CharLanguageModel(CharGRU(256, 8, 16, (8,)), **settings)


def _loader(n=5, batch_size=2):
    windows = torch.arange(n * 9).view(n, 9) % 7
    return DataLoader(TensorDataset(windows[:, :-1], windows[:, 1:]), batch_size)


def test_validation_and_test_give_bits_per_character_over_all_characters():
    module, loader = _module(), _loader()
    trainer = pl.Trainer(max_epochs=1, **QUIET)
    tested = trainer.test(module, loader, verbose=False)[0]
    validated = trainer.validate(module, loader, verbose=False)[0]
    tokens, targets = loader.dataset.tensors
    bits = F.cross_entropy(module(tokens)[0].transpose(1, 2), targets).item() / math.log(2)
    assert tested == {"test/bits_per_character": pytest.approx(bits, rel=1e-5)}
    assert validated == {"val/bits_per_character": pytest.approx(bits, rel=1e-5)}


def test_training_logs_loss_and_bits_and_learns_a_pattern():
    torch.manual_seed(0)
    module = _module(learning_rate=0.02, weight_decay=0.0)
    trainer = pl.Trainer(max_epochs=60, **QUIET)
    trainer.fit(module, _loader())
    assert set(trainer.callback_metrics) == {"train/loss", "train/bits_per_character"}
    assert trainer.callback_metrics["train/bits_per_character"] < 0.5


def test_the_l2_penalty_is_adams_and_spares_biases():
    optimizer = _module().configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0.0]
    assert optimizer.param_groups[0]["lr"] == 7e-4


def test_predict_gives_the_likeliest_next_token_at_every_position():
    module = _module()
    predicted = torch.cat(pl.Trainer(**QUIET).predict(module, _loader()))
    assert torch.equal(predicted, module(_loader().dataset.tensors[0])[0].argmax(-1))


def test_the_example_input_fits_the_model():
    module = _module()
    assert module(module.example_input_array)[0].shape == (1, 1, 256)
