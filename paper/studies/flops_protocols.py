"""What the FLOPs tables ask of each network: distributions, sparsities, lengths and schedules of the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paper.studies.reference_networks import (
    CountedNetwork,
    char_gru,
    keras_mobilenet_v1,
    keras_mobilenet_v2,
    keras_resnet50,
    lenet_300_100,
    resized,
    scaled,
    torch_mobilenet_v1,
    torch_mobilenet_v2,
    torch_resnet50,
    wide_resnet,
    wrn_22_2,
)
from rigl_lightning import Distribution, ErdosRenyi, Uniform, UpdateSchedule
from rigl_lightning.models import CharGRU, LeNet300100

INTERVAL = 100  # ΔT, everywhere (paper, section 4)


@dataclass(frozen=True)
class Choice:
    """A distribution over some of the layers, under the name the tables give it."""

    label: str
    distribution: Distribution
    reading: str = ""
    is_sparse: Callable[[str], bool] = lambda name: True

    def sparsities(self, network: CountedNetwork, sparsity: float) -> dict[str, float]:
        """Sparsity of each layer that may be sparse."""
        return self.distribution({n: s for n, s in network.shapes.items() if self.is_sparse(n)}, sparsity)


@dataclass(frozen=True)
class Study:
    """One network and what is asked about it.

    Attributes:
        network: As the authors count it.
        plain: As torch lays it out.
        at_width: Width factor -> the network as the authors count it.
        choices: Distributions.
        sparsities: Total sparsities.
        multipliers: Training lengths; those that are published come on top.
        steps: Optimizer steps of a training of multiplier 1.
        schedule: When masks are updated.
        ramp: When pruning prunes.
        small_budget: The sparse network that a Small-Dense one may be as large as.
        big_choices: Distributions of Big-Sparse networks.
        samples: Samples of a training of multiplier 1, where its absolute FLOPs are published.
    """

    network: CountedNetwork
    plain: CountedNetwork
    at_width: Callable[[float], CountedNetwork]
    choices: tuple[Choice, ...]
    sparsities: tuple[float, ...]
    multipliers: tuple[float, ...]
    steps: int
    schedule: UpdateSchedule
    ramp: UpdateSchedule
    small_budget: Choice
    big_choices: tuple[Choice, ...] = ()
    samples: int | None = None


def studies() -> dict[str, Study]:
    """The networks of the paper, with the step counts of its section 4 and appendix I."""
    imagenet: dict[str, Any] = {
        "steps": 32_000,
        "schedule": UpdateSchedule(INTERVAL, 0, 25_000),
        "samples": 32_000 * 4096,
    }
    imagenet |= {"ramp": UpdateSchedule(1_000, 10_000, 25_000), "multipliers": (1, 5)}
    resnet, mobile = keras_resnet50(), keras_mobilenet_v1()
    erk, er, uniform = Choice("ERK", ErdosRenyi()), Choice("ER", ErdosRenyi(kernel=False)), Choice("uniform", Uniform())
    everywhere = Choice("uniform", Uniform(first_layer_dense=False))
    stem_dense = ErdosRenyi(custom={"conv_stem": 0.0})  # outside the total, as in the authors' count
    mobile_big = (
        Choice("ERK", stem_dense, "depthwise sparse"),
        Choice("uniform", Uniform(custom={"classifier": 0.8}), "depthwise sparse, classifier 80 %"),
    )
    wrn, gru, lenet = wrn_22_2(), char_gru(), lenet_300_100()
    return {
        "ResNet-50": Study(
            resnet,
            torch_resnet50(),
            at_width=lambda width: scaled(resnet, width),
            choices=(
                uniform,
                er,
                erk,
                replace(everywhere, reading="first layer sparse"),
                Choice("ERK", ErdosRenyi(custom={"conv1": 0.0}), "first layer dense"),
            ),
            sparsities=(0.8, 0.9, 0.95, 0.965, 0.99),
            small_budget=erk,
            big_choices=(erk,),
            **imagenet,
        ),
        "MobileNet-v1": Study(
            mobile,
            torch_mobilenet_v1(),
            at_width=lambda width: scaled(mobile, width),
            choices=(
                *_without_depthwise(mobile, uniform, er, erk),
                Choice("uniform", Uniform(), "depthwise sparse"),
                Choice("ERK", stem_dense, "depthwise sparse"),
            ),
            sparsities=(0.75, 0.85, 0.89, 0.9, 0.95),
            small_budget=mobile_big[0],
            big_choices=mobile_big,
            **imagenet,
        ),
        "MobileNet-v2": _mobilenet_v2(imagenet, (uniform, er, erk)),
        "WRN-22-2": Study(
            wrn,
            wrn,
            at_width=lambda width: resized(wrn, lambda: wide_resnet(width)),
            choices=tuple(replace(c, is_sparse=lambda name: name != "stem.weight") for c in (everywhere, er, erk)),
            sparsities=(0.5, 0.8, 0.9, 0.95),
            multipliers=(1, 2),
            steps=97_656,
            schedule=UpdateSchedule(INTERVAL, 0, 75_000),
            ramp=UpdateSchedule(1_000, 20_000, 75_000),
            small_budget=erk,
        ),
        "char GRU": Study(
            gru,
            gru,
            at_width=lambda width: resized(gru, lambda: CharGRU(width=width)),
            choices=(
                *(replace(c, is_sparse=lambda name: name != "embedding.weight") for c in (everywhere, er, erk)),
                replace(everywhere, reading="embedding sparse"),
            ),
            sparsities=(0.75,),
            multipliers=(1,),
            steps=200_000,
            schedule=UpdateSchedule(INTERVAL, 0, 200_000),
            ramp=UpdateSchedule(1_000, 50_000, 150_000),
            small_budget=everywhere,
        ),
        "LeNet-300-100": Study(
            lenet,
            lenet,
            at_width=lambda width: resized(lenet, lambda: LeNet300100(width=width)),
            choices=(everywhere, er, erk),
            sparsities=(0.9, 0.95, 0.98),
            multipliers=(1,),
            steps=120_000,
            schedule=UpdateSchedule(INTERVAL, 0, 50_000),
            ramp=UpdateSchedule(1_000, 20_000, 50_000),
            small_budget=erk,
        ),
    }


def _mobilenet_v2(imagenet: Mapping[str, Any], choices: Sequence[Choice]) -> Study:
    network = keras_mobilenet_v2()
    return Study(
        network,
        torch_mobilenet_v2(),
        at_width=lambda width: scaled(network, width),
        choices=_without_depthwise(network, *choices),
        sparsities=(0.75, 0.85, 0.9, 0.95),
        small_budget=choices[-1],
        **imagenet,
    )


def _without_depthwise(network: CountedNetwork, *choices: Choice) -> tuple[Choice, ...]:
    return tuple(replace(choice, is_sparse=lambda name: name not in network.depthwise) for choice in choices)
