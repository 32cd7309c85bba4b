"""FLOPs under their public name; the code is in `rigl_lightning.sparsity.costs.flops`."""

from rigl_lightning.sparsity.costs.flops import (
    FlopCounter,
    sparse_forward_flops,
    trace,
    trace_flops,
    training_flops,
    with_outputs,
)

__all__ = ["FlopCounter", "sparse_forward_flops", "trace", "trace_flops", "training_flops", "with_outputs"]
