"""A resumed run is the uninterrupted run, to the bit; and a checkpoint is an ordinary checkpoint."""

import glob
import shutil
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from rigl_lightning import FixedMasks, LotteryTicket, RigL, SparseTrainingCallback, Sparsifier, Static
from tests.helpers.small_runs import ALGORITHMS, QUIET, SCHEDULE, SmallData, SmallModel, everything, fit

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 1e-2}),
}


def train_and_save(folder, algorithm, model, ckpt_path=None, **settings):
    every_step = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    settings = {"enable_checkpointing": True, **settings}
    return fit(algorithm, model, callbacks=[every_step], ckpt_path=ckpt_path, **settings)


def stops(name, optimizer):
    """Eighteen resumes take seconds: of RigL all, of the others every fourth here and the rest in the long matrix."""
    if name == "rigl":
        return [pytest.param(name, optimizer, slice(None), id=f"{name}-{optimizer}")]
    rest = pytest.param(name, optimizer, slice(None), id=f"{name}-{optimizer}-all", marks=pytest.mark.slow_matrix)
    return [pytest.param(name, optimizer, slice(1, None, 4), id=f"{name}-{optimizer}"), rest]


@pytest.mark.filterwarnings("ignore:.*heckpoint directory", "ignore:The dirpath has changed")
@pytest.mark.parametrize(("name", "optimizer", "at"), [p for n in ALGORITHMS for o in OPTIMIZERS for p in stops(n, o)])
def test_resuming_at_any_step_gives_the_uninterrupted_run_bit_for_bit(tmp_path, name, optimizer, at):
    kind, settings = OPTIMIZERS[optimizer]
    whole, sparse, _ = train_and_save(tmp_path / "whole", ALGORITHMS[name], SmallModel(kind, **settings))
    expected = everything(whole, sparse)
    paths = sorted(glob.glob(str(tmp_path / "whole" / "*.ckpt")))
    assert len(paths) == 18
    for path in paths[at]:
        resumed, again, _ = fit(ALGORITHMS[name], SmallModel(kind, **settings), ckpt_path=path)
        got = everything(resumed, again)
        assert got.keys() == expected.keys()
        different = [key for key in expected if not torch.equal(got[key], expected[key])]
        assert not different, f"{different} differ after resuming {path}"
        assert again.flops.cost == sparse.flops.cost
        assert again.sparsifier.step == 18


@pytest.fixture
def checkpoint(tmp_path):
    """A RigL run of one epoch and its checkpoint."""
    model, sparse, _ = train_and_save(tmp_path, RigL(0.7, schedule=SCHEDULE), SmallModel(), max_epochs=1)
    return str(tmp_path / "step=6.ckpt"), model, sparse


def test_a_checkpoint_loads_into_the_plain_network_and_with_weights_only(checkpoint):
    path, model, sparse = checkpoint
    content = torch.load(path, weights_only=True)
    plain = SmallModel()
    plain.load_state_dict(content["state_dict"], strict=True)
    weight = plain.net[0].weight
    assert not weight.detach()[~sparse.sparsifier.masks["net.0.weight"]].any()
    masks = content["callbacks"]["SparseTrainingCallback"]["masks"]
    assert masks["net.0.weight"]["bits"].numel() == 96 // 8  # one bit a connection


def test_a_new_trainer_without_the_callback_warns_on_resume(checkpoint):
    trainer = pl.Trainer(max_epochs=2, enable_checkpointing=False, **QUIET)
    with pytest.warns(UserWarning, match="SparseTrainingCallback"):
        trainer.fit(SmallModel(), SmallData(), ckpt_path=checkpoint[0])


def test_a_sparse_network_validates_without_the_callback(checkpoint):
    path, model, _ = checkpoint
    trainer = pl.Trainer(**QUIET)
    result = trainer.validate(SmallModel(), SmallData(), ckpt_path=path)[0]["val/loss"]
    expected = pl.Trainer(**QUIET).validate(model, SmallData())[0]["val/loss"]
    assert result == pytest.approx(expected)


def test_a_dense_checkpoint_starts_sparse_training_with_a_warning_and_no_leaking_momenta(tmp_path):
    every_step = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    pl.Trainer(max_epochs=1, callbacks=every_step, **QUIET).fit(SmallModel(), SmallData())
    with pytest.warns(UserWarning, match="holds no masks"):
        _, sparse, watch = fit(Static(0.7), ckpt_path=tmp_path / "step=6.ckpt", max_epochs=2)
    assert sparse.sparsifier.step == 12
    assert watch.densities == [44 / 144] * 6


def test_resuming_with_another_algorithm_is_an_error_that_names_both(checkpoint):
    with pytest.raises(ValueError, match=r"RigL\(sparsity=0.7.*got RigL\(sparsity=0.8.*Set the algorithm as"):
        fit(RigL(0.8, schedule=SCHEDULE), ckpt_path=checkpoint[0])


def test_resuming_with_other_sparse_layers_is_an_error_that_names_one(checkpoint):
    sparse = SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE), exclude=["net.3"])
    trainer = pl.Trainer(callbacks=sparse, enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match=r"'net.3.weight'.*`exclude` of SparseTrainingCallback"):
        trainer.fit(SmallModel(), SmallData(), ckpt_path=checkpoint[0])


def test_fixed_masks_come_from_a_checkpoint(checkpoint):
    path, _, trained = checkpoint
    _, sparse, watch = fit(FixedMasks(path))
    for name, mask in trained.sparsifier.masks.items():
        assert torch.equal(sparse.sparsifier.masks[name], mask)
    assert set(watch.densities) == {44 / 144}


@pytest.mark.parametrize("make", [FixedMasks, lambda path: LotteryTicket(path, RigL(0.7, schedule=SCHEDULE))])
def test_once_training_has_begun_the_file_of_fixed_masks_may_be_gone(make, checkpoint, tmp_path):
    ticket = shutil.copy(checkpoint[0], tmp_path / "ticket.ckpt")

    class Removes(pl.Callback):
        def on_train_batch_start(self, *_):
            ticket.unlink(missing_ok=True)

    model, sparse, _ = fit(make(ticket), callbacks=[Removes()], max_epochs=1)
    model.trainer.save_checkpoint(tmp_path / "begun.ckpt")
    best = ModelCheckpoint(tmp_path, monitor="val/loss")
    _, resumed, _ = fit(make(ticket), ckpt_path=tmp_path / "begun.ckpt", callbacks=[best], enable_checkpointing=True)
    assert resumed.sparsifier.step == 18
    assert resumed.sparsifier.n_active == sparse.sparsifier.n_active


def test_a_longer_training_keeps_the_window_of_the_first(tmp_path):
    from rigl_lightning import UpdateSchedule

    algorithm = RigL(0.7, schedule=UpdateSchedule(interval=2, end=0.5))
    train_and_save(tmp_path, algorithm, SmallModel(), max_epochs=2)  # 12 steps, so T_end = 6
    _, sparse, watch = fit(algorithm, ckpt_path=tmp_path / "step=4.ckpt", max_epochs=4)
    assert sparse.sparsifier.algorithm.schedule.end == 6
    assert watch.updates == [4]


def test_the_state_of_the_callback_restores_a_plain_sparsifier(checkpoint):
    path, _, trained = checkpoint
    model = SmallModel()
    content = torch.load(path, weights_only=True)
    model.load_state_dict(content["state_dict"])
    parameters = {n: p for n, p in model.named_parameters() if n in trained.sparsifier.masks}
    state = content["callbacks"]["SparseTrainingCallback"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsifier = Sparsifier(parameters, RigL(0.7, schedule=SCHEDULE), state=state)
    assert sparsifier.step == 6
    assert sparsifier.checksums() == trained.sparsifier.checksums()
