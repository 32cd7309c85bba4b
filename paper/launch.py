"""Run what is missing: local processes with one thread each, resumable after a kill.

    python paper/launch.py methods [--scale small] [--data DIR] [--jobs 2] [--runs runs] [--print]

A run that is complete is not run again; one that was interrupted goes on from its last checkpoint. A run that fails
leaves the end of its output in its folder and does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for `python paper/launch.py`

from paper.experiments import TABLES, Run

DONE = "run.json"


def arguments(run: Run, folder: Path, data: Path) -> list[str]:
    """Arguments of ``python -m rigl_lightning`` for a run that keeps everything in ``folder``."""
    logger = "--trainer.logger.init_args"
    place = [f"{logger}.save_dir={folder}", f"{logger}.name=", f"{logger}.version=log", f"--data.init_args.root={data}"]
    checkpoints = [f"--trainer.callbacks.init_args.dirpath={folder}"]
    last = folder / "last.ckpt"
    # Runs of one launch have their folders beside each other.
    other = folder.parents[2] / run.needs.name if run.needs is not None else None
    resume = [f"--ckpt_path={last}"] if last.is_file() else []
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    ticket = [f"--sparse.algorithm.checkpoint={other / 'last.ckpt'}"] if other is not None else []
    return ["fit", *run.settings(), *ticket, *place, *checkpoints, *quiet, *resume]


def execute(run: Run, folder: Path, data: Path) -> dict[str, Any]:
    """Run it to the end; the record of how it went, which is also left in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    process = _processes().Process(target=_train, args=(arguments(run, folder, data), folder / "output.txt"))
    process.start()
    process.join()
    record = {
        **run.columns(),
        "status": "done" if process.exitcode == 0 else f"failed with exit status {process.exitcode}",
        "wall_s": round(time.time() - start, 1),
        "device": "cpu, 1 thread",
        "commit": _commit(),
    }
    if process.exitcode == 0:
        (folder / DONE).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def _processes() -> Any:
    # A server that has imported everything once forks the process of each run: imports take longer than a short run.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["paper.launch", "rigl_lightning.cli"])
    return context


def _train(arguments: list[str], output: Path) -> None:
    with open(output, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    import torch

    from rigl_lightning.cli import main as rigl_lightning

    torch.set_num_threads(1)
    rigl_lightning(arguments)


def is_done(folder: Path) -> bool:
    """Whether the run that keeps its files here has come to its end."""
    return (folder / DONE).is_file()


def launch(runs: list[Run], folder: Path, data: Path, jobs: int) -> int:
    """Run what is not done, some at a time; returns the number of failures."""
    needed = [run.needs for run in runs if run.needs is not None]
    missing = [run for run in dict.fromkeys([*needed, *runs]) if not is_done(folder / run.name)]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are done, {len(missing)} to go", flush=True)
    start, failures = time.time(), 0
    with ThreadPoolExecutor(jobs) as pool:
        futures: dict[Future[dict[str, Any]], Run] = {}
        of_run: dict[Run | None, Future[dict[str, Any]]] = {}
        for run in sorted(missing, key=lambda run: run.needs is not None):  # what is needed is submitted first
            of_run[run] = pool.submit(_after, of_run.get(run.needs), run, folder / run.name, data)
            futures[of_run[run]] = run
        for n_done, future in enumerate(as_completed(futures), start=1):
            record = future.result()
            failures += record["status"] != "done"
            left = (time.time() - start) / n_done * (len(missing) - n_done)
            print(
                f"{n_done}/{len(missing)}  {record['wall_s']:6.0f} s  {record['status']}  {futures[future].name}  "
                f"({left / 60:.0f} min left)",
                flush=True,
            )
    return failures


def _after(needed: Future[dict[str, Any]] | None, run: Run, folder: Path, data: Path) -> dict[str, Any]:
    if needed is not None:
        needed.result()
    return execute(run, folder, data)


def _commit() -> str:
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return result.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Run what a figure or table lacks.")
    parser.add_argument("what", choices=sorted(TABLES))
    parser.add_argument("--scale", default="small")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder that holds the data sets")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper", help="where runs keep their files")
    parser.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) // 2, 1))
    parser.add_argument("--print", action="store_true", help="only print the commands")
    options = parser.parse_args()
    runs = TABLES[options.what](options.scale)
    if options.print:
        for run in runs:
            print("python -m rigl_lightning", shlex.join(arguments(run, options.runs / run.name, options.data)))
        return
    sys.exit(1 if launch(runs, options.runs, options.data.resolve(), options.jobs) else 0)


if __name__ == "__main__":
    main()
