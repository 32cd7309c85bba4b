# %% [markdown]
# # Sparsity in ten minutes
#
# What a mask is, what RigL does to it, and what a network looks like afterwards. All data is embedded; nothing is downloaded.

# %% jupyter={"source_hidden": true} tags=["setup"]
import logging
import warnings

import matplotlib.pyplot as plt
import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.colors import ListedColormap

from rigl_lightning import Dense, ErdosRenyi, RigL, SparseTrainingCallback, Static, UpdateSchedule
from rigl_lightning.data import DigitsDataModule
from rigl_lightning.models import LeNet300100
from rigl_lightning.modules import ImageClassifier
from rigl_lightning.sparsity.masks import drop_and_grow, random_mask

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
torch.manual_seed(0)
# %matplotlib inline

# %% [markdown]
# ## A mask
#
# A mask is a boolean tensor of the weight's shape: True where a connection is active. This layer has 12 x 20 connections, of
# which one in five is active. The others are zero in the weight, in its gradient and in the optimizer's state.

# %%
mask = random_mask((12, 20), 48, torch.Generator().manual_seed(0))
weight = torch.randn(12, 20) * mask
gradient = torch.randn(12, 20)
print(f"{mask.sum()} of {mask.numel()} connections are active: density {mask.float().mean():.2f}")

# %% [markdown]
# ## One update of RigL
#
# RigL drops the 12 active connections with the smallest weights. Then it grows the 12 inactive ones with the largest
# gradients. The number of active connections stays the same.

# %%
after = drop_and_grow(mask, weight.abs(), gradient.abs(), n_update=12)
assert after.sum() == mask.sum()
state = torch.where(after, torch.where(mask, 1, 3), torch.where(mask, 2, 0))

figure, axes = plt.subplots(1, 4, figsize=(13, 2.6), layout="constrained")
axes[0].imshow(weight.abs(), cmap="Blues")
axes[0].set_title("1. magnitudes of the weights", fontsize=10)
axes[1].imshow(gradient.abs(), cmap="Oranges")
axes[1].set_title("2. magnitudes of the gradients", fontsize=10)
colours = ["#f2f2f2", "#1b6ca8", "#c0392b", "#2e8b57"]
axes[2].imshow(state, cmap=ListedColormap(colours), vmin=0, vmax=3)
axes[2].set_title("3. kept, dropped, grown", fontsize=10)
for label, colour in zip(("kept", "dropped", "grown"), colours[1:], strict=True):
    axes[2].plot([], [], "s", color=colour, label=label)
axes[2].legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False, fontsize=9)
axes[3].imshow(after, cmap="Blues", vmin=0, vmax=1.4)
axes[3].set_title("4. the mask after", fontsize=10)
for axis in axes:
    axis.set(xticks=[], yticks=[])

# %% [markdown]
# ## How sparsity is shared among layers
#
# Two distributions with the same total: uniform, and the paper's Erdős-Rényi-Kernel (ERK), which makes large layers sparser.

# %%
model = LeNet300100(64, 10)
shapes = {name: p.shape for name, p in model.named_parameters() if p.ndim == 2}
erk = ErdosRenyi()(shapes, 0.9)
pd.DataFrame(
    {
        "shape": [" x ".join(map(str, shape)) for shape in shapes.values()],
        "ERK: sparsity": erk.values(),
        "uniform: sparsity": 0.9,
    },
    index=list(shapes),
).round(3)

# %% [markdown]
# ## A training
#
# LeNet-300-100 on 8 x 8 digits, three times: dense, with random masks that never change (static), and with RigL. The two
# sparse networks have a tenth of the connections from the first step to the last.


# %%
class Masks(pl.Callback):
    """Keeps the first layer's mask before and after, and the accuracy of every epoch."""

    def __init__(self, sparse):
        self.sparse, self.masks, self.accuracies = sparse, [], []

    def on_train_start(self, trainer, pl_module):
        self.masks.append(self.sparse.sparsifier.masks.get("model.1.weight"))
        self.masks[0] = self.masks[0].clone()

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.accuracies.append(100 * float(trainer.callback_metrics["val/accuracy"]))

    def on_train_end(self, trainer, pl_module):
        self.masks.append(self.sparse.sparsifier.masks["model.1.weight"].clone())


def train(algorithm, epochs=25):
    pl.seed_everything(0, verbose=False)
    sparse = SparseTrainingCallback(algorithm)
    masks = Masks(sparse)
    module = ImageClassifier(LeNet300100(64, 10), 10, (1, 8, 8), learning_rate=0.05, milestones=[0.5, 0.75])
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[sparse, masks], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DigitsDataModule(batch_size=50))
    return sparse, masks


rigl_algorithm = RigL(sparsity=0.9, schedule=UpdateSchedule(interval=30))
results = {"Dense": train(Dense()), "Static": train(Static(sparsity=0.9)), "RigL": train(rigl_algorithm)}
pd.DataFrame(
    {
        "validation accuracy (%)": {name: masks.accuracies[-1] for name, (_, masks) in results.items()},
        "training FLOPs, dense = 1": {name: s.metrics()["sparse/train_flops"] for name, (s, _) in results.items()},
    }
).round(3)

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained", width_ratios=[1.6, 1, 1])
for (name, (_, masks)), colour in zip(results.items(), ("#222222", "#d95f02", "#1b6ca8"), strict=True):
    axes[0].plot(range(1, 26), masks.accuracies, label=name, color=colour)
axes[0].set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(70, 100), title="90 % sparse, one seed")
axes[0].legend(frameon=False)
first, last = (mask.float().sum(0).view(8, 8) for mask in results["RigL"][1].masks)
for axis, image, title in ((axes[1], first, "before RigL"), (axes[2], last, "after RigL")):
    shown = axis.imshow(image, vmin=0, vmax=float(last.max()), cmap="viridis")
    axis.set(title=f"per pixel, {title}", xticks=[], yticks=[])
_ = figure.colorbar(shown, ax=axes[1:], shrink=0.8)

# %% [markdown]
# The pixels at the left and right edges are black in nearly every digit. Their gradients are zero, so RigL grows no connection
# there, and it drops those of the first mask.
#
# ## What to try next
#
# - `sparsity=0.97` in all three: the static network falls behind, RigL hardly.
# - `UpdateSchedule(interval=300)`: so few updates that most connections stay where they were.
# - One seed is no evidence. Notebook 03 compares over three; notebook 02 trains your own module.
