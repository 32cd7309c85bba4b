import pytest
import torch

from rigl_lightning.sparsity.algorithms import SET, Dense, FixedMasks, Static
from rigl_lightning.sparsity.distributions import Uniform
from rigl_lightning.sparsity.schedules import UpdateSchedule
from tests.helpers.small_training import batch, small_network, sparsify, through_disk, train


@pytest.fixture
def ticket(tmp_path):
    """Masks of a run, and the file it left."""
    model = small_network()
    sparsifier = sparsify(model, SET(0.7, schedule=UpdateSchedule(2, 0, 6)), seed=5)
    train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, range(8))
    torch.save(sparsifier.state_dict(), tmp_path / "ticket.pt")
    return {name: mask.clone() for name, mask in sparsifier.masks.items()}, tmp_path / "ticket.pt"


def test_fixed_masks_are_those_of_the_file_from_first_to_last(ticket):
    masks, file = ticket
    model = small_network(seed=1)
    sparsifier = sparsify(model, FixedMasks(file), seed=77)
    for steps in ([], range(4)):
        train(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), sparsifier, steps)
        assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in masks.items())
    shapes = {name: mask.shape for name, mask in masks.items()}
    density = {name: 1 - s for name, s in FixedMasks(file).layer_sparsities(shapes, 0).items()}
    assert density == pytest.approx(sparsifier.density())


def test_fixed_masks_of_another_model_are_refused(ticket):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 4))
    with pytest.raises(
        ValueError, match=r"layer '2.weight' has shape \(4, 16\) in the model and None.*2 layers differ"
    ):
        sparsify(model, FixedMasks(ticket[1]))


def test_a_resumed_run_does_not_need_the_file_any_more(ticket):
    masks, file = ticket
    state = through_disk(sparsify(small_network(), FixedMasks(file)).state_dict())
    file.unlink()
    resumed = sparsify(small_network(), FixedMasks(file), state=state)
    assert all(torch.equal(resumed.masks[name], mask) for name, mask in masks.items())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        sparsify(small_network(), FixedMasks(tmp_path / "nowhere.pt"))


def test_static_masks_never_change():
    model = small_network()
    sparsifier = sparsify(model, Static(0.75, Uniform(first_layer_dense=False)))
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    train(model, torch.optim.Adam(model.parameters(), 0.1), sparsifier, range(5))
    assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in before.items())
    assert sparsifier.n_active == {"0.weight": 9, "4.weight": 64}


def test_dense_trains_as_without_us():
    with_us, alone = small_network(), small_network()
    optimizer = torch.optim.SGD(with_us.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    train(with_us, optimizer, sparsify(with_us, Dense()), range(5))
    optimizer = torch.optim.SGD(alone.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for step in range(5):
        images, labels = batch(step)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(alone(images), labels).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(with_us.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize("sparsity", [1.2, -1, 1.0])
def test_a_sparsity_out_of_range_is_refused_at_once(sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        Static(sparsity)
