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


def test_predict_writes_text_that_is_the_models(capsys):
    class Alphabet(torch.nn.Module):
        """After each letter the next one; the state counts."""

        def forward(self, tokens, state=None):
            return 99.0 * F.one_hot((tokens + 1) % 256, 256), torch.zeros(1) if state is None else state + 1

    loader = DataLoader(TensorDataset(torch.tensor([[97, 98], [65, 66]])), 2)
    for temperature in (0.0, 1.0):
        module = CharLanguageModel(Alphabet(), sample_length=3, temperature=temperature)
        written = torch.cat(pl.Trainer(**QUIET).predict(module, loader))
        assert written.tolist() == [[99, 100, 101], [67, 68, 69]]
        assert capsys.readouterr().out.splitlines()[-2:] == ["ab >>> cde", "AB >>> CDE"]


def test_drawn_text_is_the_same_for_the_same_seed(monkeypatch):
    def written(seed):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        return torch.cat(pl.Trainer(**QUIET).predict(module, _loader(2)))

    torch.manual_seed(0)
    module = _module(sample_length=20)
    assert torch.equal(written("1"), written("1"))
    assert not torch.equal(written("1"), written("2"))


@pytest.mark.parametrize("setting", ["sample_length", "temperature"])
def test_a_negative_setting_is_refused(setting):
    with pytest.raises(ValueError, match=f"`{setting}` of at least 0, got -1. Set `{setting}` of CharLanguageModel"):
        _module(**{setting: -1})


def test_a_carried_state_joins_the_sequences_and_is_reset_at_the_beginning_of_an_epoch():
    module = _module(carry_state=True, learning_rate=0.0)
    tokens, targets = (torch.arange(12).view(1, 12) + i for i in (0, 1))
    halves = [(tokens[:, :6], targets[:, :6]), (tokens[:, 6:], targets[:, 6:])]
    losses = [module.training_step(half, i).item() for i, half in enumerate(halves)]
    whole = F.cross_entropy(module(tokens)[0].transpose(1, 2), targets).item()
    assert sum(losses) / 2 == pytest.approx(whole, rel=1e-5)
    assert module.training_step(halves[0], 0).item() == losses[0]
    assert not module._carried.requires_grad
    module.carry_state = False
    module.training_step(halves[0], 0)
    assert module.training_step(halves[1], 1).item() != pytest.approx(losses[1], rel=1e-6)
