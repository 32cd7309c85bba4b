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
# ## Accuracy against training FLOPs
#
# Every benchmark that reports an accuracy; mean over the seeds, standard deviation as a bar, n as it is.

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
for benchmark, rows in table.groupby("benchmark"):
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    dense = rows.loc[rows["method"] == "Dense", "train_flops"].mean()
    low = rows["accuracy"].median() - 3
    for row in rows[rows["accuracy"] > low].itertuples():
        axis.errorbar(row.train_flops / dense, row.accuracy, yerr=row.spread, fmt="o", color="#1b6ca8")
        axis.annotate(
            row.method, (row.train_flops / dense, row.accuracy), (5, 3), textcoords="offset points", fontsize=8
        )
    n_hidden = int((rows["accuracy"] <= low).sum())
    axis.set(xscale="log", xlabel="training FLOPs, dense = 1", ylabel="accuracy (%)")
    axis.set_title(f"{benchmark}: n = {rows['n'].min()} to {rows['n'].max()} ({n_hidden} methods are below the frame)")

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
for (quantity,), rows in both.groupby(["quantity"]):
    axis.loglog(rows["published"], rows["computed"], "o", alpha=0.6, label=quantity.replace("_", " "))
axis.axline((0.1, 0.1), (1, 1), color="#222222", linewidth=0.8)
axis.set(xlabel="published, dense = 1", ylabel="counted, dense = 1", title=f"{len(both)} published multipliers")
axis.legend(frameon=False)
both["agrees"] = (both["computed"] - both["published"]).abs() <= 0.011
both["status"] = both["status"].fillna("consistent")
both.groupby(["status", "agrees"]).size()

# %% [markdown]
# "Contradictory" are published numbers that contradict another published one, or the paper's own formulas; the reason for each
# is beside it in `docs/flops.md`.
