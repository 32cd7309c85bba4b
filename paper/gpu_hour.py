"""An hour with a GPU, spent in order of value: what it leaves is complete at any moment it is cut off.

    python paper/gpu_hour.py --data DIR [--out gpu_hour] [--minutes 30] [--jobs 4] [--parts tests rows] [--quick]

Parts, each with half of the time that is left, the last one with all of it: ``tests`` (all marked ``gpu``),
``throughput`` (``benchmarks/throughput.py``), ``benchmark`` (``benchmarks/gpu.py``), ``rows``: WRN-22-2 and
LeNet-300-100 at the paper's own length, see `wanted`. What the parts print is in ``--out`` and on the screen. Rows are
resumed by the same command, and collected by ``python paper/collect.py --scale paper --runs gpu_hour/runs``.
``--quick`` rehearses all of it in minutes on a CPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from paper.executors import Resources
from paper.experiments import SEEDS, Run, declared
from paper.panels import WRN, lenet_table

ROOT = Path(__file__).parents[1]
PARTS = ("tests", "throughput", "benchmark", "rows")
INTERRUPTED = 130
"""Exit status of a process that was interrupted."""
SHARE = 0.5
"""Of the time that is left, what a part may take, the last one excepted."""


def wanted(scale: str) -> list[Run]:
    """Runs in order of value: figure 4 right, then LeNet-300-100, of which many fit on one GPU."""
    wide = [
        Run(WRN, "RigL", 0.9, "ERK", scale=scale),
        Run(WRN, "Dense", scale=scale),
        Run(WRN, "RigL", 0.95, "ERK", scale=scale),
    ]
    lenet = [run for seed in SEEDS for run in lenet_table(scale, seed)]
    return [*(declared(run) for run in wide), *lenet]


def command(part: str, options: argparse.Namespace) -> list[str]:
    """What a user would type for the part."""
    python, quick = [sys.executable, "-u"], ["--quick"] if options.quick else []
    if part == "tests":
        return [
            *python,
            "-m",
            "pytest",
            "tests/gpu",
            "-m",
            "gpu",
            "-v",
            "-rfE",
            "--durations=6",
            "-n",
            str(options.jobs),
        ]
    if part == "benchmark":
        rounds = ["--rounds", "3", "--least", "0.002"] if options.quick else []
        return [*python, "benchmarks/gpu.py", "--out", str(options.out / "gpu.md"), *rounds, *quick]
    if part == "throughput":
        size = ("3", "2", "16") if options.quick else ("5", "300", "128")
        names = ("--rounds", "--steps", "--batch")
        return [
            *python,
            "benchmarks/throughput.py",
            *(word for pair in zip(names, size, strict=True) for word in pair),
        ]
    places = ["--data", str(options.data), "--out", str(options.out), "--jobs", str(options.jobs)]
    return [*python, "paper/gpu_hour.py", "--runs-only", *places, "--accelerator", options.accelerator, *quick]


def run_part(part: str, options: argparse.Namespace, seconds: float) -> str:
    """Run it, with its output on the screen and in a file; how it ended."""
    line = command(part, options)
    print(f"\n== {part}: {' '.join(line)}", flush=True)
    log = options.out / f"{part}.log"
    with open(log, "w", encoding="utf-8") as file:
        # Not a pipe: a part that is cut off must leave what it has written.
        process = subprocess.Popen(line, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout=seconds)
            ended = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then says what has failed so far
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
            ended = "cut off for want of time"
    print("\n".join(log.read_text(encoding="utf-8").splitlines()[-options.shown :]), flush=True)
    return ended


def run_rows(options: argparse.Namespace) -> None:
    """Train what `wanted` lists; runs end with this process."""
    from paper.launch import launch

    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # its threads would wait for their runs
    resources = Resources(jobs=options.jobs, threads=1, accelerator=options.accelerator)
    launch(wanted("smoke" if options.quick else "paper"), options.out / "runs", options.data, resources)


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    options = argparse.ArgumentParser(description="Tests, benchmarks and rows of the paper's scale on a GPU.")
    options.add_argument("--data", type=Path, default=ROOT / "data", help="folder that holds the data sets")
    options.add_argument("--out", type=Path, default=ROOT / "gpu_hour")
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--jobs", type=int, default=4, help="tests and runs that share the GPU")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--accelerator", help="of the rows; the GPU if there is one")
    options.add_argument("--shown", type=int, default=60, help="lines of each part on the screen, its last ones")
    options.add_argument("--quick", action="store_true", help="a rehearsal at the smallest size")
    options.add_argument("--runs-only", action="store_true", help=argparse.SUPPRESS)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    options.out, options.data = options.out.resolve(), options.data.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.runs_only:
        run_rows(options)
        return
    import torch

    options.accelerator = options.accelerator or ("gpu" if torch.cuda.is_available() else "cpu")
    end = time.monotonic() + 60 * options.minutes
    for part in options.parts:
        began = time.monotonic()
        share = 1.0 if part == options.parts[-1] else SHARE
        ended = run_part(part, options, max(share * (end - began), 1.0))
        print(f"== {part}: {ended} after {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
