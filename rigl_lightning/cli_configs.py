"""The benchmarks' configurations: where they are, and the names by which the command line knows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def config_files() -> dict[str, Path]:
    """Path of each configuration by name, such as ``char_gru`` and ``smoke/char_gru``.

    Those installed with the package, or those of the repository.
    """
    here = Path(__file__).parent
    installed = here / "configs"
    folder = installed if installed.is_dir() else here.parent / "configs"
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def with_config_paths(args: Sequence[str]) -> list[str]:
    """The arguments, where ``--config NAME`` of a known configuration becomes ``--config PATH``.

    A file of that name in the current directory goes first.

    >>> with_config_paths(["fit", "--config", "mine.yaml", "--trainer.max_steps=3"])
    ['fit', '--config', 'mine.yaml', '--trainer.max_steps=3']
    """
    known = {name: str(path) for name, path in config_files().items() if not Path(name).exists()}
    result = []
    for i, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if i > 0 and args[i - 1] in ("--config", "-c"):
            result.append(known.get(arg, arg))
        elif option in ("--config", "-c") and equals:
            result.append(f"{option}={known.get(value, value)}")
        else:
            result.append(arg)
    return result


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
                "train with one:   rigl-lightning fit --config NAME --data.init_args.root DIR",
                "make it yours:    rigl-lightning configs NAME > mine.yaml",
            ]
        )
    if name not in files:
        raise ValueError(f"Expected one of {', '.join(files)}, got {name!r}. Set the name of a configuration.")
    return files[name].read_text(encoding="utf-8").rstrip("\n")
