"""Path of the logger in saved configurations; the code is in `rigl_lightning.trainer.csv_logger`."""

from rigl_lightning.trainer.csv_logger import METRICS_FILE, KeepEarlierMetrics, ResumableCSVLogger, read_rows

__all__ = ["METRICS_FILE", "KeepEarlierMetrics", "ResumableCSVLogger", "read_rows"]
