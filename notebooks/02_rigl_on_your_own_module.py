# %% [markdown]
# # RigL on your own LightningModule
#
# A module without any change for sparsity, one callback, and what follows: the logs, the checkpoint, a resumed training,
# the plain network.

# %% jupyter={"source_hidden": true} tags=["setup"]
import logging
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rigl_lightning import RigL, SparseTrainingCallback, SparsityPlot, UpdateSchedule

logger = logging.getLogger("pytorch_lightning")  # shows the tables of the callback, and none of Lightning's other lines
logger.handlers = [logging.StreamHandler(sys.stdout)]
logger.handlers[0].addFilter(lambda record: "sparsity" in record.getMessage() or "compute=" in record.getMessage())
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
# %matplotlib inline

# %% [markdown]
# ## Your module and your data


# %%
class SmallConvNet(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64 * 4 * 4, 10)
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=1e-2)


digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
y = torch.tensor(digits.target)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train_data, val_data = TensorDataset(x[order[360:]], y[order[360:]]), TensorDataset(x[order[:360]], y[order[:360]])


def loaders():
    return DataLoader(train_data, 64, shuffle=True), DataLoader(val_data, 360)


# %% [markdown]
# ## The sparsity of each layer
#
# Before training the callback prints this table. You can also print it without training. The classifier stays dense here.

# %%
from rigl_lightning import select_parameters
from rigl_lightning.reports.layer_table import layer_table

algorithm = RigL(sparsity=0.9, schedule=UpdateSchedule(interval=20))
selected = select_parameters(SmallConvNet(), exclude=["head"])
print(layer_table(algorithm.resolve(230), {name: p.shape for name, p in selected.items()}, 230))

# %% [markdown]
# ## Train


# %%
def trainer(epochs):
    sparse = SparseTrainingCallback(algorithm, exclude=["head"], log_layers=True)
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[sparse, SparsityPlot()], logger=CSVLogger(".", name="runs"),
        log_every_n_steps=5, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


pl.seed_everything(0, verbose=False)
module = SmallConvNet()
first = trainer(epochs=10)
first.fit(module, *loaders())
print("accuracy", float(first.callback_metrics["val/accuracy"]), "in", first.log_dir)

# %% [markdown]
# ## What happened
#
# The logger has the losses and the mask statistics of every update; `SparsityPlot` left a picture.

# %%
log = pd.read_csv(Path(first.log_dir) / "metrics.csv")
figure, axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
for axis, key in zip(axes, ("train/loss", "sparse/churn", "sparse/survival"), strict=True):
    values = log[["step", key]].dropna()
    axis.plot(values["step"], values[key], color="#1b6ca8")
    axis.set(xlabel="step", title=key, ylim=(0, None))

# %%
plt.figure(figsize=(10, 6))
plt.imshow(plt.imread(Path(first.log_dir) / "sparsity.png"))
_ = plt.axis("off")
# %% [markdown]
# ## The checkpoint
#
# It holds the plain network and, in the callback's own state, the masks. So it loads into the network without this package, and
# `fit(..., ckpt_path=...)` with the callback goes on with the masks.

# %%
(path,) = Path(first.log_dir, "checkpoints").glob("*.ckpt")
plain = SmallConvNet()
plain.load_state_dict(torch.load(path, weights_only=True)["state_dict"])  # strict: no key is missing or too many
convolution = plain.features[3].weight
print(f"zeros in the second convolution: {(convolution == 0).float().mean():.3f}")

second = trainer(epochs=12)
second.fit(SmallConvNet(), *loaders(), ckpt_path=path)
print("accuracy after two more epochs", float(second.callback_metrics["val/accuracy"]))

# %% [markdown]
# The window of mask updates does not move with the new number of epochs, because a resumed training is the same training. For
# bitwise equality the data must resume, too, as the data modules of this package do; a plain shuffling loader starts a new order.
#
# ## What to try next
#
# - `exclude=[]`: the classifier becomes sparse, too. How much accuracy does it cost?
# - `SparseTrainingCallback(..., strict=True)` checks every invariant after every step.
# - Your own network in the place of `SmallConvNet`: if the table lists a layer that should stay dense, exclude it.
# - Notebook 03: your own criterion.
