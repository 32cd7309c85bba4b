"""Operators of the torch tier: products by sparse tensors of PyTorch."""
