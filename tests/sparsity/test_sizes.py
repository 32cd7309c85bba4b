"""Sizes follow from shapes and sparsities alone."""

import pytest

from rigl_lightning.sparsity.costs.sizes import network_bytes, weight_bytes


def test_a_dense_weight_takes_four_bytes_a_connection_and_no_mask():
    assert weight_bytes(1000, 0.0) == 4000


def test_a_sparse_weight_takes_its_active_values_and_a_bit_a_connection():
    assert weight_bytes(1000, 0.75) == 250 * 4 + 1000 / 8
    assert weight_bytes(1000, 1.0) == 125


def test_half_precision_halves_the_values_and_not_the_mask():
    assert weight_bytes(1000, 0.5, bits=16) == 500 * 2 + 125


def test_a_network_adds_one_dense_bias_an_output():
    shapes = {"conv": (8, 3, 3, 3), "fc": (10, 8)}
    assert network_bytes(shapes, {}) == 4 * (216 + 80) + 4 * 18
    assert network_bytes(shapes, {"fc": 0.5}) == 4 * 216 + 4 * 40 + 10 + 4 * 18
    assert network_bytes(shapes, {}, n_biases=10) == 4 * (216 + 80) + 4 * 10


def test_a_sparsity_of_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="got also \\['head'\\]"):
        network_bytes({"fc": (10, 8)}, {"head": 0.5})
