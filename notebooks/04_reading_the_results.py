# %% [markdown]
# # Reading the artifact's results
#
# Every number that the figures show is a row of `paper/results/`. This notebook reads them; it trains nothing.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import paper

# %matplotlib inline
RESULTS = Path(paper.__file__).parent / "results"
runs = pd.read_csv(RESULTS / "small.csv")
print(f"{len(runs)} runs")
runs.groupby(["benchmark", "status"]).size()

# %% [markdown]
# A row is a run: its settings, how it ended, what it cost, on which device, at which commit.

# %%
runs.iloc[0]

# %% [markdown]
# ## Accuracy and training FLOPs
#
# Every benchmark that reports an accuracy; mean over the seeds, standard deviation as a bar, n as it is, training FLOPs as colour.
#
# These are runs of the small scale, which one CPU core can do: what stands for ResNet-50 on ImageNet is a small residual network on
# CIFAR-10 (`rigl-lightning configs` says it of each), and no accuracy here is one of the paper's benchmark.

# %%
done = runs[(runs["status"] == "done") & runs["val_accuracy"].notna()].copy()
done["accuracy"] = 100 * done["val_accuracy"]
settings = ["distribution", "multiplier", "delta_t", "alpha", "decay", "snfs_momentum"]
keys = ["benchmark", "method", "sparsity", *(key for key in settings if key in done)]  # those that this version has
table = done.groupby(keys, dropna=False).agg(
    accuracy=("accuracy", "mean"), spread=("accuracy", "std"), train_flops=("train_flops", "mean"), n=("seed", "count")
)
table = table.reset_index()
table.sort_values(["benchmark", "accuracy"], ascending=[True, False]).round(3)

# %%
from matplotlib.colors import LogNorm


def of_the_usual_settings(rows):
    """Rows that differ in method and sparsity alone: of the training's own length, with the commonest other settings."""
    for key in settings:
        if key in rows and rows[key].notna().any():
            usual = 1 if key == "multiplier" else rows[key].mode().iloc[0]
            rows = rows[rows[key].isna() | (rows[key] == usual)]
    return rows


for benchmark, rows in table.groupby("benchmark"):
    rows = of_the_usual_settings(rows).sort_values("accuracy")
    dense = rows.loc[rows["method"] == "Dense", "train_flops"].mean()
    low = rows["accuracy"].median() - 3
    shown = rows[rows["accuracy"] > low].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(7, max(2.4, 1 + 0.22 * len(shown))), layout="constrained")
    axis.errorbar(shown["accuracy"], shown.index, xerr=shown["spread"], fmt="none", ecolor="#999999")
    cost = shown["train_flops"] / dense
    points = axis.scatter(shown["accuracy"], shown.index, c=cost, cmap="viridis", norm=LogNorm(), zorder=3)
    axis.set_yticks(shown.index, [f"{row.method}, {row.sparsity:.0%}" for row in shown.itertuples()])
    figure.colorbar(points, label="training FLOPs, dense = 1")
    hidden = f"; {len(rows) - len(shown)} lower ones not shown" if len(rows) > len(shown) else ""
    axis.set(xlabel="accuracy (%)")
    figure.suptitle(f"{benchmark}, small scale: method, sparsity (n >= {rows['n'].min()}{hidden})", fontsize=10)

# %% [markdown]
# ## Paired by seed
#
# Runs of the same seed share their initial weights and the order of their data, so a difference by seed says more than one of
# means.

# %%
for (benchmark, sparsity), rows in done[done["method"] != "Dense"].groupby(["benchmark", "sparsity"]):
    by_seed = rows.pivot_table(index="seed", columns="method", values="accuracy")
    if {"RigL", "Static"} <= set(by_seed):
        difference = (by_seed["RigL"] - by_seed["Static"]).dropna()
        text = ", ".join(f"{value:+.2f}" for value in difference)
        print(
            f"{benchmark}, {sparsity:.0%}: RigL minus static {difference.mean():+.2f} points (n = {len(difference)}: {text})"
        )

# %% [markdown]
# ## Counted against published FLOPs
#
# Here no training is involved, so everything is compared at the paper's own scale.

# %%
published, computed = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("published", "flops"))
keys = ["model", "method", "distribution", "sparsity", "training_multiplier", "quantity", "reading"]
both = published.assign(reading=published["reading"].fillna("")).merge(
    computed.assign(reading=computed["reading"].fillna("")), on=keys
)
both = both[both["quantity"].isin(["inference_flops", "train_flops"])]
figure, axis = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
both["status"] = both["status"].fillna("consistent")
for status, rows in both.groupby("status"):
    filled = "full" if status == "consistent" else "none"
    axis.loglog(rows["published"], rows["computed"], "o", alpha=0.6, fillstyle=filled, label=status)
axis.axline((0.1, 0.1), (1, 1), color="#222222", linewidth=0.8)
axis.set(xlabel="published, dense = 1", ylabel="counted, dense = 1", title=f"{len(both)} published multipliers")
axis.legend(frameon=False)
both["agrees"] = (both["computed"] - both["published"]).abs() <= 0.011
both.groupby(["status", "agrees"]).size()

# %% [markdown]
# "Contradictory" are published numbers that contradict another published one, or the paper's own formulas; the reason for each
# is beside it in `docs/flops.md`.
