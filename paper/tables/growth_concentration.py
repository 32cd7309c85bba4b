"""Where growth goes on a narrow network: the witness beside the accuracies of grow rules.

What to see: growth by gradient magnitude gives nearly all to few output channels; random growth and the rules between
the two do not.
"""

from __future__ import annotations

import pandas as pd

from paper.tables.markdown import markdown

RESULTS = "growth_concentration.csv"
SHARES = ["share_to_top", "share_to_dead"]


def rows(results: pd.DataFrame) -> pd.DataFrame:
    """One row a method: shares of all connections that a training grew, mean and standard deviation over seeds.

    Args:
        results: Rows of the study, one an update.
    """
    counted = results.assign(**{share: results[share] * results["grown"] for share in SHARES})
    summed = counted.groupby(["method", "seed"], sort=False)[["grown", *SHARES]].sum()
    trainings = summed[SHARES].div(summed["grown"], axis=0).groupby("method", sort=False)
    table = trainings.mean().join(trainings.std().add_suffix("_std"))
    return table.assign(n=trainings.size()).reset_index()


def as_markdown(results: pd.DataFrame) -> str:
    """The same as a markdown table."""
    header = ["growth of", "to the tenth of a layer's channels that gets most", "to channels without connections", "n"]
    body = [[row.method, *(_percent(row, share) for share in SHARES), str(row.n)] for row in rows(results).itertuples()]
    return markdown(header, body)


def _percent(row: object, share: str) -> str:
    return f"{100 * getattr(row, share):.0f} ± {100 * getattr(row, share + '_std'):.0f} %"
