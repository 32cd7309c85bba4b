"""Costs: FLOPs, bytes and widths, counted from shapes and densities.

- ``flops``     one forward pass by layer (`FlopCounter`, `trace_flops`), and one training step (`training_flops`)
- ``training``  a whole training and an inference relative to dense, before any of it is run
- ``sizes``     bytes of a stored network; ``neurons``: units that are left; ``widths``: the largest within a budget

What a training has cost so far is counted in ``trainer/flop_meter``.
"""
