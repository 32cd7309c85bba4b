"""Runs end with a record each, whatever becomes of the machine they ran on."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paper import executors, one_run
from paper.executors import Resources
from paper.experiments import Run

RUNS = [Run("mnist_lenet", "RigL", 0.95, "ERK", seed, "smoke") for seed in range(4)]
TICKET = Run("mnist_lenet", "Lottery, static", 0.95, "ERK", 1, "smoke")


def pretend(run, folder, data, threads, accelerator):
    """Instead of a training: count the starts, and wait a little on the first of seed 0."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = folder / "starts"
    starts.write_text((starts.read_text() if starts.exists() else "") + f"{os.getpid()}\n")
    if run.seed == 0 and len(starts.read_text().split()) == 1:
        time.sleep(120)
    return {"status": "done", "wall_s": 0.0, "after_ticket": (folder.parents[2] / RUNS[1].name / "starts").exists()}


def test_local_runs_come_after_what_they_need(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "execute", lambda run, *rest: pretend(run, *rest) if run.seed else {"status": "?"})
    records = dict(executors.local([*RUNS, TICKET], tmp_path, tmp_path, Resources(jobs=2)))
    assert set(records) == {*RUNS, TICKET}
    assert records[TICKET]["after_ticket"]


LAUNCHER = """
import multiprocessing, os, time
from paper.one_run import end_with_launcher

def run(connection):
    end_with_launcher()
    connection.send(os.getpid())
    time.sleep(120)

if __name__ == "__main__":
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context("forkserver").Process(target=run, args=(there,)).start()
    print(here.recv(), flush=True)
    time.sleep(120)
"""


def test_a_run_ends_with_its_launcher_even_if_that_is_killed(tmp_path):
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    paths = {**os.environ, "PYTHONPATH": str(one_run.ROOT)}
    command = [sys.executable, str(tmp_path / "launcher.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=paths, text=True) as launcher:
        run = int(launcher.stdout.readline())
        os.kill(run, 0)  # it is there
        launcher.kill()
    end = time.monotonic() + 30
    while is_running(run) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(run)


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie waits for its parent


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("", False),
        ("step,train/loss,val/loss\n59,0.5,\n", False),
        ("step,train/loss,val/loss\n29,,0.4\n59,0.5,\n", False),
        ("step,train/loss,val/loss\n57,0.5,\n59,,0.4\n", True),
    ],
)
def test_a_training_interrupted_before_its_last_validation_is_known(tmp_path, rows, expected):
    (tmp_path / "metrics.csv").write_text(rows)
    assert one_run._is_validated(tmp_path) == expected


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_runs_its_runs_again(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(executors, "execute", pretend)
    monkeypatch.setattr(executors, "_with_needed", _with_needed)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    doomed = cluster.add_node(num_cpus=1)
    pool = ThreadPoolExecutor(1)
    try:
        ray.init(address=cluster.address)
        results = executors.ray([*RUNS, TICKET], tmp_path, tmp_path, Resources())
        started = tmp_path / RUNS[0].name / "starts"

        # Not the other way round: a cluster is changed in the main thread only, since Ray sets signal handlers there.
        ended = pool.submit(dict, results)
        wait_for(started)
        cluster.add_node(num_cpus=1)
        cluster.remove_node(doomed)
        records = ended.result(timeout=100)  # before the first start of seed 0 would have ended by itself
        assert {record["status"] for record in records.values()} == {"done"}
        assert set(records) == {*RUNS, TICKET}
        assert records[TICKET]["after_ticket"]
        assert len(started.read_text().split()) == 2
    finally:
        ray.shutdown()  # ends a wait in the pool's thread, too
        cluster.shutdown()
        pool.shutdown()


def wait_for(file):
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, f"{file} has not come"
        time.sleep(0.2)


def _with_needed(needed, run, folder, data, resources):
    return pretend(run, Path(folder) / run.name, data, resources.threads, resources.accelerator)
