"""Metrics in one CSV file, also of a training that was interrupted and resumed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only

from rigl_lightning.base.errors import FullDiskError
from rigl_lightning.base.files import NO_ROOM, full_disk, is_file, join, local, open_file, write_text, written_beside

METRICS_FILE = "metrics.csv"
Row = Mapping[str, Any]


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSVLogger, whose file of metrics a resumed training goes on with; Lightning's own deletes it.

    The callback `KeepEarlierMetrics` takes out the rows that a training logs again; the command line adds it by itself.
    A full disk, or a process that is killed, leaves the rows written before. The arguments are Lightning's.
    """

    @property
    def experiment(self) -> Any:
        """The writer of the files, which goes on with those that are there."""
        if self._experiment is None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self._experiment = _Writer(self.log_dir)
        return super().experiment

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Take out the rows of this step and later ones."""
        self.experiment.keep(lambda row: int(row["step"]) < step)


class KeepEarlierMetrics(pl.Callback):
    """Has every `ResumableCSVLogger` keep what was logged before the step a training begins at, and nothing else."""

    _is_beginning = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The step is known here, and nothing is logged yet."""
        self._is_beginning = not pl_module.automatic_optimization
        if pl_module.automatic_optimization:
            _forget_from(trainer, trainer.global_step)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """In manual optimization rows have the number of batches, which is known here, whatever steps they made."""
        if self._is_beginning:
            self._is_beginning = False
            _forget_from(trainer, trainer.fit_loop.epoch_loop._batches_that_stepped)


def _forget_from(trainer: pl.Trainer, step: int) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, ResumableCSVLogger):
            logger.forget_from(step)


class _Writer(ExperimentWriter):
    """Lightning's, whose files are whole at every time."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.keep(lambda row: True)

    def keep(self, wanted: Any) -> None:
        """Leave out the rows that are not wanted, and a line that was torn."""
        file = self.metrics_file_path
        if is_file(file):
            self._rewrite([row for row in read_rows(file) if wanted(row)])

    def save(self) -> None:
        """Write what was logged since the last time."""
        if not self.metrics:
            return
        file = local(self.metrics_file_path)
        if file is not None and file.is_file() and set().union(*self.metrics) <= {*self.metrics_keys}:
            _append(file, _lines(self.metrics, self.metrics_keys))
        else:
            self._rewrite([*read_rows(self.metrics_file_path), *self.metrics])
        self.metrics = []

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Record hyper-parameters, and write them."""
        self.hparams.update(params)
        with written_beside(join(self.log_dir, self.NAME_HPARAMS_FILE)) as unfinished:
            save_hparams_to_yaml(unfinished, self.hparams)

    def _rewrite(self, rows: Sequence[Row]) -> None:
        keys = sorted(set().union(*rows))
        if rows:
            header = _lines([dict(zip(keys, keys, strict=True))], keys)
            write_text(self.metrics_file_path, header + _lines(rows, keys))
        elif is_file(self.metrics_file_path):
            self._fs.rm_file(self.metrics_file_path)
        self.metrics_keys = keys

    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes the file of metrics here."""


def read_rows(file: str | Path) -> list[dict[str, str]]:
    """Rows of a file of metrics, without their empty cells; none if there is no file.

    A last line that ends without a line break is left out: its process was killed while it wrote.
    """
    if not is_file(file):
        return []
    with io.TextIOWrapper(open_file(file), encoding="utf-8", newline="") as stream:
        whole = [line for line in stream if line.endswith("\n")]
    return [{key: value for key, value in row.items() if value} for row in csv.DictReader(whole)]


def _lines(rows: Iterable[Row], keys: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, keys).writerows(rows)
    return text.getvalue()


def _append(file: Path, lines: str) -> None:
    """Add whole lines, or none."""
    before = file.stat().st_size
    try:
        with file.open("ab", buffering=0) as stream:
            data = lines.encode()
            while data:
                data = data[stream.write(data) :]
    except OSError as error:
        os.truncate(file, before)
        if error.errno not in NO_ROOM:
            raise
        raise FullDiskError(error.errno, full_disk(file, error)) from error
