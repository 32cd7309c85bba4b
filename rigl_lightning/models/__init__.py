"""The networks of the benchmarks; dense, and unaware that anything may be masked."""

from typing import TYPE_CHECKING, Any

from rigl_lightning.models.char_gru import CharGRU
from rigl_lightning.models.lenet_300_100 import LeNet300100
from rigl_lightning.models.wide_resnet import WideResNet

if TYPE_CHECKING:
    from rigl_lightning.models.any_timm import timm_model as timm_model
    from rigl_lightning.models.mobilenet import mobilenet_v1 as mobilenet_v1
    from rigl_lightning.models.mobilenet import mobilenet_v2 as mobilenet_v2
    from rigl_lightning.models.resnet import resnet50 as resnet50
    from rigl_lightning.models.resnet import small_image_resnet as small_image_resnet

__all__ = [
    "CharGRU",
    "LeNet300100",
    "WideResNet",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet50",
    "small_image_resnet",
    "timm_model",
]


def __getattr__(name: str) -> Any:
    # timm takes seconds to import; the small networks do not need it.
    if name in ("mobilenet_v1", "mobilenet_v2"):
        from rigl_lightning.models import mobilenet

        return getattr(mobilenet, name)
    if name in ("resnet50", "small_image_resnet"):
        from rigl_lightning.models import resnet

        return getattr(resnet, name)
    if name == "timm_model":
        from rigl_lightning.models.any_timm import timm_model

        return timm_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
