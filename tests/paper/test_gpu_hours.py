"""GPU-hours: runs, steps and times out of the declared runs and two tables."""

import pandas as pd
import pytest

from paper.experiments import Run
from paper.make_figures import HERE
from paper.tables import gpu_hours

RESULTS = HERE / "results"


@pytest.fixture(scope="module")
def tables():
    return tuple(pd.read_csv(RESULTS / name) for name in (gpu_hours.STEPS, "flops.csv"))


def test_a_run_takes_its_steps(tables):
    """97,656 steps of 12.5 ms; 32,000 steps of 4,096 images in parts of 128 that take 36 ms."""
    assert gpu_hours.hours([Run("cifar10_wrn22", "RigL", 0.9, "ERK", scale="paper")], *tables) == pytest.approx(
        97656 * 12.5e-3 / 3600
    )
    twice = Run("imagenet_resnet50", "Dense", scale="paper", multiplier=2)
    assert gpu_hours.hours([twice], *tables) == pytest.approx(2 * 32000 * 32 * 36e-3 / 3600)


def test_a_network_without_a_measured_step_takes_another_one_by_flops(tables):
    run = Run("imagenet_mobilenet_v1", "Dense", scale="paper")
    dense = Run("imagenet_resnet50", "Dense", scale="paper")
    ratio = gpu_hours.hours([run], *tables) / gpu_hours.hours([dense], *tables)
    assert ratio == pytest.approx(1.141544e9 / 8.202341e9, rel=1e-3)


def test_flops_are_those_of_the_published_training(tables):
    """Dense ResNet-50 of 32,000 steps: 3.2e18 FLOPs (paper, figure 2)."""
    (flops,) = tables[1].query("model == 'ResNet-50' and method == 'Dense' and quantity == 'train_flops_absolute'")[
        "computed"
    ]
    assert gpu_hours._step_flops("imagenet_resnet50", tables[1]) * 32000 == pytest.approx(flops, rel=1e-3)


def test_runs_that_figures_share_count_once_in_the_sum(tables):
    table = gpu_hours.rows(*tables)
    assert table["figure"].iloc[-1] == gpu_hours.ALL
    assert table["gpu_hours"].iloc[-1] < table["gpu_hours"].iloc[:-1].sum()
    assert set(table["figure"]) == {"2", "3", "4", "5", "7", "8", "9", "10", gpu_hours.ALL}
