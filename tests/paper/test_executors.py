"""Runs end with a record each, whatever becomes of the machine they ran on."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from paper import executors
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


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_runs_its_runs_again(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(executors, "execute", pretend)
    monkeypatch.setattr(executors, "_with_needed", _with_needed)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    doomed = cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address)
        results = executors.ray([*RUNS, TICKET], tmp_path, tmp_path, Resources())
        started = tmp_path / RUNS[0].name / "starts"

        def lose_a_worker():
            while not started.exists():
                time.sleep(0.2)
            cluster.add_node(num_cpus=1)
            cluster.remove_node(doomed)

        threading.Thread(target=lose_a_worker).start()
        records = dict(results)
        assert {record["status"] for record in records.values()} == {"done"}
        assert set(records) == {*RUNS, TICKET}
        assert records[TICKET]["after_ticket"]
        assert len(started.read_text().split()) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()


def _with_needed(needed, run, folder, data, resources):
    return pretend(run, Path(folder) / run.name, data, resources.threads, resources.accelerator)
