"""Every file that may take another's place is written next to it and renamed: by `rigl_lightning.base.files`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("rigl_lightning", "paper", "docs", "examples", "benchmarks", "notebooks")
FILES = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
# What is written as it comes, and no file of results.
STREAMS = {
    "rigl_lightning/trainer/csv_logger.py": "adds whole lines, or none, to its own file",
    "rigl_lightning/kernels/private_folder.py": "stands below the helper; writes another file and renames it by itself",
    "paper/gpu_hour.py": "output of a part, which must be there if the part is cut off",
    "paper/one_run.py": "a lock, and the output of a run",
    "benchmarks/gpu.py": "rows as they are measured, of a run that may be cut off",
    "benchmarks/timing.py": "a switch of Linux",
}
STREAM = "stream"


def written_in_place(tree):
    """Lines of calls that write to a file by its name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        of_an_object = isinstance(node.func, ast.Attribute)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        modes = [a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        first = node.args[0].id if node.args and isinstance(node.args[0], ast.Name) else ""
        second = node.args[1].id if len(node.args) > 1 and isinstance(node.args[1], ast.Name) else ""
        if (
            (name in ("open", "fdopen") and any(set(mode) & set("wax") and len(mode) < 4 for mode in modes))
            or (name in ("write_text", "write_bytes") and of_an_object)
            or (name in ("savefig", "to_csv", "to_json", "to_parquet") and node.args and first != STREAM)
            or (ast.unparse(node.func) in ("torch.save", "json.dump", "pickle.dump") and second != STREAM)
            or ast.unparse(node.func) in ("np.save", "np.savez", "np.savetxt", "shutil.copy", "shutil.copyfile")
            or ast.unparse(node.func) in ("jupytext.write", "nbformat.write")
        ):
            yield node.lineno


@pytest.mark.parametrize("file", [file for file in FILES if file not in STREAMS])
def test_no_file_is_written_in_place(file):
    lines = list(written_in_place(ast.parse((ROOT / file).read_text(encoding="utf-8"))))
    assert not lines, f"{file}, lines {lines}: write through rigl_lightning.base.files"


@pytest.mark.parametrize("file", STREAMS)
def test_an_exception_is_still_one(file):
    assert list(written_in_place(ast.parse((ROOT / file).read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "line",
    [
        'open(path, "w", encoding="utf-8")',
        'path.open(mode="ab")',
        "path.write_text(text)",
        "figure.savefig(path, dpi=150)",
        "table.to_csv(path, index=False)",
        "torch.save(state, path)",
        "shutil.copy(a, b)",
    ],
)
def test_what_would_be_torn_is_seen(line):
    assert list(written_in_place(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    ["open(path)", "write_text(path, text)", 'figure.savefig(stream, format="png")', "table.to_csv(index=False)"],
)
def test_what_is_whole_is_not(line):
    assert not list(written_in_place(ast.parse(line)))
