"""The table of all algorithms, and of optimizers: what the promises that each makes are tested on."""

import torch

from rigl_lightning.sparsity.algorithms import (
    ACDC,
    DNW,
    DSR,
    MEST,
    SET,
    SETITOP,
    SNFS,
    SNIP,
    SRSTE,
    AnnealedTopK,
    CHTs,
    DeepR,
    Dense,
    DropGrow,
    FixedMasks,
    GradualMagnitudePruning,
    GraNet,
    GraSP,
    Group,
    LotteryTicket,
    OneShotMagnitude,
    RigL,
    RigLITOP,
    Static,
    TopKAST,
)
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform
from rigl_lightning.sparsity.ramps import SparsityRamp
from rigl_lightning.sparsity.schedules import UpdateSchedule, exponential, sigmoid
from rigl_lightning.sparsity.scores import gradient_magnitude
from rigl_lightning.sparsity.structures import NM, Blocks, ConstantFanIn, Unstructured
from rigl_lightning.sparsity.transposable import TransposableNM

EVERY_FOURTH = UpdateSchedule(interval=4, begin=0, end=0.9)
EVERY_STEP = UpdateSchedule(interval=1, begin=0, end=1.0)
HALF = {"schedule": EVERY_FOURTH, "drop_fraction": 0.5}  # moves many connections often

ALGORITHMS = {
    "Dense": lambda file: Dense(),
    "Static": lambda file: Static(0.7),
    "FixedMasks": FixedMasks,
    "SNIP": lambda file: SNIP(0.7),
    "SNIP global": lambda file: SNIP(0.7, global_ranking=True),
    "SET": lambda file: SET(0.7, **HALF),
    "SNFS": lambda file: SNFS(0.7, **HALF),
    "RigL": lambda file: RigL(0.7, **HALF),
    "RigL with a minimum fan-in": lambda file: RigL(0.7, **HALF, min_fan_in=2),
    "DropGrow": lambda file: DropGrow(0.7, **HALF, grow_score=gradient_magnitude),
    "GradualMagnitudePruning": lambda file: GradualMagnitudePruning(0.7, ErdosRenyi(), EVERY_FOURTH),
    "OneShotMagnitude": lambda file: OneShotMagnitude(0.7, at=0.5),
    "OneShotMagnitude global, at the beginning": lambda file: OneShotMagnitude(0.7, global_ranking=True, at=0),
    "GraSP": lambda file: GraSP(0.7),
    "GraSP by layer": lambda file: GraSP(0.7, global_ranking=False),
    "DSR": lambda file: DSR(0.7, schedule=EVERY_FOURTH, target_fraction=0.1, threshold=0.05),
    "DeepR": lambda file: DeepR(0.7, schedule=EVERY_STEP, l1=0.03, temperature=0.001),
    "DNW": lambda file: DNW(0.7, schedule=EVERY_STEP),
    "DNW every fourth": lambda file: DNW(0.7, schedule=EVERY_FOURTH),
    "TopKAST": lambda file: TopKAST(0.7, 0.4, schedule=EVERY_FOURTH, penalty=0.01),
    "LotteryTicket": LotteryTicket,
    "LotteryTicket with RigL": lambda file: LotteryTicket(file, RigL(0.7, **HALF)),
}
MOVING_AFTER_RIGL = {
    "SETITOP": lambda file: SETITOP(0.7, schedule=EVERY_FOURTH),
    "RigLITOP": lambda file: RigLITOP(0.7, schedule=EVERY_FOURTH),
    "GraNet": lambda file: GraNet(0.7, 0.3, schedule=EVERY_FOURTH, ramp_end=9),
    "GraNet dense, per layer": lambda file: GraNet(0.7, 0.0, schedule=EVERY_FOURTH, global_ranking=False),
    # The first layer, with one input, stays dense.
    "RigL 2:4": lambda file: RigL(0.5, Uniform(), EVERY_FOURTH, 0.5, structure=NM(2, 4)),
    "RigL blocks": lambda file: RigL(0.7, Uniform(), EVERY_FOURTH, 0.5, structure=Blocks((2, 4))),
    "RigL constant fan-in": lambda file: RigL(0.7, **HALF, structure=ConstantFanIn()),
}
ALGORITHMS |= MOVING_AFTER_RIGL
ALGORITHMS |= {
    "MEST": lambda file: MEST(0.7, **HALF),
    "CHTs": lambda file: CHTs(0.7, **HALF),
    "RigL transposable 2:4": lambda file: RigL(0.5, Uniform(), EVERY_FOURTH, 0.9, structure=TransposableNM(2, 4)),
    "ACDC": lambda file: ACDC(0.7, warm_up=2, phase=3, last=11),
    "ACDC by layer": lambda file: ACDC(0.7, global_ranking=False, warm_up=2, phase=0.2, last=0.8),
    "AnnealedTopK": lambda file: AnnealedTopK(0.7, schedule=EVERY_STEP, anneal_begin=2, min_fan_in=2),
    "AnnealedTopK every fourth": lambda file: AnnealedTopK(0.7, schedule=EVERY_FOURTH, anneal_end=9, min_fan_in=0),
    "SRSTE": lambda file: SRSTE(0.5, schedule=EVERY_STEP, penalty=0.01),
    "SRSTE transposable": lambda file: SRSTE(0.5, schedule=EVERY_FOURTH, structure=TransposableNM()),
    "SRSTE unstructured": lambda file: SRSTE(0.7, ErdosRenyi(), schedule=EVERY_STEP, structure=Unstructured()),
    "RigL with a ramp": lambda file: RigL(SparsityRamp(0.2, 0.7, 2, 9), **HALF),
    "SET that grows": lambda file: SET(SparsityRamp(0.9, 0.6, 0, 0.7, exponential), schedule=EVERY_FOURTH),
    "SNFS from dense": lambda file: SNFS(SparsityRamp(0.0, 0.7), **HALF),
    "CHTs with a sigmoid": lambda file: CHTs(SparsityRamp(0.5, 0.7, decay=sigmoid), schedule=EVERY_FOURTH),
    "Group": lambda file: Group({"*[0v].weight": Static(0.5), "*": RigL(0.7, **HALF)}),
    "Group that moves": lambda file: Group(
        {
            "*[0v].weight": SET(0.5, **HALF),
            "*": DeepR(0.7, l1=0.03, temperature=0.001),
        }
    ),
    "Group between layers": lambda file: Group(
        {"*[0v].weight": Dense(), "*": DSR(0.7, schedule=EVERY_FOURTH, target_fraction=0.1, threshold=0.05)}
    ),
    "DNW with a ramp": lambda file: DNW(SparsityRamp(0.2, 0.7), schedule=EVERY_STEP),
}
ALGORITHMS["Static 1:4"] = lambda file: Static(0.75, Uniform(), NM(1, 4))
DROP_GROW = [
    "SET",
    "SNFS",
    "RigL",
    "RigL with a minimum fan-in",
    "DropGrow",
    "LotteryTicket with RigL",
    "SETITOP",
    "RigLITOP",
    "RigL 2:4",
    "RigL blocks",
    "MEST",
    "CHTs",
    "RigL transposable 2:4",
    "RigL with a ramp",
    "SET that grows",
    "CHTs with a sigmoid",
    "Group",
]
ONCE = ["SNIP", "SNIP global", "GraSP", "GraSP by layer", "OneShotMagnitude"]
# Inactive weights keep values and optimizer state, or the state alone: that is the method.
KEEPING = ["DNW", "DNW every fourth", "TopKAST", "SRSTE unstructured", "DNW with a ramp"]
HIDING = [*KEEPING, "SRSTE", "SRSTE transposable", "AnnealedTopK", "AnnealedTopK every fourth"]
FROM_DENSE = ["SNFS from dense", "GraNet dense, per layer"]
GROWING = [*DROP_GROW, *HIDING, *FROM_DENSE, "DSR", "DeepR", "GraNet", "RigL constant fan-in"]
GROWING += ["Group that moves", "Group between layers"]
MOVING_BETWEEN_LAYERS = ["DSR", "SNIP global", "GraSP", "OneShotMagnitude global, at the beginning", "GraNet", "ACDC"]
MOVING_BETWEEN_LAYERS += ["Group between layers"]
MOVING = [*GROWING, *ONCE, "GradualMagnitudePruning", "ACDC", "ACDC by layer"]

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Nesterov and weight decay": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampening, not foreach": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5, foreach=False),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "fused AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01, initial_accumulator_value=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01, weight_decay=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01),
}
TOTAL = 14
