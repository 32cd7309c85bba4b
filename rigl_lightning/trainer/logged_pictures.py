"""Pictures for the loggers that show pictures: TensorBoard and Weights & Biases."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shows_pictures(logger: Any) -> bool:
    """Whether a logger of Lightning's, or one built on it, shows pictures."""
    return bool({"TensorBoardLogger", "WandbLogger"} & {kind.__name__ for kind in type(logger).__mro__})


def log_picture(trainer: pl.Trainer, key: str, figure: Figure) -> None:
    """Give a picture to every logger that shows pictures; others get nothing.

    Args:
        trainer: Its step is that of the picture.
        key: Name of the picture, such as ``sparse/masks``.
        figure: What to show.
    """
    loggers: list[Any] = [logger for logger in trainer.loggers if shows_pictures(logger)]
    if not loggers:
        return
    pixels = _pixels(figure)
    for logger in loggers:
        if hasattr(logger, "log_image"):  # Weights & Biases
            logger.log_image(key=key, images=[pixels], step=trainer.global_step)
        else:
            logger.experiment.add_image(key, pixels, trainer.global_step, dataformats="HWC")


def _pixels(figure: Figure) -> np.ndarray:
    """(height, width, 3), uint8."""
    from matplotlib.image import imread

    stream = io.BytesIO()
    figure.savefig(stream, dpi=100, format="png")
    stream.seek(0)
    return np.asarray(255 * imread(stream)[..., :3], dtype=np.uint8)
