import pytest
import torch

from rigl_lightning.sparsity.scores import (
    Connections,
    gradient_average_magnitude,
    gradient_magnitude,
    needs_gradient,
    random,
    saliency,
    weight_magnitude,
)

WEIGHT = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
MASK = torch.tensor([[True, True], [False, True]])
GRAD = torch.tensor([[-4.0, 0.5], [-6.0, 0.0]])


def layer(seed=0, **kwargs):
    return Connections(WEIGHT, MASK, torch.Generator().manual_seed(seed), **kwargs)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (weight_magnitude, [[1, 2], [0, 3]]),
        (gradient_magnitude, [[4, 0.5], [6, 0]]),  # the magnitude: the signed gradient would rank 0.5 first
        (saliency, [[4, 1], [0, 0]]),
        (gradient_average_magnitude, [[0.1, 0.2], [0.3, 0.4]]),
    ],
)
def test_scores_by_hand(score, expected):
    average = torch.tensor([[0.1, -0.2], [-0.3, 0.4]])
    assert torch.equal(score(layer(dense_grad=GRAD, dense_grad_average=average)), torch.tensor(expected))


def test_random_depends_on_the_layers_generator_only():
    first = random(layer(seed=1))
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(random(layer(seed=1)), first)
    assert not torch.equal(random(layer(seed=2)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == WEIGHT.shape
    assert 0 <= first.min() <= first.max() < 1


@pytest.mark.parametrize("score", [gradient_magnitude, saliency])
def test_a_gradient_that_nobody_asked_for_is_an_error(score):
    with pytest.raises(ValueError, match="needs_dense_gradient"):
        score(layer())


def test_an_average_that_nobody_keeps_is_an_error():
    with pytest.raises(ValueError, match="grad_average_decay"):
        gradient_average_magnitude(layer(dense_grad=GRAD))


def test_an_unknown_score_is_taken_to_read_the_gradient():
    assert [needs_gradient(s) for s in (weight_magnitude, random, gradient_average_magnitude)] == [False] * 3
    assert [needs_gradient(s) for s in (gradient_magnitude, saliency, lambda c: c.weight)] == [True] * 3
