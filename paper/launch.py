"""Run what is missing: local processes or a Ray cluster, resumable after a kill.

    python paper/launch.py 2 10 methods [--scale small] [--data DIR] [--jobs 2] [--threads 1] [--runs runs/paper]
    python paper/launch.py all --executor ray --threads 2 --gpus 0.25   (on a cluster, or this machine)
    python paper/launch.py all --print                                  (the plain commands, for job arrays)

Figures go by number, tables by name. A run that is complete is not run again; one that was interrupted goes on from its
last checkpoint. A run that fails leaves the end of its output in its folder, becomes a row that says so, is tried
again by the next launch, and does not stop the others.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import signal
import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from paper.claims import claims, runs_again
from paper.claims import runs as claim_runs
from paper.executors import EXECUTORS, Resources
from paper.experiments import CLAIM_SEEDS, SEEDS, Run
from paper.one_run import arguments, is_done
from paper.panels import FIGURES, TABLES, all_runs, runs_of
from paper.protocols import PROTOCOLS

ROOT = Path(__file__).parents[1]
BAR_WIDTH = 30
TERMINATED = 143
"""Exit status of a process that SIGTERM ended."""


def launch(
    runs: Sequence[Run],
    folder: Path,
    data: Path,
    resources: Resources,
    executor: str = "local",
    collected: Collection[str] = (),
) -> int:
    """Run what is not done; returns the number of failures.

    Args:
        runs: Wanted, in this order. The checkpoint that another run begins with is made, too, if it is not there.
        folder: Where runs keep their files.
        data: Folder that holds the data sets.
        resources: What a run may use.
        executor: Key of `EXECUTORS`.
        collected: Identities of runs whose rows are there already, wherever they ran.
    """
    wanted = [run for run in runs if not (run.identity in collected or is_done(folder / run.name))]
    with_needed = [r for run in wanted for r in (run.needs, run) if r is not None]
    missing = [run for run in dict.fromkeys(with_needed) if not is_done(folder / run.name)]
    print(f"{len(runs) - len(wanted)} of {len(runs)} runs are done, {len(missing)} to go", flush=True)
    progress = Progress(missing, resources.jobs)
    failures = 0
    for run, record in EXECUTORS[executor](missing, folder, data, resources):
        failures += record["status"] != "done"
        print(progress.line(run, record), flush=True)
    return failures


class Progress:
    """How many runs are done, and how long the others will take.

    Args:
        runs: All that are to be run.
        jobs: How many run at a time.
    """

    def __init__(self, runs: Sequence[Run], jobs: int) -> None:
        self.left = dict.fromkeys(runs)
        self.n_runs = len(runs)
        self.jobs = jobs
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def line(self, run: Run, record: dict[str, Any]) -> str:
        """Count a run that has ended; what to print about it."""
        self.left.pop(run, None)
        self.seconds[run.benchmark].append(record["wall_s"] / run.length)
        n_done = self.n_runs - len(self.left)
        filled = BAR_WIDTH * n_done // max(self.n_runs, 1)
        bar = "#" * filled + "-" * (BAR_WIDTH - filled)
        took = f"{record['wall_s']:6.0f} s  {record['status']}  {run.name}"
        return f"[{bar}] {n_done}/{self.n_runs}  {self.minutes_left():.0f} min left  {took}"

    def minutes_left(self) -> float:
        """By the mean time of each benchmark's runs so far, their lengths considered."""
        means = {benchmark: sum(seconds) / len(seconds) for benchmark, seconds in self.seconds.items()}
        unseen = sum(means.values()) / max(len(means), 1)
        seconds = sum(means.get(run.benchmark, unseen) * run.length for run in self.left)
        return seconds / 60 / self.jobs


def identities(results: Path) -> set[str]:
    """Of the complete runs that have rows in the file; none if there is no file."""
    if not results.is_file():
        return set()
    with open(results, encoding="utf-8", newline="") as lines:
        return {row["config_hash"] for row in csv.DictReader(lines) if row["status"] == "done"}


def selected(what: Sequence[str], scale: str, seeds: Sequence[int] | None = None) -> list[Run]:
    """Runs of the figures and tables with these numbers and names.

    Args:
        what: Numbers and names; "claims" for what the claims rest on, "again" for their later tests, "all" for these
            and everything else.
        scale: Key of `PROTOCOLS`.
        seeds: Of the runs; by default those of claims for claims, and of figures for the rest.

    Raises:
        ValueError: If there is no such figure or table.
    """
    of_claims = claim_runs(claims(scale), seeds or CLAIM_SEEDS) if {"all", "claims"} & set(what) else []
    panels = {**{str(number): panel for number, panel in FIGURES.items()}, **TABLES}
    later = runs_again(claims(scale)) if {"all", "again"} & set(what) else []
    unknown = [name for name in what if name not in (*panels, "all", "claims", "again")]
    if unknown:
        raise ValueError(f"Expected 'all', 'claims', 'again' or some of {', '.join(panels)}, got {', '.join(unknown)}.")
    named = [panels[name] for name in what if name in panels]
    others = all_runs(scale, seeds or SEEDS) if "all" in what else runs_of(named, scale, seeds or SEEDS)
    return list(dict.fromkeys([*of_claims, *others, *later]))


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Run what figures, tables and claims lack.")
    parser.add_argument("what", nargs="+", help="numbers of figures, names of tables, claims, again, or all")
    parser.add_argument("--scale", default="small", choices=sorted(PROTOCOLS))
    parser.add_argument("--seeds", type=int, nargs="+", help="10 to 12, of claims 10 to 14 unless given")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder that holds the data sets")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper", help="where runs keep their files")
    parser.add_argument("--results", type=Path, default=ROOT / "paper" / "results", help="what has a row here is done")
    parser.add_argument("--executor", choices=sorted(EXECUTORS), default="local")
    parser.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) // 2, 1), help="local runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--accelerator", help="of Lightning's Trainer: cpu, gpu, ...; gpu with --gpus, else cpu")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs, or the share of one, that ray gives each run")
    parser.add_argument("--print", action="store_true", help="only print the commands")
    return parser


def resources_of(options: argparse.Namespace) -> Resources:
    """What the command line gives each run: with ``--gpus`` it computes on the GPU unless told otherwise."""
    accelerator = options.accelerator or ("gpu" if options.gpus else "cpu")
    return Resources(options.jobs, options.threads, options.gpus, accelerator)


def main() -> None:
    options = parser().parse_args()
    resources = resources_of(options)
    try:
        runs = selected(options.what, options.scale, options.seeds)
    except ValueError as error:
        parser().error(str(error))
    if options.print:
        for run in runs:
            command = arguments(run, options.runs / run.name, options.data, resources.accelerator)
            print("python -m rigl_lightning", shlex.join(command))
        return
    collected = identities(options.results / f"{options.scale}.csv")
    # At once: the threads would wait for their runs, which end with their launcher (`one_run`).
    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))
    places = options.runs.resolve(), options.data.resolve()
    sys.exit(1 if launch(runs, *places, resources, options.executor, collected) else 0)


if __name__ == "__main__":
    main()
