"""What `adam_warm_up` changes: first steps of grown connections, loss around mask updates, loss at the end.

What to see: the first steps are what the formula says, and neither the loss around updates nor at the
end is better for it.
"""

from __future__ import annotations

import pandas as pd

from paper.tables.markdown import markdown

RESULTS = "adam_warm_up.csv"
AS_THE_AUTHORS = "none"
MEASURED = ["first_step_median", "first_step_p99", "jump_mean", "jump_worst", "val_loss"]


def rows(results: pd.DataFrame) -> pd.DataFrame:
    """One row a task and setting: means over the seeds that have all settings, and the paired difference of the loss.

    Args:
        results: Rows of the study; an empty ``adam_warm_up`` is none.
    """
    named = results.assign(adam_warm_up=[_name(value) for value in results["adam_warm_up"]])
    n_settings = named["adam_warm_up"].nunique()
    whole = named.groupby(["task", "seed"])["steps"].transform("size") == n_settings
    named = named[whole]
    plain = named[named["adam_warm_up"] == AS_THE_AUTHORS].set_index(["task", "seed"])["val_loss"]
    paired = [row.val_loss - plain[row.task, row.seed] for row in named.itertuples()]
    grouped = named.assign(paired=paired).groupby(["task", "adam_warm_up"], sort=False)
    table = grouped[MEASURED].mean()
    return table.join(grouped["paired"].agg(paired="mean", paired_std="std")).assign(n=grouped.size()).reset_index()


def as_markdown(results: pd.DataFrame) -> str:
    """The same as a markdown table; steps in learning rates, losses in nats a byte."""
    header = [
        *("network", "`adam_warm_up`", "first step, median", "99th percentile", "loss after - before", "worst update"),
        *("validation loss", "difference to none", "n"),
    ]
    body = [
        [
            *(row.task, row.adam_warm_up, f"{row.first_step_median:.2f}", f"{row.first_step_p99:.2f}"),
            *(f"{row.jump_mean:+.3f}", f"{row.jump_worst:+.3f}", f"{row.val_loss:.3f}"),
            "" if row.adam_warm_up == AS_THE_AUTHORS else f"{row.paired:+.3f} ± {row.paired_std:.3f}",
            str(row.n),
        ]
        for row in rows(results).itertuples()
    ]
    return markdown(header, body)


def _name(value: float) -> str:
    return AS_THE_AUTHORS if pd.isna(value) else f"{value:g}"
