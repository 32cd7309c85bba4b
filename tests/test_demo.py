"""The demo of README: a row for each method, and a picture."""

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


def test_the_demo_prints_a_row_for_each_method_and_leaves_a_picture(tmp_path):
    command = [sys.executable, str(DEMO), "--seeds", "2", "--epochs", "1", "--out", str(tmp_path / "out")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    rows = [line.split() for line in shown.splitlines() if line.startswith(("Dense ", "Static ", "RigL "))]
    assert {name: density for name, _, _, _, _, density, _, _ in rows} == {
        "Dense": "1.000",
        "Static": "0.050",
        "RigL": "0.050",
    }
    assert {row[-1] for row in rows} == {"2"}  # n
    assert (tmp_path / "out" / "demo.png").stat().st_size > 0
