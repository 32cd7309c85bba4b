"""The networks of the benchmarks; dense, and unaware that anything may be masked."""

from rigl_lightning.models.char_gru import CharGRU
from rigl_lightning.models.lenet_300_100 import LeNet300100
from rigl_lightning.models.mobilenet import mobilenet_v1, mobilenet_v2
from rigl_lightning.models.resnet50 import resnet50
from rigl_lightning.models.wide_resnet import WideResNet

__all__ = ["CharGRU", "LeNet300100", "WideResNet", "mobilenet_v1", "mobilenet_v2", "resnet50"]
