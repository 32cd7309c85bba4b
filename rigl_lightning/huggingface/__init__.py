"""Sparse training with Hugging Face's Trainer; needs ``transformers``."""

from rigl_lightning.huggingface.callback import SparseTrainerCallback

__all__ = ["SparseTrainerCallback"]
