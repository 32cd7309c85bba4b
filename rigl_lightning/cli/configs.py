"""The benchmarks' configurations: where they are, and the names by which the command line knows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.suggestions import with_suggestion

_OPTIONS = ("--config", "-c")
_MERGE = "tag:yaml.org,2002:merge"


def config_files() -> dict[str, Path]:
    """Path of each configuration by name, such as ``char_gru`` and ``smoke/char_gru``.

    Those installed with the package, or those of the repository.
    """
    package = Path(__file__).parents[1]
    installed = package / "configs"
    folder = installed if installed.is_dir() else package.parent / "configs"
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def with_config_paths(args: Sequence[str]) -> list[str]:
    """The arguments, where ``--config NAME`` of a known configuration becomes ``--config PATH``.

    A file of that name in the current directory goes first.

    Raises:
        ValueError: If the first one only changes another, or a file is no YAML, naming it and the line.

    >>> with_config_paths(["fit", "--config", "mine.yaml", "--trainer.max_steps=3"])
    ['fit', '--config', 'mine.yaml', '--trainer.max_steps=3']
    """
    known = {name: str(path) for name, path in config_files().items() if not Path(name).exists()}
    named = [str(path) for path in config_paths(args)]
    result = []
    for arg, (option, equals, value), follows in _with_options(args):
        with_value = f"{option}={known.get(value, value)}" if option in _OPTIONS and equals else arg
        result.append(known.get(arg, arg) if follows else with_value)
    for name in named:
        _check_yaml(Path(known.get(name, name)))
    if named and named[0] in known and _only_changes_another(Path(known[named[0]])):
        base = Path(named[0]).name
        raise SettingError(
            f"Expected a whole configuration first, got {named[0]}, which changes another one. "
            f"Give both: --config {base} --config {named[0]}."
        )
    return result


def config_paths(args: Sequence[str]) -> list[Path]:
    """The configurations that arguments name, in their order.

    >>> [str(path) for path in config_paths(["fit", "--config", "a.yaml", "-c=b.yaml"])]
    ['a.yaml', 'b.yaml']
    """
    return [
        Path(arg if follows else value)
        for arg, (option, equals, value), follows in _with_options(args)
        if follows or (option in _OPTIONS and equals)
    ]


def _with_options(args: Sequence[str]) -> list[tuple[str, tuple[str, str, str], bool]]:
    """Each argument, its option and value, and whether it is the value of a ``--config`` before it."""
    before = [None, *args]
    return [(arg, arg.partition("="), before[i] in _OPTIONS) for i, arg in enumerate(args)]


def is_smoke(args: Sequence[str]) -> bool:
    """Whether a configuration of the smoke scale is among the arguments.

    >>> is_smoke(["fit", "--config", "configs/smoke/char_gru.yaml"]), is_smoke(["fit", "--data.root=smoke/data"])
    (True, False)
    """
    return any(path.parent.name == "smoke" for path in config_paths(args))


def _check_yaml(file: Path) -> None:
    if file.is_dir():
        raise SettingError(f"Expected a configuration file, got the folder {file}. Set --config to a file.")
    if not file.is_file():
        return  # somebody else says so
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        _check_each_key_once(yaml.compose(text, yaml.SafeLoader), file)
    except yaml.MarkedYAMLError as error:
        place = f", {_place(error.problem_mark)}" if error.problem_mark else ""
        raise SettingError(f"Expected YAML in {file}{place}: {error.problem}. Correct the file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"Expected YAML in {file}, got something else. Set --config to another file.") from error
    if not isinstance(content, dict):
        got = "nothing" if content is None else type(content).__name__
        raise SettingError(f"Expected settings by name in {file}, got {got}. Correct the file.")


def _check_each_key_once(node: yaml.Node | None, file: Path) -> None:
    """Refuse a setting that a file has twice: YAML takes the last one, and says nothing."""
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            _check_each_key_once(entry, file)
    if not isinstance(node, yaml.MappingNode):
        return
    keys: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in keys and key.tag != _MERGE:
            place = _place(key.start_mark)
            raise SettingError(
                f"Expected each setting once in {file}, got `{key.value}` again in {place}. Remove one of them."
            )
        keys.add(str(key.value))
        _check_each_key_once(value, file)


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _only_changes_another(file: Path) -> bool:
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    return "class_path" not in settings.get("model", {})


def describe_configs(name: str | None = None) -> str:
    """The text of one configuration, or a line on each.

    Raises:
        ValueError: If there is none of that name.
    """
    files = config_files()
    if name is None:
        width = max(map(len, files), default=0)
        heads = (path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for path in files.values())
        lines = [f"{key:<{width}}  {head}" for key, head in zip(files, heads, strict=True)]
        return "\n".join(
            [
                *lines,
                "",
                "the first run:    rigl-lightning fit --config digits",
                "train another:    rigl-lightning fit --config NAME --data.init_args.root DIR",
                "make it yours:    rigl-lightning configs NAME > mine.yaml",
            ]
        )
    if name not in files:
        raise SettingError(with_suggestion(f"Expected one of {', '.join(files)}, got {name!r}", name, files))
    return files[name].read_text(encoding="utf-8").rstrip("\n")
