"""Every claim with its verdict: one line each in pages, one row a comparison in ``table_claims.csv``.

What to see: how many claims hold, are refuted, or are inconclusive, and by how many runs more these could be decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from paper.judged import Judged
from paper.tables.markdown import markdown
from paper.verdicts import HOLDS, INCONCLUSIVE, NO_DIFFERENCE, REFUTED, TOO_FEW, of_claim

KEY = ["scale", "figure", "claim"]
VERDICTS = (HOLDS, REFUTED, NO_DIFFERENCE, INCONCLUSIVE, TOO_FEW)
ORDINALS = ("first", "second", "third")
COLUMNS = [
    *KEY,
    "source",
    "claim_verdict",
    "comparison",
    "verdict",
    "effect",
    "interval",
    "unit",
    "spread",
    "n",
    "p_corrected",
    "comparisons_of_figure",
    "n_needed",
    "level",
    "test",
    "training_flops",
    "training_flops_compared",
]


def rows(judged: Mapping[str, Sequence[Judged]]) -> pd.DataFrame:
    """One row a comparison: `COLUMNS`.

    Effects are in the direction of the claim; the training FLOPs of both sides are relative to the dense network's.

    Args:
        judged: By scale.
    """
    found = [_row(scale, j) for scale, of_scale in judged.items() for j in of_scale]
    table = pd.DataFrame(found, columns=COLUMNS)
    if len(table):
        table["claim_verdict"] = table.groupby(KEY, sort=False)["verdict"].transform(lambda v: of_claim(list(v)))
    return table


def _row(scale: str, judged: Judged) -> dict[str, Any]:
    m, o = judged.measured, judged.outcome
    better, worse = m.flops
    return {
        "scale": scale,
        "figure": m.claim.figure,
        "claim": m.claim.sentence,
        "source": m.claim.source,
        "comparison": m.name,
        "verdict": o.verdict,
        "effect": o.effect,
        "interval": o.interval,
        "unit": m.unit,
        "spread": o.spread,
        "n": o.n,
        "p_corrected": o.p if o.verdict != TOO_FEW else math.nan,
        "comparisons_of_figure": o.comparisons,
        "n_needed": o.needed,
        "level": o.level,
        "test": ORDINALS[m.test - 1],
        "training_flops": better,
        "training_flops_compared": worse,
    }


def verdicts(table: pd.DataFrame) -> pd.Series:
    """Verdict of each claim, by `KEY`."""
    return table.groupby(KEY, sort=False)["claim_verdict"].first()


def counts(found: pd.Series) -> str:
    """How many claims have which verdict, in words.

    >>> counts(pd.Series([HOLDS, HOLDS, INCONCLUSIVE]))
    '2 hold, 0 are refuted, 1 is inconclusive'
    >>> counts(pd.Series([HOLDS, TOO_FEW]))
    '1 holds, 0 are refuted, 0 are inconclusive, 1 lacks runs'
    """
    n = {verdict: int((found == verdict).sum()) for verdict in VERDICTS}
    be = {verdict: "is" if count == 1 else "are" for verdict, count in n.items()}
    text = f"{n[HOLDS]} {'holds' if n[HOLDS] == 1 else 'hold'}, {n[REFUTED]} {be[REFUTED]} refuted, "
    text += f"{n[NO_DIFFERENCE]} {be[NO_DIFFERENCE]} level, " if n[NO_DIFFERENCE] else ""
    text += f"{n[INCONCLUSIVE]} {be[INCONCLUSIVE]} inconclusive"
    return text + (f", {n[TOO_FEW]} {'lacks' if n[TOO_FEW] == 1 else 'lack'} runs" if n[TOO_FEW] else "")


def as_markdown(table: pd.DataFrame) -> str:
    """One row a claim, with the comparison that decides its verdict."""
    body = [
        [figure, sentence, f"**{of_one['claim_verdict'].iloc[0]}**", main_effect(of_one)]
        for (_, figure, sentence), of_one in table.groupby(KEY, sort=False)
    ]
    return markdown(["figure", "claim", "verdict", "main effect, ± 95 % interval"], body)


def main_effect(of_claim: pd.DataFrame) -> str:
    """The comparison that decides: the clearest one against the claim, else the least clear one for it."""
    verdict = of_claim["claim_verdict"].iloc[0]
    deciding = of_claim[of_claim["verdict"] == verdict]
    if verdict == TOO_FEW:
        return f"{int(deciding['n'].min())} pairs of runs so far"
    clear = (deciding["effect"].abs() / deciding["spread"]).fillna(math.inf)
    row = deciding.loc[clear.idxmax() if verdict == REFUTED else clear.idxmin()]
    parts = [f"{row['comparison']}: {effect(row)}"]
    if len(of_claim) > 1:
        parts.append(f"{int((of_claim['verdict'] == HOLDS).sum())} of {len(of_claim)} comparisons hold")
    if verdict == INCONCLUSIVE:
        needed = deciding["n_needed"].max()
        parts.append("no number of runs would do" if needed != needed else f"would need n = {needed:,.0f}")
    return "; ".join(parts)


def effect(row: Any) -> str:
    """Effect, interval, unit and n of a row of `rows`, in words; both numbers end with the interval's second digit."""
    half = row["interval"]
    known = half is not None and half > 0
    decimals = max(1 - math.floor(math.log10(half)), 0) if known else 3
    interval = f" ± {half:.{decimals}f}" if half is not None and half == half else ""
    seeds = ", new seeds" if row["test"] != ORDINALS[0] else ""
    margin = f"; less than {row['level']:g} apart" if row["verdict"] == NO_DIFFERENCE else ""
    return f"{row['effect']:+.{decimals}f}{interval} {row['unit']} (n = {row['n']}{seeds}){margin}"
