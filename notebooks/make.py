"""Makes the notebooks of their sources: every ``NN_name.py`` is executed and becomes ``NN_name.ipynb`` with its output.

    python notebooks/make.py [--check] [NAME ...]

With ``--check`` they are executed and nothing is written. One that takes longer than two minutes is an error.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient

from rigl_lightning.base.files import write_text

HERE = Path(__file__).parent
LIMIT = 120  # seconds, for one notebook


def execute(source: Path, folder: str) -> tuple[object, float]:
    """The executed notebook of a source, and the seconds of processor time it took."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # else random, and another one every time
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    start = _children()
    client = NotebookClient(
        notebook, timeout=10 * LIMIT, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)
    return notebook, _children() - start


def changed(before: Any, after: Any) -> list[int]:
    """Numbers of the cells whose printed output is another one."""
    pairs = enumerate(zip(before.cells, after.cells, strict=False), 1)
    return [number for number, (old, new) in pairs if _text(old) != _text(new)]


def _text(cell: Any) -> str:
    outputs = cell.get("outputs", [])
    return "".join(str(out.get("text", "")) + str(out.get("data", {}).get("text/plain", "")) for out in outputs)


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute the notebooks, and write them.")
    parser.add_argument("names", nargs="*", help="beginnings of names; all if none is given")
    parser.add_argument("--check", action="store_true", help="execute only")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's, without ipywidgets; it names a path
    slow = []
    for source in sorted(HERE.glob("[0-9]*.py")):
        if options.names and not source.name.startswith(tuple(options.names)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            notebook, seconds = execute(source, folder)
        print(f"{source.name}: {time.perf_counter() - start:.0f} s, {seconds:.0f} s of processor time", flush=True)
        slow += [source.name] if seconds > LIMIT else []
        committed = source.with_suffix(".ipynb")
        if committed.is_file() and (cells := changed(jupytext.read(committed), notebook)):
            print(f"  output differs from the file in cells {cells} (timings do, and rounding on another processor)")
        if not options.check:
            write_text(source.with_suffix(".ipynb"), jupytext.writes(notebook, fmt="ipynb").rstrip("\n") + "\n")
    if slow:
        sys.exit(f"more than {LIMIT} s: {', '.join(slow)}")


if __name__ == "__main__":
    main()
