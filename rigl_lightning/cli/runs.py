"""A run as the command line sees it: its length, where its files are, which earlier one the same command goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.files import is_file, join, local, matching, modified, open_file
from rigl_lightning.trainer.flavours import callbacks_named, callbacks_of

LAST = "last"
UNTRAINED = "none"
_BEST = "best"  # of a training in the same process, in Lightning
_OF_TRAINED_NETWORKS = ("validate", "test", "predict", "export")
LAST_CHECKPOINT = "last.ckpt"
CONFIG = "config.yaml"
OF_ONE_CALL = ("ckpt_path", "weights_only")
"""Settings of one command, and not of the run: what is saved is without them, so that every subcommand takes it."""
OF_THE_RUN = ("seed_everything", "trainer", "model", "data", "sparse", "training_multiplier")
"""Settings that make one run another."""
METRICS = "metrics.csv"
PLOT = "sparsity.png"
_KINDS = {METRICS: "metrics", PLOT: "picture"}
_LOGGERS_WITH_FOLDERS = ("CSVLogger", "TensorBoardLogger")  # and ResumableCSVLogger


def last_checkpoint(settings: Mapping[str, Any]) -> str | None:
    """Newest ``last.ckpt`` of an earlier run of the same settings, or None if there is none.

    Where ``ModelCheckpoint`` has a ``dirpath``, or the logger a ``version``, that place alone is looked at. Else all
    versions of the run's name are, and one counts only if the configuration saved there equals ``settings``.

    Args:
        settings: Of ``fit``, as plain values.

    Raises:
        ValueError: If the logger is none that keeps runs in folders, and there is no ``dirpath``.
    """
    trainer = settings["trainer"]
    folder = next((args["dirpath"] for args in _settings_of(trainer["callbacks"]) if args.get("dirpath")), None)
    if folder is not None:
        return _newest([join(folder, LAST_CHECKPOINT)])
    logger = _logger(trainer["logger"])
    root = join(logger["save_dir"], *filter(None, [logger.get("name")]))
    if logger.get("version") is not None:
        version = logger["version"]
        name = version if isinstance(version, str) else f"version_{version}"
        return _newest([join(root, name, "checkpoints", LAST_CHECKPOINT)])
    found = matching(root, f"*/checkpoints/{LAST_CHECKPOINT}")
    return _newest(path for path in found if _is_of(join(_run_of(path), CONFIG), settings))


def check_trained(command: str, checkpoint: str | None) -> None:
    """Refuse to test, validate, predict with or export a network that nobody has trained, and a folder in any case.

    Args:
        command: Of the command line.
        checkpoint: Its ``--ckpt_path``, or what was found for ``last``; None if there is none.

    Raises:
        ValueError: Saying what could be given.
    """
    here = None if checkpoint is None else local(checkpoint)
    if here is not None and here.is_dir():
        places = here / LAST_CHECKPOINT, here / "checkpoints" / LAST_CHECKPOINT
        inside = next((place for place in places if place.is_file()), "a file")
        raise SettingError(f"Expected a checkpoint file, got the folder {checkpoint}. Set --ckpt_path to {inside}.")
    if command in _OF_TRAINED_NETWORKS and checkpoint in (None, _BEST):
        initial = f", or to {UNTRAINED} for the weights that the configuration itself makes"
        raise SettingError(
            f"Expected a checkpoint for {command}, {'got best' if checkpoint else 'found none'}: the network would be "
            f"as it is before training. Set --ckpt_path to a file, to {LAST} for the newest run with all these settings"
            f"{initial if command != 'export' else ''}."
        )


def version_of(checkpoint: str) -> str:
    """Name of the run's folder: ``version_3`` of ``runs/name/version_3/checkpoints/last.ckpt``."""
    return Path(_run_of(checkpoint)).name


def multiplied_length(max_steps: int, max_epochs: int | None, factor: float) -> dict[str, int]:
    """Steps and epochs of a training ``factor`` times as long; -1 and None mean no limit.

    Raises:
        ValueError: If there is no limit, or a part of an epoch comes out.

    >>> multiplied_length(32_000, -1, 5)
    {'max_steps': 160000}
    """
    length: dict[str, int] = {}
    if max_steps > 0:
        length["max_steps"] = round(max_steps * factor)
    if max_epochs is not None and max_epochs > 0:
        epochs = max_epochs * factor
        if epochs != round(epochs):
            raise SettingError(
                f"Expected whole epochs, got {max_epochs} x {factor:g} = {epochs:g}. Set --training_multiplier to "
                "another factor, or --trainer.max_steps."
            )
        length["max_epochs"] = round(epochs)
    if not length:
        raise SettingError("Expected a training of known length to multiply. Set --trainer.max_steps.")
    return length


def run_summary(trainer: pl.Trainer) -> str:
    """The last line of a training: validation, files, and the command that tests it or goes on."""
    checkpoints = [c for c in callbacks_of(trainer) if isinstance(c, ModelCheckpoint)]
    kept = [path for c in checkpoints for path in (c.last_model_path, c.best_model_path) if path and is_file(path)]
    folder = trainer.log_dir if trainer.loggers else None
    files = {name: path for name in _KINDS if folder and is_file(path := join(folder, name))}
    parts = [f"checkpoint {kept[0]}"] if kept else ["no checkpoint"]
    parts += [f"{_KINDS[name]} {path}" for name, path in files.items()]
    config = join(folder, CONFIG) if folder else None
    status, what, command = ("Interrupted", "go on", "fit") if trainer.interrupted else ("Done", "test it", "test")
    then = ""
    if kept and config is not None and is_file(config):
        then = f"; {what}: python -m rigl_lightning {command} --config {config} --ckpt_path {kept[0]}"
    return f"{status} after {_steps(trainer)}: {', '.join([*_validated(trainer), *parts])}{then}"


def _steps(trainer: pl.Trainer) -> str:
    """How many steps were made; Lightning's counter, which names checkpoints, adds up those of all optimizers."""
    total = f"{trainer.global_step} steps"
    sparsifiers = [callback.sparsifier for callback in callbacks_named(trainer, "SparseTrainingCallback")]
    own = ", ".join(str(sparsifier.step) for sparsifier in sparsifiers if sparsifier is not None)
    if len(trainer.optimizers) < 2 or not own:
        return total
    return f"{own} steps of the sparse weights ({total} of {len(trainer.optimizers)} optimizers together)"


def _validated(trainer: pl.Trainer) -> list[str]:
    """What the last validation logged, by Lightning's usual names."""
    metrics = trainer.callback_metrics.items()
    return [f"{name} {float(value):.4g}" for name, value in metrics if name.startswith("val") and value.numel() == 1]


def _run_of(checkpoint: str) -> str:
    """The run's folder: ``a/version_3`` of ``a/version_3/checkpoints/last.ckpt``."""
    return checkpoint.replace("\\", "/").rsplit("/", 2)[0]


def _newest(paths: Iterable[str]) -> str | None:
    return max(filter(is_file, paths), key=modified, default=None)


def _is_of(file: str, settings: Mapping[str, Any]) -> bool:
    if not is_file(file):
        return False
    try:
        with open_file(file) as stream:
            saved = yaml.safe_load(stream)
    except yaml.YAMLError:  # torn, or of somebody else: no run of these settings
        return False
    return isinstance(saved, dict) and _comparable(saved) == _known_to(_comparable(saved), _comparable(settings))


def _known_to(saved: Any, settings: Any) -> Any:
    """The settings without those that an earlier version did not have: it saved all of its own, defaults too.

    >>> _known_to({"sparse": {"seed": 1}}, {"sparse": {"seed": 1, "storage": "auto"}})
    {'sparse': {'seed': 1}}
    """
    if not (isinstance(saved, Mapping) and isinstance(settings, Mapping)):
        return settings
    return {key: _known_to(saved[key], value) for key, value in settings.items() if key in saved}


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key in OF_THE_RUN}


def _settings_of(callbacks: Any) -> list[Mapping[str, Any]]:
    entries = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    return [entry.get("init_args") or {} for entry in entries if "ModelCheckpoint" in entry["class_path"]]


def _logger(logger: Any) -> Mapping[str, Any]:
    entry = logger[0] if isinstance(logger, list) and logger else logger
    if isinstance(entry, Mapping) and str(entry.get("class_path")).endswith(_LOGGERS_WITH_FOLDERS):
        settings: Mapping[str, Any] = entry.get("init_args") or {}
        return settings
    raise SettingError(
        f"Expected a logger that keeps runs in folders ({', '.join(_LOGGERS_WITH_FOLDERS)}) for --ckpt_path last, got "
        f"{entry}. Set --trainer.logger, a `dirpath` of ModelCheckpoint, or --ckpt_path to a file."
    )
