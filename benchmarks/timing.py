"""Ratios of running times measured in one run: interleaved rounds, medians. And memory."""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch


def options_parser(description: str) -> argparse.ArgumentParser:
    """Options of every benchmark: ``threads`` for torch, and ``rounds``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    return parser


def parse_options(description: str, **switches: str) -> argparse.Namespace:
    """The options, of which torch has taken the number of threads.

    Args:
        description: What is measured.
        **switches: Flags of this benchmark, off by default, with their help.
    """
    parser = options_parser(description)
    for name, text in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
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


def with_spread(ratios: Sequence[float]) -> str:
    """Median of the rounds, and in brackets their middle half.

    >>> with_spread([1.0, 2.0, 2.0, 2.0, 9.0])
    '2.00 (1.50-5.50)'
    """
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def peak_extra_megabytes(action: Callable[[], object]) -> float:
    """Highest resident memory while the action runs above that before, in MB; Linux only.

    Measure in a fresh process: memory that was freed before may serve the action again and hide what it needs.
    """
    ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, as far as that goes
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status_kilobytes("VmRSS")
    action()
    return (status_kilobytes("VmHWM") - before) / 1024


def status_kilobytes(key: str) -> int:
    """A size in kB of this process, such as ``VmRSS`` (resident now) or ``VmHWM`` (the highest); Linux only."""
    match = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1])
