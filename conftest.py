"""Files that pytest leaves out where an optional package is missing."""

from importlib.util import find_spec

_COMPILED = ["compiled/*.py", "inference/jobs.py", "inference/products.py", "inference/recurrent.py"]
collect_ignore_glob = (
    []
    if find_spec("numba")
    else [*(f"rigl_lightning/kernels/{files}" for files in _COMPILED), "tests/helpers/checked_memory.py"]
)
