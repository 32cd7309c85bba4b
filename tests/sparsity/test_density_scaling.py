"""First weights and learning rates by density."""

import pytest
import torch
from torch import nn

from rigl_lightning import (
    DNW,
    SNIP,
    FixedMasks,
    RigL,
    SparseTrainingCallback,
    Sparsifier,
    Static,
    UpdateSchedule,
    select_parameters,
)
from rigl_lightning.compute import SparseCompute
from rigl_lightning.sparsity.density_scaling import ByDensity, with_sparse_fan_in
from tests.helpers.every_algorithm import OPTIMIZERS
from tests.helpers.small_runs import fit
from tests.helpers.small_training import backward, batch, flags, small_network, sparsify, through_disk, train

RIGL = RigL(0.7, schedule=UpdateSchedule(4, 0, 12), drop_fraction=0.5)


class TestFirstWeights:
    def test_each_unit_by_its_own_connections(self):
        mask = flags("1...1111......11").view(4, 4)  # a unit without a connection keeps its zeros
        found = with_sparse_fan_in(torch.ones(4, 4), mask) * mask
        expected = torch.tensor([[2.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 2**0.5, 2**0.5]])
        torch.testing.assert_close(found, expected)

    def test_a_weight_stored_inputs_first(self):
        weight, mask = torch.randn(6, 3), torch.rand(6, 3) < 0.5
        turned = with_sparse_fan_in(weight, mask, inputs_first=True)
        torch.testing.assert_close(turned.t(), with_sparse_fan_in(weight.t(), mask.t()))

    def test_outputs_have_the_spread_of_a_dense_layer(self):
        torch.manual_seed(0)
        layer, inputs = nn.Linear(400, 300, bias=False), torch.randn(200, 400)
        dense = layer(inputs).std().item()
        spreads = []
        for scaled in (False, True):
            layer.reset_parameters()
            Sparsifier({"w": layer.weight}, Static(0.9), by_density=ByDensity(init=scaled))
            spreads.append(layer(inputs).std().item() / dense)
        assert spreads == pytest.approx([0.1**0.5, 1.0], rel=0.05)

    def test_a_resumed_run_is_not_scaled_again(self):
        model = small_network()
        sparsifier = sparsify(model, Static(0.7), by_density=ByDensity(init=True))
        before, state = model[4].weight.detach().clone(), through_disk(sparsifier.state_dict())
        sparsify(model, Static(0.7), state=state, by_density=ByDensity(init=True))
        assert torch.equal(model[4].weight, before)

    @pytest.mark.parametrize("algorithm", [DNW(0.7), SNIP(0.7)])
    def test_where_it_would_do_nothing_or_harm_it_is_refused(self, algorithm):
        with pytest.raises(ValueError, match=r"by_density.init.*Leave out `init` of ByDensity"):
            sparsify(small_network(), algorithm, total_steps=10, by_density=ByDensity(init=True))

    def test_the_seeds_masks_are_the_same(self):
        one, other = (
            sparsify(small_network(), RIGL, by_density=ByDensity(init=scale)).checksums() for scale in (False, True)
        )
        assert one == other


def by_groups(model, sparsifier, power, make):
    """The same by parameter groups of the optimizer."""
    optimizer = make([{"params": [p]} for p in model.parameters()])
    density = {id(p): sparsifier.network.density()[n] for n, p in sparsifier.parameters.items()}
    for group in optimizer.param_groups:
        group["lr"] *= density.get(id(group["params"][0]), 1.0) ** -power
    return optimizer


class TestLearningRate:
    @pytest.mark.parametrize("name", ["momentum", "Nesterov and weight decay", "AdamW"])
    @pytest.mark.parametrize("power", [0.5, 1.0])
    def test_it_is_a_learning_rate_of_the_layer(self, name, power):
        model, other = small_network(), small_network()
        sparsifier = sparsify(model, Static(0.7), by_density=ByDensity(learning_rate=power))
        plain = sparsify(other, Static(0.7))
        optimizer = OPTIMIZERS[name](model.parameters())
        grouped = by_groups(other, plain, power, OPTIMIZERS[name])
        train(model, optimizer, sparsifier, range(5))
        train(other, grouped, plain, range(5))
        for layer, weight in sparsifier.parameters.items():  # a bias before batch norm has gradients of noise
            torch.testing.assert_close(weight, plain.parameters[layer], rtol=1e-4, atol=1e-6)

    def test_nothing_leaks_and_compact_layers_learn_alike(self):
        weights = []
        for storage in ("dense", "connections"):
            model = small_network()
            sparsifier = sparsify(model, RIGL, total_steps=14, by_density=ByDensity(True, 0.5))
            optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
            with SparseCompute(model, sparsifier, "sparse", storage=storage):
                train(model, optimizer, sparsifier, range(14))
            for name, parameter in sparsifier.parameters.items():
                assert not parameter[~sparsifier.masks[name]].any()
            weights.append(model[4].weight.detach().clone())
        torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("storage", ["dense", "connections"])
    def test_a_step_that_is_skipped_before_an_update_leaves_nothing_behind(self, storage):
        model = small_network()
        algorithm = RigL(0.7, schedule=UpdateSchedule(2, 0, 10))
        sparsifier = sparsify(model, algorithm, total_steps=10, by_density=ByDensity(learning_rate=1.0))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        with SparseCompute(model, sparsifier, "sparse", storage=storage):
            train(model, optimizer, sparsifier, range(2))
            optimizer.zero_grad()
            (model(batch(2)[0]).square().mean() * torch.inf).backward()
            sparsifier.before_step(optimizer)  # a GradScaler now skips optimizer.step, and so after_step
            weights = {name: weight.clone() for name, weight in model.state_dict().items()}
            train(model, optimizer, sparsifier, [2])
            now = model.state_dict()
        assert sparsifier.last_update.step == 2
        for name in sparsifier.masks:
            assert torch.equal(now[name], torch.where(now[name] != 0, weights[name], 0.0))

    def test_a_layer_without_connections_stays_as_it_is(self, tmp_path):
        torch.save({"weight": torch.zeros(3, 4, dtype=torch.bool)}, tmp_path / "masks.pt")
        model = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        algorithm = FixedMasks(tmp_path / "masks.pt")
        sparsifier = sparsify(model, algorithm, by_density=ByDensity(learning_rate=0.5))
        bias = model.bias.detach().clone()
        model(torch.ones(2, 4)).sum().backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        assert not model.weight.any()
        assert torch.allclose(model.bias, bias - 0.2)

    @pytest.mark.parametrize("other", [None, ByDensity(learning_rate=0.5)])
    def test_a_run_is_not_resumed_at_other_rates(self, other):
        state = through_disk(sparsify(small_network(), RIGL, by_density=ByDensity(learning_rate=1)).state_dict())
        with pytest.raises(ValueError, match=r"`by_density.learning_rate` of the run that is resumed, 1.0, got 0"):
            sparsify(small_network(), RIGL, state=state, by_density=other)
        sparsify(small_network(), RIGL, state=state, by_density=ByDensity(init=True, learning_rate=1.0))
        del state["learning_rate_by_density"]  # an older checkpoint
        sparsify(small_network(), RIGL, state=state, by_density=other)

    def test_a_resumed_run_equals_an_uninterrupted_one(self):
        def start(state=None):
            model = small_network()
            sparsifier = sparsify(model, RIGL, total_steps=14, by_density=ByDensity(learning_rate=1.0), state=state)
            return model, torch.optim.Adam(model.parameters(), 0.001), sparsifier

        model, optimizer, sparsifier = start()
        train(model, optimizer, sparsifier, range(6))
        parts = (model, optimizer, sparsifier)
        saved = through_disk([part.state_dict() for part in parts])
        train(model, optimizer, sparsifier, range(6, 14))
        resumed, its_optimizer, its_sparsifier = start(saved[2])
        resumed.load_state_dict(saved[0])
        its_optimizer.load_state_dict(saved[1])
        train(resumed, its_optimizer, its_sparsifier, range(6, 14))
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))

    def test_weights_that_learn_while_hidden_learn_at_the_rate_too(self):
        hidden = []
        for power in (0.0, 1.0):
            model = small_network()
            sparsifier = sparsify(model, DNW(0.75), total_steps=5, by_density=ByDensity(learning_rate=power))
            before = sparsifier.state_dict()["hidden"]["weights"]["4.weight"]
            backward(model, 0)
            optimizer = torch.optim.SGD(model.parameters(), 0.01)
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
            hidden.append(sparsifier.state_dict()["hidden"]["weights"]["4.weight"] - before)
        density = sparsifier.density()["4.weight"]
        torch.testing.assert_close(hidden[1], hidden[0] / density, rtol=1e-3, atol=1e-6)

    def test_beside_adams_warm_up_young_connections_are_scaled_once(self):
        steps = []
        for power in (0.0, 1.0):
            model = small_network()
            optimizer = torch.optim.Adam(model.parameters(), 0.001)
            kwargs = {"total_steps": 14, "adam_warm_up": 0, "by_density": ByDensity(learning_rate=power)}
            sparsifier = Sparsifier(select_parameters(model), RIGL, **kwargs)
            train(model, optimizer, sparsifier, range(1))
            before, old = model[4].weight.detach().clone(), sparsifier.masks["4.weight"].clone()
            train(model, optimizer, sparsifier, range(1, 2))
            steps.append((model[4].weight.detach() - before)[old])
        density = sparsifier.density()["4.weight"]
        torch.testing.assert_close(steps[1], steps[0] / density, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize(
        ("power", "expected"),
        [(-0.1, r"in \[0, 1\]"), (1.5, r"in \[0, 1\]"), (True, r"in \[0, 1\]"), ("1", "to be a number")],
    )
    def test_a_power_out_of_range_is_refused(self, power, expected):
        with pytest.raises(ValueError, match=f"`learning_rate` {expected}.*Set `learning_rate` of ByDensity"):
            sparsify(small_network(), Static(0.7), by_density=ByDensity(learning_rate=power))


def test_the_callback_hands_both_on():
    callback = SparseTrainingCallback(Static(0.5), by_density=ByDensity(True, 0.5))
    assert callback.settings.by_density == ByDensity(True, 0.5)
    assert callback.state_key == SparseTrainingCallback(Static(0.5)).state_key
    model, sparse, _ = fit(Static(0.5), max_epochs=1)
    assert sparse.sparsifier.scaling.factors() == {}
    assert model.losses
