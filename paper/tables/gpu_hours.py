"""GPU-hours of each figure at the paper's scale: steps of its runs, times a measured step.

What to see: every network costs what the dense one costs, so the hours follow the lengths of the trainings. A network
whose step was not measured takes ResNet-50's by their FLOPs, which is too little for depthwise convolutions. Mask
updates, validation and loading of data are left out, and Small-Dense and Big-Sparse count as dense networks do.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from paper import panels
from paper.counted import PASSES
from paper.experiments import Run
from paper.protocols import PROTOCOLS
from paper.tables.markdown import markdown

STEPS = "gpu_steps.csv"
SCALE = "paper"
NETWORKS = {
    panels.RESNET: "ResNet-50",
    panels.MOBILENETS[0]: "MobileNet-v1",
    panels.MOBILENETS[1]: "MobileNet-v2",
    panels.WRN: "WRN-22-2",
    panels.GRU: "char GRU",
}
"""Names in the table of FLOPs."""
ALL = "all, each run once"


def rows(steps: pd.DataFrame, computed: pd.DataFrame) -> pd.DataFrame:
    """One row a figure and network: runs, steps, FLOPs if all were dense, GPU-hours; the last one is of all runs once.

    Args:
        steps: Rows of ``gpu_steps.csv``.
        computed: Rows of ``flops.csv``.
    """
    hours = {name: _step_hours(name, steps, computed) for name in NETWORKS}
    found = [
        {"figure": str(number), "network": NETWORKS[name], **_cost(of_network, hours, computed)}
        for number, panel in panels.FIGURES.items()
        for name, of_network in _by_network(panels.runs_of([panel], SCALE))
    ]
    every = panels.runs_of(panels.FIGURES.values(), SCALE)
    return pd.DataFrame([*found, {"figure": ALL, "network": "", **_cost(every, hours, computed)}])


def hours(runs: Iterable[Run], steps: pd.DataFrame, computed: pd.DataFrame) -> float:
    """GPU-hours of runs, one after the other."""
    return sum(_n_steps(run) * _step_hours(run.benchmark, steps, computed) for run in runs)


def as_markdown(table: pd.DataFrame, steps: pd.DataFrame, computed: pd.DataFrame) -> str:
    """The table, and how long one WRN-22-2 takes."""
    header = ["figure", "network", "runs", "million steps", "training FLOPs, all dense", "GPU-hours"]
    body = [
        [r.figure, r.network, str(r.runs), f"{r.steps / 1e6:.1f}", f"{r.flops:.1e}", f"{r.gpu_hours:,.0f}"]
        for r in table.itertuples()
    ]
    one = hours([Run(panels.WRN, "Dense", scale=SCALE)], steps, computed)
    cards = ", ".join(sorted(steps["card"].unique()))
    return markdown(header, body) + (
        f"\nStep times: one {cards}, medians of {steps['rounds'].min()} rounds (`results/{STEPS}`), the slower of "
        f"dense and masked. One WRN-22-2 training takes {60 * one:.0f} minutes alone.\n"
    )


def _by_network(runs: list[Run]) -> list[tuple[str, list[Run]]]:
    names = dict.fromkeys(run.benchmark for run in runs)
    return [(name, [run for run in runs if run.benchmark == name]) for name in names]


def _cost(runs: list[Run], step_hours: dict[str, float], computed: pd.DataFrame) -> dict[str, float]:
    lengths = [(run.benchmark, _n_steps(run)) for run in runs]
    return {
        "runs": len(runs),
        "steps": sum(n for _, n in lengths),
        "flops": sum(n * _step_flops(name, computed) for name, n in lengths),
        "gpu_hours": sum(n * step_hours[name] for name, n in lengths),
    }


def _n_steps(run: Run) -> float:
    return run.multiplier * run.protocol.settings["trainer"]["max_steps"]


def _samples(benchmark: str) -> int:
    """A step's; a GPU takes a batch of ImageNet in several parts."""
    data = PROTOCOLS[SCALE][benchmark].settings["data"]["init_args"]
    return int(data.get("total_batch_size", data["batch_size"]))


def _step_flops(benchmark: str, computed: pd.DataFrame) -> float:
    """Of a dense step; the char GRU's FLOPs are those of one character."""
    data = PROTOCOLS[SCALE][benchmark].settings["data"]["init_args"]
    is_dense = (computed["method"] == "Dense") & (computed["model"] == NETWORKS[benchmark])
    is_counted = (computed["quantity"] == "inference_flops_absolute") & computed["reading"].isna()
    (forward,) = computed.loc[is_dense & is_counted, "computed"]
    return float(PASSES * forward * _samples(benchmark) * data.get("sequence_length", 1))


def _step_hours(benchmark: str, steps: pd.DataFrame, computed: pd.DataFrame) -> float:
    measured = benchmark if benchmark in set(steps["benchmark"]) else panels.RESNET
    (row,) = steps[steps["benchmark"] == measured].itertuples()
    ms = max(row.dense_ms, row.masked_ms) * _samples(measured) / row.samples
    scaled = 1.0 if measured == benchmark else _step_flops(benchmark, computed) / _step_flops(measured, computed)
    return ms * scaled / 3.6e6
