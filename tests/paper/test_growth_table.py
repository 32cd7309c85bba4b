"""Where growth goes: shares of whole trainings, by updates of known size."""

import pandas as pd
import pytest

from paper.tables.growth_concentration import as_markdown, rows

UPDATES = pd.DataFrame(
    [
        {"method": "RigL", "seed": 1, "grown": 30, "share_to_top": 1.0, "share_to_dead": 0.5},
        {"method": "RigL", "seed": 1, "grown": 10, "share_to_top": 0.2, "share_to_dead": 0.1},
        {"method": "RigL", "seed": 2, "grown": 5, "share_to_top": 0.6, "share_to_dead": 0.2},
        {"method": "SET", "seed": 1, "grown": 20, "share_to_top": 0.2, "share_to_dead": 0.0},
        {"method": "SET", "seed": 2, "grown": 20, "share_to_top": 0.3, "share_to_dead": 0.0},
    ]
)


def test_updates_weigh_as_much_as_they_grow():
    table = rows(UPDATES).set_index("method")
    assert table.loc["RigL", "share_to_top"] == pytest.approx(((30 + 2) / 40 + 0.6) / 2)
    assert table.loc["RigL", "share_to_dead"] == pytest.approx(((15 + 1) / 40 + 0.2) / 2)
    assert table.loc["RigL", "share_to_dead_std"] == pytest.approx(0.2 / 2**0.5)
    assert table["n"].tolist() == [2, 2]


def test_the_table_shows_percent():
    assert "| SET | 25 ± 7 % | 0 ± 0 % | 2 |" in as_markdown(UPDATES)
