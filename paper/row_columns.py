"""The columns of ``paper/results/<scale>.csv``, one row a run."""

COLUMNS = (
    *("run", "scale", "benchmark", "method", "sparsity", "distribution"),
    *("multiplier", "delta_t", "alpha", "decay", "snfs_momentum", "seed"),
    *("val_accuracy", "val_loss", "val_bits", "train_loss", "final_train_loss", "density", "exploration"),
    *("steps", "train_flops", "dense_train_flops", "inference_flops", "dense_inference_flops"),
    *("units", "kiloflops", "size_bytes"),
    *("status", "wall_s", "device", "commit", "config_hash"),
)
"""The last three but status are LeNet-300-100's alone: the network of the inputs and neurons that take part."""
