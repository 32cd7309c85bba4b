"""The long fuzz of the kernels finds nothing (`make test-fuzz`); a few cases of it in every run of the tests."""

import sys

import pytest

from rigl_lightning.kernels import available

if "fast" not in available() or sys.platform != "linux":
    pytest.skip("needs numba, and mprotect", allow_module_level=True)

from tests.kernels.fuzz import run_in_processes


@pytest.mark.slow
def test_a_few_random_cases():
    assert not run_in_processes(100_000, 60)


@pytest.mark.slow_matrix
def test_random_cases():
    assert not run_in_processes(0, 3000)
