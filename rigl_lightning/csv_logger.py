"""Metrics in one CSV file, also of a training that was interrupted and resumed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSVLogger, whose file of metrics a resumed training goes on with; Lightning's own deletes it.

    Rows from the step on where the training is resumed are left out: they are logged again. `KeepEarlierMetrics` tells
    which step that is; the command line adds it by itself.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._earlier: list[dict[str, Any]] = []

    @property
    def experiment(self) -> Any:
        """The writer of the files; what an earlier training left in the same folder is remembered before it goes."""
        if self._experiment is None:
            self._earlier = _rows(Path(self.log_dir, "metrics.csv"))
        return super().experiment

    def keep_until(self, step: int) -> None:
        """Put back the earlier rows of steps before ``step``."""
        writer = self.experiment
        rows = [{key: value for key, value in row.items() if value} for row in self._earlier if int(row["step"]) < step]
        writer.metrics = [*rows, *writer.metrics]
        self._earlier = []
        self.save()


class KeepEarlierMetrics(pl.Callback):
    """Has every `ResumableCSVLogger` go on with its file when a training is resumed."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The step is known here, and nothing is logged yet."""
        if trainer.global_step and trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, ResumableCSVLogger):
                    logger.keep_until(trainer.global_step)


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return [row for row in csv.DictReader(lines) if row.get("step")]
