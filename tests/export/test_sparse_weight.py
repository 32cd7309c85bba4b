"""What is loaded into a compact weight points into it: the kernels read there without asking."""

import pytest
import torch

from rigl_lightning.export.sparse_weight import SparseWeight

WEIGHT = torch.tensor([[2.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # columns 0, 2 and 1; rows begin at 0 and 2


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("columns", [0, 3, 1]),  # beyond the last column
        ("columns", [-1, 2, 1]),
        ("columns", [2, 0, 1]),  # not ascending
        ("row_starts", [0, 2, 9]),  # beyond the last value
        ("row_starts", [0, 4, 3]),
        ("row_starts", [-5, 2, 3]),
    ],
)
def test_indices_outside_the_weight_are_refused(name, values):
    weight = SparseWeight(WEIGHT)
    state = {**weight.state_dict(), name: torch.tensor(values, dtype=torch.int32)}
    with pytest.raises(ValueError, match="the file is damaged"):
        weight.load_state_dict(state)


def test_those_of_the_weight_are_loaded():
    loaded = SparseWeight(WEIGHT)
    loaded.load_state_dict(SparseWeight(2 * WEIGHT).state_dict())
    assert torch.equal(loaded.dense(), 2 * WEIGHT)
