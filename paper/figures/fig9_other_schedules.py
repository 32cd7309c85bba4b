"""Figure 9: RigL with other decays of the drop fraction: constant, inverse power (k = 3), linear.

What to see: the constant decay loses accuracy as alpha grows; the linear one is close to the cosine of figure 5.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from paper.figures.data import scale_of
from paper.figures.sweeps import sweep_figure
from paper.figures.words import verdict_of

DECAYS = ("constant", "inverse power", "linear")


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Three columns, one a decay."""
    verdict = verdict_of(judged, "9", scale_of(results), 40)
    return sweep_figure(results, [("RigL", decay) for decay in DECAYS], verdict)
