"""Next-character prediction with Adam, measured in bits per character."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from rigl_lightning.modules.text_sampling import as_text, sample_tokens
from rigl_lightning.modules.weight_decay import weight_decay_groups

if TYPE_CHECKING:  # unknown to Lightning 1.9, with which lightning-bolts runs
    pass

Batch = tuple[Tensor, Tensor]
NATS_PER_BIT = math.log(2)


class CharLanguageModel(pl.LightningModule):
    """Trains ``model`` on batches ``(tokens, targets)``, both int64 (B, T), targets one position ahead.

    Logs ``train/loss`` (nats per character) at steps; ``train/bits_per_character``,
    ``val/bits_per_character`` and ``test/bits_per_character`` over whole passes, every character counted
    alike. The defaults are those of section 4.2 of the paper, which does not say whether the state is carried on.

    Args:
        model: Network from tokens (B, T) to ``(logits (B, T, vocabulary), state)``, such as ``CharGRU``.
        learning_rate: Adam's learning rate.
        weight_decay: Coefficient of the L2 penalty, added to the gradients as the paper's "L2
            regularization" (not AdamW's decay). That it spares the biases is our reading.
        carry_state: Whether a training sequence begins with the state that the one before it in its row of the batch
            ended with, for data whose batches go on like that (``consecutive`` of `TextBytesDataModule`); gradients
            stay within a sequence. Else, and always in evaluation, it begins with zeros.
        sample_length: Characters that ``predict`` writes after each sequence, and prints; 0: it gives the likeliest
            next token at every position instead.
        temperature: Of that writing: 1 draws as the model says, 0 always takes the likeliest character.

    Raises:
        ValueError: If ``sample_length`` or ``temperature`` is negative.
    """

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float = 7e-4,
        weight_decay: float = 5e-4,
        carry_state: bool = False,
        sample_length: int = 0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("sample_length", sample_length), ("temperature", temperature)):
            if value < 0:
                raise ValueError(
                    f"Expected `{name}` of at least 0, got {value}. Set `{name}` of {type(self).__name__}."
                )
        self.save_hyperparameters(ignore=["model"])
        self.model = model
        self.example_input_array = torch.zeros(1, 1, dtype=torch.int64)  # one character, so FLOPs are per character
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.carry_state = carry_state
        self.sample_length = sample_length
        self.temperature = temperature
        self._carried: Tensor | None = None
        self.train_bits = MeanMetric()
        self.val_bits = MeanMetric()
        self.test_bits = MeanMetric()

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) to logits (B, T, vocabulary) and the state after the last token."""
        return self.model(tokens, state)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of the batch, in nats per character."""
        before = self._carried.to(self.device) if self._carried is not None and batch_idx > 0 else None
        loss, after = self._cross_entropy(batch, self.train_bits, before)
        self._carried = after.detach() if self.carry_state else None
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
        """Text that goes on from the sequences ``batch[0]``, int64 (B, sample_length), printed as well.

        Without ``sample_length``: the most likely next token at every position of them, int64 (B, T).
        """
        if not self.sample_length:
            return self(batch[0])[0].argmax(dim=-1)
        generator = torch.Generator().manual_seed(int(os.environ.get("PL_GLOBAL_SEED", "0")) + batch_idx)
        written = sample_tokens(self, batch[0], self.sample_length, self.temperature, generator)
        for prompt, text in zip(batch[0], written, strict=True):
            print(f"{as_text(prompt)} >>> {as_text(text)}")
        return written

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the carried states of all processes, (processes, layers, B, hidden): they belong to an exact resume."""
        if self._carried is not None:
            states = cast(Tensor, self.all_gather(self._carried))
            checkpoint["carried_states"] = states.reshape(-1, *self._carried.shape).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up this process's; with another number of processes its rows begin anew, as at the start of an epoch."""
        states = checkpoint.get("carried_states")
        world_size = self._trainer.world_size if self._trainer is not None else 1
        self._carried = states[self.global_rank] if states is not None and len(states) == world_size else None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant learning rate."""
        return torch.optim.Adam(weight_decay_groups(self.model, self.weight_decay), lr=self.learning_rate)

    def _cross_entropy(self, batch: Batch, bits: MeanMetric, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean nats per character of a batch, counted in ``bits`` as well, and the state it ends with."""
        tokens, targets = batch
        logits, state = self(tokens, state)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        bits.update(loss.detach() / NATS_PER_BIT, weight=targets.numel())
        return loss, state
