import io

import matplotlib.image
import numpy as np
import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from rigl_lightning import DNW, RigL, SparseTrainingCallback, SparsityPlot, Static, UpdateSchedule
from tests.helpers.small_runs import QUIET, SmallData, SmallModel

EVERY_OTHER = RigL(0.7, schedule=UpdateSchedule(interval=2, end=0.9), drop_fraction=0.5)


def fit(*callbacks, epochs=2, **trainer):
    settings = {"max_epochs": epochs, "enable_checkpointing": False, **QUIET, **trainer}
    trainer = pl.Trainer(callbacks=list(callbacks), **settings)
    trainer.fit(SmallModel(), SmallData())
    return trainer


@pytest.mark.parametrize("first", [True, False], ids=["before the masks", "after the masks"])
def test_a_picture_is_there_when_training_has_ended(tmp_path, first):
    plot, sparse = SparsityPlot(tmp_path / "new" / "masks.png"), SparseTrainingCallback(EVERY_OTHER)
    fit(*((plot, sparse) if first else (sparse, plot)))
    picture = matplotlib.image.imread(tmp_path / "new" / "masks.png")
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 4  # something is drawn
    assert [h["step"] for h in plot.history] == [-1, *sparse.sparsifier.algorithm.update_steps()]
    assert plot.history[0]["survival"] == 1
    assert plot.history[-1]["exploration"] == sparse.sparsifier.exploration()


def test_the_default_place_is_the_trainers_folder(tmp_path):
    fit(SparsityPlot(), SparseTrainingCallback(Static(0.7)), default_root_dir=tmp_path)
    assert (tmp_path / "sparsity.png").is_file()


def test_the_history_goes_through_a_checkpoint(tmp_path):
    plot = SparsityPlot()
    fit(plot, SparseTrainingCallback(EVERY_OTHER), default_root_dir=tmp_path)
    resumed = SparsityPlot()
    resumed.load_state_dict(plot.state_dict())
    assert resumed.history == plot.history


def test_without_masks_it_says_so():
    with pytest.raises(ValueError, match="Expected a SparseTrainingCallback among"):
        fit(SparsityPlot())
    with pytest.raises(ValueError, match=r"Expected a SparseTrainingCallback\[other\] among"):
        fit(SparsityPlot(name="other"), SparseTrainingCallback(Static(0.7)))


def test_a_layer_that_is_not_there_is_refused_before_training():
    with pytest.raises(ValueError, match="`layer` of SparsityPlot to be one of net.0.weight.*got 'fc'"):
        fit(SparsityPlot(layer="fc"), SparseTrainingCallback(Static(0.7)))


def test_another_network_begins_another_history(tmp_path):
    plot, sparse = SparsityPlot(), SparseTrainingCallback(EVERY_OTHER)
    fit(plot, sparse, default_root_dir=tmp_path)
    fit(plot, sparse, default_root_dir=tmp_path, epochs=1)
    assert [h["step"] for h in plot.history] == [-1, *sparse.sparsifier.algorithm.update_steps()]


def test_a_trainer_that_never_logs_fills_no_memory(tmp_path):
    plot = SparsityPlot()
    fit(plot, SparseTrainingCallback(DNW(0.7)), default_root_dir=tmp_path, log_every_n_steps=0)
    assert len(plot.history) <= 2  # the start, and the first update


def test_the_folder_is_asked_for_on_every_process(tmp_path, monkeypatch):
    """Lightning broadcasts it: asked on one process only, the others would be waited for without end."""
    asked = []
    monkeypatch.setattr(pl.Trainer, "log_dir", property(lambda trainer: asked.append(1) or str(tmp_path)))
    trainer = pl.Trainer(**QUIET)
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    SparsityPlot().on_train_end(trainer, None)
    assert asked
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_a_picture_at_every_second_update_and_at_the_end(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    sparse = SparseTrainingCallback(EVERY_OTHER)
    fit(SparsityPlot(log_every=2), sparse, logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    steps = [event.step for event in events.Images("sparse/masks")]
    updates = sparse.sparsifier.algorithm.update_steps()
    assert steps == [*(step + 1 for step in updates[1::2]), sparse.sparsifier.step]
    picture = matplotlib.image.imread(io.BytesIO(events.Images("sparse/masks")[-1].encoded_image_string))
    assert picture.shape[:2] == (600, 1000)
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 4


def test_weights_and_biases_gets_the_picture_without_a_network(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        fit(SparsityPlot(), SparseTrainingCallback(EVERY_OTHER), logger=WandbLogger(offline=True, save_dir=tmp_path))
    finally:
        wandb.finish()
    (picture,) = tmp_path.glob("wandb/offline-run-*/files/media/images/sparse/masks_*.png")
    assert matplotlib.image.imread(picture).shape[:2] == (600, 1000)


def test_other_loggers_get_no_picture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("rigl_lightning.trainer.sparsity_plot.log_picture", lambda *args: drawn.append(args))
    fit(SparsityPlot(log_every=1), SparseTrainingCallback(EVERY_OTHER), logger=CSVLogger(tmp_path))
    assert not drawn
    with pytest.raises(ValueError, match="`log_every` of at least 1, got 0"):
        SparsityPlot(log_every=0)
