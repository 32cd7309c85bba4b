# %% [markdown]
# # Reading the artifact's results
#
# Every number that the figures show is a row of `paper/results/`. This notebook reads them; it trains nothing.

# %% jupyter={"source_hidden": true} tags=["setup"]
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import paper

# %matplotlib inline

# %%
RESULTS = Path(paper.__file__).parent / "results"
runs = pd.read_csv(RESULTS / "small.csv")
print(f"{len(runs)} runs")
runs.groupby(["benchmark", "status"]).size().to_frame("runs")

# %% [markdown]
# A row is a run: its settings, how it ended, what it cost, on which device, at which commit.

# %%
runs.iloc[[0]].T

# %% [markdown]
# ## Accuracy and training FLOPs
#
# Mean over the seeds, with the standard deviation as a bar and the training FLOPs (those of the dense network are 1) as colour. n differs
# between rows and is in the table. `read` gives the rows of declared runs, as the figures use them; `swept` marks the sweeps of mask updates.
#
# These are runs of the small scale, which fits one CPU core: here `imagenet_resnet50` is a small residual network on
# CIFAR-10 (`rigl-lightning configs` describes each). No accuracy belongs to a benchmark of the paper.

# %%
from paper.figures.data import own, read

done = own(read(RESULTS, "small"))
plain = done[~done["swept"].astype(bool)]
keys = ["benchmark", "method", "distribution", "sparsity", "multiplier"]
table = plain.groupby(keys).agg(
    accuracy=("accuracy", "mean"),
    accuracy_std=("accuracy", "std"),
    bits=("val_bits", "mean"),
    bits_std=("val_bits", "std"),
    training=("training", "mean"),
    n=("seed", "count"),
)
table = table.reset_index()
table.sort_values(["benchmark", "accuracy"], ascending=[True, False]).round(3)

# %%
from matplotlib.colors import LogNorm

UNITS = {"accuracy": "accuracy (%)", "bits": "bits per character (fewer are better)"}


def panel(rows, quantity, title):
    """Of one benchmark: a line for each method and sparsity, what lies far below the others left out."""
    rows = rows.sort_values(quantity, ascending=quantity == "accuracy")
    shown = rows[(rows[quantity] - rows[quantity].median()).abs() < 5].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(7, max(2.4, 1 + 0.2 * len(shown))), layout="constrained")
    axis.errorbar(shown[quantity], shown.index, xerr=shown[f"{quantity}_std"], fmt="none", ecolor="#999999")
    points = axis.scatter(
        shown[quantity], shown.index, c=shown["training"], cmap="viridis", norm=LogNorm(0.02, 2), zorder=3
    )
    labels = [f"{row.method} {row.distribution} {row.sparsity:.0%}" for row in shown.itertuples()]
    axis.set_yticks(shown.index, labels, fontsize=8)
    figure.colorbar(points, label="training FLOPs, dense = 1", ticks=[0.05, 0.1, 0.2, 0.5, 1], format="{x:g}")
    hidden = f"; {len(rows) - len(shown)} far away not shown" if len(rows) > len(shown) else ""
    axis.set(xlabel=UNITS[quantity])
    n = " to ".join(str(number) for number in sorted({rows["n"].min(), rows["n"].max()}))
    figure.suptitle(f"{title}, small scale, n = {n}{hidden}", fontsize=10)


def of_usual_length(rows):
    """Without the longer and shorter trainings of a benchmark."""
    return rows[
        rows["multiplier"] == rows.groupby("benchmark")["multiplier"].transform(lambda lengths: lengths.mode()[0])
    ]


for benchmark, rows in of_usual_length(table).groupby("benchmark"):
    quantity = "accuracy" if rows["accuracy"].notna().any() else "bits"
    main = rows.loc[rows["distribution"] != "", "distribution"].mode()[0]
    panel(rows[rows["distribution"].isin(["", main])], quantity, benchmark)

# %% [markdown]
# ## Paired by seed
#
# Runs of the same seed share their initial weights and the order of their data, so a paired difference is more precise than a
# difference of means.

# %%
pairs = of_usual_length(plain)
pairs = pairs[pairs["method"].isin(["RigL", "Static"])]
for (benchmark, distribution, sparsity), rows in pairs.groupby(["benchmark", "distribution", "sparsity"]):
    by_seed = rows.pivot_table(index="seed", columns="method", values="accuracy")
    if {"RigL", "Static"} <= set(by_seed):
        difference = (by_seed["RigL"] - by_seed["Static"]).dropna()
        text = ", ".join(f"{value:+.2f}" for value in difference)
        print(
            f"{benchmark}, {distribution} {sparsity:.0%}: RigL minus static {difference.mean():+.2f} points "
            f"(n = {len(difference)}: {text})"
        )

# %% [markdown]
# ## Counted against published FLOPs
#
# Counting needs no training, so all numbers are compared at the paper's own scale.

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
both.groupby(["status", "agrees"]).size().to_frame("published multipliers")

# %% [markdown]
# A published number is "contradictory" if it contradicts another published one or the paper's own formulas. The row of
# `docs/flops.md` gives the reason.
#
# ## What to try next
#
# - `paper/README.md` has the verdict on each of the paper's claims, `paper/out/table_claims.csv` all comparisons.
# - `python paper/launch.py 2 --print` prints the commands of figure 2; run one of them with another seed.
# - `docs/choosing.md` has advice that is based on these rows.
