"""Trained networks to what is deployed: compact ones for inference on the CPU, small files, ONNX, 2:4 on GPUs."""

from rigl_lightning.export.batch_norm_folding import fold_batch_norm
from rigl_lightning.export.checkpoints import load_checkpoint
from rigl_lightning.export.compacting import compact, layers_of
from rigl_lightning.export.files import dense_state_dict, load_compact, paper_bytes, read_compact, save_compact
from rigl_lightning.export.onnx import export_onnx
from rigl_lightning.export.semi_structured import is_two_of_four, to_semi_structured

__all__ = [
    "compact",
    "dense_state_dict",
    "export_onnx",
    "fold_batch_norm",
    "is_two_of_four",
    "layers_of",
    "load_checkpoint",
    "load_compact",
    "paper_bytes",
    "read_compact",
    "save_compact",
    "to_semi_structured",
]
