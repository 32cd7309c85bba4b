"""Ratios of running times measured in one run: interleaved rounds, medians."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def parse_options(description: str) -> argparse.Namespace:
    """Options of every benchmark: ``rounds``, and ``threads``, which torch then uses."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def interleaved_times(
    actions: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each action in each round; every round runs all of them once, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for round_number in range(rounds + 1):
        for name, action in actions.items():
            start = clock()
            action()
            if round_number:
                times[name].append(clock() - start)
    return times


def interleaved_medians(actions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each action, see `interleaved_times`."""
    return {name: statistics.median(values) for name, values in interleaved_times(actions, rounds).items()}
