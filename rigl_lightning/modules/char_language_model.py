"""Next-character prediction with Adam, measured in bits per character."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from rigl_lightning.modules.weight_decay import weight_decay_groups

if TYPE_CHECKING:  # unknown to Lightning 1.9, with which lightning-bolts runs
    pass

Batch = tuple[Tensor, Tensor]
NATS_PER_BIT = math.log(2)


class CharLanguageModel(pl.LightningModule):
    """Trains ``model`` on batches ``(tokens, targets)``, both int64 (B, T), targets one position ahead.

    Logs ``train/loss`` (nats per character) at steps; ``train/bits_per_character``,
    ``val/bits_per_character`` and ``test/bits_per_character`` over whole passes, every character counted
    alike. The state starts at zero in every sequence. The defaults are those of section 4.2 of the paper.

    Args:
        model: Network from tokens (B, T) to ``(logits (B, T, vocabulary), state)``, such as ``CharGRU``.
        learning_rate: Adam's learning rate.
        weight_decay: Coefficient of the L2 penalty, added to the gradients as the paper's "L2
            regularization" (not AdamW's decay). That it spares the biases is our reading.
    """

    def __init__(self, model: nn.Module, learning_rate: float = 7e-4, weight_decay: float = 5e-4) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.model = model
        self.example_input_array = torch.zeros(1, 1, dtype=torch.int64)  # one character, so FLOPs are per character
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.train_bits = MeanMetric()
        self.val_bits = MeanMetric()
        self.test_bits = MeanMetric()

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) to logits (B, T, vocabulary) and the state after the last token."""
        return self.model(tokens, state)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of the batch, in nats per character."""
        loss = self._cross_entropy(batch, self.train_bits)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch[0]))
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the bits per character of the epoch's training batches."""
        self.log("train/bits_per_character", self.train_bits)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one validation batch."""
        self._cross_entropy(batch, self.val_bits)
        self.log("val/bits_per_character", self.val_bits, on_epoch=True, prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one test batch."""
        self._cross_entropy(batch, self.test_bits)
        self.log("test/bits_per_character", self.test_bits, on_epoch=True)

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The most likely next token at every position of ``batch[0]``, int64 (B, T)."""
        logits, _ = self(batch[0])
        return logits.argmax(dim=-1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant learning rate."""
        return torch.optim.Adam(weight_decay_groups(self.model, self.weight_decay), lr=self.learning_rate)

    def _cross_entropy(self, batch: Batch, bits: MeanMetric) -> Tensor:
        """Mean nats per character of a batch, counted in ``bits`` as well."""
        tokens, targets = batch
        logits, _ = self(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        bits.update(loss.detach() / NATS_PER_BIT, weight=targets.numel())
        return loss
