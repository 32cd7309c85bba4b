"""A longer training moves what an algorithm has in steps, and nothing else."""

from dataclasses import replace

import pytest

from rigl_lightning.sparsity import (
    ACDC,
    AnnealedTopK,
    Dense,
    GradualMagnitudePruning,
    GraNet,
    LotteryTicket,
    OneShotMagnitude,
    RigL,
    TopKAST,
    UpdateSchedule,
)

STEPS = UpdateSchedule(interval=10, begin=20, end=300)
TWICE = UpdateSchedule(interval=10, begin=40, end=600)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (RigL(schedule=STEPS), RigL(schedule=TWICE)),
        (RigL(schedule=UpdateSchedule(end=0.75)), RigL(schedule=UpdateSchedule(end=0.75))),
        (GradualMagnitudePruning(schedule=STEPS), GradualMagnitudePruning(schedule=TWICE)),
        (TopKAST(schedule=STEPS), TopKAST(schedule=TWICE)),
        (GraNet(schedule=STEPS, ramp_end=250), GraNet(schedule=TWICE, ramp_end=500)),
        (GraNet(ramp_end=0.5), GraNet(ramp_end=0.5)),
        (OneShotMagnitude(at=50), OneShotMagnitude(at=100)),
        (LotteryTicket("a.ckpt", RigL(schedule=STEPS)), LotteryTicket("a.ckpt", RigL(schedule=TWICE))),
        (ACDC(warm_up=10, phase=5, last=0.85), ACDC(warm_up=20, phase=10, last=0.85)),
        (AnnealedTopK(anneal_end=100), AnnealedTopK(anneal_end=200)),
        (Dense(), Dense()),
    ],
)
def test_points_in_steps_move_and_fractions_stay(algorithm, expected):
    assert algorithm.stretched(2) == expected


def test_a_stretched_training_has_its_updates_at_the_same_fractions():
    algorithm = GradualMagnitudePruning(schedule=replace(STEPS, interval=1))
    short, long = (a.resolve(n) for a, n in ((algorithm, 400), (algorithm.stretched(5), 2000)))
    shapes = {"a": (10, 10)}
    for fraction in (0.1, 0.4, 0.6, 0.9):
        steps = round(400 * fraction), round(2000 * fraction)
        early, late = (a.layer_sparsities(shapes, step)["a"] for a, step in zip((short, long), steps, strict=True))
        assert early == pytest.approx(late, abs=0.01)
