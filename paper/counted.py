"""What a training used, and what is left of a fully connected network, out of its last checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PASSES = 3
"""Forward passes that a dense training step costs."""
STATE = "SparseTrainingCallback"


def counted(checkpoint: Path) -> dict[str, Any]:
    """Steps, FLOPs per sample and those of the dense network for as many steps; `remaining` of a chain of layers."""
    import torch

    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    sparse = content["callbacks"][STATE]
    steps, dense = sparse["step"], sparse["flops_dense"]
    return {
        "steps": steps,
        "train_flops": sparse["flops_spent"],
        "dense_train_flops": dense,
        "dense_inference_flops": dense / steps / PASSES,
        **_remaining(content.get("state_dict", {}), sparse.get("masks", {})),
    }


def remaining(checkpoint: Path) -> dict[str, Any]:
    """Of a network that is a chain of sparse fully connected layers: the part that takes part in its outputs.

    ``units``: inputs and neurons, "408-100-69-10", say; ``kiloflops`` per sample and ``size_bytes`` of the network of
    these units, as in the paper's appendix B. Nothing of any other network.
    """
    import torch

    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return _remaining(content["state_dict"], content["callbacks"][STATE]["masks"])


def _remaining(weights: Mapping[str, Any], packed: Mapping[str, Any]) -> dict[str, Any]:
    from rigl_lightning.reports.network import read_structure
    from rigl_lightning.sparsity.costs.neurons import is_chain
    from rigl_lightning.sparsity.files.masks import unpack_masks

    matrices = [name for name, weight in weights.items() if weight.ndim >= 2]
    if not matrices or set(matrices) != set(packed):
        return {}
    masks = unpack_masks({name: packed[name] for name in matrices})
    chain = [masks[name] for name in matrices]
    if not is_chain(chain):
        return {}
    found = read_structure(chain)
    return {
        "units": "-".join(map(str, found.units)),
        "kiloflops": round(found.kiloflops, 4),
        "size_bytes": round(found.size, 1),
    }
