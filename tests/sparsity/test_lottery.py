import warnings

import pytest
import torch

from rigl_lightning.sparsity.algorithms import (
    DNW,
    SNIP,
    DeepR,
    FixedMasks,
    GradualMagnitudePruning,
    GraNet,
    Group,
    LotteryTicket,
    OneShotMagnitude,
    RigL,
    Static,
    describe,
)
from rigl_lightning.sparsity.costs.training import planned_training_flops
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.structures import Blocks, ConstantFanIn
from tests.helpers.small_training import small_network, sparsify, through_disk, train

SCHEDULE = UpdateSchedule(2, 0, 9)
WITHIN = [lambda own: own, lambda own: Group({"0": Group({"*": own}), "*": Static(0.5)})]


@pytest.fixture
def ticket(tmp_path):
    """Masks of a RigL run from seed 0, and the file it left."""
    model = small_network()
    sparsifier = sparsify(model, RigL(0.7, schedule=SCHEDULE), seed=5)
    train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, range(8))
    torch.save(sparsifier.state_dict(), tmp_path / "ticket.pt")
    return {name: mask.clone() for name, mask in sparsifier.masks.items()}, str(tmp_path / "ticket.pt")


@pytest.fixture
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_ticket_is_its_masks_on_its_own_initial_weights(ticket, no_warning):
    masks, file = ticket
    model, original = small_network(), small_network()
    sparsifier = sparsify(model, LotteryTicket(file), seed=77)
    assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in masks.items())
    assert torch.equal(model[4].weight, original[4].weight * masks["4.weight"])
    train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, range(4))
    assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in masks.items())


def test_a_ticket_sparser_than_any_default_needs_no_setting(tmp_path, no_warning):
    torch.save(sparsify(torch.nn.Linear(2, 2), Static(0.5)).state_dict(), tmp_path / "tiny.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparsifier = sparsify(torch.nn.Linear(2, 2), LotteryTicket(str(tmp_path / "tiny.pt")))
    assert sparsifier.n_active == {"weight": 2}


def test_it_can_go_on_with_rigl(ticket, no_warning):
    masks, file = ticket
    model = small_network()
    sparsifier = sparsify(model, LotteryTicket(file, RigL(0.5, schedule=SCHEDULE)))
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in masks.items())
    train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, range(8))
    assert not all(torch.equal(sparsifier.masks[name], mask) for name, mask in masks.items())
    assert sparsifier.n_active == counts  # the ticket's, not those of a sparsity of 0.5
    assert sparsifier.last_update.step == 6


def test_with_rigl_it_is_rigl(ticket):
    """Step by step what RigL does that was given these masks and nothing else."""
    results = []
    for algorithm in (LotteryTicket(ticket[1], RigL(0.7, schedule=SCHEDULE)), RigL(0.7, schedule=SCHEDULE)):
        model = small_network()
        sparsifier = sparsify(model, algorithm)
        sparsifier.network.start_from(ticket[0])
        model.load_state_dict(small_network().state_dict())
        sparsifier.apply_masks()
        train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, range(8))
        results.append(sparsifier.checksums())
    assert results[0] == results[1]


def test_other_initial_weights_are_a_loud_warning_that_says_what_to_do(ticket):
    with pytest.warns(UserWarning, match=r"got others in layer '0.weight' \(2 of 2 layers differ\).*seed_everything"):
        sparsify(small_network(seed=1), LotteryTicket(ticket[1]))
    changed = small_network()
    with torch.no_grad():
        changed[4].weight[0, 0] += 1e-6
    with pytest.warns(UserWarning, match=r"layer '4.weight' \(1 of 2 layers differ\)"):
        sparsify(changed, LotteryTicket(ticket[1]))


def test_a_ticket_of_an_older_version_cannot_be_verified(ticket, tmp_path):
    state = torch.load(ticket[1])
    del state["initial_weights"]
    torch.save(state, tmp_path / "old.pt")
    with pytest.warns(UserWarning, match="Nobody can tell whether"):
        sparsifier = sparsify(small_network(), LotteryTicket(str(tmp_path / "old.pt")))
    state["algorithm"] = describe(Static(0.7))
    assert sparsify(small_network(), Static(0.7), state=state).initial_weights == {}
    assert sparsifier.initial_weights


def test_a_resumed_run_does_not_ask_again_and_needs_no_file(ticket, tmp_path, no_warning):
    algorithm = LotteryTicket(ticket[1], RigL(0.7, schedule=SCHEDULE))
    sparsifier = sparsify(small_network(), algorithm)
    state = through_disk(sparsifier.state_dict())
    (tmp_path / "ticket.pt").unlink()
    resumed = sparsify(small_network(seed=1), algorithm, state=state)
    assert resumed.checksums() == sparsifier.checksums()
    assert resumed.initial_weights == sparsifier.initial_weights


def test_the_checksums_are_of_the_weights_before_any_mask(ticket):
    dense = sparsify(small_network(), Static(0.0)).initial_weights
    assert torch.load(ticket[1])["initial_weights"] == dense
    assert sparsify(small_network(), Static(0.9), seed=3).initial_weights == dense
    assert sparsify(small_network(seed=1), Static(0.9)).initial_weights != dense


def test_signs_of_deep_r_fit_the_ticket(ticket):
    sparsifier = sparsify(small_network(), LotteryTicket(ticket[1], DeepR(0.7, schedule=UpdateSchedule(1, 0, 9))))
    mask = ticket[0]["4.weight"]
    assert torch.equal(sparsifier.memory["positive/4.weight"][mask], (small_network()[4].weight > 0)[mask])


def test_costs_are_those_of_the_inner_algorithm(ticket):
    shapes = {name: mask.shape for name, mask in ticket[0].items()}
    flops = {"0.weight": 36 * 16.0, "4.weight": 256.0}
    costs = [
        planned_training_flops(algorithm, shapes, flops, 12)
        for algorithm in (LotteryTicket(ticket[1], RigL(0.7, schedule=SCHEDULE)), RigL(0.7, schedule=SCHEDULE))
    ]
    assert costs[0] == pytest.approx(costs[1], rel=0.01)


@pytest.mark.parametrize(
    "algorithm",
    [
        DNW(0.7),
        FixedMasks("other.pt"),
        LotteryTicket("other.pt"),
        OneShotMagnitude(0.7, at=0),
        GraNet(0.7, initial_sparsity=0.7),
    ],
    ids=describe,
)
@pytest.mark.parametrize("within", WITHIN)
def test_algorithms_that_cannot_start_from_masks_are_refused_at_once(ticket, algorithm, within):
    with pytest.raises(ValueError, match=rf"such as RigL or SET, got {type(algorithm).__name__}"):
        LotteryTicket(ticket[1], within(algorithm))


@pytest.mark.parametrize(
    "algorithm",
    [SNIP(0.7), OneShotMagnitude(0.7, at=3), GradualMagnitudePruning(0.7, schedule=UpdateSchedule(2, 1, 6))],
    ids=describe,
)
def test_algorithms_that_start_dense_are_refused_before_the_first_batch(ticket, algorithm):
    with pytest.raises(ValueError, match=rf"such as RigL or SET, got {type(algorithm).__name__}"):
        sparsify(small_network(), LotteryTicket(ticket[1], algorithm))


def test_the_file_is_read_once_until_it_changes(ticket, monkeypatch):
    reads = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: reads.append(1) or load(*args, **kwargs))
    shapes = {name: mask.shape for name, mask in ticket[0].items()}
    for _ in range(5):
        LotteryTicket(ticket[1]).layer_sparsities(shapes, 0)
    assert len(reads) == 1
    torch.save(sparsify(small_network(), Static(0.2)).state_dict(), ticket[1])
    assert LotteryTicket(ticket[1]).layer_sparsities(shapes, 0)["4.weight"] < 0.3


@pytest.mark.parametrize("structure", [Blocks((2, 2)), ConstantFanIn()], ids=describe)
@pytest.mark.parametrize("within", WITHIN)
def test_a_structure_which_the_ticket_need_not_have_is_refused(ticket, structure, within):
    with pytest.raises(ValueError, match=r"without a structure, got RigL\(.*Leave out `algorithm.structure`"):
        LotteryTicket(ticket[1], within(RigL(0.7, structure=structure)))
