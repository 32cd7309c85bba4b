"""A trained network out of a checkpoint: its weights into a module, and the masks that belong to them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rigl_lightning.base.errors import SettingError
from rigl_lightning.base.loading import load_plain
from rigl_lightning.kernels.masking import zero_inactive_
from rigl_lightning.sparsity.files.masks import read_masks
from rigl_lightning.sparsity.names import clean_name


def load_checkpoint(module: nn.Module, checkpoint: str | Path) -> dict[str, Tensor]:
    """Load a Lightning checkpoint of a `SparseTrainingCallback` into the module that was trained.

    Args:
        module: The LightningModule, whose weights are replaced (``strict=True``).
        checkpoint: The file.

    Returns:
        The masks by parameter name; what they leave out is zero in the module.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, has no masks, or those of a dense network.
        RuntimeError: If the weights are those of another module.
    """
    content = load_plain(checkpoint, "a checkpoint", "Set `ckpt_path`.")
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise SettingError(
            f"Expected a checkpoint of Lightning at {checkpoint}, found no `state_dict`. Set `ckpt_path`."
        )
    state = {str(name): tensor for name, tensor in state.items()}
    masks = read_masks(checkpoint, {clean_name(name): p.shape for name, p in module.named_parameters() if p.ndim >= 2})
    if all(bool(mask.all()) for mask in masks.values()):
        raise SettingError(
            f"Expected a sparse network, but every connection of {checkpoint} is active. Set `ckpt_path` to a run with "
            "a sparse algorithm."
        )
    names = {clean_name(name): name for name in module.state_dict()}
    module.load_state_dict({names.get(clean_name(name), name): tensor for name, tensor in state.items()})
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = module.get_parameter(names[name])
            zero_inactive_(parameter, mask.to(parameter.device))
    return masks
