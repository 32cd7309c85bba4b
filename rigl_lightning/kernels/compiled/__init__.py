"""Kernels of the fast tier: instructions that numba compiles, and the products that are made of them."""
