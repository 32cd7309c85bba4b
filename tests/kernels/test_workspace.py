"""What the kernels keep between calls is bounded, and belongs to no mode."""

import torch
from torch.nn import functional as F

from rigl_lightning.kernels import release, sparse_conv2d, workspace
from tests.helpers.masked_layers import close, sparse_weight


def kept():
    return sum(tensor.numel() for tensor in workspace._KEPT.tensors.values())


def test_images_of_many_sizes_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(workspace, "KEPT_FLOATS", 100_000)
    release()
    weight, mask, pattern = sparse_weight(4, 3, 3, 3)
    for size in range(8, 40, 2):
        x = torch.randn(9, 3, size, size, requires_grad=True)
        out = sparse_conv2d(x, weight, None, 1, 1, 1, pattern)
        expected = F.conv2d(x, weight, padding=1)
        close(out, expected)
        grad = torch.randn_like(out)
        found, reference = (torch.autograd.grad(o, [x, weight], grad) for o in (out, expected))
        close(found[0], reference[0])
        close(found[1], reference[1] * mask)
        assert kept() <= 100_000
    release()
    assert kept() == 0


def test_what_was_used_last_is_kept(monkeypatch):
    monkeypatch.setattr(workspace, "KEPT_FLOATS", 100)
    release()
    a, b = workspace.zeroed("a", 40), workspace.scratch("b", 40)
    assert workspace.zeroed("a", 40) is a  # used again: "b" is older now
    workspace.scratch("c", 40)
    assert workspace.zeroed("a", 40) is a
    assert workspace.scratch("b", 40).data_ptr() != b.data_ptr()
    assert workspace.zeroed("large", 200).shape == (200,)
    assert kept() <= 100
    release()


def test_memory_kept_in_one_mode_serves_in_all():
    release()
    with torch.inference_mode():
        first = workspace.scratch("x", 4)
        margin = workspace.zeroed("x", 4)
    workspace.scratch("x", 4).zero_()
    margin.zero_()
    assert not first._base.is_inference()
    release()
