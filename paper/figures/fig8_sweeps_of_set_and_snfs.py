"""Figure 8: the cosine sweep of Delta T and alpha for SET and SNFS, as figure 5 for RigL.

What to see: the best intervals and fractions of the other two methods; large fractions are best with long intervals.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from paper.figures.sweeps import sweep_figure


def draw(results: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Two columns: SET and SNFS. No claim is tested on them."""
    return sweep_figure(results, [("SET", "cosine"), ("SNFS", "cosine")])
