"""The floors of the package: a file imports only from floors below its own."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "rigl_lightning"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / PACKAGE).rglob("*.py"))

CORE = {"torch", "numpy"}
LIGHTNING_NAMES = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
LIGHTNING = CORE | LIGHTNING_NAMES
LIBRARIES = LIGHTNING | {"torchmetrics", "torchvision", "timm", "sklearn", "jsonargparse", "yaml"}

# From the bottom up: folders, with all that is in them, and other packages that their files may import.
FLOORS = [
    ({"base"}, CORE | {"fsspec"}),
    ({"kernels"}, CORE | {"numba", "llvmlite"}),
    ({"sparsity"}, CORE),
    ({"compute"}, CORE),
    ({"export"}, CORE),
    ({"reports"}, CORE),
    ({"trainer"}, LIGHTNING | {"matplotlib"}),
    ({"huggingface"}, CORE | {"transformers"}),
    ({"cli", "."}, LIBRARIES),
]
# Beside the floors: benchmarks that know nothing of sparsity. Each room imports itself only; modules train any model.
ROOMS = {"models", "modules", "data"}
COMPILED = {"kernels/compiled", "kernels/inference"}  # what only the fast tier loads


def folder_of(file):
    """The outermost folder of a file inside the package; ``.`` of the package itself."""
    _, first, *rest = file.split("/")
    return first if rest else "."


def floor_of(file):
    """Number of a file's floor, or None if it stands beside them."""
    return next((i for i, (folders, _) in enumerate(FLOORS) if folder_of(file) in folders), None)


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
    assert "torch.nn" in set(imported(f"{PACKAGE}/sparsity/costs/flops.py"))
    assert "lightning.pytorch" in set(imported(f"{PACKAGE}/trainer/flavours.py"))  # inside a function


def test_every_folder_has_one_floor():
    named = [folder for folders, _ in FLOORS for folder in folders] + [*ROOMS]
    assert sorted(named) == sorted({folder_of(file) for file in FILES})


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_from_floors_below(file):
    for other in own_imports(file) - {file}:
        mine, its = floor_of(file), floor_of(other)
        if mine is None:
            assert folder_of(other) == folder_of(file), f"{file} imports {other}"
        elif its is None:
            assert "cli" in FLOORS[mine][0], f"{file} imports {other}"
        else:
            assert its <= mine, f"{file} imports {other}"


def test_no_file_imports_itself_by_way_of_others():
    imports = {file: own_imports(file) - {file, None} for file in FILES}
    while leaves := {file for file, others in imports.items() if not others}:
        imports = {file: others - leaves for file, others in imports.items() if file not in leaves}
    assert not imports


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_the_packages_of_its_floor(file):
    floor = floor_of(file)
    allowed = LIBRARIES if floor is None else FLOORS[floor][1]
    others = {name.split(".")[0] for name in imported(file)} - {PACKAGE} - set(sys.stdlib_module_names)
    assert others <= allowed


@pytest.mark.parametrize("file", [f for f in FILES if "/kernels/" in f])
def test_kernels_stand_alone(file):
    assert all("/kernels/" in other for other in own_imports(file))
    compiled = {"numba", "llvmlite"} & {name.split(".")[0] for name in imported(file)}
    assert not compiled or Path(file).relative_to(PACKAGE).parent.as_posix() in COMPILED


@pytest.mark.parametrize("file", [f for f in FILES if "/sparsity/" in f])
def test_sparsity_knows_no_lightning(file):
    assert not LIGHTNING_NAMES & {name.split(".")[0] for name in imported(file)}


@pytest.mark.parametrize("file", FILES)
def test_the_package_imports_nothing_that_is_built_on_it(file):
    assert not {"paper", "examples", "benchmarks", "tests"} & {name.split(".")[0] for name in imported(file)}


def test_the_callback_stays_readable():
    """It keeps the hooks; what it tells others to do has state and code of its own."""
    tree = ast.parse((ROOT / PACKAGE / "trainer/callback.py").read_text(encoding="utf-8"))
    (callback,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert callback.end_lineno - callback.lineno < 250
    first = next(node for node in callback.body if getattr(node, "name", None) == "__init__")
    targets = [t for node in ast.walk(first) for t in getattr(node, "targets", [getattr(node, "target", None)])]
    assert len({t.attr for t in targets if isinstance(t, ast.Attribute)}) == 10
