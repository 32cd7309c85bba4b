import pytest
import torch

from rigl_lightning.sparsity.algorithms import DSR
from rigl_lightning.sparsity.algorithms.dsr import adapted_threshold, proportional_shares
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections
from tests.helpers.small_training import flags, small_network, sparsify, through_disk, train, written

EVERY_OTHER = UpdateSchedule(interval=2, begin=0, end=20)


def layer(mask, weights, seed=0):
    mask = flags(mask)
    weight = torch.zeros(mask.numel())
    weight[mask] = torch.tensor(weights)
    return Connections(weight, mask, torch.Generator().manual_seed(seed))


def update(layers, **settings):
    algorithm = DSR(**settings)
    memory = algorithm.initial_memory({}, None)
    return algorithm.update_masks(layers, 0, memory), memory["threshold"]


def n_active(masks):
    return {name: int(mask.sum()) for name, mask in masks.items()}


def test_one_threshold_prunes_all_layers_and_survivors_attract_growth():
    # Above 0.2 stay 4 of 4 in a, and 1 of 3 in b. Of the 2 that grow, a gets 2 · 4/5 = 1.6 and b 0.4: 2 and 0.
    layers = {"a": layer("1111....", [0.8, 0.3, 0.5, 0.4]), "b": layer("111.", [0.9, 0.1, -0.1], seed=1)}
    masks, _ = update(layers, threshold=0.2)
    assert n_active(masks) == {"a": 6, "b": 1}
    assert written(masks["a"])[:4] == "1111"
    assert written(masks["b"]) == "1..."


def test_what_a_full_layer_cannot_take_goes_to_the_others():
    # 7 and 1 survive. Of the 4 that grow, a would get 3.5, but has room for 1.
    layers = {"a": layer("1111111.", [0.5] * 7), "b": layer("11111....", [0.5, 0.1, 0.1, 0.1, 0.1], seed=1)}
    masks, _ = update(layers, threshold=0.2)
    assert n_active(masks) == {"a": 8, "b": 1 + 3}


def test_a_layer_keeps_its_largest_connection():
    layers = {"a": layer("11..", [0.01, -0.02]), "b": layer("11..", [0.5, 0.6], seed=1)}
    masks, _ = update(layers, threshold=0.2)
    assert written(masks["a"])[1] == "1"
    assert sum(n_active(masks).values()) == 4


def test_growth_is_random_and_depends_on_the_generator_alone():
    def grown(seed):
        return written(update({"a": layer("1" * 20 + "." * 180, [0.5] * 10 + [0.1] * 10, seed)}, threshold=0.2)[0]["a"])

    assert grown(0) == grown(0) != grown(1)
    assert grown(0).count("1") == 20


@pytest.mark.parametrize(
    ("target_fraction", "threshold"),
    [(0.25, 0.2), (0.28, 0.4), (0.275, 0.2), (0.23, 0.2), (0.22, 0.1), (1.0, 0.4)],
)
def test_the_threshold_doubles_halves_or_stays(target_fraction, threshold):
    """5 of 20 are pruned: too few for a target of 5.6, within a tenth of 5.5 and 4.6, too many for 4.4."""
    layers = {"a": layer("1" * 10 + "." * 10, [0.5] * 5 + [0.1] * 5)}
    assert update(layers, sparsity=0.0, threshold=0.2, target_fraction=target_fraction)[1] == threshold


def test_adaptation_by_hand_over_several_updates():
    thresholds, pruned = [0.001], [0, 2, 30, 10, 12]
    for n_pruned in pruned:
        thresholds.append(adapted_threshold(thresholds[-1], n_pruned, 10, 0.1))
    assert thresholds == [0.001, 0.002, 0.004, 0.002, 0.002, 0.001]


@pytest.mark.parametrize("total", [0, 1, 7, 29, 30])
@pytest.mark.parametrize("weights", [(1, 1, 1), (9, 3, 1), (1, 100, 1), (5, 0, 2)])
def test_shares_add_up_and_fit(total, weights):
    room = dict(zip("abc", (20, 3, 7), strict=True))
    shares = proportional_shares(total, dict(zip("abc", weights, strict=True)), room)
    if 0 in weights and total > 27:
        return  # who has no weight takes nothing
    assert sum(shares.values()) == total
    assert all(0 <= shares[name] <= room[name] for name in room)


def test_connections_move_between_layers_and_the_total_never_changes():
    model = small_network()
    algorithm = DSR(0.7, schedule=EVERY_OTHER, target_fraction=0.1, threshold=0.05)
    sparsifier = sparsify(model, algorithm)
    before = dict(sparsifier.n_active)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(20):
        train(model, optimizer, sparsifier, [step])
        assert sum(sparsifier.n_active.values()) == sum(before.values()) == 292 - 204  # 204.4 zeros
    assert sparsifier.n_active != before
    state = through_disk(sparsifier.state_dict())
    assert state["memory"]["threshold"] not in (0.05, None)
    assert sparsify(small_network(), algorithm, state=state).memory == state["memory"]


@pytest.mark.parametrize(
    ("setting", "value"), [("target_fraction", 0), ("target_fraction", 2), ("threshold", 0), ("tolerance", -1)]
)
def test_a_setting_out_of_range_names_itself(setting, value):
    with pytest.raises(ValueError, match=rf"Expected `{setting}`.*got {value}.*Set `{setting}` of DSR"):
        DSR(**{setting: value})


def test_a_target_that_would_prune_everything_is_refused():
    with pytest.raises(ValueError, match=r"at most the density, 0\.005, got 0\.01.*Lower `target_fraction` of DSR"):
        DSR(0.995)
    DSR(0.9, target_fraction=0.1)  # 1 - 0.9 is less than 0.1 in floating point
