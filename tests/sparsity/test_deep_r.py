import math

import pytest
import torch

from rigl_lightning.sparsity.algorithms import DeepR
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections
from tests.helpers.small_training import flags, small_network, sparsify, train, written

WEIGHT = torch.tensor([0.5, -0.3, 0.2, 0.0, 0.0, 0.0])
MASK = flags("111...")
SIGNS = {"positive/w": flags("1.11.1")}
EVERY_STEP = UpdateSchedule(1, 0, 100)


def layer(weight=WEIGHT, mask=MASK):
    return Connections(weight, mask, torch.Generator().manual_seed(3))


def walk(learning_rate=0.1, weight=WEIGHT, **settings):
    return DeepR(**settings).adjust_weights({"w": layer(weight)}, 0, {"w": learning_rate}, dict(SIGNS))["w"]


def test_the_penalty_pulls_every_active_weight_towards_zero():
    moved = walk(l1=1.0, temperature=0.0)  # by lr · l1 = 0.1
    torch.testing.assert_close(moved, torch.tensor([0.4, -0.2, 0.1, 0, 0, 0]))


def test_a_weight_that_would_change_its_sign_stops_at_zero():
    moved = walk(l1=2.5, temperature=0.0)  # 0.5, 0.3 and 0.2 less 0.25
    torch.testing.assert_close(moved, torch.tensor([0.25, -0.05, 0, 0, 0, 0]))
    # A gradient step has taken the second weight across: it is positive, its sign is not.
    moved = walk(weight=torch.tensor([0.5, 0.3, 0.2, 0, 0, 0]), l1=1.0, temperature=0.0)
    torch.testing.assert_close(moved, torch.tensor([0.4, 0, 0.1, 0, 0, 0]))


def test_the_noise_is_that_of_the_temperature_and_the_learning_rate():
    noise = torch.randn(6, generator=torch.Generator().manual_seed(3))
    moved = walk(l1=0.0, temperature=0.0005)  # sqrt(2 · 0.1 · 0.0005) = 0.01
    expected = torch.tensor([0.5, -0.3, 0.2, 0, 0, 0]) + 0.01 * noise * torch.tensor([1, -1, 1, 0, 0, 0])
    torch.testing.assert_close(moved, expected)
    assert math.isclose(math.sqrt(2 * 0.5 * DeepR().temperature), 0.5 * 1e-5)  # the authors' code at its lr of 0.5


def test_each_layer_has_the_learning_rate_of_its_group():
    both = {"w": layer(), "v": layer()}
    signs = {**SIGNS, "positive/v": SIGNS["positive/w"]}
    moved = DeepR(l1=1.0, temperature=0.0).adjust_weights(both, 0, {"w": 0.1, "v": 0.2}, signs)
    assert [float(moved[name][0]) for name in "wv"] == pytest.approx([0.4, 0.3])


def test_dormant_connections_move_to_random_places_of_their_layer():
    mask = flags("1111" + "." * 16)
    weight = torch.zeros(20)
    weight[:2] = torch.tensor([0.5, -0.1])
    algorithm = DeepR()
    new = algorithm.update_masks({"w": Connections(weight, mask, torch.Generator().manual_seed(0))}, 0, {})["w"]
    other = algorithm.update_masks({"w": Connections(weight, mask, torch.Generator().manual_seed(1))}, 0, {})["w"]
    assert written(new)[:2] == "11"
    assert new.sum() == other.sum() == 4
    assert not torch.equal(new, other)


def test_a_dense_layer_is_left_alone():
    dense = {"w": layer(torch.tensor([0.5, 0.0]), flags("11"))}
    assert DeepR(l1=1.0).adjust_weights(dense, 0, {"w": 0.1}, {"positive/w": flags("11")}) == {}
    assert written(DeepR().update_masks(dense, 0, {})["w"]) == "11"


def test_active_connections_begin_with_the_signs_of_their_weights_and_dormant_ones_with_either():
    model = small_network()
    weight = model[4].weight.detach().clone()
    sparsifier = sparsify(model, DeepR(0.7, schedule=EVERY_STEP))
    mask, positive = sparsifier.masks["4.weight"], sparsifier.memory["positive/4.weight"]
    assert torch.equal(positive[mask], (weight > 0)[mask])
    assert 0.3 < positive[~mask].float().mean() < 0.7
    assert not torch.equal(positive[~mask], (weight > 0)[~mask])


@pytest.mark.parametrize("interval", [1, 3])
def test_no_weight_ever_has_another_sign_than_its_connection(interval):
    model = small_network()
    algorithm = DeepR(0.7, schedule=UpdateSchedule(interval, 0, 100), l1=0.02, temperature=1e-4)
    sparsifier = sparsify(model, algorithm)
    signs = {name: value.clone() for name, value in sparsifier.memory.items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    rewired = 0
    for step in range(30):
        train(model, optimizer, sparsifier, [step])
        rewired += sparsifier.last_update.n_grown if sparsifier.last_update.step == step else 0
        for name, parameter in sparsifier.parameters.items():
            positive = sparsifier.memory[f"positive/{name}"]
            assert torch.equal(positive, signs[f"positive/{name}"])
            assert not parameter[positive].lt(0).any()
            assert not parameter[~positive].gt(0).any()
    assert rewired > 10


def test_noise_and_growth_of_one_step_do_not_share_their_numbers():
    seen = []

    class Watch(DeepR):
        def adjust_weights(self, layers, step, learning_rates, memory):
            seen.append(layers["4.weight"].generator.initial_seed())
            return super().adjust_weights(layers, step, learning_rates, memory)

        def update_masks(self, layers, step, memory):
            seen.append(layers["4.weight"].generator.initial_seed())
            return super().update_masks(layers, step, memory)

    model = small_network()
    train(model, torch.optim.SGD(model.parameters(), 0.1), sparsify(model, Watch(0.7, schedule=EVERY_STEP)), [0])
    assert len(set(seen)) == 2


@pytest.mark.parametrize(("setting", "value"), [("l1", -1), ("temperature", -0.1), ("l1", math.nan)])
def test_a_setting_out_of_range_names_itself(setting, value):
    with pytest.raises(ValueError, match=rf"Expected `{setting}`.*got {value}.*Set `{setting}` of DeepR"):
        DeepR(**{setting: value})
