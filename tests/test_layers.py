"""The floors of the package: a file imports only from floors below its own."""

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "rigl_lightning"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / PACKAGE).rglob("*.py"))

CORE = {"torch", "numpy"}
KERNELS = CORE | {"numba", "llvmlite"}  # the latter two only in files that the fast tier loads
LIGHTNING_NAMES = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
LIGHTNING = CORE | LIGHTNING_NAMES
LIBRARIES = LIGHTNING | {"torchmetrics", "torchvision", "timm", "sklearn", "jsonargparse", "yaml"}

# From the bottom up: name, files, other packages it may import, and whether its files may import each other.
FLOORS = [
    ("kernels", ["kernels/*.py"], KERNELS, True),
    ("ground", ["sparsity/names.py", "sparsity/selection.py"], CORE, False),
    ("functions", ["sparsity/" + f for f in ("masks.py", "scores.py", "distributions.py", "schedules.py", "flops.py",
     "sizes.py", "statistics.py", "widths.py", "foreign_masks.py")], CORE, False),
    ("structures", ["sparsity/structures.py"], CORE, False),
    ("tensors of a model", ["sparsity/" + f for f in ("parameters.py", "mask_files.py", "optimizer_state.py")], CORE,
     False),
    ("algorithms", ["sparsity/algorithms/*.py"], CORE, True),
    ("weights of a model", ["sparsity/costs.py", "sparsity/hidden_weights.py"], CORE, False),
    ("sparsifier", ["sparsity/sparsifier.py"], CORE, False),
    ("checks", ["sparsity/invariants.py"], CORE, False),
    ("public names of the core", ["sparsity/__init__.py"], set(), False),
    ("statistics of a model", ["batch_norm.py"], CORE, False),
    ("compute", ["compute/*.py"], CORE, True),
    ("export", ["export/*.py"], CORE, True),
    ("callback", ["callback.py", "reporting.py", "trainer_access.py", "checkpoint_io.py", "changes.py", "searches.py",
     "csv_logger.py", "tested_network.py"], LIGHTNING, True),
    ("pictures", ["plots.py"], LIGHTNING | {"matplotlib"}, False),
    ("command line", ["cli.py", "cli_configs.py", "cli_errors.py", "cli_runs.py", "__main__.py", "__init__.py"],
     LIBRARIES, True),
]  # fmt: skip
FUNCTIONS_MAY_IMPORT = {"sparsity/names.py", "sparsity/selection.py"}
# Beside the floors: benchmarks that know nothing of sparsity. Each room may import itself; modules train any model.
ROOMS = ["models/*.py", "modules/*.py", "data/*.py"]


def floor_of(file):
    inside = file.removeprefix(f"{PACKAGE}/")
    found = [i for i, floor in enumerate(FLOORS) for pattern in floor[1] if fnmatchcase(inside, pattern)]
    found += [pattern for pattern in ROOMS if fnmatchcase(inside, pattern)]
    return found


def imported(file):
    """Dotted names that a file imports anywhere, also inside functions; relative imports are resolved."""
    source = (ROOT / file).read_text()
    package = file.rsplit("/", 1)[0].replace("/", ".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def file_of(dotted):
    """File of this package that an import reads, or None; ``a.b.Name`` is read from ``a/b.py``."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        base = "/".join(parts[:end])
        for candidate in (f"{base}.py", f"{base}/__init__.py"):
            if candidate in FILES:
                return candidate
    return None


def own_imports(file):
    return {file_of(name) for name in imported(file) if name.split(".")[0] == PACKAGE}


def test_the_parser_sees_what_it_should():
    """The witness of this file: known imports of known files."""
    assert f"{PACKAGE}/sparsity/names.py" in own_imports(f"{PACKAGE}/sparsity/distributions.py")
    # ``from rigl_lightning.sparsity import scores`` is the module, not the package.
    assert f"{PACKAGE}/sparsity/scores.py" in own_imports(f"{PACKAGE}/sparsity/algorithms/drop_grow.py")
    assert "torch.nn" in set(imported(f"{PACKAGE}/sparsity/flops.py"))
    assert "lightning.pytorch" in set(imported(f"{PACKAGE}/trainer_access.py"))  # inside a function


@pytest.mark.parametrize("file", FILES)
def test_every_file_has_one_floor(file):
    assert len(floor_of(file)) == 1, f"Name {file} in FLOORS or ROOMS of {Path(__file__).name}."


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_from_floors_below(file):
    (floor,) = floor_of(file)
    for other in own_imports(file) - {file}:
        (other_floor,) = floor_of(other)
        if isinstance(floor, str):
            assert other_floor == floor, f"{file} imports {other}"
        elif isinstance(other_floor, str):
            assert FLOORS[floor][0] == "command line", f"{file} imports {other}"
        else:
            same = other_floor == floor and FLOORS[floor][3]
            assert other_floor < floor or same, f"{file} imports {other}"


@pytest.mark.parametrize("file", [f for f in FILES if floor_of(f) == [2]])
def test_pure_functions_import_nothing_but_the_ground(file):
    assert {f.removeprefix(f"{PACKAGE}/") for f in own_imports(file)} <= FUNCTIONS_MAY_IMPORT


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_the_packages_of_its_floor(file):
    import sys

    (floor,) = floor_of(file)
    allowed = LIBRARIES if isinstance(floor, str) else FLOORS[floor][2]
    others = {name.split(".")[0] for name in imported(file)} - {PACKAGE} - set(sys.stdlib_module_names)
    assert others <= allowed


@pytest.mark.parametrize("file", [f for f in FILES if "/kernels/" in f])
def test_kernels_stand_alone(file):
    assert all("/kernels/" in other for other in own_imports(file))
    compiled = {"numba", "llvmlite"} & {name.split(".")[0] for name in imported(file)}
    assert not compiled or Path(file).name.startswith("vector_")


@pytest.mark.parametrize("file", [f for f in FILES if "/sparsity/" in f])
def test_sparsity_knows_no_lightning(file):
    assert not LIGHTNING_NAMES & {name.split(".")[0] for name in imported(file)}


@pytest.mark.parametrize("file", FILES)
def test_the_package_imports_nothing_that_is_built_on_it(file):
    assert not {"paper", "examples", "benchmarks", "tests"} & {name.split(".")[0] for name in imported(file)}
