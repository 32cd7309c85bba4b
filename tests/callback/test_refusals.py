"""What the callback cannot work with is refused before the first batch, in words that say what to change."""

import pytest
import pytorch_lightning as pl
import torch
from small_runs import QUIET, SmallData, SmallModel, fit, plain_loader
from torch.utils.data import DataLoader, IterableDataset

from rigl_lightning import GradualMagnitudePruning, RigL, SparseTrainingCallback, Static, UpdateSchedule
from rigl_lightning.trainer_access import refuse_unsupported_strategy


class Untrained(SmallModel):
    def training_step(self, batch, batch_idx):
        raise AssertionError("a batch was trained before the refusal")


def test_lbfgs():
    with pytest.raises(ValueError, match="first-order optimizer, got LBFGS"):
        fit(Static(0.7), Untrained(torch.optim.LBFGS, lr=0.1))


def test_a_weight_in_no_optimizer():
    class Half(Untrained):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[0].parameters(), lr=0.1)

    with pytest.raises(ValueError, match=r"no optimizer updates 'net.3.weight'.*--sparse.exclude"):
        fit(Static(0.7), Half())


def test_sparse_weights_in_two_optimizers_need_two_callbacks():
    class Two(SmallModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(self.net[i].parameters(), lr=0.1) for i in (0, 3)]

        def training_step(self, batch, batch_idx):
            loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

    with pytest.raises(ValueError, match=r"one optimizer for all sparse weights, got 2.*`include`"):
        fit(Static(0.7), Two())
    schedule = UpdateSchedule(interval=2, end=5)
    callbacks = [
        SparseTrainingCallback(RigL(0.7, schedule=schedule), include=[f"net.{i}"], name=f"layer{i}") for i in (0, 3)
    ]
    model = Two()
    trainer = pl.Trainer(callbacks=callbacks, max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(model, SmallData())
    assert [callback.sparsifier.step for callback in callbacks] == [6, 6]
    assert [callback.sparsifier.last_update.step for callback in callbacks] == [4, 4]
    assert len({callback.state_key for callback in callbacks}) == 2


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_strategies_that_split_parameters(name):
    trainer = pl.Trainer(**QUIET)
    trainer.strategy.__class__ = type(name, (type(trainer.strategy),), {})
    with pytest.raises(ValueError, match=f"got {name}.*--trainer.strategy ddp"):
        refuse_unsupported_strategy(trainer)


def test_a_fraction_of_a_training_of_unknown_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(plain_loader().dataset)

    model = Untrained()
    trainer = pl.Trainer(callbacks=SparseTrainingCallback(RigL(0.7)), max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match=r"known number of training steps.*--trainer.max_steps"):
        trainer.fit(model, DataLoader(Stream(), batch_size=4))


def test_pruning_that_training_would_end_before():
    with pytest.raises(ValueError, match=r"end=100 and 18 steps.*--sparse.algorithm.ramp.end"):
        fit(GradualMagnitudePruning(0.7, ramp=UpdateSchedule(begin=2, end=100)), Untrained())
