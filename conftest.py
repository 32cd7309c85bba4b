"""Files that pytest leaves out where an optional package is missing."""

from importlib.util import find_spec

_COMPILED = ["compiled/*.py", "inference/jobs.py", "inference/products.py", "inference/recurrent.py"]
_NEEDS = {
    "numba": [*(f"rigl_lightning/kernels/{files}" for files in _COMPILED), "tests/helpers/checked_memory.py"],
    "transformers": ["rigl_lightning/huggingface/*.py"],
}
collect_ignore_glob = [files for package, those in _NEEDS.items() if not find_spec(package) for files in those]
