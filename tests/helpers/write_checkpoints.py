"""Writes the checkpoints of `trainer/test_old_checkpoints.py`, with the code whose checkpoints have to resume.

    python tests/helpers/write_checkpoints.py tests/trainer/checkpoints

Only those that are not there are written: an old one is there to be resumed. Each algorithm trains 12 steps; its
checkpoint is that of step 6, and ``expected.pt`` holds what all 12 led to. Settings that were renamed since are given
by position.
"""

import os
import sys

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from rigl_lightning import (
    ACDC,
    DNW,
    DSR,
    MEST,
    SET,
    SETITOP,
    SNFS,
    SNIP,
    SRSTE,
    AnnealedTopK,
    CHTs,
    DeepR,
    Dense,
    DropGrow,
    ErdosRenyi,
    FixedMasks,
    GradualMagnitudePruning,
    GraNet,
    GraSP,
    Group,
    LotteryTicket,
    OneShotMagnitude,
    RigL,
    RigLITOP,
    SparseTrainingCallback,
    Sparsifier,
    SparsityRamp,
    Static,
    TopKAST,
    Uniform,
    UpdateSchedule,
)
from rigl_lightning.sparsity.scores import gradient_magnitude
from rigl_lightning.sparsity.structures import NM

STEPS, SAVED_AT = 12, 6
EXPECTED, TICKET = "expected.pt", "ticket.pt"
EVEN = UpdateSchedule(interval=2, end=10)
ALL = UpdateSchedule(interval=1, end=12)

ALGORITHMS = {
    "Dense": Dense(),
    "Static": Static(0.7),
    "FixedMasks": FixedMasks(TICKET),
    "LotteryTicket": LotteryTicket(TICKET, RigL(0.7, schedule=EVEN)),
    "SNIP": SNIP(0.7),
    "GraSP": GraSP(0.7),
    "OneShotMagnitude": OneShotMagnitude(0.7, at=8),
    "GradualMagnitudePruning": GradualMagnitudePruning(0.7, Uniform(), EVEN),
    "SET": SET(0.7, schedule=EVEN),
    "SNFS": SNFS(0.7, schedule=EVEN),
    "RigL": RigL(0.7, schedule=EVEN),
    "RigL_2_4": RigL(0.5, Uniform(), EVEN, structure=NM(2, 4)),
    "DropGrow": DropGrow(0.7, schedule=EVEN, grow_score=gradient_magnitude),
    "SETITOP": SETITOP(0.7, schedule=EVEN),
    "RigLITOP": RigLITOP(0.7, schedule=EVEN),
    "GraNet": GraNet(0.7, 0.3, schedule=EVEN, ramp_end=9),
    "DSR": DSR(0.7, schedule=EVEN, target_fraction=0.1, threshold=0.05),
    "DeepR": DeepR(0.7, ErdosRenyi(), ALL, l1=0.03, temperature=0.001),
    "DNW": DNW(0.7, ErdosRenyi(), ALL),
    "TopKAST": TopKAST(0.7, 0.4, ErdosRenyi(), EVEN),
    "ACDC": ACDC(0.7, warm_up=2, phase=2, last=9),
    "AnnealedTopK": AnnealedTopK(0.7, schedule=ALL, min_fan_in=1),
    "SRSTE": SRSTE(0.5, Uniform(first_layer_dense=False), ALL, penalty=0.01),
    "MEST": MEST(0.7, schedule=EVEN),
    "CHTs": CHTs(0.7, schedule=EVEN),
    "Group": Group({"net.0": RigL(0.7, schedule=EVEN), "*": Static(0.5)}),
    "RigL_ramp": RigL(SparsityRamp(0.2, 0.7, end=9), schedule=EVEN),
}


class Network(pl.LightningModule):
    """Two layers with 96 sparse weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))

    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)


class Save(pl.Callback):
    """Saves at one step, the end of an epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if self.path is not None and trainer.global_step == SAVED_AT:
            trainer.save_checkpoint(self.path)


def train(algorithm, save_to=None, ckpt_path=None):
    """Train to the end, from the beginning or a checkpoint; returns the network and the callback."""
    inputs = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(inputs, (inputs[:, :4].sum(1) > 0).long()), batch_size=4)
    sparse, network = SparseTrainingCallback(algorithm, seed=5, compute="dense"), Network()
    trainer = pl.Trainer(
        callbacks=[sparse, Save(save_to)],
        max_epochs=STEPS // len(data),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(network, data, ckpt_path=ckpt_path)
    return network, sparse


def result(network, sparse):
    """What a training led to, as plain tensors and numbers."""
    return {
        "masks": dict(sparse.sparsifier.masks),
        "weights": dict(network.state_dict()),
        "metrics": sparse.metrics(),
    }


def main(folder):
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    if not os.path.exists(TICKET):
        weights = {name: p for name, p in Network().named_parameters() if p.ndim > 1}
        torch.save(Sparsifier(weights, Static(0.7), seed=3).state_dict(), TICKET)
    expected = torch.load(EXPECTED, weights_only=True) if os.path.exists(EXPECTED) else {}
    missing = {name: algorithm for name, algorithm in ALGORITHMS.items() if name not in expected}
    expected |= {name: result(*train(algorithm, f"{name}.ckpt")) for name, algorithm in missing.items()}
    torch.save(expected, EXPECTED)


if __name__ == "__main__":
    main(sys.argv[1])
