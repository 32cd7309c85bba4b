"""SparsityPlot: a picture of how sparse each layer is, and how the masks have moved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.files import join, make_folder, replacing
from rigl_lightning.sparsity.layouts import rows_of
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.trainer.flavours import callback_flavours, callbacks_of
from rigl_lightning.trainer.logged_pictures import log_picture, shows_pictures
from rigl_lightning.trainer.metrics import mask_metrics

if TYPE_CHECKING:  # it takes a second to import, and many trainings draw nothing
    from matplotlib.figure import Figure

CURVES = ("churn", "drop_fraction", "survival", "exploration", "hamming_distance")
_CROP = 96  # a larger mask is shown in part: its squares would be smaller than a pixel
_STATES = ("never or no longer active", "active at first only", "active at first and now", "active now only")
_COLOURS = ("#ffffff", "#e08214", "#b0b0b0", "#1b6ca8")


class SparsityPlot(*callback_flavours()):  # type: ignore[misc]
    """Draws a PNG when training ends: sparsity of each layer, mask statistics over the steps, one layer's mask.

    Works with `SparseTrainingCallback`, anywhere in the list of callbacks. The history is kept in checkpoints.
    TensorBoard and Weights & Biases loggers get the picture too, as ``sparse/masks``.

    Args:
        path: The file; None for ``sparsity.png`` in the logger's folder, or in the Trainer's without a logger.
        layer: Name of the weight whose mask is shown; None for the first that is sparse.
        name: Name of the SparseTrainingCallback to draw, if there are several.
        log_every: Give those loggers a picture of the masks at every so many notes of the history, and not only in the
            end: 1 for every mask update, None for the end alone. A picture takes about a third of a second.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        layer: str | None = None,
        name: str = "",
        log_every: int | None = None,
    ) -> None:
        super().__init__()
        if log_every is not None and log_every < 1:
            raise SettingError(f"Expected `log_every` of at least 1, got {log_every}. Set SparsityPlot's `log_every`.")
        self.log_every = log_every
        self.path = path
        self.layer = layer
        self.name = name
        self.history: list[dict[str, float]] = []
        self._sparsifier: Sparsifier | None = None

    @property
    def state_key(self) -> str:
        """Key of the history in a checkpoint."""
        return f"SparsityPlot[{self.name}]" if self.name else "SparsityPlot"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the masks; refuse what could not be drawn in the end."""
        found = self._find(trainer)
        if self._sparsifier is not None and self._sparsifier is not found:
            self.history = []  # of another network, fitted before
        self._sparsifier = found
        layers = list(self._sparsifier.masks)
        if self.layer is not None and self.layer not in layers:
            raise SettingError(
                f"Expected `layer` of SparsityPlot to be one of {', '.join(layers)}, got {self.layer!r}. Set it "
                "to one of them, or leave it out for the first sparse one."
            )
        if not self.history:
            self._note(self._sparsifier)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a mask update."""
        sparsifier = self._sparsifier
        if sparsifier is not None and sparsifier.last_update is not None:
            # Methods that update at every step would fill the memory: as often as the Trainer logs is enough.
            every = trainer.log_every_n_steps or math.inf  # type: ignore[attr-defined]  # 0: never
            apart = 1 if not sparsifier.algorithm.is_update(sparsifier.step - 2) else every
            if sparsifier.last_update.step >= self.history[-1]["step"] + apart:
                self._note(sparsifier)
                if self.log_every and (len(self.history) - 1) % self.log_every == 0:
                    self._log(trainer, sparsifier)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw."""
        folder = trainer.log_dir or trainer.default_root_dir  # on every process: Lightning broadcasts it
        if trainer.is_global_zero and self._sparsifier is not None:
            path = str(self.path or join(folder, "sparsity.png"))
            make_folder(path)
            with replacing(path) as stream:
                self.draw(self._sparsifier).savefig(stream, dpi=150, format=Path(path).suffix[1:] or "png")
            rank_zero_info(f"picture of the masks: {path}")
            self._log(trainer, self._sparsifier)

    def draw(self, sparsifier: Sparsifier) -> Figure:
        """The picture, of the masks as they are now."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.subplots(2, 2)
        _draw_layers(axes[0, 0], sparsifier)
        _draw_curves(axes[0, 1], self.history, ("survival", "exploration", "hamming_distance"))
        _draw_curves(axes[1, 1], self.history[1:], ("churn", "drop_fraction"))  # before an update there is none
        name = self.layer or next(iter(sparsifier.network.sparse_layers), next(iter(sparsifier.masks)))
        _draw_mask(axes[1, 0], name, sparsifier.network.first_masks()[name], sparsifier.masks[name].cpu())
        return figure

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of the checkpoint."""
        self.history = list(state_dict["history"])
        self._sparsifier = None  # the history is that of the network to come

    def _log(self, trainer: pl.Trainer, sparsifier: Sparsifier) -> None:
        if trainer.is_global_zero and any(map(shows_pictures, trainer.loggers)):
            log_picture(trainer, f"sparse/{self.name}/masks" if self.name else "sparse/masks", self.draw(sparsifier))

    def _find(self, trainer: pl.Trainer) -> Sparsifier:
        key = f"SparseTrainingCallback[{self.name}]" if self.name else "SparseTrainingCallback"
        found = [getattr(c, "sparsifier", None) for c in callbacks_of(trainer) if getattr(c, "state_key", "") == key]
        if len(found) != 1 or found[0] is None:
            raise SettingError(
                f"Expected a {key} among the Trainer's callbacks for SparsityPlot to draw. "
                "Add one, or set `name` of SparsityPlot to the name of yours."
            )
        return found[0]

    def _note(self, sparsifier: Sparsifier) -> None:
        step = -1 if sparsifier.last_update is None else sparsifier.last_update.step
        metrics = mask_metrics(sparsifier)
        self.history.append({"step": float(step), **{key: metrics[key] for key in CURVES}})


def _draw_layers(axis: Any, sparsifier: Sparsifier) -> None:
    density = sparsifier.density()
    total = sparsifier.total_density()
    axis.bar(range(len(density)), [1 - value for value in density.values()], color="#1b6ca8", width=0.8)
    axis.axhline(1 - total, color="#c0392b", linestyle="--", linewidth=1)
    if len(density) <= 12:
        axis.set_xticks(
            range(len(density)), [name.removesuffix(".weight") for name in density], rotation=30, ha="right"
        )
    else:
        axis.set_xlabel("layer, in the order of the network")
    axis.set(ylabel="sparsity", ylim=(0, 1))
    axis.set_title(f"sparsity by layer after {sparsifier.step} steps (dashed: total, {1 - total:.1%})")


def _draw_curves(axis: Any, history: list[dict[str, float]], keys: tuple[str, ...]) -> None:
    for key, style in zip(keys, ("-", "--", ":"), strict=False):
        axis.plot([max(h["step"], 0) for h in history], [h[key] for h in history], style, label=key.replace("_", " "))
    axis.set(xlabel="step of the mask update", ylim=(0, None))
    axis.legend(frameon=False)


def _draw_mask(axis: Any, name: str, first: Tensor, now: Tensor) -> None:
    from matplotlib.colors import ListedColormap

    state = rows_of(torch.where(now, torch.where(first, 2, 3), torch.where(first, 1, 0)))
    shown = state[:_CROP, :_CROP]
    axis.imshow(shown.numpy(), cmap=ListedColormap(_COLOURS), vmin=0, vmax=3, interpolation="nearest", aspect="auto")
    part = "" if shown.shape == state.shape else f", {shown.shape[0]} x {shown.shape[1]} of {tuple(state.shape)}"
    axis.set(title=f"{name}{part}", xlabel="input", ylabel="output unit")
    for label, colour in zip(_STATES[1:], _COLOURS[1:], strict=True):
        axis.plot([], [], "s", color=colour, label=label)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False, fontsize=7)
