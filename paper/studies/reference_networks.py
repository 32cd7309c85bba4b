"""The networks of the paper as their authors count them: shapes of the weights, and how often each one is used.

They counted Keras models (google-research/rigl d39fc7d, rigl/imagenet_resnet/colabs), whose padding layers make some
convolutions larger than those that they trained and that the package traces: `in_keras`. This belongs to the published
numbers, not to the package, whose tracing counts what a module really does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rigl_lightning.models import CharGRU, LeNet300100, WideResNet, mobilenet_v1, mobilenet_v2, resnet50
from rigl_lightning.sparsity.costs.flops import trace, with_outputs
from rigl_lightning.sparsity.costs.sizes import network_bytes


@dataclass(frozen=True)
class CountedNetwork:
    """Weights of one network, in its order.

    Attributes:
        shapes: Shape of each weight by name, (out, in / groups, *kernel).
        positions: How often a weight is used for one sample: output pixels of a convolution.
        depthwise: Names of the depthwise convolutions.
    """

    shapes: Mapping[str, tuple[int, ...]]
    positions: Mapping[str, int]
    depthwise: frozenset[str] = frozenset()

    def product_flops(self) -> dict[str, float]:
        """Dense forward FLOPs per sample by weight, in the convention "products"."""
        return {name: 2 * math.prod(shape) * self.positions[name] for name, shape in self.shapes.items()}

    def authors_flops(self) -> dict[str, float]:
        """The same in the authors' convention, "products and outputs".

        A depthwise layer has one output a position, as in their count: to it a depthwise layer is a convolution whose
        kernel has an output dimension of 1.
        """
        outputs = {name: self.positions[name] * self._outputs(name) for name in self.shapes}
        return with_outputs(self.product_flops(), outputs)

    def bytes(self, sparsities: Mapping[str, float]) -> float:
        """Size with 32-bit values, a mask bit for each connection of a sparse weight, and a bias an output."""
        return network_bytes(self.shapes, sparsities, n_biases=sum(map(self._outputs, self.shapes)))

    def _outputs(self, name: str) -> int:
        return 1 if name in self.depthwise else self.shapes[name][0]


def traced(module: nn.Module, sample: Tensor) -> CountedNetwork:
    """What a module does for one sample."""
    flops = trace(module, sample).flops
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if name in flops}
    return CountedNetwork(
        shapes=shapes,
        positions={name: flops[name] // (2 * math.prod(shape)) for name, shape in shapes.items()},
        depthwise=frozenset(f"{name}.weight" for name, m in module.named_modules() if _is_depthwise(m)),
    )


def in_keras(network: CountedNetwork, added_pixels: Mapping[str, int]) -> CountedNetwork:
    """The same network in the Keras layout, where a padded input makes some outputs larger.

    Args:
        network: As torch lays it out.
        added_pixels: Weight name -> pixels that its square output is longer.
    """
    larger = {name: (math.isqrt(network.positions[name]) + n) ** 2 for name, n in added_pixels.items()}
    return replace(network, positions={**network.positions, **larger})


def scaled(network: CountedNetwork, width: float) -> CountedNetwork:
    """The same network with other channels, scaled as the authors' count does: each dimension by itself, rounded down.

    (rigl/sparse_utils.py:400-420, commit d39fc7d.) The networks that are trained, `resnet50` and `mobilenet_v1` of this
    package, keep the channels of a block in proportion, or multiples of 8, and so differ by less than a channel or by
    less than 8.
    """
    first, last = next(iter(network.shapes)), list(network.shapes)[-1]

    def shape_of(name: str) -> tuple[int, ...]:
        n_out, n_in, *kernel = network.shapes[name]
        keeps_in = name == first or name in network.depthwise
        return (
            n_out if name == last else int(n_out * width),
            n_in if keeps_in else int(n_in * width),
            *kernel,
        )

    return replace(network, shapes={name: shape_of(name) for name in network.shapes})


def torch_resnet50() -> CountedNetwork:
    """ResNet-50 on 224 x 224 images as torch lays it out."""
    return traced(_on_meta(resnet50), _image(224))


def torch_mobilenet_v1() -> CountedNetwork:
    """MobileNet-v1 on 224 x 224 images as torch lays it out."""
    return traced(_on_meta(mobilenet_v1), _image(224))


def torch_mobilenet_v2() -> CountedNetwork:
    """MobileNet-v2 on 224 x 224 images as torch lays it out."""
    return traced(_on_meta(mobilenet_v2), _image(224))


def keras_resnet50() -> CountedNetwork:
    """ResNet-50 whose 7x7 stem is counted at 115 x 115: padded by 3, then counted with "same" padding."""
    return in_keras(torch_resnet50(), {"conv1.weight": 3})


def keras_mobilenet_v1() -> CountedNetwork:
    """MobileNet-v1 whose strided convolutions are counted at 113, 57, 29, 15 and 8 pixels."""
    return in_keras(torch_mobilenet_v1(), dict.fromkeys(_strided(mobilenet_v1), 1))


def keras_mobilenet_v2() -> CountedNetwork:
    """MobileNet-v2 in the same layout; no count of the authors is published for it."""
    return in_keras(torch_mobilenet_v2(), dict.fromkeys(_strided(mobilenet_v2), 1))


def wrn_22_2() -> CountedNetwork:
    """WRN-22-2 on 32 x 32 images."""
    return traced(_on_meta(wide_resnet), _image(32))


def char_gru() -> CountedNetwork:
    """The character GRU, for one token; the embedding counts where it makes the logits."""
    return traced(_on_meta(CharGRU), torch.zeros(1, 1, dtype=torch.int64))


def lenet_300_100() -> CountedNetwork:
    """LeNet-300-100 on 28 x 28 images."""
    return traced(_on_meta(LeNet300100), _image(28, channels=1))


def wide_resnet(width: float = 1.0) -> WideResNet:
    """WRN-22-2 whose stages have other channels; the stem keeps its 16."""
    return WideResNet(22, 2 * width)


def resized(network: CountedNetwork, build: Callable[[], nn.Module]) -> CountedNetwork:
    """The network with the shapes of a wider or narrower module.

    A convolution of a skip is not there at the width at which input and output have as many channels.
    """
    parameters = dict(_on_meta(build).named_parameters())
    return replace(network, shapes={n: tuple(parameters[n].shape) for n in network.shapes if n in parameters})


def _strided(build: Callable[[], nn.Module]) -> list[str]:
    convolutions = ((n, m) for n, m in _on_meta(build).named_modules() if isinstance(m, nn.Conv2d))
    return [f"{name}.weight" for name, m in convolutions if m.stride[0] == 2]


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def _image(side: int, channels: int = 3) -> Tensor:
    return torch.zeros(1, channels, side, side, device="meta")
