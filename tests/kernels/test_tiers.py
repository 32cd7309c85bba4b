"""Which tier computes a layer, and what is said when one is missing."""

import threading
import warnings

import pytest
import torch

from rigl_lightning.kernels import available, sparse_conv2d, sparse_linear, tier_of, tiers, use_tier
from tests.helpers.masked_layers import sparse_weight


def test_float32_takes_the_best_tier_and_float64_torch():
    x = torch.zeros(2, 2)
    assert tier_of(x, x) == available()[0]
    assert tier_of(x.double(), x.double()) == "torch"
    assert tier_of(x.bfloat16(), x.bfloat16()) == "dense"
    assert tier_of(x, x.double()) == "dense"
    assert tier_of(x.to("meta"), x.to("meta")) == "dense"


def test_a_tier_can_be_asked_for():
    x = torch.zeros(2, 2)
    with use_tier("torch"):
        assert tier_of(x, x) == "torch"
        with use_tier("dense"):
            assert tier_of(x, x) == "dense"
        assert tier_of(x, x) == "torch"


def test_an_unknown_tier_is_refused():
    with pytest.raises(ValueError, match="Expected a tier"), use_tier("fastest"):
        pass


def test_without_numba_layers_work_and_say_so_once(monkeypatch):
    monkeypatch.setattr(tiers, "_numba_found", lambda: False)
    tiers._say_what_is_missing.cache_clear()
    weight, _, pattern = sparse_weight(4, 3)
    with pytest.warns(UserWarning, match=r"rigl-lightning\[fast\]"):
        sparse_linear(torch.randn(2, 3), weight, None, pattern)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparse_linear(torch.randn(2, 3), weight, None, pattern)


needs_numba = pytest.mark.skipif("fast" not in available(), reason="needs numba")


@needs_numba
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_any_number_of_threads_gives_the_same_and_leaves_torchs_as_it_is(threads):
    weight, _, pattern = sparse_weight(70, 50)
    kernel, _, kernel_pattern = sparse_weight(20, 8, 3, 3)
    x, images = torch.randn(200, 50, requires_grad=True), torch.randn(40, 8, 9, 9, requires_grad=True)

    def run():
        out = sparse_linear(x, weight, None, pattern)
        pixels = sparse_conv2d(images, kernel, None, 1, 1, 1, kernel_pattern)
        return [out, pixels, *torch.autograd.grad([out.sum() + pixels.sum()], [x, weight, images, kernel])]

    torch.set_num_threads(1)
    alone = run()
    torch.set_num_threads(threads)
    together = run()
    assert torch.get_num_threads() == threads
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b)


@needs_numba
def test_python_threads_do_not_share_scratch_memory():
    weight, _, pattern = sparse_weight(70, 50)
    inputs = [torch.randn(100, 50) for _ in range(4)]
    expected = [sparse_linear(x, weight, None, pattern) for x in inputs]
    failures = []

    def work(x, right):
        for _ in range(30):
            if not torch.equal(sparse_linear(x, weight, None, pattern), right):
                failures.append(x)

    workers = [threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@needs_numba
def test_without_openmp_python_threads_do_the_work(monkeypatch):
    from rigl_lightning.kernels import threads

    monkeypatch.setattr(threads, "_openmp", lambda: None)
    weight, _, pattern = sparse_weight(70, 50)
    x = torch.randn(300, 50)
    torch.set_num_threads(3)
    torch.testing.assert_close(sparse_linear(x, weight, None, pattern), x @ weight.t())
