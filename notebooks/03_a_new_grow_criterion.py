# %% [markdown]
# # A new grow criterion, compared with RigL over three seeds
#
# A criterion is a function of one layer's connections. No class, no registration.

# %%
import logging
import statistics
import warnings

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch

from rigl_lightning import SET, RigL, SparseTrainingCallback, Static, UpdateSchedule
from rigl_lightning.data import DigitsDataModule
from rigl_lightning.models import LeNet300100
from rigl_lightning.modules import ImageClassifier
from rigl_lightning.sparsity.scores import Connections

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
# %matplotlib inline

# %% [markdown]
# RigL grows where the gradient is largest, wherever that is. This one asks for balance: a gradient counts less the more
# connections its unit has already.


# %%
def balanced_gradient(c: Connections) -> torch.Tensor:
    """Gradient magnitude over the root of the number of connections that the unit has."""
    fan_in = c.mask.flatten(1).sum(1).clamp(min=1).sqrt()
    return c.grad.abs() / fan_in.view(-1, *[1] * (c.weight.ndim - 1))


SPARSITY, SEEDS, EPOCHS = 0.97, (0, 1, 2), 12
schedule = UpdateSchedule(interval=30)
METHODS = {
    "static": Static(sparsity=SPARSITY),
    "SET": SET(sparsity=SPARSITY, schedule=schedule),
    "RigL": RigL(sparsity=SPARSITY, schedule=schedule),
    "balanced": RigL(sparsity=SPARSITY, schedule=schedule, grow_score=balanced_gradient),
}


# %%
def accuracy(algorithm, seed):
    pl.seed_everything(seed, verbose=False)
    module = ImageClassifier(LeNet300100(64, 10), 10, (1, 8, 8), learning_rate=0.05, milestones=[0.5, 0.75])
    trainer = pl.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", callbacks=[SparseTrainingCallback(algorithm)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=0.0,
    )  # fmt: skip
    data = DigitsDataModule(batch_size=50)
    trainer.fit(module, data)
    trainer.limit_val_batches = 1.0
    with torch.no_grad():
        module.eval()
        right = [(module(x).argmax(1) == y).float() for x, y in data.val_dataloader()]
    return 100 * float(torch.cat(right).mean())


accuracies = {name: [accuracy(algorithm, seed) for seed in SEEDS] for name, algorithm in METHODS.items()}

# %% [markdown]
# Means with their spread, and differences to RigL paired by seed: the same seed has the same initial weights, the same first
# masks and the same order of the data.

# %%
print(f"{'method':<10}{'accuracy (%)':>16}{'minus RigL, paired':>24}   n")
for name, values in accuracies.items():
    differences = [value - rigl for value, rigl in zip(values, accuracies["RigL"], strict=True)]
    paired = f"{statistics.mean(differences):+.2f} ± {statistics.stdev(differences):.2f}" if name != "RigL" else ""
    print(f"{name:<10}{statistics.mean(values):>9.2f} ± {statistics.stdev(values):.2f}{paired:>24}   {len(values)}")

# %%
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for i, values in enumerate(accuracies.values()):
    axis.plot([i] * len(values), values, "o", color="#1b6ca8", alpha=0.7)
    axis.hlines(statistics.mean(values), i - 0.25, i + 0.25, color="#222222")
axis.set_xticks(range(len(accuracies)), list(accuracies))
_ = axis.set(
    ylabel="validation accuracy (%)", title=f"LeNet-300-100, digits, {SPARSITY:.0%} sparse, 3 seeds, line: mean"
)

# %% [markdown]
# With 360 validation images one image is 0.28 points, and three seeds are few: a difference within the spread is none. To go
# further, the same function on a benchmark's data, from `mine.py`:
#
# `rigl-lightning fit --config mnist_lenet --data.init_args.root DIR --sparse.algorithm.grow_score mine.balanced_gradient`
