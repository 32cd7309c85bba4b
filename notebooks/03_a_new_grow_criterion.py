# %% [markdown]
# # A new grow criterion, compared with RigL over three seeds
#
# A criterion is a function of the connections of one layer. It needs no class and no registration.

# %% jupyter={"source_hidden": true} tags=["setup"]
import logging
import statistics
import warnings

import matplotlib.pyplot as plt
import pandas as pd
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
# RigL grows where the gradient is largest. This criterion balances the units: the more connections a unit has, the less a
# gradient counts.


# %%
def balanced_gradient(c: Connections) -> torch.Tensor:
    """Gradient magnitude over the root of the number of connections that the unit has."""
    fan_in = c.mask.flatten(1).sum(1).clamp(min=1).sqrt()
    return c.grad.abs() / fan_in.view(-1, *[1] * (c.weight.ndim - 1))


SPARSITY, SEEDS, EPOCHS = 0.95, (0, 1, 2), 40
schedule = UpdateSchedule(interval=30)
METHODS = {
    "static": Static(sparsity=SPARSITY),
    "SET": SET(sparsity=SPARSITY, schedule=schedule),
    "RigL": RigL(sparsity=SPARSITY, schedule=schedule),
    "balanced": RigL(sparsity=SPARSITY, schedule=schedule, grow_score=balanced_gradient),
}


# %%
class Accuracies(pl.Callback):
    """Keeps the validation accuracy of every epoch, in percent."""

    def __init__(self):
        self.values = []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.values.append(100 * float(trainer.callback_metrics["val/accuracy"]))


def accuracies(algorithm, seed):
    """Of one training, epoch by epoch."""
    pl.seed_everything(seed, verbose=False)
    module = ImageClassifier(LeNet300100(64, 10), 10, (1, 8, 8), learning_rate=0.05, milestones=[0.5, 0.75])
    kept = Accuracies()
    trainer = pl.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", callbacks=[SparseTrainingCallback(algorithm), kept], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, DigitsDataModule(batch_size=50))
    return kept.values


curves = {name: [accuracies(algorithm, seed) for seed in SEEDS] for name, algorithm in METHODS.items()}

# %% [markdown]
# The trainings have finished: after the learning rate has fallen (epochs 20 and 30) no curve rises any more.

# %%
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
for (name, runs), colour in zip(curves.items(), ("#d95f02", "#1b9e77", "#1b6ca8", "#7a3b9a"), strict=True):
    axis.plot(
        range(1, EPOCHS + 1), [statistics.mean(epoch) for epoch in zip(*runs, strict=True)], label=name, color=colour
    )
axis.set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(80, 100))
axis.set_title(f"LeNet-300-100, digits, {SPARSITY:.0%} sparse, mean of {len(SEEDS)} seeds", fontsize=10)
_ = axis.legend(frameon=False, ncols=4)

# %% [markdown]
# Means of the last epoch with their spread, and differences to RigL paired by seed: the same seed has the same initial weights, the
# same first masks and the same order of the data.

# %%
last = {name: [run[-1] for run in runs] for name, runs in curves.items()}
rows = {}
for name, values in last.items():
    differences = [value - rigl for value, rigl in zip(values, last["RigL"], strict=True)]
    rows[name] = {
        "accuracy (%)": f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}",
        "minus RigL, paired (points)": f"{statistics.mean(differences):+.2f} ± {statistics.stdev(differences):.2f}"
        if name != "RigL"
        else "",
        "n": len(values),
    }
pd.DataFrame(rows).T

# %% [markdown]
# With 360 validation images one image is 0.28 points, and three seeds are few: a difference within the spread is inconclusive.
#
# ## What to try next
#
# - Ten seeds (`SEEDS = range(10)`), before you believe a difference.
# - `c.weight.abs()` in the score, or random numbers from `c.generator`: do they find better connections?
# - The same function on a benchmark's data, from `mine.py`:
#   `rigl-lightning fit --config mnist_lenet --data.init_args.root DIR --sparse.algorithm.grow_score mine.balanced_gradient`
