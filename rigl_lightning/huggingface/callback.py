"""SparseTrainerCallback: trains a sparse network with Hugging Face's Trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.files import is_file, replacing
from rigl_lightning.base.loading import load_plain
from rigl_lightning.compute import Compute, SparseCompute, Storage
from rigl_lightning.reports.layer_table import table_of
from rigl_lightning.sparsity import SparseAlgorithm, Sparsifier, select_parameters
from rigl_lightning.sparsity.cautions import refuse_other_than_algorithm
from rigl_lightning.sparsity.files.masks import unpack_masks

FILE = "sparsifier.pt"
"""File in each checkpoint folder of the Trainer."""
_LOG = logging.getLogger(__name__)


class SparseTrainerCallback(TrainerCallback):
    """Makes the model of a `transformers.Trainer` sparse for the length of a training.

    The masks follow every step of the Trainer's optimizer, see `Sparsifier.attach`: gradient accumulation, mixed
    precision and data parallelism (DDP) are the Trainer's, and the norm of ``max_grad_norm`` is that of the dense
    gradient. Each checkpoint folder gets a file ``sparsifier.pt``, from which a resumed training goes on exactly; the
    weights in it are zero where connections are inactive, so evaluation and `from_pretrained` need nothing of this.

    Args:
        algorithm: Which connections are active, and when they change.
        include: Patterns of the weights to make sparse, see `select_parameters`; by default all but embeddings, norms
            and biases.
        exclude: Patterns of names that stay dense.
        seed: Seed of masks and growth; by default that of the Trainer.
        compute: How sparse layers are computed on the CPU, see `SparseCompute`.
        storage: How their weights are stored, see `SparseCompute`.
        resume_from: Folder of the checkpoint to resume, if it is not in the Trainer's ``output_dir``.

    Attributes:
        sparsifier: That of the last training, after ``load_best_model_at_end`` as it was at the best checkpoint; None
            before.

    >>> from rigl_lightning import RigL
    >>> callback = SparseTrainerCallback(RigL(sparsity=0.9), exclude=["*.attn"])  # Trainer(..., callbacks=[callback])
    """

    def __init__(
        self,
        algorithm: SparseAlgorithm,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        seed: int | None = None,
        compute: Compute = "dense",
        storage: Storage = "dense",
        resume_from: str | Path | None = None,
    ) -> None:
        refuse_other_than_algorithm(algorithm)
        self.algorithm = algorithm
        self.include, self.exclude = include, exclude
        self.seed = seed
        self.compute, self.storage = compute, storage
        self.resume_from = resume_from
        self.sparsifier: Sparsifier | None = None
        self._layers: SparseCompute | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Mask the model, or go on with the masks of the checkpoint that is resumed.

        Raises:
            ValueError: If settings do not fit the model, processes have other masks, or the masks in the folder are
                those of another training.
            FileNotFoundError: If the checkpoint has no masks.
        """
        self._release()  # what a training before has left that was interrupted
        model: nn.Module = given["model"]
        optimizer: Optimizer = given["optimizer"]
        parameters = select_parameters(model, self.include, self.exclude)
        saved = self._saved(args, state) if state.global_step else None
        # A folder of another training may have the same step.
        misfit = None if saved is None else _misfit(parameters, saved)
        if misfit is not None:
            raise SettingError(
                f"Expected the masks of the training that is resumed, got some that leave out weights of {misfit!r} "
                "which are not zero. Set `resume_from` to the folder of its checkpoint."
            )
        seed = args.seed if self.seed is None else self.seed
        steps = state.max_steps
        self.sparsifier = Sparsifier.attach(parameters, optimizer, self.algorithm, steps, seed=seed, state=saved)
        _check_ranks(self.sparsifier.checksums())
        self._layers = SparseCompute(model, self.sparsifier, self.compute, storage=self.storage)
        self._layers.install()
        if state.is_world_process_zero:
            _LOG.info("%s", table_of(self.sparsifier))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the masks and all else that a resumed training needs into the folder of the model."""
        if self.sparsifier is not None and state.is_world_process_zero:
            with replacing(_folder(args, state) / FILE) as stream:
                torch.save(self.sparsifier.state_dict(), stream)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Let the model go; if the Trainer has loaded the best checkpoint, the masks are those of its weights."""
        self._release()
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if self.sparsifier is None or best is None or not is_file(Path(best) / FILE):
            return
        saved: Mapping[str, Any] = load_plain(Path(best) / FILE, "masks", "")
        if _misfit(self.sparsifier.parameters, saved) is None:  # else the Trainer has not loaded these weights
            self.sparsifier.load_state_dict(saved)

    def _release(self) -> None:
        if self._layers is not None:
            self._layers.remove()
            self._layers = None
        if self.sparsifier is not None:
            self.sparsifier.detach()

    def _saved(self, args: TrainingArguments, state: TrainerState) -> Mapping[str, Any]:
        saved: Mapping[str, Any] = load_plain(
            Path(self.resume_from or _folder(args, state)) / FILE,
            f"the masks of the training that is resumed at step {state.global_step}",
            "Set `resume_from` to the folder of its checkpoint, or start a new training; FixedMasks.from_zeros keeps "
            "the zeros of a sparse model.",
        )
        return saved


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The checkpoint folder of this step."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _misfit(parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Any]) -> str | None:
    """The first weight that is not zero where its mask of the checkpoint leaves it out; None if there is none."""
    for name, mask in unpack_masks(saved.get("masks", {})).items():
        weight = parameters.get(name)
        if weight is not None and weight.shape == mask.shape and bool((weight.detach().cpu() != 0)[~mask].any()):
            return name
    return None


def _check_ranks(checksums: Mapping[str, int]) -> None:
    """Refuse processes whose masks differ: their gradients are averaged."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    of_all: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_all, dict(checksums))
    if any(other != of_all[0] for other in of_all):
        raise SettingError("Expected the same masks on every process, got others. Give all one algorithm and seed.")
