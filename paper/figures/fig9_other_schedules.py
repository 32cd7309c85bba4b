"""Figure 9: RigL with other decays of the drop fraction: constant, inverse power (k = 3), linear.

What to see: constant falls behind as alpha grows; linear is close to the cosine of figure 5.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from paper.figures.sweeps import sweep_figure

DECAYS = ("constant", "inverse power", "linear")


def draw(results: pd.DataFrame) -> Figure:
    """Three panels, one a decay."""
    return sweep_figure(results, [("RigL", decay) for decay in DECAYS])
