import math

import pytest
import torch

from rigl_lightning.kernels.masking import zero_inactive_
from rigl_lightning.kernels.positions import count_active, positions
from rigl_lightning.sparsity import selection
from rigl_lightning.sparsity.selection import largest, largest_per_row, smallest

N = 3 * 2**15 + 17  # long enough for the shortcut by a sample


def witness(score, count, candidates):
    """By a stable sort: the largest first, the lower index first among equals."""
    order = torch.sort(score.double(), descending=True, stable=True).indices
    return order[candidates[order]][:count].sort().values


def scores():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(N, generator=generator)
    rare = noise.clone()
    rare[:: selection._STRIDE] = 99.0  # the sample promises scores that hardly any other connection has
    common = noise.clone()
    common[:: selection._STRIDE] = -99.0  # the sample sees none of the large ones
    half = noise.clamp(min=0)
    return {
        "noise": noise,
        "sorted": noise.sort().values,
        "constant": torch.zeros(N),
        "few levels": (noise * 2).round(),
        "half zero": half,
        "mostly equal, few larger": torch.where(noise > 3, noise, 1.0),
        "sample too high": rare,
        "sample too low": common,
        "infinities": torch.where(noise > 1, math.inf, torch.where(noise < -1, -math.inf, noise)),
        "tiny": noise * 1e-42,  # denormal
        "double": noise.double(),
        "bfloat16": noise.bfloat16(),
        "float16": noise.half(),
        "whole numbers": (noise * 1000).long(),
    }


SCORES = scores()
EVERY = torch.ones(N, dtype=torch.bool)
CANDIDATES = {
    "all": EVERY,
    "nine in ten": torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.9,
    "one in twenty": torch.rand(N, generator=torch.Generator().manual_seed(2)) < 0.05,
    "none of the sampled": torch.arange(N) % selection._STRIDE != 0,
    "the last third": torch.arange(N) > 2 * N // 3,
}


@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize("kind", SCORES)
def test_the_largest_are_those_of_a_stable_sort(kind, candidates):
    score, allowed = SCORES[kind], CANDIDATES[candidates]
    n_allowed = int(allowed.sum())
    for count in (0, 1, 2, 100, n_allowed // 30, n_allowed // 3, n_allowed - 1, n_allowed):
        expected = witness(score, count, allowed)
        assert torch.equal(largest(score, count, None if allowed is EVERY else allowed), expected), count
        # As on a device other than the CPU.
        assert count == 0 or torch.equal(selection._largest_on_device(score, count, allowed), expected), count


@pytest.mark.parametrize("kind", SCORES)
def test_the_smallest_are_what_the_largest_leave(kind):
    score, allowed = SCORES[kind], CANDIDATES["one in twenty"]
    everybody = positions(allowed)
    for count in (0, 1, 700, everybody.numel()):
        kept = set(witness(score, everybody.numel() - count, allowed).tolist())
        assert smallest(score, count, allowed).tolist() == [i for i in everybody.tolist() if i not in kept]


def test_the_shortcut_is_taken_where_it_should_be(monkeypatch):
    """Else the tests above would say nothing of it."""
    ranked = []
    whole = selection._n_largest
    monkeypatch.setattr(
        selection, "_n_largest", lambda values, count: ranked.append(values.size) or whole(values, count)
    )
    largest(SCORES["noise"], N // 30)
    assert ranked.pop() < N // 15
    largest(SCORES["half zero"], N // 5)
    assert ranked.pop() < N // 2
    largest(SCORES["sample too high"], N // 30)
    assert ranked.pop() == N
    largest(SCORES["mostly equal, few larger"], N // 30)  # the bound decides: nothing is ranked
    assert not ranked


def test_threads_decide_nothing():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(largest(SCORES["few levels"], 1000))
    assert torch.equal(*results)


@pytest.mark.parametrize("position", [0, 1, N - 1])
def test_a_nan_among_the_candidates_is_an_error(position):
    score = SCORES["noise"].clone()
    score[position] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        largest(score, 10)
    allowed = EVERY.clone()
    allowed[position] = False
    assert torch.equal(largest(score, 10, allowed), witness(score.nan_to_num(), 10, allowed))
    with pytest.raises(ValueError, match="NaN"):
        smallest(score, 10, EVERY)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_positions_are_in_row_major_order_in_every_layout(layout):
    mask = torch.rand(4, 3, 5, 2, generator=torch.Generator().manual_seed(3)) < 0.3
    expected = [i for i, active in enumerate(mask.flatten().tolist()) if active]
    if layout == "channels_last":
        mask = mask.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        mask = mask.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    assert positions(mask).tolist() == expected
    assert count_active(mask) == len(expected)


class TestZeroInactive:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("shape", [(7,), (600, 400), (300, 200, 3, 3)])
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
    def test_clears_exactly_the_inactive(self, dtype, shape, layout):
        generator = torch.Generator().manual_seed(0)
        tensor = torch.randn(shape, generator=generator).to(dtype)
        mask = torch.rand(shape, generator=generator) < 0.3
        tensor.view(-1)[::5], tensor.view(-1)[1::5], tensor.view(-1)[2::7] = math.inf, math.nan, -0.0
        expected = torch.where(mask, tensor, torch.zeros((), dtype=dtype))
        if layout == "channels_last" and len(shape) == 4:
            tensor, mask = (t.contiguous(memory_format=torch.channels_last) for t in (tensor, mask))
        if layout == "transposed" and len(shape) > 1:
            tensor = tensor.transpose(0, 1).contiguous().transpose(0, 1)
        assert zero_inactive_(tensor, mask) is tensor
        # Bit for bit: signs of zeros and payloads of NaN too.
        assert tensor.contiguous().view(torch.uint8).equal(expected.contiguous().view(torch.uint8))

    def test_works_on_a_parameter_and_keeps_its_graph_out(self):
        parameter = torch.nn.Parameter(torch.ones(400, 400))
        with torch.no_grad():
            zero_inactive_(parameter, torch.zeros(400, 400, dtype=torch.bool))
        assert not parameter.any()
        assert parameter.requires_grad
        assert parameter.grad_fn is None


def test_ties_are_decided_by_position_in_many_rows():
    """As many rows as the groups of a 2:4 layer of 400 x 400 have; positions of many flags come from a kernel."""
    score = torch.zeros(40_000, 4)
    score[1::2, 3] = 1
    chosen = largest_per_row(score, torch.full((40_000,), 2), torch.ones_like(score, dtype=torch.bool))
    assert chosen[::2].int().unique(dim=0).tolist() == [[1, 1, 0, 0]]
    assert chosen[1::2].int().unique(dim=0).tolist() == [[1, 0, 0, 1]]
