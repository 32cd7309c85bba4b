"""What is installed: one version, environments that agree, and configurations of the package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

import rigl_lightning
from rigl_lightning.cli import configs, main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_there_is_one_version():
    assert PROJECT["dynamic"] == ["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rigl_lightning.__version__
    assert citation["license"] == PROJECT["license"]


def test_the_environment_of_conda_is_that_of_pip():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    (line,) = pip["pip"]
    assert set(re.fullmatch(r"-e \.\[([\w,]+)\]", line)[1].split(",")) <= EXTRAS.keys()


def test_every_extra_that_is_named_somewhere_exists():
    texts = [MAKEFILE, *(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")))]
    texts += [requirement for extra in EXTRAS.values() for requirement in extra]
    named = [
        name
        for text in texts
        for names in re.findall(r"(?:'\.|rigl-lightning)\[([\w,]+)\]", text)
        for name in names.split(",")
    ]
    assert named
    assert set(named) <= EXTRAS.keys()


def test_python_versions_agree():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in PROJECT["classifiers"]
    assert re.search(rf"^OLDEST_PYTHON \?= {re.escape(oldest)}$", MAKEFILE, re.MULTILINE)


class TestShippedConfigurations:
    def test_are_those_of_the_repository(self):
        names = {str(path.relative_to(ROOT / "configs").with_suffix("")) for path in ROOT.glob("configs/**/*.yaml")}
        assert set(configs.config_files()) == names

    def test_are_found_in_an_installed_package_first(self, tmp_path, monkeypatch):
        (tmp_path / "configs/small").mkdir(parents=True)
        for name in ("mine.yaml", "small/mine.yaml"):
            (tmp_path / "configs" / name).write_text("# Mine.\n")
        monkeypatch.setattr(configs, "__file__", str(tmp_path / "cli/configs.py"))
        assert list(configs.config_files()) == ["mine", "small/mine"]

    def test_a_name_is_a_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        path = str(ROOT / "configs" / "char_gru.yaml")
        assert configs.with_config_paths(["fit", "--config", "char_gru"]) == ["fit", "--config", path]
        assert configs.with_config_paths(["fit", "-c=char_gru"]) == ["fit", f"-c={path}"]

    def test_a_file_of_that_name_goes_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "char_gru").write_text("seed_everything: 1\n")
        assert configs.with_config_paths(["fit", "--config", "char_gru"]) == ["fit", "--config", "char_gru"]

    def test_the_command_lists_them_and_prints_one(self, capsys):
        main(["configs"])
        listed = capsys.readouterr().out
        assert all(name in listed for name in configs.config_files())
        main(["configs", "char_gru"])
        assert capsys.readouterr().out == (ROOT / "configs" / "char_gru.yaml").read_text(encoding="utf-8")

    def test_are_listed_without_waiting_for_lightning(self):
        code = (
            "import sys; sys.argv[1:] = ['configs']; from rigl_lightning.__main__ import main; main(); "
            "assert 'pytorch_lightning' not in sys.modules"
        )
        assert (
            "char_gru"
            in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        )

    @pytest.mark.parametrize("args", [["configs", "char_gur"], ["fit", "--config", "char_gur"]])
    def test_an_unknown_one_is_an_error_that_names_the_known(self, args, capsys, monkeypatch):
        monkeypatch.setattr("sys.argv", ["rigl-lightning"])
        with pytest.raises(SystemExit):
            main(args)
        assert "char_gru" in capsys.readouterr().err
