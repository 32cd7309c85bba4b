"""Verdicts in one minute: the first sentences of pages."""

from __future__ import annotations

import pandas as pd

from paper.tables.claims import VERDICTS, counts, verdicts
from paper.tables.methods import frontier
from paper.verdicts import HOLDS

AT_LENGTH = "paper"
LAYER_SPARSITIES = {
    "appendix": ("RigL", "the layer sparsities of the paper's appendix B"),
    "appendix, RigL+": ("RigL+", "those that the appendix gives for RigL+"),
}
"""Names of distributions in the rows: of the published row, and as a sentence has them."""


def sentences(claims: pd.DataFrame, multipliers: str) -> str:
    """Three: how many claims hold, at which scale they are judged, and how many published FLOPs are met.

    Args:
        claims: Rows of `paper.tables.claims.rows`.
        multipliers: `paper.tables.flops.multipliers_in_words`.
    """
    found = verdicts(claims)
    at_length = found[found.index.get_level_values("scale") == AT_LENGTH]
    small = found[found.index.get_level_values("scale") != AT_LENGTH]
    where = (
        f"{len(small)} are judged at the small scale (small-scale models of the paper's networks, real data, minutes a "
        f"run): {counts(small)}; {len(at_length)} at the paper's own length (LeNet-300-100 on MNIST, 200 epochs): "
        f"{counts(at_length)}; none on ImageNet."
    )
    reasons = "[docs/flops.md](../docs/flops.md) has the reasons."
    return f"1. Of {len(found)} claims {counts(found)}.\n2. {where}\n3. {multipliers}: {reasons}\n"


def exceptions(claims: pd.DataFrame) -> str:
    """The claims that do not hold, by verdict, each with its figure.

    Args:
        claims: Rows of `paper.tables.claims.rows`.
    """
    found = verdicts(claims)
    lines = []
    for verdict in VERDICTS:
        named = [f"{sentence.rstrip('.')} ({figure})" for _, figure, sentence in found.index[found == verdict]]
        if named and verdict != HOLDS:
            lines.append(f"- {verdict.capitalize()}: {'; '.join(named)}.\n")
    return "".join(lines) or "None.\n"


def claims_in_words(claims: pd.DataFrame) -> str:
    """The first of the `sentences`, for the README of the package."""
    return f"Of {len(verdicts(claims))} claims {counts(verdicts(claims))}.\n"


def frontier_in_words(accuracies: pd.DataFrame) -> str:
    """Which methods no other one beats at equal or lower cost.

    Args:
        accuracies: Rows of `paper.tables.methods.rows`.
    """
    if not len(accuracies):
        return "No runs yet.\n"
    best = [f"{row.method} {row.accuracy:.1f} % at {row.training:.3g}" for row in frontier(accuracies).itertuples()]
    return f"Accuracy and training FLOPs (dense = 1) of these methods: {'; '.join(best)}.\n"


def at_length_in_words(lenet: pd.DataFrame) -> str:
    """What was reached at the paper's own length, and what was published.

    Args:
        lenet: Rows of `paper.tables.lenet.rows`.
    """
    ours = lenet[lenet["source"] == "ours"]
    if not len(ours):
        return "No run at the paper's length has a row yet.\n"
    published = lenet[lenet["source"] == "published"].set_index("method")["error"]
    rigl = ours[ours["method"] == "RigL"].set_index("distribution")
    errors = [
        f"{rigl['error'][name]:.2f} % with {words} (n = {rigl['n'][name]:g}; the paper has {published[theirs]:.2f} %)"
        for name, (theirs, words) in LAYER_SPARSITIES.items()
        if name in rigl.index
    ]
    found = ", ".join(errors) or "not measured yet"
    return (
        f"LeNet-300-100 on MNIST at the paper's length of 200 epochs, test error of RigL: {found}. "
        "All methods: `paper/README.md`.\n"
    )
