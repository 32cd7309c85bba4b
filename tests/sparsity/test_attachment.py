"""An attached Sparsifier hears of the optimizer's steps; algorithms by name; the table before training anywhere."""

import copy
import pickle

import pytest
import torch
from torch import nn

import rigl_lightning
from rigl_lightning import (
    SET,
    SNFS,
    SRSTE,
    FixedMasks,
    GradualMagnitudePruning,
    GraSP,
    RigL,
    Sparsifier,
    Static,
    Unstructured,
    UpdateSchedule,
    algorithm_named,
    select_parameters,
    sparsify,
    summary,
)
from rigl_lightning.sparsity.by_name import algorithm_names

RIGL = RigL(0.8, schedule=UpdateSchedule(interval=2, end=1.0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 4))


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 12, generator=generator) for _ in range(count)]


def by_three_calls(algorithm, make_optimizer):
    model = network()
    optimizer = make_optimizer(model.parameters())
    sparsifier = Sparsifier(select_parameters(model), algorithm, 12)
    for x in batches(12):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
    return model, sparsifier


def attached(algorithm, make_optimizer):
    model = network()
    optimizer = make_optimizer(model.parameters())
    sparsifier = Sparsifier.attach(model, optimizer, algorithm, total_steps=12)
    for x in batches(12):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model, sparsifier, optimizer


@pytest.mark.parametrize(
    "algorithm", [RIGL, SET(0.8, schedule=RIGL.schedule), Static(0.8), GradualMagnitudePruning(0.8)]
)
@pytest.mark.parametrize(
    "make_optimizer",
    [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3), lambda p: torch.optim.AdamW(p, 0.01)],
)
def test_a_plain_loop_trains_as_with_the_three_calls(algorithm, make_optimizer):
    (one, expected), (other, found, _) = by_three_calls(algorithm, make_optimizer), attached(algorithm, make_optimizer)
    assert found.step == expected.step == 12
    assert found.checksums() == expected.checksums()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_detached_it_hears_of_no_step():
    model, sparsifier, optimizer = attached(RIGL, lambda p: torch.optim.SGD(p, 0.1))
    sparsifier.detach()
    model(batches(1)[0]).sum().backward()
    optimizer.step()
    assert sparsifier.step == 12
    assert model[0].weight[~sparsifier.masks["0.weight"]].any()


def test_what_passes_between_backward_and_step_sees_dense_gradients():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = Sparsifier.attach(model, optimizer, Static(0.9))
    model(batches(1)[0]).square().mean().backward()
    assert model[0].weight.grad[~sparsifier.masks["0.weight"]].any()
    optimizer.step()
    assert not model[0].weight.grad[~sparsifier.masks["0.weight"]].any()


def test_learning_rate_schedules_scalers_and_wrappers_pass_it_on():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    sparsifier = Sparsifier.attach(model, Wrapper(optimizer), RIGL, total_steps=12)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for i, x in enumerate(batches(4)):
        optimizer.zero_grad()
        loss = model(x).square().mean() * (float("inf") if i == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
    assert sparsifier.step == 3  # the step of infinite gradients was skipped


def test_a_state_goes_on_from_there():
    _, whole, _ = attached(RIGL, lambda p: torch.optim.SGD(p, 0.1))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    first = Sparsifier.attach(model, optimizer, RIGL, total_steps=12)
    for i, x in enumerate(batches(12)):
        if i == 5:
            state = copy.deepcopy(first.state_dict())
            first.detach()
            second = Sparsifier.attach(model, optimizer, RIGL, total_steps=12, state=pickle.loads(pickle.dumps(state)))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert second.step == 12
    assert second.checksums() == whole.checksums()


def test_what_it_cannot_hear_is_refused_with_a_remedy():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"GraSP, which differentiates the loss twice. Call `before_backward`"):
        Sparsifier.attach(model, optimizer, GraSP(0.9), total_steps=10)
    assert not optimizer._optimizer_step_pre_hooks
    with pytest.raises(ValueError, match="Expected an optimizer of torch, got str"):
        Sparsifier.attach(model, "sgd", RIGL, total_steps=10)
    Sparsifier.attach(model, optimizer, RIGL, total_steps=10)

    def closure():
        loss = model(batches(1)[0]).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="got a step with a closure"):
        optimizer.step(closure)


def test_algorithms_by_name():
    assert algorithm_named("rigl", sparsity=0.8) == RigL(0.8)
    assert algorithm_named("GradualMagnitudePruning") == algorithm_named("gmp") == algorithm_named("pruning")
    assert algorithm_named("rigl-itop").__class__.__name__ == "RigLITOP"
    schedule = UpdateSchedule(interval=5)
    assert algorithm_named("gmp", schedule=schedule) == algorithm_named("gmp", ramp=schedule)
    for name in algorithm_names():
        if name not in ("FixedMasks", "Group", "LotteryTicket"):  # have settings without a default
            assert type(algorithm_named(name)).__name__ == name
    with pytest.raises(ValueError, match=r"got 'rigel'. Did you mean 'rigl'\?"):
        algorithm_named("rigel")
    with pytest.raises(ValueError, match=r"Expected settings of RigL, sparsity, .*, got sparsty"):
        algorithm_named("rigl", sparsty=0.9)


def test_sparsify_takes_a_name_or_an_algorithm():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sparsify(model, optimizer, "set", sparsity=0.75, total_steps=10)
    assert sparsifier.total_density() == pytest.approx(0.25, abs=0.01)
    assert repr(sparsifier) == (
        "Sparsifier(SET(sparsity=0.75, schedule=UpdateSchedule(end=8)): 2 layers, density 0.25, step 0)"
    )
    with pytest.raises(ValueError, match="Expected settings only with a name, got sparsity with RigL"):
        sparsify(network(), optimizer, RIGL, sparsity=0.5)


@pytest.mark.parametrize(
    "algorithm",
    [
        SNFS(0.8, schedule=UpdateSchedule(interval=2, end=1.0), drop_fraction=0.5),
        SRSTE(0.8, structure=Unstructured(), penalty=0.1),
        RIGL,
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_a_fused_optimizer_under_a_grad_scaler_trains_as_without(algorithm):
    """Its gradients are still scaled when it begins to step, and it skips a step that overflowed inside its kernel."""

    def trained(scale):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        sparsifier = Sparsifier.attach(model, optimizer, algorithm, total_steps=6)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for i, inputs in enumerate(batches(6)):
            optimizer.zero_grad()
            scaler.scale(model(inputs).square().mean()).backward()
            if scale is not None and i == 0:  # this step is skipped, and so is its batch without a scaler
                model[0].weight.grad[0, 0] = torch.inf
            if scale is not None or i > 0:
                scaler.step(optimizer)
                scaler.update()
        assert sparsifier.step == 5
        return [*model.parameters(), *sparsifier.masks.values()]

    for with_scaler, without in zip(trained(2.0**10), trained(None), strict=True):
        assert torch.equal(with_scaler, without)


def test_summary_is_the_table_before_training_and_changes_nothing():
    model = network()
    before = copy.deepcopy(model.state_dict())
    text = summary(model, RIGL, 1000, torch.randn(1, 12), exclude=["2"])
    assert text.splitlines()[-1].startswith("inference: ")
    assert "0.weight" in text
    assert "2.weight" not in text
    assert "MFLOPs" not in summary(model, RIGL, 1000)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    named = summary(nn.LSTM(4, 8), Static(0.5), inputs={"input": torch.randn(3, 2, 4)})
    assert "MFLOPs" in named


def test_summary_counts_one_sample_and_the_layers_that_stay_dense():
    model = nn.Sequential(nn.Linear(1000, 500), nn.ReLU(), nn.Linear(500, 1000))
    # 2 · 500,000 FLOPs a layer; the first at 0.1.
    line = summary(model, Static(0.9), inputs=torch.zeros(7, 1000), exclude=["2"]).splitlines()[-1]
    assert line == "inference: 1.100 of 2.000 MFLOPs per sample = 0.5500x dense"
    assert "MFLOPs" not in summary(model, Static(0.9), inputs=torch.zeros(0, 1000))


def test_the_names_are_offered_at_the_top():
    assert {"sparsify", "summary", "algorithm_named", "RigL"} <= set(dir(rigl_lightning))


class TestZeros:
    def pruned(self):
        model = network()
        with torch.no_grad():
            for layer in (model[0], model[2]):
                layer.weight[torch.rand_like(layer.weight) < 0.7] = 0
        return model

    @pytest.mark.parametrize(
        "make_optimizer",
        [
            lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        ],
    )
    def test_nothing_regrows(self, make_optimizer):
        model = self.pruned()
        zeros = {name: p == 0 for name, p in select_parameters(model).items()}
        optimizer = make_optimizer(model.parameters())
        for x in batches(2):  # state of the optimizer at the zeros, from before
            model(x).square().mean().backward()
        Sparsifier.attach(model, optimizer, FixedMasks.from_zeros(model))
        for x in batches(12):
            optimizer.zero_grad()
            hidden = torch.utils.checkpoint.checkpoint(model[:2], x, use_reentrant=False)
            model[2](hidden).square().mean().backward()
            optimizer.step()
        for name, parameter in select_parameters(model).items():
            assert torch.equal(parameter == 0, zeros[name])

    def test_a_resumed_run_needs_the_same_zeros(self):
        model = self.pruned()
        fixed = FixedMasks.from_zeros(model)
        state = Sparsifier(select_parameters(model), fixed).state_dict()
        assert fixed == FixedMasks.from_zeros(model)
        Sparsifier(select_parameters(model), FixedMasks.from_zeros(model), state=state)
        torch.manual_seed(5)
        with torch.no_grad():
            model[0].weight[0] = 0
        with pytest.raises(ValueError, match="CRC-32"):
            Sparsifier(select_parameters(model), FixedMasks.from_zeros(model), state=state)

    def test_copies_keep_the_masks(self):
        fixed = FixedMasks.from_zeros(model := self.pruned())
        for copied in (copy.deepcopy(fixed), pickle.loads(pickle.dumps(fixed))):
            sparsifier = Sparsifier(select_parameters(model), copied)
            assert sparsifier.masks["0.weight"].sum() == (model[0].weight != 0).sum()

    def test_a_network_without_zeros_is_refused(self):
        with pytest.raises(ValueError, match="Expected a pruned network, got one without a zero"):
            FixedMasks.from_zeros(network())


def test_a_second_one_of_the_same_weights_is_refused():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first = sparsify(net, optimizer, "rigl", sparsity=0.9, total_steps=10)
    weights = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"'0\.weight' is in one that is attached to this optimizer. Call `detach`"):
        sparsify(net, optimizer, "set", sparsity=0.9, total_steps=10, seed=1)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())
    first.detach()
    sparsify(net, optimizer, "set", sparsity=0.9, total_steps=10)


def test_two_of_different_weights_go_together():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    lower, upper = (
        sparsify({name: net.get_parameter(name)}, optimizer, "static", sparsity=sparsity, total_steps=10)
        for name, sparsity in (("0.weight", 0.9), ("2.weight", 0.5))
    )
    net(batches(1)[0]).square().mean().backward()
    optimizer.step()
    assert (lower.step, upper.step) == (1, 1)
    assert [int((net[i].weight != 0).sum()) for i in (0, 2)] == [36, 60]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"]
)
def test_a_copy_is_not_attached_and_goes_on_where_it_is_attached_anew(copied):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    runs = [(model, optimizer, Sparsifier.attach(model, optimizer, RIGL, total_steps=12))]
    for step, x in enumerate(batches(12)):
        if step == 5:
            twin, its_optimizer, detached = copied(runs[0])
            again = Sparsifier.attach(twin, its_optimizer, RIGL, state=detached.state_dict())
            runs.append((twin, its_optimizer, again))
        for trained, stepped, _ in runs:
            stepped.zero_grad()
            trained(x).square().mean().backward()
            stepped.step()
    assert [sparsifier.step for *_, sparsifier in (*runs, (detached,))] == [12, 12, 5]
    assert runs[0][2].checksums() == runs[1][2].checksums()
    torch.testing.assert_close(runs[1][0].state_dict(), model.state_dict(), rtol=0, atol=0)
