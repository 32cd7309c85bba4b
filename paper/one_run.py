"""One run from its command to the record it leaves in its folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paper.experiments import Run

ROOT = Path(__file__).parents[1]
RECORD = "run.json"
PRELOADED = (
    "rigl_lightning.cli.app",
    "rigl_lightning.modules",
    "rigl_lightning.models",
    "rigl_lightning.data",
    "timm.models.efficientnet",
)
LOG = "log"
RESUME = "--ckpt_path"
PARTS = ("train/", "val/")  # what metrics' names begin with


def arguments(run: Run, folder: Path, data: Path, accelerator: str = "cpu") -> list[str]:
    """Arguments of ``python -m rigl_lightning`` for a run that keeps everything in ``folder``."""
    logger = "--trainer.logger.init_args"
    place = [f"{logger}.save_dir={folder}", f"{logger}.name=", f"{logger}.version={LOG}"]
    if run.protocol.data is not None:
        place.append(f"--data.init_args.root={data / run.protocol.data}")
    checkpoints = [f"--trainer.callbacks.init_args.dirpath={folder}"]
    last = last_checkpoint(folder)
    # Runs of one launch have their folders beside each other.
    other = folder.parents[2] / run.needs.name if run.needs is not None else None
    resume = [f"{RESUME}={last}"] if last is not None else []
    quiet = ["--trainer.enable_progress_bar=false", f"--trainer.accelerator={accelerator}"]
    # Sparse kernels change results by rounding only, but whether they are taken would depend on the machine.
    quiet += ["--sparse.compute=dense"]
    ticket = [f"--sparse.algorithm.checkpoint={other / 'last.ckpt'}"] if other is not None else []
    return ["fit", *run.settings(), *ticket, *place, *checkpoints, *quiet, *resume]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest of the last checkpoints that a run has left, by whichever of its callbacks; None if there is none."""
    return max(folder.rglob("last.ckpt"), key=lambda file: file.stat().st_mtime, default=None)


def execute(run: Run, folder: Path, data: Path, threads: int = 1, accelerator: str = "cpu") -> dict[str, Any]:
    """Run it to the end; the record of how it went, which is also left in the folder.

    ``wall_s`` is the time of this attempt; an interrupted run has had others before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    command = arguments(run, folder, data, accelerator)
    process = _processes().Process(target=_train, args=(command, folder, threads))
    process.start()
    try:
        process.join()
    except BaseException:
        process.terminate()
        raise
    record = {
        **run.columns(),
        "status": "done" if process.exitcode == 0 else f"failed with exit status {process.exitcode}",
        "wall_s": round(time.time() - start, 1),
        "device": _device(accelerator, threads),
        "commit": _commit(),
        "versions": _versions(),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def is_done(folder: Path) -> bool:
    """Whether the run that keeps its files here has come to its end, and well."""
    record = folder / RECORD
    return record.is_file() and json.loads(record.read_text(encoding="utf-8"))["status"] == "done"


def _processes() -> Any:
    # A server that has imported everything once forks the process of each run: imports take longer than a short run.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["paper.one_run", *PRELOADED])
    return context


def _train(arguments: Sequence[str], folder: Path, threads: int) -> None:
    end_with_launcher()
    with open(folder / "output.txt", "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    import torch

    from rigl_lightning.cli.app import main as rigl_lightning

    torch.set_num_threads(threads)
    rigl_lightning(arguments)
    if not _is_validated(folder / LOG):  # it was interrupted after its last step, before its validation
        settings = [a for a in arguments[1:] if not a.startswith(RESUME)]
        rigl_lightning(["validate", *settings, f"{RESUME}={last_checkpoint(folder)}"])


def _is_validated(log: Path) -> bool:
    """Whether no training step was logged after the last validation."""
    from rigl_lightning.trainer.csv_logger import METRICS_FILE, read_rows

    rows = read_rows(log / METRICS_FILE)
    trained, validated = ([int(row["step"]) for row in rows if any(k.startswith(part) for k in row)] for part in PARTS)
    return max(validated, default=-1) >= max(trained, default=0)


def end_with_launcher() -> None:
    """From now on this process ends when the one that started it does, which may be killed.

    Otherwise it would go on writing into the folder that the next launch gives to another process.
    """
    launcher = multiprocessing.parent_process()
    if launcher is not None:
        threading.Thread(target=_wait_for_end, args=(launcher,), daemon=True).start()


def _wait_for_end(process: Any) -> None:
    process.join()
    os._exit(1)


def _device(accelerator: str, threads: int) -> str:
    if accelerator == "cpu":
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else accelerator


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("torch", "pytorch-lightning", "timm")}


def _commit() -> str:
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return result.stdout.strip()
