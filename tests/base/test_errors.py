"""Errors and warnings of the package are also built-in ones."""

import ast
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import rigl_lightning
from rigl_lightning import FixedMasks, RigL, SparseTrainingError, SparseTrainingWarning, Sparsifier
from rigl_lightning.base import errors
from rigl_lightning.export import compact, read_compact

ROOT = Path(rigl_lightning.__file__).parent
FLOORS = ("base", "sparsity", "compute", "export", "reports", "trainer", "cli")
FILES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
BUILT_IN = {"ValueError", "RuntimeError", "TypeError", "FileNotFoundError", "ImportError"}
OURS = [
    (errors.SettingError, ValueError),
    (errors.SettingTypeError, TypeError),
    (errors.StateError, RuntimeError),
    (errors.MissingFileError, FileNotFoundError),
    (errors.MissingPackageError, ImportError),
    (errors.FullDiskError, OSError),
]


@pytest.mark.parametrize(("own", "built_in"), OURS, ids=[own.__name__ for own, _ in OURS])
def test_an_error_is_both(own, built_in):
    assert issubclass(own, SparseTrainingError)
    assert issubclass(own, built_in)
    again = pickle.loads(pickle.dumps(own("what is wrong")))  # as from a process of data loading
    assert type(again) is own
    assert str(again) == "what is wrong"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RigL(sparsity=1.2),
        lambda: Sparsifier({"w": nn.Parameter(torch.ones(4, 4))}, RigL()),
        lambda: FixedMasks("nowhere.ckpt").final_sparsities({"w": (4, 4)}),
        lambda: compact(nn.Linear(2, 2)),
        lambda: read_compact("nowhere.pt"),
    ],
)
def test_what_users_do_wrong_is_one_of_ours(wrong):
    with pytest.raises(SparseTrainingError):
        wrong()


@pytest.mark.parametrize("file", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES])
def test_no_floor_raises_a_built_in_error_or_warns_without_our_category(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        raised = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(raised, ast.Call) and isinstance(raised.func, ast.Name):
            assert raised.func.id not in BUILT_IN, f"line {node.lineno}: raise one of rigl_lightning.base.errors"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("warnings.warn", "rank_zero_warn"):
            category = next((k.value for k in node.keywords if k.arg == "category"), *node.args[1:2])
            assert ast.unparse(category) == "SparseTrainingWarning", f"line {node.lineno}: warn with our category"


OUTSIDE_THE_COMMAND_LINE = [
    path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] not in ("cli", "__main__.py")
]


def texts_but_docstrings(tree):
    """Line and text of every string constant that is not a statement by itself."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


@pytest.mark.parametrize(
    "file", OUTSIDE_THE_COMMAND_LINE, ids=[path.relative_to(ROOT).as_posix() for path in OUTSIDE_THE_COMMAND_LINE]
)
def test_errors_of_python_advise_no_option_of_the_command_line(file):
    """They name an argument and its class; `rigl_lightning.cli.flags` makes options of these."""
    for line, text in texts_but_docstrings(ast.parse(file.read_text(encoding="utf-8"))):
        assert not re.search(r"(?<![\w-])--[a-z]", text), f"line {line}: {text}"


def test_the_test_of_options_sees_parts_of_messages_and_no_docstrings():
    tree = ast.parse('"""Set --a."""\nraise E(f"got {x}. Set --b." "or --c")')
    assert [text for _, text in texts_but_docstrings(tree)] == ["got ", ". Set --b.or --c"]


def test_our_warnings_can_be_silenced_alone():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=SparseTrainingWarning)
        warnings.warn("ours", SparseTrainingWarning, stacklevel=1)
        warnings.warn("of somebody else", UserWarning, stacklevel=1)
    assert [str(w.message) for w in caught] == ["of somebody else"]
