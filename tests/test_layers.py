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
# Outside the floors: benchmarks that know no sparsity. Each folder imports itself only; modules train any model.
BENCHMARKS = {"models", "modules", "data"}
COMPILED = {"kernels/compiled", "kernels/inference"}  # what only the fast tier loads


def folder_of(file):
    """The outermost folder of a file inside the package; ``.`` of the package itself."""
    _, first, *rest = file.split("/")
    return first if rest else "."


def floor_of(file):
    """Number of a file's floor, or None if it has none."""
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
    named = [folder for folders, _ in FLOORS for folder in folders] + [*BENCHMARKS]
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


# From the top of the package down: what one reads to know how a network is kept sparse.
CORE_PATH = [
    *("sparsity/masks.py", "sparsity/scores.py", "sparsity/distributions.py", "sparsity/schedules.py"),
    *("sparsity/algorithms/base.py", "sparsity/algorithms/drop_grow.py", "sparsity/sparsifier.py"),
    "trainer/callback.py",
]


def test_the_core_path_is_read_in_fifteen_minutes():
    assert sum(len((ROOT / PACKAGE / file).read_text().splitlines()) for file in CORE_PATH) <= 1500


# Functions that are long because they emit instructions, one after the other, into a job that is being compiled.
EMITTERS = {"kernels/compiled/ir.py": {"group", "gradient_group"}}


def length_of(function):
    """Lines from ``def`` to the end, those of the docstring left out."""
    first = function.body[0]
    has_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str
    text = first.end_lineno - first.lineno + 1 if has_text else 0
    return function.end_lineno - function.lineno + 1 - text


@pytest.mark.parametrize("file", FILES)
def test_no_function_has_more_than_forty_lines(file):
    """Apart from its docstring."""
    functions = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)]
    long = {function.name for function in functions if length_of(function) > 40}
    assert long == EMITTERS.get(file.removeprefix(f"{PACKAGE}/"), set())


def methods_of(file):
    """The classes of a file, and the names of their own functions but ``__init__`` and the like."""
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.ClassDef):
            names = [function.name for function in node.body if isinstance(function, ast.FunctionDef)]
            yield node.name, [name for name in names if not name.startswith("__")]


# What methods are made of, and a composite, which passes every question on.
NO_METHODS = ("/base.py", "/constant_sparsity.py", "/group.py")


@pytest.mark.parametrize("file", [f for f in FILES if "/algorithms/" in f and not f.endswith(NO_METHODS)])
def test_a_method_is_its_settings_and_at_most_four_functions(file):
    for algorithm, functions in methods_of(file):
        assert len(functions) <= 4, f"{algorithm}: {functions}"


def is_class(value):
    """Whether an expression names a class: ``type(...)``, or a word with a capital letter, or a usual one."""
    name = getattr(value, "id", "") or getattr(getattr(value, "func", None), "id", "")
    return name[:1].isupper() or name in ("type", "cls", "kind", "base")


def test_no_feature_is_found_out_by_comparing_methods():
    """``type(a).method is Base.method``: our classes claim what they can, see `sparsity.claims`.

    A user's torch module cannot: whether it computes as torch's own layer does is whether its ``forward`` is that one.
    """
    for file in FILES:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot):
                sides = [side for side in (node.left, *node.comparators) if isinstance(side, ast.Attribute)]
                names = {side.attr for side in sides if not side.attr.startswith("__")} - {"forward"}
                of_a_class = any(is_class(side.value) for side in sides)
                assert len(sides) < 2 or len(names) != 1 or not of_a_class, f"{file}:{node.lineno}"


# Private names of other packages for which there is no public one, each with its reason.
PRIVATE_NAMES = {
    # torch.nn.Module: what a module itself holds; the public iterators descend, and attributes may be replaced by ours.
    "_parameters": "parameters of a module alone, under the names it uses",
    "_buffers": "the same of buffers",
    "_modules": "the same of modules: one is replaced by a compact one",
    "_forward_hooks": "a network with hooks is not exported",
    "_forward_pre_hooks": "the same",
    "_backward_hooks": "the same; and a weight whose gradient a hook reads stays dense",
    "_backward_pre_hooks": "the same",
    "_post_accumulate_grad_hooks": "the same",
    "_execution_engine": "a call at the end of a backward pass, as DistributedDataParallel has one",
    "_save_to_state_dict": "a replaced layer saves as the original does: torch's documented point to override",
    "_load_from_state_dict": "the same, of loading",
    "_apply": "the same, of moving to a device",
    # SWA of Lightning, which adds an epoch that makes no step.
    "_model_contains_batch_norm": "whether it adds the epoch",
    "_max_epochs": "epochs without it",
    # Layers of torch.nn, whose own forward passes are computed by other means.
    "_ConvNd": "base class of convolutions",
    "_BatchNorm": "base class of batch norms",
    "_DropoutNd": "base class of dropouts",
    "_conv_forward": "the padding modes of a convolution",
    "_reversed_padding_repeated_twice": "the same",
    "_flat_weights": "the second list of parameters that a recurrent module keeps",
    "_flat_weights_names": "the same",
    "_VF": "torch's own recurrent operators",
    # torch itself.
    "_C": "is a function transform active; which backward pass is this",
    "_functorch": "the same",
    "_current_level": "is forward-mode differentiation active",
    "_current_graph_task_id": "which backward pass is this",
    "_foreach_mul": "grouped kernels: one launch for all layers",
    "_foreach_mul_": "the same",
    "_foreach_add_": "the same",
    "_foreach_norm": "the same",
    "_version": "has a tensor been changed in place",
    "_base": "of which tensor is this a view",
    "_pytree": "containers of tensors, as torch.export flattens them",
    "_patch_step_function": "step hooks of optimizers that do not call Optimizer.__init__",
    "_step_supports_amp_scaling": "who scales gradients: a fused optimizer or the GradScaler",
    "_found_inf_per_device": "has the GradScaler found an overflow",
    "_orig_mod": "is a module compiled",
    "_torchdynamo_orig_callable": "is a function compiled",
    # Lightning.
    "_batches_that_stepped": "the step that its loggers count",
    "_clip_gradients": "clipping by value, which does not know gradients of None",
    "_average_model": "weights that its callbacks average",
    "_compiler_ctx": "is a module compiled",
    "_ddp_comm_hook": "is communication compressed",
    # argparse, which jsonargparse and Lightning build on: the order and the words of help.
    "_actions": "options of a parser",
    "_option_string_actions": "the same by name",
    "_action_groups": "groups of options",
    "_group_actions": "options of a group",
    # Others.
    "_parent": "fsspec: the folder of a file on any file system",
    "_reconstructor": "copyreg: how Python itself rebuilds an object",
    "_cache": "numba: where machine code is kept",
    "_rebuild": "the same",
    "_reduce": "the same",
    "_fields": "of a NamedTuple; documented",
    "_replace": "of a NamedTuple; documented",
}


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def is_own(value):
    return getattr(value, "id", "") in ("self", "cls")


def names_made_in(tree):
    """Functions, classes, variables, and attributes of ``self`` and ``cls`` that a file makes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            yield node.attr


def private_names_from_elsewhere(file):
    """Private names that a file imports, or reads of what is neither ``self`` nor made in it."""
    tree = ast.parse((ROOT / file).read_text())
    own = set(names_made_in(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and not is_own(node.value):
            yield from {node.attr} - own
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            yield from (a.value for a in node.args[1:2] if isinstance(a, ast.Constant))


def test_no_private_name_crosses_a_file():
    found = {name: file for file in FILES for name in private_names_from_elsewhere(file) if is_private(name)}
    assert {name: file for name, file in found.items() if name not in PRIVATE_NAMES} == {}
    assert sorted(PRIVATE_NAMES.keys() - found.keys()) == []


def test_a_private_name_that_may_be_read_is_not_one_of_our_own():
    """Else the list above would let it pass. These are: names of one file each, or of ``self`` alone."""
    ours = {name for file in FILES for name in names_made_in(ast.parse((ROOT / file).read_text()))}
    assert ours & PRIVATE_NAMES.keys() == {"_parameters", "_modules", "_apply", "_action_groups", "_replace"}
