"""Where runs are executed: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paper.experiments import Run
from paper.one_run import execute

Record = dict[str, Any]
RETRIES = 3
"""How often Ray starts a run again whose machine is gone; it goes on from its last checkpoint."""


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    Attributes:
        jobs: Runs at a time on this machine; a cluster decides by itself.
        threads: Threads, and CPU cores that a cluster reserves.
        gpus: GPUs that a cluster reserves; a fraction lets small networks share one.
        accelerator: Of Lightning's Trainer.
    """

    jobs: int = 1
    threads: int = 1
    gpus: float = 0.0
    accelerator: str = "cpu"


Executor = Callable[[Sequence[Run], Path, Path, Resources], Iterator[tuple[Run, Record]]]


def local(runs: Sequence[Run], folder: Path, data: Path, resources: Resources) -> Iterator[tuple[Run, Record]]:
    """Runs and their records as they end; a run that another one needs must come before it."""
    with ThreadPoolExecutor(resources.jobs) as pool:
        of_run: dict[Run, Future[Record]] = {}
        for run in runs:
            needed = of_run.get(run.needs) if run.needs is not None else None
            of_run[run] = pool.submit(_after, needed, run, folder, data, resources)
        runs_of = {future: run for run, future in of_run.items()}
        try:
            for future in as_completed(runs_of):
                yield runs_of[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _after(needed: Future[Record] | None, run: Run, folder: Path, data: Path, resources: Resources) -> Record:
    if needed is not None:
        needed.result()
    return _execute(run, folder, data, resources)


def _execute(run: Run, folder: Path, data: Path, resources: Resources) -> Record:
    return execute(run, folder / run.name, data, resources.threads, resources.accelerator)


def ray(runs: Sequence[Run], folder: Path, data: Path, resources: Resources) -> Iterator[tuple[Run, Record]]:
    """The same on the cluster that ``ray.init`` finds, or on this machine.

    All its machines must see ``folder``, ``data`` and this checkout at the same paths (a shared file system). A machine
    that is lost costs the steps since the last checkpoints of its runs.
    """
    import ray

    if not ray.is_initialized():
        ray.init()
    task = ray.remote(num_cpus=resources.threads, num_gpus=resources.gpus, max_retries=RETRIES)(_with_needed)
    of_run: dict[Run, Any] = {}
    for run in runs:
        needed = of_run.get(run.needs) if run.needs is not None else None
        of_run[run] = task.remote(needed, run, folder, data, resources)
    runs_of = {reference: run for run, reference in of_run.items()}
    pending = list(runs_of)
    while pending:
        ended, pending = ray.wait(pending)
        for reference in ended:
            yield runs_of[reference], _record(ray, reference, runs_of[reference])


def _with_needed(needed: Record | None, run: Run, folder: Path, data: Path, resources: Resources) -> Record:
    """Ray calls it when what it needs has ended."""
    return _execute(run, folder, data, resources)


def _record(ray: Any, reference: Any, run: Run) -> Record:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return {**run.columns(), "status": f"failed: {type(error).__name__}", "wall_s": 0.0}


EXECUTORS: Mapping[str, Executor] = {"local": local, "ray": ray}
