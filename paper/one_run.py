"""One run from its command to the record it leaves in its folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paper.counted import counted
from paper.experiments import Run
from rigl_lightning.base.files import write_text

ROOT = Path(__file__).parents[1]
RECORD = "run.json"
COUNTED = "counted.json"
"""Steps, FLOPs and remaining units, which the run's own process leaves at its end."""
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
    # Runs of one launch have their folders next to each other.
    other = folder.parents[2] / run.needs.name if run.needs is not None else None
    resume = [f"{RESUME}={last}"] if last is not None else []
    quiet = ["--trainer.enable_progress_bar=false", f"--trainer.accelerator={accelerator}"]
    # The default would choose by a measurement on this machine; a run computes sparsely only where it says so.
    quiet += ["--sparse.compute=dense"] if run.compute == "dense" or accelerator != "cpu" else []
    ticket = [f"--sparse.algorithm.checkpoint={other / 'last.ckpt'}"] if other is not None else []
    return ["fit", *run.settings(), *ticket, *place, *checkpoints, *quiet, *resume]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest of the last checkpoints that a run has left, by whichever of its callbacks; None if there is none.

    A file that is no whole checkpoint is named and passed over: the run then begins earlier, or anew.
    """
    found = []
    for file in folder.rglob("last.ckpt"):
        if zipfile.is_zipfile(file):
            found.append(file)
        else:
            print(f"{file} is damaged and not used.", file=sys.stderr)
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


def execute(run: Run, folder: Path, data: Path, threads: int = 1, accelerator: str = "cpu") -> dict[str, Any]:
    """Run it to the end; the record of how it went, which is also left in the folder.

    ``wall_s`` is the time of this attempt; an interrupted run has had others before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder) as has_waited:
        record = record_of(folder) if has_waited else None
        if record is not None and record["status"] == "done":
            return record
        return _executed(run, folder, data, threads, accelerator)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """One launcher at a time in a run's folder; yields whether another one had to be waited for.

    Without file locks (Windows) nobody is waited for.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    with open(folder / "lock", "w") as lock:
        has_waited = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            has_waited = True
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield has_waited


def _executed(run: Run, folder: Path, data: Path, threads: int, accelerator: str) -> dict[str, Any]:
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
    left = folder / COUNTED
    if left.is_file():
        record |= json.loads(left.read_text(encoding="utf-8"))
    write_text(folder / RECORD, json.dumps(record, indent=1))
    return record


def record_of(folder: Path) -> dict[str, Any] | None:
    """What the run that keeps its files here has left; None before its end, and where the record cannot be read."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) and "status" in record else None
    except (OSError, ValueError):
        return None


def is_done(folder: Path) -> bool:
    """Whether the run that keeps its files here has come to its end, and well."""
    record = record_of(folder)
    return record is not None and record["status"] == "done"


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
    write_text(folder / COUNTED, json.dumps(counted(_own_checkpoint(folder))))


def _own_checkpoint(folder: Path) -> Path:
    file = last_checkpoint(folder)
    if file is None:
        raise FileNotFoundError(f"Expected a checkpoint in {folder}, where the training ended, found none.")
    return file


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
    """Processor or card, and what decides rounding: instructions and threads."""
    import torch

    if accelerator == "cpu":
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
        limited = f", oneDNN limited to {limit}" if limit else ""
        instructions = torch.backends.cpu.get_cpu_capability()
        return f"cpu ({_processor()}), {instructions}{limited}, {threads} thread{'s' if threads > 1 else ''}"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else accelerator


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("torch", "pytorch-lightning", "timm")}


def _commit() -> str:
    """What git says of this folder; empty where there is no repository, or no git."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
