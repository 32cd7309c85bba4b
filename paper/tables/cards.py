"""What each method reached, for its card in the documentation.

What to see: the method, its baselines, and the dense and the static network of the same protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from paper.tables.methods import as_markdown

# Card -> methods of the table of accuracies, the card's own first.
CARDS = {
    "ACDC": ["ACDC"],
    "AnnealedTopK": ["Annealed top-k"],
    "CHTs": ["CHTs", "CHTss", "SET"],
    "DNW": ["DNW"],
    "DSR": ["DSR"],
    "DeepR": ["DeepR"],
    "Dense": ["Small-Dense"],
    "GraNet": ["GraNet"],
    "GraSP": ["GraSP"],
    "GradualMagnitudePruning": ["Pruning"],
    "LotteryTicket": ["Lottery, static", "Lottery, RigL", "RigL"],
    "MEST": ["MEST", "SET"],
    "OneShotMagnitude": ["One-shot"],
    "RigL": ["RigL", "RigL, ramp", "RigL, scaled init", "RigL, rate by density", "RigL, blocks 2x4", "SRigL"],
    "RigLITOP": ["RigL-ITOP", "RigL"],
    "SET": ["SET"],
    "SETITOP": ["SET-ITOP", "SET"],
    "SNFS": ["SNFS"],
    "SNIP": ["SNIP"],
    "SRSTE": ["SR-STE, unstructured", "DNW"],
    "Static": [],
    "TopKAST": ["Top-KAST"],
}


def measured(accuracies: pd.DataFrame, docs: Path) -> dict[Path, dict[str, str]]:
    """The part ``measured`` of every card: its rows of `methods.rows`, and those of dense and static training."""
    return {docs / "cards" / f"{card}.md": {"measured": _measured(accuracies, own)} for card, own in CARDS.items()}


def _measured(accuracies: pd.DataFrame, own: Sequence[str]) -> str:
    """The rows of a card, below a line that says so if the card's own method has none."""
    table = as_markdown(accuracies[accuracies["method"].isin([*own, "Dense", "Static"])])
    if not own or own[0] in set(accuracies["method"]):
        return table
    return f"{own[0]} has not been run with this protocol; the table has its baselines.\n\n{table}"
