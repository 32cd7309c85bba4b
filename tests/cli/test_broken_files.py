"""A user's Python file that fails while it is imported is told in one line, with its place."""

import importlib
import sys

import pytest

from rigl_lightning.cli.run_errors import explain_run_error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import torch\n\nLIMIT = 1 / 0\n", "to be importable, line 3 raises ZeroDivisionError: division by zero."),
        ("scale = {}['a']\n", "to be importable, line 1 raises KeyError: 'a'."),
        ("def score(c):\n    return c.(\n", "line 2: invalid syntax."),
    ],
    ids=["error", "key", "syntax"],
)
def test_a_file_of_scores_that_fails(text, told, tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("own_scores", None)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of any kind: it is the user's)
        importlib.import_module("own_scores")
    line = explain_run_error(caught.value)
    assert line.startswith(f"Expected {'Python in ' if 'syntax' in told else ''}{tmp_path / 'own_scores.py'}")
    assert line.endswith(f"{told} Correct the file.")


def test_an_error_of_a_function_is_left_to_its_traceback():
    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fails()
    assert explain_run_error(caught.value) is None
