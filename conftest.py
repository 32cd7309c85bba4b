"""Files that pytest leaves out where an optional package is missing."""

from importlib.util import find_spec

collect_ignore_glob = (
    [] if find_spec("numba") else ["rigl_lightning/kernels/vector_*.py", "tests/kernels/checked_memory.py"]
)
