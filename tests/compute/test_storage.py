"""Storage of connections only: what others see of it, and that nothing is lost on the way there and back."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from rigl_lightning import SET, SNFS, GraNet, RigL, Sparsifier, Static, Uniform, UpdateSchedule, select_parameters
from rigl_lightning.compute import SparseCompute, dense_layers
from rigl_lightning.sparsity.compact_weights import ELEMENTWISE
from rigl_lightning.sparsity.files.masks import unpack_masks
from rigl_lightning.sparsity.invariants import violations

EVERYWHERE = Uniform(first_layer_dense=False)
RIGL = RigL(0.8, EVERYWHERE, UpdateSchedule(3, end=20))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.gru = nn.GRU(16, 12, 2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(24, 4)

    def forward(self, x):
        return self.fc(self.gru(self.conv(x).tanh().flatten(2).view(len(x), -1, 16))[0][:, -1])


def begin(storage="connections", algorithm=RIGL, optimizer=torch.optim.Adam, state=None, compute="sparse", **kwargs):
    torch.manual_seed(0)
    model = Network()
    optimizer = optimizer(model.parameters(), lr=0.01, **kwargs)
    sparsifier = Sparsifier(select_parameters(model), algorithm, total_steps=20, state=state)
    return model, optimizer, sparsifier, SparseCompute(model, sparsifier, compute, storage=storage)


def train(model, optimizer, sparsifier, steps, passes=1):
    for step in steps:
        optimizer.zero_grad()
        for part in range(passes):
            loss_of(model, step, part).backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)


def loss_of(model, step, part=0):
    generator = torch.Generator().manual_seed(7 * step + part)
    x, y = torch.randn(9, 1, 8, 8, generator=generator), torch.randint(4, (9,), generator=generator)
    return F.cross_entropy(model(x), y)


def assert_equal(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=lambda m, k=key: f"{k}: {m}", **tolerance)


def flat(optimizer_state):
    return {f"{i}/{k}": v for i, state in optimizer_state["state"].items() for k, v in state.items()}


def test_parameters_hold_values_and_are_the_same_objects():
    model, optimizer, sparsifier, compute = begin()
    before = dict(model.named_parameters())
    with compute:
        train(model, optimizer, sparsifier, range(5))
        for name, parameter in sparsifier.parameters.items():
            assert parameter.shape == (sparsifier.n_active[name],)
            assert parameter.grad is None or parameter.grad.shape == parameter.shape
            assert all(v.shape in ((), parameter.shape) for v in optimizer.state[parameter].values())
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert {name: p.shape for name, p in Network().named_parameters()} == {n: p.shape for n, p in before.items()}
    assert not any(hasattr(p, "dense_shape") for p in before.values())


@pytest.mark.parametrize("optimizer", [name for name in ELEMENTWISE if name != "Rprop"])
@pytest.mark.parametrize("algorithm", [RIGL, SET(0.8, EVERYWHERE, UpdateSchedule(3, end=20))], ids=["RigL", "SET"])
def test_weights_and_optimizer_state_are_those_of_dense_storage(optimizer, algorithm):
    kind = getattr(torch.optim, optimizer)
    settings = {"SGD": {"momentum": 0.9, "weight_decay": 1e-2}, "RMSprop": {"momentum": 0.5}}.get(optimizer, {})
    runs = [begin(storage, algorithm, kind, **settings) for storage in ("dense", "connections")]
    for model, opt, sparsifier, compute in runs:
        with compute:
            train(model, opt, sparsifier, range(9))
            assert bool(sparsifier.compact) == (compute.storage == "connections")
    (one, one_opt, expected, _), (other, other_opt, found, _) = runs
    assert found.checksums() == expected.checksums()
    assert_equal(other.state_dict(), one.state_dict())
    for name, mask in found.masks.items():  # state that does not begin at zero differs at inactive connections
        for key, value in other_opt.state[found.parameters[name]].items():
            reference = one_opt.state[expected.parameters[name]][key]
            if value.shape == mask.shape:
                torch.testing.assert_close(value[mask], reference[mask])


def test_checkpoints_are_dense_load_strictly_and_resume_exactly_in_either_storage():
    model, optimizer, sparsifier, compute = begin()
    with compute:
        train(model, optimizer, sparsifier, range(7))
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()))
        train(model, optimizer, sparsifier, range(7, 14))
    assert {k: v.shape for k, v in saved[0].items()} == {k: v.shape for k, v in Network().state_dict().items()}
    Network().load_state_dict(saved[0], strict=True)
    for storage in ("dense", "connections"):
        again, opt, other, compute = begin(storage, state=saved[2])
        again.load_state_dict(saved[0])
        opt.load_state_dict(copy.deepcopy(saved[1]))
        with compute:
            train(again, opt, other, range(7, 14))
        assert_equal(again.state_dict(), model.state_dict(), rtol=0, atol=0)
        assert_equal(flat(opt.state_dict()), flat(optimizer.state_dict()), rtol=0, atol=0)


def test_states_are_loaded_in_the_middle():
    model, optimizer, sparsifier, compute = begin(algorithm=Static(0.8, EVERYWHERE))
    with compute:
        train(model, optimizer, sparsifier, range(3))
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        train(model, optimizer, sparsifier, range(3, 6))
        expected = model.state_dict()
        assert model.load_state_dict(saved[0]).missing_keys == []
        optimizer.load_state_dict(saved[1])
        train(model, optimizer, sparsifier, range(3, 6))
        assert_equal(model.state_dict(), expected, rtol=0, atol=0)
        with pytest.raises(RuntimeError, match="size mismatch"):
            model.load_state_dict({**saved[0], "fc.weight": torch.zeros(3, 3)})


@pytest.mark.parametrize("storage", ["connections", "dense"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_an_earlier_state_is_loaded_in_the_middle_in_any_order(order, storage):
    """The masks have moved since; nothing of what the file holds may be lost on the way to the places of now."""
    model, optimizer, sparsifier, compute = begin(storage)
    with compute:
        train(model, optimizer, sparsifier, range(5))
        saved = copy.deepcopy([part.state_dict() for part in (model, optimizer, sparsifier)])
        train(model, optimizer, sparsifier, range(5, 11))
        expected = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, sparsifier)]
        checksums = sparsifier.checksums()
        train(model, optimizer, sparsifier, range(11, 14))
        assert sparsifier.checksums() != checksums
        parts = (model, optimizer, sparsifier)
        for place in order:
            parts[place].load_state_dict(copy.deepcopy(saved[place]))
        train(model, optimizer, sparsifier, range(5, 11))
        assert bool(sparsifier.compact) == (storage == "connections")
        assert sparsifier.checksums() == checksums
        assert_equal(model.state_dict(), expected[0], rtol=0, atol=0)
        assert_equal(flat(optimizer.state_dict()), flat(expected[1]), rtol=0, atol=0)
        for key in ("masks", "explored", "first_masks"):
            found, before = (unpack_masks(state[key]) for state in (sparsifier.state_dict(), expected[2]))
            assert_equal(found, before)
        assert sparsifier.n_active == {n: int(m.sum()) for n, m in unpack_masks(expected[2]["masks"]).items()}


@pytest.mark.filterwarnings("error")
def test_copies_and_pickles_are_plain():
    model, optimizer, sparsifier, compute = begin()
    with compute:
        train(model, optimizer, sparsifier, range(4))
        for other in (copy.deepcopy(model), copy.copy(model.fc), pickle.loads(pickle.dumps(model))):
            expected = model if isinstance(other, Network) else model.fc
            assert_equal(other.state_dict(), expected.state_dict())
            assert not any(p.ndim == 1 and "weight" in name for name, p in other.named_parameters())
        x = torch.randn(9, 1, 8, 8)
        torch.testing.assert_close(copy.deepcopy(model)(x), model(x))
        assert type(copy.deepcopy(model).fc) is nn.Linear
        assert all(a is b for a, b in zip(model.gru._flat_weights, model.gru._parameters.values(), strict=True))
    assert all(p.ndim > 1 for p in model.gru._flat_weights[:2])


def test_an_exception_in_the_middle_leaves_a_plain_module():
    model, optimizer, sparsifier, compute = begin()
    with pytest.raises(ZeroDivisionError), compute:  # noqa: PT012
        train(model, optimizer, sparsifier, range(4))
        loss_of(model, 4).backward()
        raise ZeroDivisionError
    assert type(model.fc) is nn.Linear
    for name, parameter in sparsifier.parameters.items():
        assert parameter.shape == sparsifier.masks[name].shape == parameter.grad.shape
        assert all(v.shape in ((), parameter.shape) for v in optimizer.state[parameter].values())
    train(model, optimizer, sparsifier, range(4, 8))  # goes on densely, with the same optimizer
    reference = begin("dense")
    train(*reference[:3], range(8))
    assert sparsifier.checksums() == reference[2].checksums()


def test_validation_reads_values_too_and_equals_the_dense_network():
    model, optimizer, sparsifier, compute = begin()
    with compute:
        train(model, optimizer, sparsifier, range(4))
        x = torch.randn(9, 1, 8, 8)
        with torch.no_grad():
            found = model(x)
        assert all(layer.is_sparse for layer in compute.layers)
        plain = Network()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(found, plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("passes", [2, 3])
def test_gradients_that_are_accumulated_are_added_up(passes):
    runs = [begin(storage) for storage in ("dense", "connections")]
    for model, optimizer, sparsifier, compute in runs:
        with compute:
            train(model, optimizer, sparsifier, range(8), passes)
    assert runs[1][2].checksums() == runs[0][2].checksums()
    assert_equal(runs[1][0].state_dict(), runs[0][0].state_dict())


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_batch_that_is_given_up_leaves_nothing_behind(set_to_none):
    runs = [begin(storage) for storage in ("dense", "connections")]
    for model, optimizer, sparsifier, compute in runs:
        with compute:
            for step in range(7):
                loss_of(model, 100 + step).backward()
                optimizer.zero_grad(set_to_none)
                loss_of(model, step).backward()
                sparsifier.before_step(optimizer)
                optimizer.step()
                sparsifier.after_step(optimizer)
    assert runs[1][2].checksums() == runs[0][2].checksums()


def test_a_layer_that_is_called_twice_in_one_pass():
    def run(storage):
        torch.manual_seed(0)
        layer = nn.Linear(12, 12)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        sparsifier = Sparsifier({"weight": layer.weight}, RIGL, total_steps=20)
        with SparseCompute(layer, sparsifier, "sparse", storage=storage):
            for _ in range(8):
                optimizer.zero_grad()
                layer(layer(torch.randn(5, 12)).tanh()).square().sum().backward()
                sparsifier.before_step(optimizer)
                optimizer.step()
                sparsifier.after_step(optimizer)
        return sparsifier.checksums(), layer.weight

    (expected, weight), (masks, found) = run("dense"), run("connections")
    assert masks == expected
    torch.testing.assert_close(found, weight)


# ---- who reads a weight ------------------------------------------------------------------------------------------


def test_a_penalty_on_the_weight_attribute_is_right_and_makes_it_dense_under_auto(monkeypatch):
    monkeypatch.setattr("rigl_lightning.compute.timed_choice.LEAST_FLOPS", 0)
    monkeypatch.setattr(
        "rigl_lightning.compute.timed_choice._seconds", lambda layer, *_: 0.1 if "_timed_sparse" in str(layer) else 1.0
    )
    runs = [begin(storage, compute="auto") for storage in ("dense", "auto")]
    for model, optimizer, sparsifier, compute in runs:
        with compute:
            for step in range(8):
                optimizer.zero_grad()
                loss = loss_of(model, step) + (0.1 * model.fc.weight.abs().sum() if step > 3 else 0)
                loss.backward()
                sparsifier.before_step(optimizer)
                optimizer.step()
                sparsifier.after_step(optimizer)
                if compute.storage == "auto":
                    assert ("fc.weight" in sparsifier.compact) == (step <= 4)
                    assert "conv.weight" in sparsifier.compact
            if compute.storage == "auto":
                reasons = {layer.name: layer.storage.why_dense for layer in compute.layers}
                assert reasons["fc.weight"] == "its weight was read as a dense tensor"
    assert runs[1][2].checksums() == runs[0][2].checksums()
    assert_equal(runs[1][0].state_dict(), runs[0][0].state_dict(), rtol=1e-4, atol=1e-6)


def test_reading_between_two_steps_gives_the_parameter_under_auto():
    model, optimizer, sparsifier, compute = begin("auto")
    with compute:
        train(model, optimizer, sparsifier, range(3))
        assert "fc.weight" in sparsifier.compact
        weight = model.fc.weight
        assert weight is sparsifier.parameters["fc.weight"]
        assert weight.shape == (4, 24)
        train(model, optimizer, sparsifier, range(3, 6))
        assert "fc.weight" not in sparsifier.compact


def penalised(model):
    return sum(parameter.square().sum() for parameter in model.parameters() if parameter.ndim > 1)


def test_a_penalty_on_listed_parameters_is_right_and_makes_them_dense_under_auto():
    runs = [begin(storage) for storage in ("dense", "auto")]
    penalties = []
    for model, optimizer, sparsifier, compute in runs:
        with compute:
            for step in range(8):
                loss = loss_of(model, step)
                if step > 2:
                    penalties.append(penalised(model))
                    loss = loss + 0.1 * penalties[-1]
                optimizer.zero_grad()  # as in Lightning: gradients of the step before are there until now
                loss.backward()
                sparsifier.before_step(optimizer)
                optimizer.step()
                sparsifier.after_step(optimizer)
                if compute.storage == "auto":
                    assert len(sparsifier.compact) == (len(sparsifier.masks) if step <= 3 else 0)
    torch.testing.assert_close(penalties[5:], penalties[:5], rtol=1e-4, atol=1e-6)
    assert runs[1][2].checksums() == runs[0][2].checksums()
    assert_equal(runs[1][0].state_dict(), runs[0][0].state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("algorithm", [RIGL, Static(0.8, EVERYWHERE)], ids=["RigL", "Static"])
def test_an_average_of_listed_parameters_has_the_shapes_of_the_module_under_auto(algorithm):
    averages = []
    for storage in ("dense", "auto"):
        model, optimizer, sparsifier, compute = begin(storage, algorithm)
        average = copy.deepcopy(model)
        with compute:
            for step in range(6):
                train(model, optimizer, sparsifier, [step])
                with torch.no_grad():
                    for own, other in zip(average.parameters(), model.parameters(), strict=True):
                        own.lerp_(other, 0.1)
        averages.append(average.state_dict())
    assert_equal(averages[1], averages[0], rtol=1e-4, atol=1e-6)


def test_gradients_of_listed_parameters_are_those_of_the_values():
    norms = []
    for storage in ("dense", "auto"):
        model, optimizer, sparsifier, compute = begin(storage, Static(0.8, EVERYWHERE))
        with compute:
            for step in range(4):
                model.zero_grad()
                loss_of(model, step).backward()
                sparsifier.before_step(optimizer)
                norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01))
                optimizer.step()
                sparsifier.after_step(optimizer)
            assert storage == "dense" or len(sparsifier.compact) == len(sparsifier.masks)
            loss_of(model, 9).backward()
            norms.append(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())
    torch.testing.assert_close(norms[5:], norms[:5], rtol=1e-4, atol=1e-6)


def test_parameters_that_are_listed_at_a_mask_update_are_leaves_without_gradients():
    model, optimizer, sparsifier, compute = begin("auto")
    with compute:
        loss_of(model, 0).backward()
        sparsifier.before_step(optimizer)
        assert sparsifier.has_dropped_gradients
        assert all(parameter.is_leaf and parameter.grad is None for parameter in model.parameters())
        optimizer.step()
        sparsifier.after_step(optimizer)
        train(model, optimizer, sparsifier, range(1, 4))
        assert not sparsifier.compact


def test_reading_is_a_warning_where_connections_were_asked_for():
    model, optimizer, sparsifier, compute = begin()
    with compute:
        with pytest.warns(UserWarning, match=r"'fc.weight' was read .* Set `storage` of"):
            weight = model.fc.weight
        assert weight.shape == (4, 24)
        assert torch.equal(weight.detach() != 0, sparsifier.masks["fc.weight"])
        assert "fc.weight" in sparsifier.compact


def test_other_weights_autocast_and_transforms():
    model, optimizer, sparsifier, compute = begin()
    x, other = torch.randn(3, 24), torch.randn(4, 24)
    with compute:
        assert torch.equal(functional_call(model.fc, {"weight": other}, x), F.linear(x, other, model.fc.bias))
        dense = model.state_dict()["fc.weight"]
        torch.testing.assert_close(torch.func.vmap(model.fc)(x), F.linear(x, dense, model.fc.bias))
        with torch.autocast("cpu", torch.bfloat16):
            assert model.fc(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.fc.weight.register_hook(lambda g: g), "a hook reads the gradient of its weight"),
        (lambda m: m.fc.weight.register_post_accumulate_grad_hook(print), "a hook reads the gradient of its weight"),
    ],
)
def test_who_needs_dense_weights_has_them_and_the_reason_is_named(change, reason):
    torch.manual_seed(0)
    model = Network()
    change(model)
    sparsifier = Sparsifier(select_parameters(model), RIGL, total_steps=20)
    compute = SparseCompute(model, sparsifier, "sparse", storage="connections")
    with compute:
        assert "fc.weight" not in sparsifier.compact
        assert "conv.weight" in sparsifier.compact
    assert {layer.name: layer.storage.why_dense for layer in compute.layers}["fc.weight"] == reason


def test_algorithms_that_need_dense_weights_name_why():
    model, optimizer, sparsifier, compute = begin(algorithm=SNFS(0.8, EVERYWHERE))
    with compute:
        train(model, optimizer, sparsifier, range(2))
        assert not sparsifier.compact
    assert {layer.storage.why_dense for layer in compute.layers} == {"SNFS averages dense gradients"}


def test_an_optimizer_over_whole_tensors_is_refused():
    model, _, sparsifier, compute = begin()
    with compute, pytest.raises(ValueError, match=r"got Adafactor. Set `storage` of .* to dense"):
        train(model, torch.optim.Adafactor(model.parameters()), sparsifier, range(1))


@pytest.mark.parametrize("algorithm", [RIGL, GraNet(0.8, distribution=EVERYWHERE, schedule=UpdateSchedule(3, end=1.0))])
def test_no_invariant_is_broken_and_the_masks_known_are_those_of_dense_storage(algorithm):
    seen = []
    for storage in ("dense", "connections"):
        model, optimizer, sparsifier, compute = begin(storage, algorithm)
        with compute:
            for step in range(9):
                train(model, optimizer, sparsifier, [step])
                assert violations(sparsifier, optimizer) == []
            assert bool(sparsifier.compact) == (storage == "connections")
            seen.append(
                (sparsifier.state_dict(), sparsifier.exploration(), sparsifier.density(), sparsifier.last_update)
            )
        assert violations(sparsifier, optimizer) == []
        seen[-1] += (sparsifier.state_dict(),)
    one, other = seen
    for i in (0, 4):
        for key in ("masks", "explored", "first_masks"):
            for name, packed in one[i][key].items():
                assert packed["shape"] == other[i][key][name]["shape"]
                assert torch.equal(packed["bits"], other[i][key][name]["bits"])
    assert one[1:4] == other[1:4]


def test_a_streamed_update_is_that_of_a_kept_gradient_and_refuses_a_second_pass(monkeypatch):
    monkeypatch.setattr("rigl_lightning.compute.storage._KEPT_UP_TO", 0)
    monkeypatch.setattr("rigl_lightning.sparsity.compact_gradients._PIECE", 50)
    model, optimizer, sparsifier, compute = begin()
    with compute:
        for step in range(8):
            train(model, optimizer, sparsifier, [step])
            assert not sparsifier.compact.gradients
        loss_of(model, 100).backward()  # given up
        train(model, optimizer, sparsifier, range(8, 10))
        masks = sparsifier.checksums()
        with pytest.raises(RuntimeError, match="Set `storage` of SparseTrainingCallback to auto"):
            train(model, optimizer, sparsifier, range(10, 14), passes=2)
    reference = begin("dense")
    with reference[3]:
        train(*reference[:3], range(10))
    assert masks == reference[2].checksums()


def test_nan_gradients_update_no_mask_when_streamed(monkeypatch):
    monkeypatch.setattr("rigl_lightning.compute.storage._KEPT_UP_TO", 0)
    model, optimizer, sparsifier, compute = begin()
    with compute:
        before = sparsifier.checksums()
        (loss_of(model, 0) * float("nan")).backward()
        sparsifier.before_step(optimizer)
        assert sparsifier.checksums() == before
        assert sparsifier.last_update is None


def test_wrong_words_are_refused():
    with pytest.raises(ValueError, match=r"Expected `storage` of auto, connections or dense, got 'sparse'"):
        begin("sparse")
    with pytest.raises(ValueError, match="Set `compute` or `storage` of"):
        begin("connections", compute="dense")


def test_a_graph_of_earlier_values_is_not_differentiated_silently():
    model, optimizer, sparsifier, compute = begin()
    with compute:
        early = loss_of(model, 50)
        train(model, optimizer, sparsifier, range(1))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            early.backward()


def test_tied_weights_stay_dense():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
    model[1].weight = model[0].weight
    sparsifier = Sparsifier(select_parameters(model), RIGL, total_steps=20)
    compute = SparseCompute(model, sparsifier, "sparse", storage="connections")
    with compute:
        model(torch.randn(3, 12)).sum().backward()
        assert not sparsifier.compact
    assert {layer.storage.why_dense for layer in compute.layers} == {"its weight is shared with another module"}
    assert dense_layers(compute) == []
