# %% [markdown]
# # Truly sparse training, timed
#
# Counted FLOPs are not seconds. Here layers on the CPU compute with their active connections only, and a clock measures the
# gain on this machine. Below some sparsity there is none.

# %% jupyter={"source_hidden": true} tags=["setup"]
import time

import matplotlib.pyplot as plt
import torch
from torch import nn

from rigl_lightning import RigL, Sparsifier, UpdateSchedule, select_parameters
from rigl_lightning.kernels import SparsePattern, available, sparse_linear

torch.set_num_threads(1)
# %matplotlib inline

# %%
print("implementations that can run here, best first:", available())

# %% [markdown]
# ## One layer
#
# Forward pass and both gradients of a Linear layer of 1,024 x 1,024 at batch 128, sparse over dense. The result is the same.


# %%
def seconds(function, repeats=7):
    """Median of several calls."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return sorted(times)[repeats // 2]


def pass_through(layer, x, weight):
    weight.grad = x.grad = None
    layer(x, weight).sum().backward()


torch.manual_seed(0)
x = torch.randn(128, 1024, requires_grad=True)
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
speedups = []
for sparsity in SPARSITIES:
    mask = torch.rand(1024, 1024) >= sparsity
    pattern = SparsePattern.from_mask(mask)
    weight = (torch.randn(1024, 1024) * mask).requires_grad_()
    torch.testing.assert_close(
        sparse_linear(x, weight, None, pattern), nn.functional.linear(x, weight), rtol=1e-3, atol=1e-3
    )
    dense = seconds(lambda weight=weight: pass_through(nn.functional.linear, x, weight))
    sparse = seconds(lambda w=weight, p=pattern: pass_through(lambda x, w: sparse_linear(x, w, None, p), x, w))
    speedups.append(dense / sparse)
    print(
        f"sparsity {sparsity:.2f}: dense {1e3 * dense:6.2f} ms, sparse {1e3 * sparse:6.2f} ms, {dense / sparse:.2f} times as fast"
    )

# %%
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
axis.plot([1 - s for s in SPARSITIES], speedups, "o-", color="#1b6ca8", label="measured here")
axis.plot(
    [1 - s for s in SPARSITIES], [1 / (1 - s) for s in SPARSITIES], ":", color="#222222", label="if FLOPs were time"
)
axis.axhline(1, color="#c0392b", linewidth=0.8)
axis.set(xscale="log", yscale="log", xlabel="density", ylabel="dense time / sparse time")
axis.set_xticks([1 - s for s in SPARSITIES], [f"{1 - s:.2f}" for s in SPARSITIES])
axis.minorticks_off()
_ = axis.legend(frameon=False)

# %% [markdown]
# ## A whole training
#
# The same network, data and seed; once with masks on dense layers, once with layers that compute with active connections only.
# The `Sparsifier` is the same. The pattern of a layer is rebuilt when its mask has changed. Update steps compute the dense
# gradient, because RigL grows by it.


# %%
class SparseLinear(nn.Linear):
    """A Linear layer that computes with the connections of `pattern`, if it has one."""

    pattern = None
    dense_grad = False

    def forward(self, x):
        if self.pattern is None:
            return super().forward(x)
        return sparse_linear(x, self.weight, self.bias, self.pattern, self.dense_grad)


def train(truly_sparse, steps=60):
    torch.manual_seed(0)
    model = nn.Sequential(
        SparseLinear(784, 1024), nn.ReLU(), SparseLinear(1024, 1024), nn.ReLU(), SparseLinear(1024, 10)
    )
    data = torch.randn(steps, 128, 784)
    targets = (data[..., :10]).argmax(-1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    algorithm = RigL(sparsity=0.95, schedule=UpdateSchedule(interval=20))
    sparsifier = Sparsifier(select_parameters(model), algorithm, total_steps=steps)
    losses, start, seen = [], time.process_time(), "none"
    for step in range(steps):
        if truly_sparse and sparsifier.last_update is not seen:
            for name, mask in sparsifier.masks.items():
                model.get_submodule(name.removesuffix(".weight")).pattern = SparsePattern.from_mask(mask)
            seen = sparsifier.last_update
        for layer in model[::2]:
            layer.dense_grad = sparsifier.algorithm.needs_dense_gradient(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data[step]), targets[step])
        loss.backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        losses.append(float(loss.detach()))
    return losses, (time.process_time() - start) / steps


train(True, 3)  # compiles what is compiled
masked, masked_seconds = train(False)
sparse, sparse_seconds = train(True)
difference = max(abs(a - b) for a, b in zip(masked, sparse, strict=True))
print(f"masked dense layers {1e3 * masked_seconds:.1f} ms a step, truly sparse ones {1e3 * sparse_seconds:.1f} ms:")
print(f"{masked_seconds / sparse_seconds:.2f} times as fast at 95 %; largest difference of the losses {difference:.1e}")

# %% [markdown]
# ## With the callback: one argument
#
# `compute="sparse"` does this in any LightningModule. `"auto"`, the default, times each layer on the first batch, prints the
# result, and leaves layers dense that do not gain. `"dense"` computes with masked dense layers.

# %% jupyter={"source_hidden": true} tags=["setup"]
import logging
import sys
import warnings

import pytorch_lightning as pl
from torch.utils.data import DataLoader, TensorDataset

from rigl_lightning import SparseTrainingCallback

logger = logging.getLogger("pytorch_lightning")  # shows the tables of the callback, and none of Lightning's other lines
logger.handlers = [logging.StreamHandler(sys.stdout)]
logger.handlers[0].addFilter(lambda record: "sparsity" in record.getMessage() or "compute=" in record.getMessage())
warnings.filterwarnings("ignore")


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
        self.seconds = []

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_batch_start(self, batch, batch_idx):
        self.start = time.process_time()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seconds.append(time.process_time() - self.start)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


pl.seed_everything(0, verbose=False)
x = torch.randn(60 * 128, 784)
loader = DataLoader(TensorDataset(x, x[:, :10].argmax(-1)), 128)
steps = {}
for compute in ("dense", "sparse", "auto"):
    pl.seed_everything(0, verbose=False)
    module = Classifier()
    sparse = SparseTrainingCallback(RigL(sparsity=0.95, schedule=UpdateSchedule(interval=20)), compute=compute)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[sparse], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    steps[compute] = 1e3 * sorted(module.seconds)[len(module.seconds) // 2]
    print(f"compute={compute!r}: {steps[compute]:.1f} ms a step (median of {len(module.seconds)})")

# %% [markdown]
# Tables for more layers, with the spread of the rounds, are in `benchmarks/README.md`.
#
# ## What to try next
#
# - `torch.set_num_threads(2)`, if this machine has two free cores.
# - `storage="connections"` in the callback: weights, gradients and optimizer state hold active connections only.
# - Your own network with `compute="auto"`: the table names the layers that gain.
