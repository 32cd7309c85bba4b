"""Command line: ``rigl-lightning {fit,validate,test,predict,inspect,export}``, or ``python -m rigl_lightning ...``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import DefaultHelpFormatter, Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import SIGTERMException

import rigl_lightning.data
import rigl_lightning.models
import rigl_lightning.modules
import rigl_lightning.trainer.sparsity_plot  # noqa: F401  (so that the parser knows the classes of all four by name)
from rigl_lightning import __version__
from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.files import is_file, join, written_beside
from rigl_lightning.cli.configs import describe_configs, is_smoke, with_config_paths
from rigl_lightning.cli.errors import explain_parse_error
from rigl_lightning.cli.export import Format, export_checkpoint
from rigl_lightning.cli.flags import with_flags
from rigl_lightning.cli.given import Given, class_named, default_of
from rigl_lightning.cli.help import DESCRIPTIONS, HELP, HELP_OF_CONFIGS, options_in_words, short_groups, without_bases
from rigl_lightning.cli.predictions import check_output, save_predictions
from rigl_lightning.cli.run_errors import broken_file, check_seed, explain_run_error, refused_by_trainer
from rigl_lightning.cli.runs import (
    LAST,
    OF_ONE_CALL,
    UNTRAINED,
    check_trained,
    last_checkpoint,
    multiplied_length,
    run_summary,
    version_of,
)
from rigl_lightning.data.module import ResumableDataModule
from rigl_lightning.export.compacting import Compute
from rigl_lightning.reports.layer_table import layer_table
from rigl_lightning.sparsity.layouts import shapes_of
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.trainer.callback import SparseTrainingCallback
from rigl_lightning.trainer.checkpoint_io import write_whole_files
from rigl_lightning.trainer.csv_logger import KeepEarlierMetrics
from rigl_lightning.trainer.flavours import callbacks_of
from rigl_lightning.trainer.flop_meter import example_flops

TRACEBACK_VARIABLE = "RIGL_LIGHTNING_TRACEBACK"
INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses after Ctrl-C and SIGTERM, as shells have them."""


class Trainer(pl.Trainer):
    """Lightning's Trainer that can also show what a training would do, and write files of what was trained."""

    def predict(self, *args: Any, output: str | None = None, **kwargs: Any) -> Any:
        """Predict with a trained network, and write the predictions to a file.

        Args:
            *args: Lightning's.
            output: The file: ``.csv`` for a row a sample, any other for tensors that torch.load reads.
            **kwargs: Lightning's.
        """
        if output is None:
            return super().predict(*args, **kwargs)
        check_output(output, self.world_size, kwargs.get("ckpt_path"))
        batches = super().predict(*args, **{**kwargs, "return_predictions": True})
        print(save_predictions(batches or [], output, len(self.num_predict_batches)))
        return batches

    def inspect(self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None = None) -> None:
        """Print the per-layer table of shape, connections, sparsity and FLOPs, without training."""
        callback = next(c for c in callbacks_of(self) if isinstance(c, SparseTrainingCallback))
        parameters = callback.settings.select(model)
        shapes = shapes_of(parameters)
        total_steps = self._planned_steps(model, datamodule)
        algorithm = callback.algorithm.resolve(total_steps)
        print(layer_table(algorithm, shapes, total_steps, example_flops(model)))

    def export(
        self,
        model: pl.LightningModule,
        ckpt_path: str,
        output: str,
        datamodule: pl.LightningDataModule | None = None,
        format: Format = "compact",
        batch_size: int = 1,
        compute: Compute = "auto",
    ) -> None:
        """Write the sparse network of a checkpoint to a file, and compare its size and speed with the dense one's.

        Args:
            model: The module of the run.
            ckpt_path: Its checkpoint, with the masks of a SparseTrainingCallback.
            output: The file to write.
            datamodule: Not read.
            format: ``compact`` (values and positions of active connections), ``onnx`` or ``state_dict`` (dense).
            batch_size: Samples of a batch for the measured speed.
            compute: ``auto`` keeps a layer dense where that is faster, ``sparse`` never does, ``dense`` always.
        """
        print(export_checkpoint(model, ckpt_path, output, format, batch_size, compute))

    def _planned_steps(self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None) -> int | None:
        """Optimizer steps of the training; the data is read only if they are counted in epochs.

        Data that is not there is no hindrance where the size of the published training set is known.
        """
        if self.max_epochs in (None, -1) and self.max_steps > 0:
            return self.max_steps
        self.strategy.connect(model)
        self._data_connector.attach_data(model, datamodule=datamodule)
        try:
            self._data_connector.prepare_data()
            if datamodule is not None:
                datamodule.setup("fit")
        except FileNotFoundError:
            if not isinstance(datamodule, ResumableDataModule) or not datamodule.plan_without_data():
                raise
            samples = f"{datamodule.published_size:,} training samples"
            rank_zero_info(f"The data is not there: steps are counted for the {samples} of the published data set.")
        steps = self.estimated_stepping_batches
        return int(steps) if steps < float("inf") else None


class _Parser(LightningArgumentParser):
    """Says what is wrong in a line or two instead of sixty."""

    given: Sequence[str] = ()
    """Arguments of the command."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Print the cause and exit with status 2."""
        if os.environ.get(TRACEBACK_VARIABLE) and ex is not None:
            raise ex
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [name for action in parser._actions for name in action.option_strings]
        _fail(broken_file(ex) or explain_parse_error(message, options, _Parser.given))

    def format_help(self, *formatter: Any) -> str:
        """Of a command: our settings first, and of Lightning's the usual ones.

        Args:
            *formatter: argparse gives one from Python 3.15 on; jsonargparse takes none before 4.53.
        """
        groups = self._action_groups
        self._action_groups = short_groups(self)
        try:
            return super().format_help(*formatter)
        finally:
            self._action_groups = groups

    def save(self, cfg: Namespace, path: str | Path, *args: Any, **settings: Any) -> None:
        """Save a configuration, whole or not at all, to this machine or a remote file system."""
        with written_beside(path) as unfinished:
            super().save(cfg, unfinished, *args, **{**settings, "overwrite": True})


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the description's lines as they are, and of the known classes names those that a user chooses."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return without_bases(super()._get_help_string(action) or "")


class _SaveFitConfig(SaveConfigCallback):
    """Saves the configuration of fit into the run's folder, and never over a file that is there.

    Without a logger there is no such folder, but the current one, where the user's own config.yaml may be.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **settings: Any) -> None:
        config = config.clone()
        for key in OF_ONE_CALL:
            config.pop(key, None)
        super().__init__(parser, config, **settings)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # on every process: Lightning broadcasts it
        if stage != "fit" or not trainer.loggers or not folder:
            return
        # The first process decides for all: another could find the file that the first has just written, and leave
        # it alone in the collective calls to come.
        exists = trainer.is_global_zero and is_file(join(folder, self.config_filename))
        if not trainer.strategy.broadcast(exists):
            super().setup(trainer, pl_module, stage)


class SparseCLI(LightningCLI):
    """LightningCLI with the group ``sparse:`` for the callback, so that a flag can change its algorithm.

    It adds ``--training_multiplier``, and ``--ckpt_path last`` of ``fit`` begins with the first launch of a
    command, and goes on with what it left when the same command is launched again.
    """

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's, with help that keeps its lines."""
        return super().init_parser(**{"formatter_class": _Formatter, **kwargs})

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        usage = f"rigl-lightning {subcommand} --config NAME_OR_FILE [--SETTING VALUE ...]"
        described = {"description": DESCRIPTIONS.get(subcommand, kwargs.get("description")), "usage": usage}
        parser = super()._prepare_subcommand_parser(klass, subcommand, **{**kwargs, **described})
        for option, text in options_in_words(subcommand).items():
            if option in parser._option_string_actions:
                parser._option_string_actions[option].help = text
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the group ``sparse``, the training multiplier and the threads."""
        parser.add_lightning_class_args(SparseTrainingCallback, "sparse")
        parser.add_argument(
            "--training_multiplier",
            type=PositiveFloat,
            default=1.0,
            help="Factor on the length of training: steps and epochs, and with them learning-rate milestones, T_end "
            "and pruning windows, whether given in steps or as fractions. Update intervals stay (paper, section 4).",
        )
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="Threads of torch in each process; null is torch's choice. Small networks are fastest with 1.",
        )

    def before_instantiate_classes(self) -> None:
        """Set the threads, find what ``--ckpt_path last`` means, see that a network that is tested is a trained one."""
        command = str(self.subcommand)
        settings = self.config.get(command)
        _check_schedules(settings.sparse.algorithm)
        if settings.get("threads") is not None:
            torch.set_num_threads(settings.threads)
        given = settings.get("ckpt_path")
        if given == UNTRAINED:
            settings.ckpt_path = None
        elif given != LAST:
            check_trained(command, given)
        if given != LAST:
            return
        plain = yaml.safe_load(self._parser(command).dump(settings, skip_none=False))
        settings.ckpt_path = found = last_checkpoint(plain)
        if command == "fit":
            rank_zero_info(f"Going on with {found}." if found else "No earlier run of this command: it begins now.")
            self._log_into(found)
        else:
            check_trained(command, found)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Lightning's, of the length that the training multiplier gives.

        Its checkpoints are written whole or not at all, unless a plugin says how to write them.
        """
        length = self._length()
        try:
            trainer = super().instantiate_trainer(**length, **kwargs)
        except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise refused_by_trainer(error) from error
        callbacks_of(trainer).insert(0, KeepEarlierMetrics())
        write_whole_files(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; of a training that Ctrl-C or SIGTERM ends, say what there is and how to go on."""
        try:
            super()._run_subcommand(subcommand)
        except SystemExit as end:
            if not self.trainer.interrupted:
                raise
            if subcommand == "fit" and self.trainer.world_size == 1:  # others may be gone already, and not be asked
                print(run_summary(self.trainer))
            raise SystemExit(TERMINATED if isinstance(end, SIGTERMException) else INTERRUPTED) from end

    def after_fit(self) -> None:
        """Say where everything is."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        places = run_summary(self.trainer)  # on every process: Lightning broadcasts the logger's folder
        if self.trainer.is_global_zero:
            print(places)
            if is_smoke(_Parser.given):
                print("This was the smoke scale: it shows that everything runs. Its numbers are no result.")

    def _length(self) -> dict[str, int]:
        """Steps and epochs of the training, multiplied; the algorithm is stretched along."""
        factor = self._get(self.config_init, "training_multiplier")
        if factor == 1:
            return {}
        sparse = self._get(self.config_init, "sparse")
        sparse.algorithm = sparse.algorithm.stretched(factor)
        settings = self._get(self.config_init, "trainer")
        return multiplied_length(settings["max_steps"], settings["max_epochs"], factor)

    def _log_into(self, checkpoint: str | None) -> None:
        """Have the logger use the folder of the run that goes on."""
        logger = self.config.get(str(self.subcommand)).trainer.logger
        for entry in logger if isinstance(logger, list) else [logger]:
            arguments = getattr(entry, "init_args", None)
            if checkpoint is not None and arguments is not None and "version" in arguments and not arguments.version:
                arguments.version = version_of(checkpoint)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, ``inspect`` and ``export``."""
        return {**LightningCLI.subcommands(), "inspect": {"model", "datamodule"}, "export": {"model", "datamodule"}}

    def _set_seed(self) -> None:
        """Lightning's, of a seed that numpy takes."""
        check_seed(self._get(self.config, "seed_everything"))
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Leave the network as it is configured.

        Lightning makes the class that the checkpoint's hyper-parameters name, and imports its module: whoever gives
        you a checkpoint could run code.
        """


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments without the program's name; None for those of the process.

    A wrong setting ends it with status 2 and one line that names the setting; set RIGL_LIGHTNING_TRACEBACK=1 for the
    traceback. The current directory is importable, so that a user's own ``mine.py`` can be named by dotted path.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    _silence_what_nobody_can_change()
    try:
        given = list(sys.argv[1:] if args is None else args)
        if given[:1] == ["configs"] and given[1:] in (["-h"], ["--help"]):
            print(HELP_OF_CONFIGS)
            return
        if given in (["-h"], ["--help"]):
            print(HELP)
            return
        if given[:1] == ["configs"]:
            print(describe_configs(*given[1:2]))
            return
        _run_subcommand(with_config_paths(given), is_of_process=args is None)
    except KeyboardInterrupt:  # before or after Lightning's own care for it
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = explain_run_error(error)
        if message is None or os.environ.get(TRACEBACK_VARIABLE):
            raise
        _fail(f"{message} ({TRACEBACK_VARIABLE}=1 shows the traceback.)")


def _run_subcommand(given: list[str], is_of_process: bool) -> None:
    """Fit, validate, test or predict, as the arguments say."""
    _Parser.given = given
    Given(given).refuse_second_callback()
    if is_of_process:
        sys.argv[1:] = given  # Lightning warns of arguments that are not those of the process
    SparseCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        trainer_class=Trainer,
        seed_everything_default=0,
        save_config_callback=_SaveFitConfig,
        parser_class=_Parser,
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "rigl-lightning", "version": __version__, "description": HELP},
        args=None if is_of_process else given,
    )


def _check_schedules(algorithm: Namespace) -> None:
    """Refuse a number or a word for a schedule: jsonargparse takes it from a file, and then fails.

    Raises:
        SettingError: Naming the setting.
    """
    kind = class_named(algorithm.class_path)
    for name, value in vars(algorithm.get("init_args") or Namespace()).items():
        if kind and isinstance(default_of(kind, name), UpdateSchedule) and not isinstance(value, Namespace):
            raise SettingError(
                f"Expected --sparse.algorithm.{name} to have settings of its own, got {value}. "
                "Set its .interval, .begin or .end."
            )


def _silence_what_nobody_can_change() -> None:
    """Keep Lightning's advertisements, and its use of torch's deprecated functions, off the user's screen."""
    warnings.filterwarnings("ignore", message=".*treespec.*", module="pytorch_lightning.*")
    # Of a checkpoint that is tested, or gone on with elsewhere: it says what files of the earlier run are left alone.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    tips = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    tips.addFilter(lambda record: "Tip: For seamless cloud" not in record.getMessage())


def _fail(message: str) -> Any:
    print(f"error: {with_flags(message)}", file=sys.stderr)
    sys.exit(2)
