"""Metrics in one CSV file, also of a training that was interrupted and resumed."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only

METRICS_FILE = "metrics.csv"


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSVLogger, whose file of metrics a resumed training goes on with; Lightning's own deletes it.

    `KeepEarlierMetrics` beside it takes out the rows that a training logs again; the command line adds it by itself.
    The arguments are Lightning's.
    """

    @property
    def experiment(self) -> Any:
        """The writer of the files, which goes on with those that are there."""
        if self._experiment is not None or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return super().experiment
        rows = read_rows(Path(self.log_dir, METRICS_FILE))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Experiment logs directory")  # that it deletes them
            writer = super().experiment
        writer.metrics = rows
        writer.save()
        return writer

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Take out the rows of this step and later ones."""
        file = Path(self.log_dir, METRICS_FILE)
        writer = self.experiment
        writer.metrics = [row for row in read_rows(file) if int(row["step"]) < step]
        writer.metrics_keys = []
        file.unlink(missing_ok=True)
        writer.save()


class KeepEarlierMetrics(pl.Callback):
    """Has every `ResumableCSVLogger` keep what was logged before the step a training begins at, and nothing else."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The step is known here, and nothing is logged yet."""
        for logger in trainer.loggers:
            if isinstance(logger, ResumableCSVLogger):
                logger.forget_from(trainer.global_step)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Rows of a file of metrics, without their empty cells; none if there is no file.

    A last line that ends without a line break is left out: its process was killed while it wrote.
    """
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        whole = [line for line in stream if line.endswith("\n")]
    return [{key: value for key, value in row.items() if value} for row in csv.DictReader(whole)]
