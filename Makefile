# Everything a fresh machine needs is Python >= 3.10 with venv; each target sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
NOTEBOOKS_READY := $(VENV)/.notebooks-ready
RAY_READY := $(VENV)/.ray-ready
WHEEL := .venv-wheel
EXTRA := .venv-extra
OLDEST := .venv-oldest
OLDEST_PYTHON ?= 3.10
BOLTS := .venv-bolts
BOLTS_READY := $(BOLTS)/.ready
export JSONARGPARSE_DEPRECATION_WARNINGS := off

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-sparse test-gpu test-fast test-bolts test-ray test-wheel test-extras test-oldest test-notebooks docs lint figures figures-smoke tables
.PHONY: bench clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## create .venv with the package and its tools

$(READY): pyproject.toml setup.py
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed"'
	@echo "Setting up $(VENV), once: a few minutes, most of them the download of torch."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'
	@touch $@
	@echo "Ready. For rigl-lightning and python of $(VENV) in this shell: . $(VENV)/bin/activate"

demo: $(READY)  ## train dense, static and RigL networks on embedded data: a table and a picture
	$(BIN)/python examples/demo.py

test: lint  ## what CI runs: lint, types, doctests and all tests but the long matrices
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-all: lint  ## all of that and the long matrices: every algorithm on 1, 2 and 4 processes, and the like
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m ""
	RIGL_LIGHTNING_GPU_TESTS=cpu OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/gpu -m gpu

test-sparse: $(READY)  ## all tests with compute="sparse" forced wherever a test does not choose
	RIGL_LIGHTNING_TEST_COMPUTE=sparse OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-gpu: $(READY)  ## the tests of a CUDA GPU; skipped, with the reason, where there is none
	$(BIN)/python -m pytest tests/gpu -m gpu -rs

test-fast: $(READY)  ## the tests without those marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not slow_matrix"

test-fuzz: $(READY)  ## 3,000 random cases of the sparse layers on guarded memory, against torch's dense ones
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.kernels.fuzz

test-bolts: $(BOLTS_READY)  ## train on lightning-bolts' data, in an environment of its own (Lightning 1.9.5)
	$(BOLTS)/bin/python -m pytest tests/neighbours/test_bolts.py

# lightning-bolts needs Lightning < 2, and that needs pkg_resources; our own requirements say otherwise, hence --no-deps.
$(BOLTS_READY): Makefile
	$(PYTHON) -m venv --clear $(BOLTS)
	$(BOLTS)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(BOLTS)/bin/uv pip install --quiet --python $(BOLTS)/bin/python pytorch-lightning==1.9.5 lightning-bolts==0.7.0 \
		'setuptools<81' torch torchvision timm 'jsonargparse[signatures]>=4.39,<5' scikit-learn matplotlib pytest
	$(BOLTS)/bin/uv pip install --quiet --python $(BOLTS)/bin/python --no-deps -e .
	@touch $@

test-ray: $(RAY_READY)  ## runs on a local cluster of two workers that loses one
	$(BIN)/python -m pytest tests/paper/test_executors.py

$(RAY_READY): $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[ray]'
	@touch $@

test-wheel: $(READY)  ## build sdist and wheel, check both, install the wheel in an environment of its own, use it there
	rm -rf build/wheel build/lib
	$(BIN)/uv build --quiet --out-dir build/wheel .
	$(BIN)/uv tool run --quiet twine check --strict build/wheel/*
	$(PYTHON) -m venv --clear $(WHEEL)
	$(BIN)/uv pip install --quiet --python $(WHEEL)/bin/python "rigl-lightning[fast] @ file://$$(ls $(CURDIR)/build/wheel/*.whl)"
	cd build/wheel && $(CURDIR)/$(WHEEL)/bin/python $(CURDIR)/tests/check_wheel.py $(CURDIR)

test-extras: $(READY)  ## install every extra by itself in an environment of its own, and import what it brings
	$(BIN)/python tests/check_extras.py $(BIN)/uv $(EXTRA)

test-oldest: $(READY)  ## the quick tests with the oldest versions that pyproject.toml allows
	@echo "Python $(OLDEST_PYTHON); where uv neither finds nor may download it: make $@ OLDEST_PYTHON=/path/to/python3.10"
	$(BIN)/uv venv --quiet --clear --python $(OLDEST_PYTHON) $(OLDEST)
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -e '.[oldest]'
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist loadfile -m "not slow and not slow_matrix"

docs: $(DOCS_READY)  ## build the documentation into build/site; a broken link is an error
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(DOCS_READY): $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[docs]'
	@touch $@

test-notebooks: $(NOTEBOOKS_READY)  ## write the notebooks from their sources and execute them
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/make.py

$(NOTEBOOKS_READY): $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[notebooks]'
	@touch $@

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

SMOKE := build/figures-smoke
figures-smoke: $(READY)  ## the whole chain from declared run to figure, in minutes on embedded data; no results
	mkdir -p $(SMOKE)
	cp paper/results/*.csv $(SMOKE)/
	$(BIN)/python paper/launch.py all --scale smoke --seeds 10 --runs $(SMOKE)/runs --results $(SMOKE)
	$(BIN)/python paper/collect.py --scale smoke --runs $(SMOKE)/runs --results $(SMOKE)
	$(BIN)/python paper/make_figures.py --scale smoke --results $(SMOKE) --out $(SMOKE)/out

figures: $(READY)  ## draw the paper's figures and write its tables from the committed results
	$(BIN)/python paper/make_figures.py

tables: $(READY)  ## count FLOPs, sizes and widths again (half a minute), then as figures
	$(BIN)/python paper/studies/flops_tables.py
	$(BIN)/python paper/make_figures.py

bench: $(READY)  ## measure mask updates, step overhead, throughput, sparse layers, training and inference, as ratios
	$(BIN)/python benchmarks/mask_update.py
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/sparse_kernels.py
	$(BIN)/python benchmarks/sparse_compute.py
	$(BIN)/python benchmarks/sparse_compute.py --threads 2
	$(BIN)/python benchmarks/sparse_inference.py --batches 1

clean:  ## remove what the targets made
	rm -rf $(VENV) $(BOLTS) $(WHEEL) $(EXTRA) $(OLDEST) build *.egg-info demo_out .pytest_cache .mypy_cache .ruff_cache
