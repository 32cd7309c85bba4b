"""Image classification with SGD and a step-wise learning rate, around any network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from rigl_lightning.modules.memory_format import memory_format
from rigl_lightning.modules.milestones import learning_rate_schedule
from rigl_lightning.modules.weight_decay import weight_decay_groups

if TYPE_CHECKING:  # unknown to Lightning 1.9, with which lightning-bolts runs
    from pytorch_lightning.utilities.types import OptimizerLRScheduler

Batch = tuple[Tensor, Tensor]


class ImageClassifier(pl.LightningModule):
    """Trains ``model`` on batches ``(images, labels)``: float (N, C, H, W) and int64 (N,).

    Logs ``train/loss`` at steps; ``train/loss_epoch``, ``train/accuracy``, ``val/loss``, ``val/accuracy``,
    ``test/loss`` and ``test/accuracy`` over whole passes, accuracies in [0, 1]. The losses are
    cross-entropies in nats, without the L2 penalty; label smoothing acts in training only.

    Args:
        model: Network from images to logits (N, num_classes).
        num_classes: Number of classes.
        input_shape: Channels, height and width of one image; makes the example input.
        learning_rate: Learning rate before the first milestone.
        momentum: SGD momentum.
        nesterov: Whether the momentum is Nesterov's, as in the authors' code (the paper does not say).
        weight_decay: Coefficient of the L2 penalty; acts on tensors of rank 2 and up only.
        depthwise_weight_decay: Whether it acts on depthwise kernels too; in the authors' MobileNets it does not.
        warmup: Fraction of the training's optimizer steps during which the learning rate rises from 0.
        milestones: Fractions of the training's optimizer steps at which the learning rate drops.
        learning_rate_decay: Factor on the learning rate at each milestone.
        label_smoothing: Probability mass spread evenly over the classes, in [0, 1].
        channels_last: Keep images and convolutions in memory channel by channel of each pixel, which is faster on most
            devices and changes results by rounding only. Ignored with a warning where torch breaks in it, see
            `rigl_lightning.modules.memory_format`.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        input_shape: tuple[int, int, int],
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        depthwise_weight_decay: bool = True,
        warmup: float = 0.0,
        milestones: Sequence[float] = (),
        learning_rate_decay: float = 0.1,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.memory_format = memory_format(model, channels_last)
        self.model = model.to(memory_format=self.memory_format) if channels_last else model
        self.example_input_array = torch.zeros(1, *input_shape)
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.depthwise_weight_decay = depthwise_weight_decay
        self.warmup = warmup
        self.milestones = milestones
        self.learning_rate_decay = learning_rate_decay
        self.label_smoothing = label_smoothing
        self.train_loss = MeanMetric()
        self.train_accuracy = _accuracy(num_classes)
        self.val_accuracy = _accuracy(num_classes)
        self.test_accuracy = _accuracy(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        return self.model(images.contiguous(memory_format=self.memory_format))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch, in nats."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        # Metrics are updated here and logged once an epoch: a logged key costs about 0.25 ms a step.
        self.train_loss.update(loss.detach(), weight=len(labels))
        self.train_accuracy.update(logits.detach(), labels)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        """Log what the training batches of the epoch gave, dropout and augmentation included."""
        self.log("train/loss_epoch", self.train_loss)
        self.log("train/accuracy", self.train_accuracy)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one validation batch."""
        self._evaluate(batch, "val", self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one test batch."""
        self._evaluate(batch, "test", self.test_accuracy)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The most likely class of each image, int64 (N,)."""
        return self(batch[0]).argmax(dim=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD whose learning rate rises during the warm-up and drops at the milestones, counted in optimizer steps.

        Raises:
            ValueError: If there are milestones or a warm-up, but the length of the training is unknown.
        """
        total_steps = self.trainer.estimated_stepping_batches if self.milestones or self.warmup else 0
        optimizer = torch.optim.SGD(
            weight_decay_groups(self.model, self.weight_decay, self.depthwise_weight_decay),
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
        factor = learning_rate_schedule(self.warmup, self.milestones, self.learning_rate_decay, total_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _evaluate(self, batch: Batch, split: str, accuracy: MulticlassAccuracy) -> None:
        images, labels = batch
        logits = self(images)
        accuracy.update(logits, labels)
        loss = F.cross_entropy(logits, labels)
        self.log(f"{split}/loss", loss, on_epoch=True, sync_dist=True, batch_size=len(labels))
        self.log(f"{split}/accuracy", accuracy, on_epoch=True, prog_bar=True, batch_size=len(labels))


def _accuracy(num_classes: int) -> MulticlassAccuracy:
    # Its checks of the arguments wait for the device at every batch; cross_entropy has checked the labels.
    return MulticlassAccuracy(num_classes, average="micro", validate_args=False)
