"""A small network on random data, trained through Lightning; shared by the tests of the callback."""

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
    SNFS,
    SNIP,
    SRSTE,
    AnnealedTopK,
    CHTs,
    DeepR,
    Dense,
    GradualMagnitudePruning,
    GraSP,
    OneShotMagnitude,
    RigL,
    SparseTrainingCallback,
    Static,
    TopKAST,
    Uniform,
    Unstructured,
    UpdateSchedule,
)
from rigl_lightning.data import InMemoryDataModule, TensorBatches

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}

SCHEDULE = UpdateSchedule(interval=3, end=12)

# The learning rate of SWA saves a function in older torch, which a load of plain values refuses.
_SWA_RATE = torch.optim.swa_utils.SWALR(torch.optim.SGD([torch.zeros(1)], lr=0.1), swa_lr=0.1)
PLAIN_SWA_STATE = not any(callable(value) for value in _SWA_RATE.state_dict().values())

ALGORITHMS = {
    "dense": Dense(),
    "static": Static(0.7),
    "snip": SNIP(0.7),
    "snip_global": SNIP(0.7, global_ranking=True),
    "set": SET(0.7, schedule=SCHEDULE),
    "snfs": SNFS(0.7, schedule=SCHEDULE),
    "rigl": RigL(0.7, schedule=SCHEDULE),
    "rigl_uniform": RigL(0.7, distribution=Uniform(), schedule=SCHEDULE),
    "pruning": GradualMagnitudePruning(0.7, schedule=UpdateSchedule(interval=3, begin=2, end=12)),
    "one_shot": OneShotMagnitude(0.7, at=9),
    "grasp": GraSP(0.7),
    "dsr": DSR(0.7, schedule=SCHEDULE, target_fraction=0.1, threshold=0.05),
    "deep_r": DeepR(0.7, l1=0.01, temperature=1e-4),
    "dnw": DNW(0.7),
    "top_kast": TopKAST(0.7, 0.4, schedule=SCHEDULE),
    "chts": CHTs(0.7, schedule=SCHEDULE),
    "annealed": AnnealedTopK(0.7),
    "acdc": ACDC(0.7),
    "mest": MEST(0.7, schedule=SCHEDULE),
    "sr_ste": SRSTE(0.7, structure=Unstructured()),
}


class SmallData(InMemoryDataModule):
    """24 samples of 6 features: 6 batches of 4 an epoch."""

    def __init__(self, batch_size=4):
        super().__init__(batch_size, seed=1)

    def read_splits(self):
        inputs = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
        labels = (inputs[:, :3].sum(1) > 0).long() + (inputs[:, 3] > 0).long()
        self.train_set = self.val_set = self.test_set = TensorBatches(inputs, labels)


class SmallModel(pl.LightningModule):
    """Two linear layers with dropout, and the gradient norms that the optimizer gets to see."""

    def __init__(self, optimizer=torch.optim.SGD, dropout=0.2, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))
        self.optimizer = optimizer
        self.settings = settings or {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
        self.losses = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), **self.settings)


class Watch(pl.Callback):
    """Asks at every batch end whether the network is as sparse as its masks say."""

    def __init__(self, sparse):
        self.sparse = sparse
        self.densities = []
        self.updates = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        sparsifier = self.sparse.sparsifier
        for name, parameter in sparsifier.parameters.items():
            outside = ~sparsifier.masks[name]
            assert not parameter.detach()[outside].any(), f"{name} leaks outside its mask"
            if sparsifier.algorithm.hides_inactive_weights:
                continue  # they learn, so their state is theirs
            for key, value in sparsifier_state(self.sparse, parameter).items():
                assert not value[outside].any(), f"{key} of {name} leaks outside its mask"
        self.densities.append(self.sparse.metrics()["sparse/density"])
        update = sparsifier.last_update
        if update is not None and (not self.updates or self.updates[-1] != update.step):
            self.updates.append(update.step)


def sparsifier_state(sparse, parameter):
    """Optimizer state tensors of the weight's shape."""
    state = sparse.optimizer.state.get(parameter, {})
    return {key: v for key, v in state.items() if torch.is_tensor(v) and v.shape == parameter.shape}


def fit(algorithm, model=None, data=None, callbacks=(), ckpt_path=None, **settings):
    """Train; returns the model, the callback and its watcher."""
    sparse = SparseTrainingCallback(algorithm, seed=5)
    watch = Watch(sparse)
    settings = {"max_epochs": 3, "enable_checkpointing": False, **QUIET, **settings}
    trainer = pl.Trainer(callbacks=[sparse, watch, *callbacks], **settings)
    model = model or SmallModel()
    trainer.fit(model, data or SmallData(), ckpt_path=ckpt_path)
    return model, sparse, watch


def plain_loader(batch_size=4):
    """The same samples in an ordinary DataLoader, in order."""
    data = SmallData()
    data.setup("fit")
    return DataLoader(TensorDataset(data.train_set.inputs, data.train_set.targets), batch_size=batch_size)


def everything(model, sparse):
    """All tensors that a run leaves, by name."""
    optimizer = model.trainer.optimizers[0].state_dict()["state"]
    state = {f"{i}/{k}": v for i, entry in optimizer.items() for k, v in entry.items() if torch.is_tensor(v)}
    masks = {f"mask/{name}": mask for name, mask in sparse.sparsifier.masks.items()}
    averages = {f"average/{name}": mean for name, mean in sparse.sparsifier.gradients.averages.items()}
    return {**model.state_dict(), **state, **masks, **averages}
