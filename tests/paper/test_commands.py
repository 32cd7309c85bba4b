"""Every command that a page gives for the paper's scripts is one that the script understands."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from paper import collect, launch, make_figures

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "paper" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"python (paper/[\w/]+)\.py((?: +[^\s`#)\]]+)*)")


def commands():
    for page in PAGES:
        for script, arguments in COMMAND.findall(page.read_text(encoding="utf-8")):
            yield script, arguments.replace("{number}", "2").split(" (")[0].strip()


COMMANDS = sorted({(script, words) for script, words in commands() if "[" not in words and "{" not in words})


@pytest.mark.parametrize(("script", "words"), COMMANDS, ids=[" ".join(command) for command in COMMANDS])
def test_a_command_is_understood(script, words):
    assert (ROOT / f"{script}.py").is_file()
    if not words:
        return
    module = importlib.import_module(script.replace("/", "."))
    options = module.parser().parse_args(shlex.split(words))
    if module is launch:
        assert launch.selected(options.what, options.scale, options.seeds)


def test_the_commands_of_the_readme_are_found():
    assert ("paper/launch", "2 --scale paper --data DIR --executor ray --gpus 1") in COMMANDS
    assert ("paper/launch", "lenet --scale paper --data DIR") in COMMANDS


@pytest.mark.parametrize(
    ("words", "accelerator"),
    [("2", "cpu"), ("2 --gpus 1", "gpu"), ("2 --gpus 0.25", "gpu"), ("2 --gpus 1 --accelerator cpu", "cpu")],
)
def test_a_share_of_a_gpu_means_the_gpu(words, accelerator):
    assert launch.resources_of(launch.parser().parse_args(words.split())).accelerator == accelerator


def test_the_printed_commands_name_the_gpu(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", shlex.split("launch.py 2 --scale paper --seeds 10 --gpus 1 --print"))
    launch.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed
    assert all("--trainer.accelerator=gpu" in line for line in printed)


def test_all_is_the_claims_and_everything_else():
    assert isinstance(launch.parser(), argparse.ArgumentParser)
    runs = launch.selected(["all"], "small")
    second = launch.selected(["again"], "small")
    assert runs[-len(second) :] == second
    assert {run.seed for run in runs[: -len(second)]} == {10, 11, 12, 13, 14}
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        (make_figures, "--scale smol", "invalid choice: 'smol'"),
        (make_figures, "--scale smoke", "Expected --out FOLDER: paper/out holds what the committed rows"),
        (make_figures, "--results mine", "Expected --out FOLDER: paper/out holds what the committed rows"),
        (collect, "--scale smol", "invalid choice: 'smol'"),
        (collect, "--runs nowhere", "found no such folder. Set --runs to that of launch.py."),
    ],
)
def test_what_would_write_over_committed_results_is_refused(monkeypatch, capsys, script, words, message):
    monkeypatch.setattr("sys.argv", [script.__name__, *words.split()])
    with pytest.raises(SystemExit):
        script.main()
    assert message in capsys.readouterr().err


def test_runs_of_ones_own_are_made_whatever_is_committed(monkeypatch, tmp_path, capsys):
    wanted = []
    monkeypatch.setattr(launch, "launch", lambda runs, *args: wanted.append(set(args[-1])) or 0)
    for results in ([], ["--results", str(tmp_path)]):
        monkeypatch.setattr("sys.argv", ["launch.py", "2", *results])
        with pytest.raises(SystemExit):
            launch.main()
    committed, none = wanted
    assert committed
    assert not none
