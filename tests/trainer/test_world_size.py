"""One, two and four processes on the same global batches end with the same masks, for every algorithm."""

import os

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader, TensorDataset

from rigl_lightning import SET, RigL, Sparsifier, Static
from rigl_lightning.sparsity.parameters import select_parameters
from tests.helpers.every_algorithm import ALGORITHMS, MOVING
from tests.helpers.process_groups import (
    ImageModel,
    Images,
    assert_same_in_all_worlds,
    run_in_world,
    train_in_world,
    world_size,
)
from tests.helpers.small_runs import SCHEDULE

SETTINGS = {"plain": {}, "accumulated": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "max_epochs": 6}}


def train_every_algorithm(folder, ticket):
    for name, make in ALGORITHMS.items():
        for setting, values in SETTINGS.items():
            train_in_world(folder / f"{name}, {setting}", make(ticket), **values)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    ticket = folder / "ticket.pt"
    torch.save(Sparsifier(select_parameters(ImageModel()), Static(0.7), seed=3).state_dict(), ticket)
    train_every_algorithm(folder, ticket)
    for size in (2, 4):
        run_in_world(size, train_every_algorithm, folder, ticket)
    return folder


@pytest.mark.slow_matrix
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_and_four_processes_end_with_the_masks_of_one(matrix, name, setting):
    one = assert_same_in_all_worlds(matrix / f"{name}, {setting}", (2, 4))
    assert one["step"] == 18
    assert (one["last_update"] is not None) == (name in MOVING)


class Uneven:
    """A training set in 6 batches; of the last of them the second rank has fewer samples than the first."""

    def __call__(self, rank):
        data = Images(1)
        data.setup("fit")
        n_last = 4 if rank == 0 else 1
        part = slice(rank * 24, rank * 24 + 20 + n_last)
        return DataLoader(TensorDataset(data.train_set.inputs[part], data.train_set.targets[part]), batch_size=4)


class OverflowsOnOneRank(ImageModel):
    """At two of the update steps, the last rank's loss is too large for half precision; the others' is not."""

    def training_step(self, batch, batch_idx):
        last = self.trainer.global_rank == self.trainer.world_size - 1
        overflows = last and self.trainer.fit_loop.total_batch_idx in (3, 7)
        return super().training_step(batch, batch_idx) * (float("inf") if overflows else 1.0)


class Normed(ImageModel):
    def __init__(self):
        super().__init__()
        self.net.insert(1, torch.nn.BatchNorm2d(4))


def train_in_odd_ways(folder):
    """What a user may set about DDP, with an update at every third step."""
    rigl = RigL(0.7, schedule=SCHEDULE)
    two = world_size() > 1
    train_in_world(folder / "unused", rigl, "ddp_find_unused_parameters_true", ImageModel(n_unused=1))
    train_in_world(folder / "static", rigl, DDPStrategy(static_graph=True) if two else "auto")
    bucket_view = DDPStrategy(gradient_as_bucket_view=True) if two else "auto"
    train_in_world(folder / "view", rigl, bucket_view, accumulate_grad_batches=2, gradient_clip_val=0.5)
    train_in_world(folder / "adam", SET(0.7, schedule=SCHEDULE), model=ImageModel(torch.optim.AdamW, lr=0.01))
    for fused in (False, True):
        model = OverflowsOnOneRank(lr=0.1, momentum=0.9, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
        train_in_world(folder / f"fused={fused}", rigl, model=model, plugins=plugins)
    if two:
        loader = Uneven()(int(os.environ["LOCAL_RANK"]))
        train_in_world(folder / "uneven", rigl, data=loader, use_distributed_sampler=False)


@pytest.fixture(scope="module")
def odd_ways(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    train_in_odd_ways(folder)
    run_in_world(2, train_in_odd_ways, folder)
    return folder


@pytest.mark.parametrize("way", ["unused", "static", "view", "adam"])
def test_every_kind_of_ddp_ends_with_the_masks_of_one_process(odd_ways, way):
    assert assert_same_in_all_worlds(odd_ways / way, (2,))["last_update"] in (9, 6)


def test_ranks_agree_where_the_last_batch_of_one_is_smaller(odd_ways):
    first, second = (torch.load(odd_ways / "uneven" / f"2-{rank}.pt") for rank in range(2))
    assert first["step"] == 18
    assert all(torch.equal(second["masks"][name], mask) for name, mask in first["masks"].items())
    assert all(torch.equal(second["weights"][key], weight) for key, weight in first["weights"].items())


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_on_one_rank_postpones_the_update_on_all(odd_ways, fused):
    one, *two = (torch.load(odd_ways / f"fused={fused}" / f"{run}.pt") for run in ("1-0", "2-0", "2-1"))
    assert [result["step"] for result in (one, *two)] == [16] * 3  # two of 18 steps were skipped
    assert [result["last_update"] for result in (one, *two)] == [9] * 3
    for key, value in two[0]["masks"].items():
        assert torch.equal(two[1]["masks"][key], value)
    assert all(torch.equal(two[1]["weights"][key], weight) for key, weight in two[0]["weights"].items())
    assert all(weight.isfinite().all() for weight in two[0]["weights"].values())


class Converted(Normed):
    """Converted where Lightning's ``sync_batchnorm`` does it: before the optimizer and the masks are made."""

    def configure_model(self):
        self.net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.net)


def test_masks_belong_to_the_network_converted_to_synchronised_batch_norm(tmp_path):
    """On one process: several would be refused by DistributedDataParallel, which wants GPUs."""
    before, model = select_parameters(Normed()), Converted()
    for name, network in (("plain", Normed()), ("converted", model)):
        train_in_world(tmp_path / name, RigL(0.7, schedule=SCHEDULE), model=network)
    plain, converted = (torch.load(tmp_path / name / "1-0.pt") for name in ("plain", "converted"))
    assert type(model.net[1]) is torch.nn.SyncBatchNorm
    assert list(converted["masks"]) == list(before) == ["net.0.weight", "net.4.weight"]
    assert converted["last_update"] == 9
    for part in ("masks", "weights"):
        assert all(torch.equal(converted[part][key], value) for key, value in plain[part].items())
    assert all(not model.state_dict()[name][~mask].any() for name, mask in converted["masks"].items())
