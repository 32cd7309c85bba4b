"""Costs: FLOPs, bytes and widths, counted from shapes and densities."""
