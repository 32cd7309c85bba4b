"""Widths of Small-Dense and Big-Sparse for the networks of a scale: what ``paper/protocols.py`` holds.

    python paper/studies/protocol_widths.py [--scale small]

Small-Dense has at most as many weights as the sparse network at the uniform distribution; Big-Sparse is the widest
network whose sparse weights take part in at most as many products as those of the dense network of width 1.
"""

from __future__ import annotations

import argparse
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from paper.protocols import PROTOCOLS, Protocol
from rigl_lightning import Uniform, select_parameters
from rigl_lightning.sparsity.costs.flops import trace_flops
from rigl_lightning.sparsity.costs.widths import largest_width, of_network
from rigl_lightning.sparsity.distributions import active_counts


def network(protocol: Protocol, width: float) -> nn.Module:
    """The benchmark's network at another width, as its configuration builds it."""
    settings = protocol.settings["model"]["init_args"]["model"]
    module, name = settings["class_path"].rsplit(".", 1)
    build: Any = getattr(import_module(module), name)
    return build(**{**settings.get("init_args", {}), "width": width})


def small_dense_width(protocol: Protocol, sparsity: float) -> float:
    """Width of the largest dense network with at most the weights of the sparse one."""
    widest = base_width(protocol)
    budget = _active_weights(protocol, network(protocol, widest), sparsity)
    measure = of_network(partial(network, protocol), _n_weights)
    lowest = next(w / 1000 for w in range(10, 1000) if _exists(protocol, w / 1000))
    return largest_width(measure, budget, lowest=lowest, highest=2 * widest).width


def base_width(protocol: Protocol) -> float:
    """Width factor of the configuration."""
    settings = protocol.settings["model"]["init_args"]["model"]
    return float(settings.get("init_args", {}).get("width", 1.0))


def big_sparse_width(protocol: Protocol, sparsity: float) -> float:
    """Width of the largest network whose inference at this sparsity costs at most that of the dense one."""
    shape = protocol.settings["model"]["init_args"]["input_shape"]
    widest = base_width(protocol)

    def cost(width: float, sparsity: float) -> float:
        model = network(protocol, width)
        shapes = {name: p.shape for name, p in select_parameters(model).items()}
        sparse = _uniform(protocol)(shapes, sparsity)
        dense = trace_flops(model, torch.zeros(1, *shape))
        return sum(flops * (1 - sparse.get(name, 0.0)) for name, flops in dense.items())

    return largest_width(lambda w: cost(w, sparsity), cost(widest, 0.0), lowest=widest, highest=4 * widest).width


def _exists(protocol: Protocol, width: float) -> bool:
    try:
        of_network(partial(network, protocol), _n_weights)(width)
    except ValueError:
        return False
    return True


def _uniform(protocol: Protocol) -> Uniform:
    return Uniform(first_layer_dense=protocol.first_layer_dense)


def _active_weights(protocol: Protocol, model: nn.Module, sparsity: float) -> int:
    excluded = protocol.settings["sparse"].get("exclude", [])
    excluded = [name.removeprefix("model.") for name in excluded]
    shapes = {name: p.shape for name, p in select_parameters(model, exclude=excluded).items()}
    active = active_counts(shapes, _uniform(protocol)(shapes, sparsity))
    return _n_weights(model) - sum(shape.numel() - active[name] for name, shape in shapes.items())


def _n_weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Widths of Small-Dense and Big-Sparse.")
    parser.add_argument("--scale", default="small")
    for benchmark, protocol in PROTOCOLS[parser.parse_args().scale].items():
        if "imagenet" not in benchmark:
            continue
        wanted = sorted({*protocol.sparsities, protocol.sparsity})
        print(benchmark, {s: small_dense_width(protocol, s) for s in wanted})
        if "mobilenet_v1" in benchmark:
            print(benchmark, "big", big_sparse_width(protocol, protocol.sparsity))


if __name__ == "__main__":
    main()
