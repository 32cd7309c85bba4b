"""No device is assumed: on an emulated second one everything is as on the CPU, and an ordinary step does not wait."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning import Sparsifier, Static, Uniform, UpdateSchedule, select_parameters
from rigl_lightning.kernels import grouped
from rigl_lightning.sparsity.algorithms import SET, SNFS, RigL
from rigl_lightning.sparsity.invariants import violations
from tests.helpers.emulated_device import DEVICE, Elsewhere, Emulation, put_elsewhere
from tests.helpers.every_algorithm import ALGORITHMS, HIDING, OPTIMIZERS, TOTAL
from tests.helpers.small_training import batch, small_network, sparsify, through_disk


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ticket") / "ticket.pt"
    torch.save(sparsify(small_network(), Static(0.7), seed=3).state_dict(), path)
    return str(path)


@pytest.fixture(params=[False, True], ids=["layer by layer", "grouped"])
def grouping(request, monkeypatch):
    """With grouped kernels and without."""
    if request.param:
        monkeypatch.setattr(grouped, "has_grouped_kernels", lambda tensor: isinstance(tensor, Elsewhere))
    return request.param


@pytest.fixture
def emulation():
    with Emulation() as emulation:
        yield emulation


def backward(model, sparsifier, step, elsewhere):
    images, labels = map(Elsewhere, batch(step)) if elsewhere else batch(step)
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    sparsifier.before_backward(loss)
    loss.backward()


def finish(optimizer, sparsifier):
    sparsifier.before_step(optimizer)
    optimizer.step()
    sparsifier.after_step(optimizer)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_does_elsewhere_what_it_does_on_the_cpu(name, file, grouping, emulation):
    models = [small_network(), put_elsewhere(small_network())]
    optimizers = [OPTIMIZERS["momentum"](model.parameters()) for model in models]
    pair = [sparsify(model, ALGORITHMS[name](file), total_steps=TOTAL) for model in models]
    for step in range(TOTAL):
        for elsewhere, (model, optimizer, sparsifier) in enumerate(zip(models, optimizers, pair, strict=True)):
            backward(model, sparsifier, step, elsewhere)
            finish(optimizer, sparsifier)
        assert not violations(pair[1], optimizers[1])
        for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(ours, theirs.inner)
        if step == 6:  # what is saved there is read here, and the other way round
            states = [through_disk(sparsifier.state_dict()) for sparsifier in pair]
            pair = [
                sparsify(model, ALGORITHMS[name](file), total_steps=TOTAL, state=state)
                for model, state in zip(models, states[::-1], strict=True)
            ]
    assert pair[0].checksums() == pair[1].checksums()
    assert all(mask.device == DEVICE for mask in pair[1].masks.values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_ordinary_step_waits_for_nothing(name, file, grouping, emulation):
    """It copies nothing between devices either; algorithms that hide weights look once whether gradients are finite."""
    model = put_elsewhere(small_network())
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    sparsifier = sparsify(model, ALGORITHMS[name](file), total_steps=TOTAL)
    n_ordinary = 0
    for step in range(TOTAL):
        is_ordinary = step > 0 and not sparsifier.algorithm.is_update(step)
        backward(model, sparsifier, step, elsewhere=True)
        emulation.forget()
        finish(optimizer, sparsifier)
        if is_ordinary:
            n_ordinary += 1
            assert emulation.copies == []
            if grouping:
                assert len(emulation.waits) == (1 if name in HIDING else 0)
    assert n_ordinary > 3 or all(sparsifier.algorithm.is_update(step) for step in range(1, TOTAL))


class Gradients:
    """A stack of layers elsewhere, with gradients as they come."""

    def __init__(self, n_layers, algorithm, dtype=torch.float32):
        torch.manual_seed(0)
        layers = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(n_layers))).to(dtype)
        self.model = put_elsewhere(layers)
        self.sparsifier = Sparsifier(select_parameters(self.model), algorithm)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def give(self, value=1.0):
        for parameter in self.model.parameters():
            parameter.grad = Elsewhere(torch.full(parameter.shape, value, dtype=parameter.dtype))

    def launches(self, emulation):
        """Of the Sparsifier's part of an ordinary step."""
        for _ in range(2):
            self.give()
            emulation.forget()
            self.sparsifier.before_step(self.optimizer)
            self.sparsifier.after_step(self.optimizer)
        return [*emulation.launches]


NEVER = UpdateSchedule(interval=100, begin=50, end=1000)


@pytest.mark.parametrize(
    "algorithm", [Static(0.8), RigL(0.8, schedule=NEVER), SNFS(0.8, schedule=NEVER)], ids=["Static", "RigL", "SNFS"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_launches_do_not_grow_with_the_number_of_layers(algorithm, dtype, monkeypatch, emulation):
    monkeypatch.setattr(grouped, "has_grouped_kernels", lambda tensor: isinstance(tensor, Elsewhere))
    few, many = (Gradients(n, algorithm, dtype).launches(emulation) for n in (2, 30))
    assert few == many
    assert len(few) <= (20 if isinstance(algorithm, SNFS) else 2)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_outside_the_masks_becomes_zero(value, grouping, emulation):
    stack = Gradients(3, Static(0.8))
    stack.give(value)
    stack.sparsifier.before_step(stack.optimizer)
    for name, parameter in stack.sparsifier.parameters.items():
        outside = ~stack.sparsifier.masks[name].inner
        assert not parameter.grad.inner[outside].any()
        assert not parameter.grad.inner[~outside].isfinite().any()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_does_not_enter_the_average(value, grouping, emulation):
    stack = Gradients(3, SNFS(0.8, schedule=NEVER))
    averages = []
    for gradient in (1.0, value, 1.0):
        stack.give()
        next(stack.model.parameters()).grad.inner[0, 0] = gradient
        finish(stack.optimizer, stack.sparsifier)
        averages.append(float(stack.sparsifier.gradients.averages["1.weight"].inner[0, 0]))
    assert averages == pytest.approx([0.1, 0.1, 0.19])


def test_a_loss_that_is_not_finite_is_told_at_the_next_update_and_nothing_waits_before(emulation):
    model = put_elsewhere(small_network())
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    sparsifier = sparsify(model, RigL(0.7, schedule=UpdateSchedule(4, 0, 9)), total_steps=12)
    for step in range(5):
        images, labels = map(Elsewhere, batch(step))
        model.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        emulation.forget()
        sparsifier.before_backward(loss * (torch.nan if step in (2, 3) else 1.0))
        assert not emulation.waits
        loss.backward()
        if step == 4:
            with pytest.warns(UserWarning, match=r"The loss is not finite \(NaN or infinite\) at step 2"):
                sparsifier.before_step(optimizer)
        else:
            sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsifier.before_backward(loss * torch.inf)
        sparsifier.divergence.warn_of_loss()  # once is enough


def test_growth_at_random_into_dead_units_is_told_at_the_next_update_and_nothing_waits_before(emulation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    nn.init.ones_(model[1].bias)
    model = put_elsewhere(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    algorithm = SET(0.5, Uniform(first_layer_dense=False), UpdateSchedule(2, 0, 9), drop_fraction=0.3)
    sparsifier = Sparsifier({"0.weight": model[0].weight}, algorithm)
    mask = torch.ones(8, 16, dtype=torch.bool)
    mask[:, ::2] = mask[3] = False
    sparsifier.network.start_from({"0.weight": mask})
    sparsifier.apply_masks()
    for step in range(3):
        optimizer.zero_grad()
        model(Elsewhere(torch.randn(32, 16))).square().mean().backward()
        emulation.forget()
        sparsifier.before_step(optimizer)
        assert step != 1 or not emulation.waits
        optimizer.step()
        if step < 2:
            sparsifier.after_step(optimizer)
    with pytest.warns(UserWarning, match=r"update at step 0 grows into 1 units of layer '0\.weight'"):
        sparsifier.after_step(optimizer)
