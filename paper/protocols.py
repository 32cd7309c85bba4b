"""How each benchmark is trained at each scale: configuration files, sparsities, intervals. Only numbers differ.

The configurations hold the rest: networks, data, learning rates, lengths. A scale is a second configuration over the
first, or one of its own where nothing of the first would stay (ImageNet's at the small scale).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).parents[1] / "configs"
# What decides nothing about a result: where it is kept and how often something is written down.
INCIDENTAL = ("callbacks", "logger", "log_every_n_steps", "enable_progress_bar")


@dataclass(frozen=True)
class Protocol:
    """One benchmark at one scale.

    Attributes:
        configs: Files in ``configs/``; a later one overrides an earlier one.
        title: Network and data, as captions name them.
        data: Folder of the data within the one given to ``launch.py``; None if the data need no folder.
        sparsity: That of panels with one sparsity.
        sparsities: Those of panels with several.
        distribution: That of panels with one distribution.
        multipliers: Training lengths of panels with several.
        usual_multiplier: Training length of panels with one.
        extended: That of the extended trainings, where a panel has both.
        extended_methods: Of the methods that are trained at several lengths those that are at the extended one, too.
        extended_pruning: By sparsity, the lengths of a pruning and of a RigL training (ERK) that costs about as much
            or less; none for a scale without that comparison.
        intervals: Delta T of the sweeps. The first one above the smallest is the configuration's own.
        ramp: Begin, end and interval of gradual pruning: fractions of the training, and steps.
        widths: Width factor of Small-Dense by the sparsity of the network that has as many weights, for the benchmark's
            own network at the uniform distribution (``tests/paper/test_widths.py`` computes them again).
        big_width: Width factor of Big-Sparse, whose inference costs as much as the dense network's at ``sparsity``.
        first_layer_dense: Whether the uniform distribution keeps the first of the sparse layers dense; not if the first
            layer of the network is excluded already.
        compute: How layers are computed in trainings that are sparse from the first step, see ``--sparse.compute``; the
            others are computed densely. "auto" would choose by a measurement, so that a row could not be made again.
        arguments: Further arguments.
    """

    configs: tuple[str, ...]
    title: str = ""
    data: str | None = ""
    sparsity: float = 0.9
    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95, 0.98)
    distribution: str = "uniform"
    multipliers: tuple[float, ...] = (1, 1.5, 2, 3, 4, 5)
    usual_multiplier: float = 1
    extended: float = 5
    extended_methods: tuple[str, ...] = ("Static", "SET", "SNFS", "RigL")
    extended_pruning: Mapping[float, tuple[float, float]] = field(default_factory=dict)
    intervals: tuple[int, ...] = (50, 100, 500, 1000)
    ramp: tuple[float, float, int] = (0.3125, 0.78125, 1000)
    widths: Mapping[float, float] = field(default_factory=dict)
    big_width: float = 1.0
    first_layer_dense: bool = True
    compute: str = "dense"
    arguments: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What the configurations say together."""
        return deepcopy(_merged(self.configs))

    @property
    def deciding(self) -> dict[str, Any]:
        """`settings` without what cannot change a result."""
        settings = self.settings
        settings["trainer"] = {k: v for k, v in settings["trainer"].items() if k not in INCIDENTAL}
        return settings

    def length(self, multiplier: float) -> list[str]:
        """Arguments that make the training ``multiplier`` times as long; everything else stretches along."""
        settings = self.settings
        trainer = settings["trainer"]
        if multiplier == settings.get("training_multiplier", 1):
            return []
        steps = trainer.get("max_steps")
        if steps is not None and trainer.get("val_check_interval") == steps:  # validated once, at the end: so still
            return [f"--trainer.{key}={round(multiplier * steps)}" for key in ("max_steps", "val_check_interval")]
        return [f"--training_multiplier={multiplier:g}"]


@cache
def _merged(configs: tuple[str, ...]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name in configs:
        _merge(merged, yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")))
    return merged


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    """As the command line does: groups are merged, all else is replaced."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = deepcopy(value)


# Published where a width is (ResNet-50 .8 and .9, MobileNet-v1 .75 and .9), else computed by `protocol_widths`. No
# MobileNet-v2 is as small as the sparse ones: at any width its last convolution keeps the 1280 channels.
PAPER_WIDTHS: Mapping[str, Mapping[float, float]] = {
    "imagenet_resnet50": {0.8: 0.44, 0.9: 0.34, 0.95: 0.195, 0.965: 0.158},
    "imagenet_mobilenet_v1": {0.75: 0.47, 0.85: 0.32, 0.9: 0.285, 0.95: 0.16},
    "imagenet_mobilenet_v2": {},
}
_MOBILENET: Any = {"sparsity": 0.75, "sparsities": (0.75, 0.85, 0.9, 0.95), "usual_multiplier": 5}
# Trainings of 20 steps end in their first epoch: validated every 5 steps, they are validated at their ends.
_AT_THE_END = (
    "--trainer.check_val_every_n_epoch=null",
    "--trainer.val_check_interval=5",
    "--trainer.log_every_n_steps=2",
)
_MNIST = ("mnist_lenet.yaml",)


def _over(scale: str, benchmark: str) -> tuple[str, str]:
    return f"{benchmark}.yaml", f"{scale}/{benchmark}.yaml"


PROTOCOLS: Mapping[str, Mapping[str, Protocol]] = {
    "smoke": {
        "mnist_lenet": Protocol(
            _over("smoke", "mnist_lenet"), data=None, sparsity=0.95, sparsities=(0.95,), widths={0.95: 0.1}
        ),
        "imagenet_resnet50": Protocol(
            _over("smoke", "imagenet_resnet50"),
            data=None,
            arguments=_AT_THE_END,
            sparsities=(0.8, 0.9),
            multipliers=(1, 2),
            intervals=(5, 10),
            ramp=(0.25, 0.75, 2),
            widths={0.8: 0.11, 0.9: 0.08},
        ),
        "imagenet_mobilenet_v1": Protocol(
            _over("smoke", "imagenet_mobilenet_v1"),
            data=None,
            arguments=_AT_THE_END,
            **{**_MOBILENET, "sparsities": (0.75,)},
            ramp=(0.25, 0.75, 2),
            widths={0.75: 0.125},
            big_width=0.5,
            first_layer_dense=False,
        ),
        "imagenet_mobilenet_v2": Protocol(
            _over("smoke", "imagenet_mobilenet_v2"),
            data=None,
            arguments=_AT_THE_END,
            **{**_MOBILENET, "sparsities": (0.75,)},
            ramp=(0.25, 0.75, 2),
            widths={0.75: 0.125},
            first_layer_dense=False,
        ),
        "char_gru": Protocol(
            _over("smoke", "char_gru"),
            data=None,
            multipliers=(1, 2),
            ramp=(0.25, 0.75, 2),
            first_layer_dense=False,
            arguments=_AT_THE_END,
        ),
        "cifar10_wrn22": Protocol(
            _over("smoke", "cifar10_wrn22"),
            data=None,
            arguments=_AT_THE_END,
            sparsities=(0.8, 0.9),
            intervals=(5, 10),
            ramp=(0.2048, 0.768, 2),
            first_layer_dense=False,
        ),
    },
    "small": {
        "mnist_lenet": Protocol(
            _over("small", "mnist_lenet"),
            "LeNet-300-100, MNIST, 12,000 steps of 100 images",
            sparsity=0.99,
            sparsities=(0.95, 0.98, 0.99),
            distribution="ERK",
            multipliers=(1, 2),
            intervals=(10, 100, 1000),
            ramp=(0.3125, 0.78125, 200),
            widths={0.99: 0.013},
            first_layer_dense=False,
            compute="sparse",
        ),
        "imagenet_resnet50": Protocol(
            ("small/imagenet_resnet50.yaml",),
            "WRN-10-1, CIFAR-10 at 16 pixels, 2,000 steps of 128 images",
            sparsity=0.95,
            sparsities=(0.8, 0.9, 0.95, 0.965),
            distribution="ERK",
            multipliers=(1, 2, 5),
            intervals=(10, 33, 100),
            ramp=(0.3125, 0.78125, 50),
            widths={0.8: 0.429, 0.9: 0.296, 0.95: 0.21, 0.965: 0.171},
            extended_methods=("Static", "RigL"),
            extended_pruning={0.8: (1.5, 2.5), 0.9: (1.5, 5), 0.95: (1, 5), 0.965: (1, 5)},
        ),
        "imagenet_mobilenet_v1": Protocol(
            ("small/imagenet_mobilenet_v1.yaml",),
            "The first blocks of MobileNet-v1 at half the width, CIFAR-10 at 16 pixels, 2,400 steps of 64 images",
            **_MOBILENET,
            ramp=(0.3125, 0.78125, 50),
            widths={0.75: 0.261, 0.85: 0.214, 0.9: 0.183, 0.95: 0.15},
            big_width=0.929,
        ),
        "imagenet_mobilenet_v2": Protocol(
            ("small/imagenet_mobilenet_v2.yaml",),
            "The first blocks of MobileNet-v2 at half the width, CIFAR-10 at 16 pixels, 2,400 steps of 64 images",
            **_MOBILENET,
            ramp=(0.3125, 0.78125, 50),
            widths={0.75: 0.249, 0.85: 0.187, 0.9: 0.156, 0.95: 0.124},
        ),
        "char_gru": Protocol(
            _over("small", "char_gru"),
            "GRU of 256 units, English Wikipedia, 1,500 steps of 32 sequences of 64 bytes",
            data="wikipedia_en",
            multipliers=(0.5, 1, 2),
            ramp=(0.25, 0.75, 20),
            first_layer_dense=False,
            compute="sparse",
        ),
        "cifar10_wrn22": Protocol(
            _over("small", "cifar10_wrn22"),
            "WRN-22-2, CIFAR-10 at 16 pixels, 1,500 steps of 128 images",
            sparsity=0.95,
            sparsities=(0.9, 0.95),
            distribution="ERK",
            intervals=(10, 25, 100),
            ramp=(0.2048, 0.768, 25),
            first_layer_dense=False,
        ),
    },
    "paper": {
        "mnist_lenet": Protocol(
            _MNIST,
            "LeNet-300-100, MNIST, 200 epochs of the paper",
            sparsity=0.99,
            sparsities=(0.98, 0.99),
            distribution="ERK",
            ramp=(0.3125, 0.78125, 1000),
            widths={0.99: 0.013},
            compute="sparse",
            # Validated and saved every 20 epochs: written down after every one, a tenth of the time would go there.
            arguments=("--trainer.check_val_every_n_epoch=20", "--trainer.log_every_n_steps=600"),
        ),
        "imagenet_resnet50": Protocol(
            ("imagenet_resnet50.yaml",),
            "ResNet-50, ImageNet",
            data="imagenet",
            sparsity=0.8,
            sparsities=(0.8, 0.9, 0.95, 0.965),
            widths=PAPER_WIDTHS["imagenet_resnet50"],
            extended_pruning={0.8: (1.5, 3), 0.9: (1.5, 3), 0.95: (1.5, 5), 0.965: (1.5, 5)},
        ),
        "imagenet_mobilenet_v1": Protocol(
            ("imagenet_mobilenet_v1.yaml",),
            "MobileNet-v1, ImageNet",
            data="imagenet",
            **_MOBILENET,
        ),
        "imagenet_mobilenet_v2": Protocol(
            ("imagenet_mobilenet_v2.yaml",),
            "MobileNet-v2, ImageNet",
            data="imagenet",
            **_MOBILENET,
        ),
        "char_gru": Protocol(
            ("char_gru.yaml",),
            "GRU of 512 units, WikiText-103",
            data="wikitext-103",
            sparsity=0.75,
            multipliers=(1, 2, 3),
            ramp=(0.25, 0.75, 1000),
            first_layer_dense=False,
        ),
        "cifar10_wrn22": Protocol(
            ("cifar10_wrn22.yaml",),
            "WRN-22-2, CIFAR-10",
            sparsities=(0.5, 0.8, 0.9, 0.95),
            ramp=(0.2048, 0.768, 1000),
            first_layer_dense=False,
            # A twelfth of the training, which ends in the middle of an epoch: validated at its end, too.
            arguments=("--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=8138"),
        ),
    },
}
