"""LightningModules of the benchmarks: a task, an optimizer and its metrics around any network."""

from rigl_lightning.modules.char_language_model import CharLanguageModel
from rigl_lightning.modules.image_classifier import ImageClassifier

__all__ = ["CharLanguageModel", "ImageClassifier"]
