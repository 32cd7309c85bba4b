"""What the callback cannot work with is refused before the first batch, in words that say what to change."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import batched_powerSGD_hook, powerSGD_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils.data import DataLoader, IterableDataset

from rigl_lightning import GradualMagnitudePruning, RigL, SparseTrainingCallback, Sparsifier, Static, UpdateSchedule
from rigl_lightning.trainer.checks import refuse_unsupported_strategy
from tests.helpers.small_runs import QUIET, SmallData, SmallModel, fit, plain_loader


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

    with pytest.raises(ValueError, match=r"no optimizer updates 'net.3.weight'.*`exclude` of SparseTrainingCallback"):
        fit(Static(0.7), Half())


def test_a_weight_in_two_optimizers():
    class Shared(Untrained):
        automatic_optimization = False

        def configure_optimizers(self):
            parts = (self.net, self.net[0])
            return [torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9) for part in parts]

    with pytest.raises(ValueError, match=r"in one optimizer, but 2 update 'net.0.weight' \(1 such weights\)"):
        fit(Static(0.7), Shared())


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
    with pytest.raises(ValueError, match=f"got {name}.*Set `strategy` of the Trainer to .ddp"):
        refuse_unsupported_strategy(trainer)


@pytest.mark.parametrize("make", [FSDPStrategy, ModelParallelStrategy, type("MyFSDP", (FSDPStrategy,), {})])
def test_strategies_of_lightning_that_split_parameters_and_what_is_built_on_them(make):
    with pytest.raises(ValueError, match=f"got {make.__name__}.*Set `strategy` of the Trainer to .ddp"):
        refuse_unsupported_strategy(SimpleNamespace(strategy=make()))


def test_a_strategy_is_refused_in_setup_before_anything_is_sharded():
    class DeepSpeedStrategy(SingleDeviceStrategy):
        pass

    class NeverConfigured(Untrained):
        def configure_model(self):
            raise AssertionError("the model was made before the refusal")

    sparse = SparseTrainingCallback(Static(0.7))
    trainer = pl.Trainer(
        callbacks=sparse, strategy=DeepSpeedStrategy("cpu"), max_epochs=1, enable_checkpointing=False, **QUIET
    )
    with pytest.raises(ValueError, match="got DeepSpeedStrategy"):
        trainer.fit(NeverConfigured(), SmallData())


def test_a_communication_hook_that_leaves_gradients_different():
    strategy = DDPStrategy(ddp_comm_hook=post_localSGD_hook)
    with pytest.raises(ValueError, match="post_localSGD_hook.*`ddp_comm_hook`"):
        refuse_unsupported_strategy(SimpleNamespace(strategy=strategy))


@pytest.mark.parametrize("hook", [powerSGD_hook, batched_powerSGD_hook])
def test_a_communication_hook_that_approximates_gradients_is_a_warning(hook):
    with pytest.warns(UserWarning, match="powerSGD_hook keeps gradients of low rank"):
        refuse_unsupported_strategy(SimpleNamespace(strategy=DDPStrategy(ddp_comm_hook=hook)))


@pytest.fixture
def group():
    """A process group of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_an_optimizer_whose_state_is_shared_out(group):
    class Zero(Untrained):
        def configure_optimizers(self):
            return ZeroRedundancyOptimizer(self.parameters(), torch.optim.SGD, lr=0.1)

    with pytest.raises(ValueError, match="got ZeroRedundancyOptimizer, which keeps the state.*torch.optim"):
        fit(Static(0.7), Zero())


def test_a_sharded_weight_in_a_loop_of_ones_own(group):
    mesh = init_device_mesh("cpu", (1,))
    weight = torch.nn.Parameter(distribute_tensor(torch.randn(8, 4), mesh, [Shard(0)]))
    with pytest.raises(ValueError, match="got a DTensor in 'fc.weight'.*DistributedDataParallel"):
        Sparsifier({"fc.weight": weight}, RigL(0.7), total_steps=100)


def test_a_weight_that_is_elsewhere():
    """As ZeRO-3 leaves them on every process but one."""
    with pytest.raises(ValueError, match="tensor without elements in 'fc.weight'"):
        Sparsifier({"fc.weight": torch.nn.Parameter(torch.empty(0, 4))}, RigL(0.7), total_steps=100)


def test_a_fraction_of_a_training_of_unknown_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(plain_loader().dataset)

    model = Untrained()
    trainer = pl.Trainer(callbacks=SparseTrainingCallback(RigL(0.7)), max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match=r"known number of training steps.*`max_steps` of the Trainer"):
        trainer.fit(model, DataLoader(Stream(), batch_size=4))


def test_pruning_that_training_would_end_before():
    with pytest.raises(ValueError, match=r"end=100 and 18 steps.*`schedule.end` of GradualMagnitudePruning"):
        fit(GradualMagnitudePruning(0.7, schedule=UpdateSchedule(begin=2, end=100)), Untrained())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (RigL, r"such as RigL\(sparsity=0.9\), got the class RigL"),
        ("set", r"such as SET\(sparsity=0.9\), got 'set'"),
        (0.9, r"such as RigL\(sparsity=0.9\), got 0.9"),
    ],
    ids=str,
)
def test_what_is_no_algorithm_is_told_how_to_be_one(given, told):
    with pytest.raises(ValueError, match=told):
        SparseTrainingCallback(given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"include": "net.0"}, "lists of patterns, got include='net.0'"),
        ({"include": Static(0.5)}, "lists of patterns"),  # a second algorithm
        ({"exclude": [3]}, r"exclude=\[3\]"),
        ({"seed": "a"}, "`seed` to be a whole number or None, got 'a'. Set `seed` of SparseTrainingCallback"),
        ({"depthwise": "no"}, "`depthwise` to be True or False, got 'no'"),
        ({"strict": None}, "`strict` to be True or False"),
        ({"name": 1}, "`name` to be a text, got 1"),
        ({"by_density": True}, "`by_density` to be a ByDensity or None, got True"),
    ],
)
def test_settings_of_another_kind_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        SparseTrainingCallback(RigL(0.9), **settings)
