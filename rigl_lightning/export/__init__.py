"""Trained networks to what is deployed: compact ones for inference on the CPU, small files, ONNX, 2:4 on GPUs."""

from rigl_lightning.export.compacting import compact, layers_of

__all__ = ["compact", "layers_of"]
