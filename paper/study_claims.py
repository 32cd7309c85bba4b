"""Claims about figure 6, on the rows of ``studies/loss_landscape.py``: barriers between solutions, and the escape."""

from __future__ import annotations

import pandas as pd

from paper.comparisons import Claim
from paper.judged import Measured

LANDSCAPE, ESCAPE = "loss_landscape.csv", "escape.csv"
LINE, DENSE = "linear", "dense quadratic"
SPARSE = ("sparse quadratic", "sparse cubic")
FINAL_SHARE = 0.1
"""Share of the training whose losses are averaged to the final one."""

ON_CURVES = Claim("6 left", "The barrier of the training loss is lower on curves than on the line.", ())
THROUGH_DENSE = Claim("6 left", "It is lower through the dense space than on sparse curves.", ())
LEAVES = Claim(
    "6 right", "RigL, started from the static solution, ends at a lower training loss than Static started there.", ()
)


def measured(landscape: pd.DataFrame, escape: pd.DataFrame) -> list[Measured]:
    """The comparisons; without rows they have no pairs.

    Args:
        landscape: seed, curve, t in [0, 1] and loss (nats).
        escape: seed, method, step and train_loss (nats).
    """
    barrier = barriers(landscape)
    return [
        *(_nats(ON_CURVES, f"linear over {c}", _less(barrier, c, LINE)) for c in (*SPARSE, DENSE)),
        *(_nats(THROUGH_DENSE, f"{c} over {DENSE}", _less(barrier, DENSE, c)) for c in SPARSE),
        _nats(LEAVES, "final loss, Static over RigL", _less(final_losses(escape), "RigL", "Static")),
    ]


def _nats(claim: Claim, name: str, differences: pd.Series) -> Measured:
    return Measured(claim, name, "nats", differences)


def _less(table: pd.DataFrame, less: str, more: str) -> pd.Series:
    """How much less one column is than another, by seed."""
    if less not in table or more not in table:
        return pd.Series(dtype=float)
    return (table[more] - table[less]).dropna()


def barriers(landscape: pd.DataFrame) -> pd.DataFrame:
    """Highest loss on a curve above the higher of its ends: a row a seed, a column a curve."""
    if not len(landscape):
        return pd.DataFrame()
    by_curve = landscape.sort_values("t").groupby(["seed", "curve"])["loss"]
    ends = pd.concat([by_curve.first(), by_curve.last()], axis=1).max(axis=1)
    return (by_curve.max() - ends).unstack()


def final_losses(escape: pd.DataFrame) -> pd.DataFrame:
    """Mean training loss of the last tenth of the steps: a row a seed, a column a method."""
    if not len(escape):
        return pd.DataFrame()
    last = escape[escape["step"] > (1 - FINAL_SHARE) * escape["step"].max()]
    return last.groupby(["seed", "method"])["train_loss"].mean().unstack()
