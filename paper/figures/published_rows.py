"""Published values in the columns of own rows."""

from __future__ import annotations

import pandas as pd

PUBLISHED = "published"
"""Their scale."""
DIGITISED = "ICLR Fig. 2 left, digitised"
TABLES = ["v3 Fig. 2 table", "v3 Table 4"]
"""Of accuracies on ResNet-50."""
BENCHMARKS = {"ResNet-50": "imagenet_resnet50", "MobileNet-v1": "imagenet_mobilenet_v1", "WRN-22-2": "cifar10_wrn22"}
METHODS = {
    "GradualMagnitudePruning": "Pruning",
    "Lottery (Static)": "Lottery, static",
    "Lottery (RigL)": "Lottery, RigL",
}


def published_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a setting and source: accuracy in percent, and FLOPs relative to those of the dense network.

    Args:
        rows: Of ``published.csv``, one a quantity.
    """
    rows = rows[rows["model"].isin(BENCHMARKS)].copy()
    rows["distribution"] = rows["distribution"].fillna("")
    key = ["source", "model", "method", "distribution", "sparsity", "training_multiplier"]
    rows["value"] = pd.to_numeric(rows["published"], errors="coerce")
    # The plain reading of a number first, where there are several.
    rows = rows.sort_values("reading", na_position="first", kind="stable")
    wide = rows.pivot_table(index=key, columns="quantity", values="value", aggfunc="first").reset_index()
    wide = wide[wide["accuracy"].notna()].reset_index(drop=True)
    dense = rows[(rows["method"] == "Dense") & (rows["quantity"] == "train_flops_absolute")]
    unit = wide["model"].map(dense.groupby("model")["value"].first())
    wide["training"] = wide["train_flops"].fillna(wide["train_flops_absolute"] / unit)
    is_dense = wide["method"] == "Dense"
    # FLOPs of inference do not depend on the length of the training and are published once.
    setting = ["model", "method", "distribution", "sparsity"]
    once = rows[rows["quantity"] == "inference_flops"].groupby(setting)["value"].first().rename("once").reset_index()
    inference = wide["inference_flops"].fillna(wide[setting].merge(once, on=setting, how="left")["once"])
    return pd.DataFrame(
        {
            "scale": PUBLISHED,
            "source": wide["source"],
            "benchmark": wide["model"].map(BENCHMARKS),
            "method": wide["method"].replace(METHODS),
            "distribution": wide["distribution"],
            "sparsity": wide["sparsity"],
            "multiplier": wide["training_multiplier"],
            "accuracy": wide["accuracy"],
            "accuracy_std": wide["accuracy_std"],
            "training": wide["training"].where(~is_dense, 1.0),
            "inference": inference.where(~is_dense, 1.0),
        }
    )
