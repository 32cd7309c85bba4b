"""Any optimizer: nothing leaks outside a mask, updates come on time, and a grown connection starts like a new one."""

import pytest
import timm.optim
import torch
from torch import nn
from torch.optim import Optimizer

from rigl_lightning.sparsity import SET, RigL, Sparsifier, Static, UpdateSchedule, select_parameters
from rigl_lightning.sparsity.optimizer_state import with_wrapped

SCHEDULE = UpdateSchedule(interval=3, end=10)
ALGORITHMS = {"static": Static(0.7), "set": SET(0.7, schedule=SCHEDULE), "rigl": RigL(0.7, schedule=SCHEDULE)}


class SAM(Optimizer):
    """Sharpness-aware minimisation in its usual form (Foret et al. 2021): the closure is evaluated twice a step."""

    def __init__(self, params, rho=0.05, **settings):
        super().__init__(params, {"rho": rho, **settings})
        self.base_optimizer = torch.optim.SGD(self.param_groups, momentum=0.9, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure):
        loss = torch.enable_grad()(closure)()
        moved = [(p, group["rho"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([torch.zeros(()), *(p.grad.norm() for p, _ in moved)]).norm() + 1e-12
        for p, rho in moved:
            self.state[p]["old_p"] = p.clone()
            p.add_(p.grad * rho / norm)
        torch.enable_grad()(closure)()
        for p, _ in moved:
            p.copy_(self.state[p]["old_p"])
        self.base_optimizer.step()
        return loss


def torchs():
    names = [name for name, kind in vars(torch.optim).items() if isinstance(kind, type) and issubclass(kind, Optimizer)]
    unfit = {"Optimizer", "LBFGS", "SparseAdam"}  # the callback refuses the last two
    return {name: lambda p, kind=name: getattr(torch.optim, kind)(p, lr=0.01) for name in names if name not in unfit}


VARIANTS = {
    "SGD nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, foreach=True, maximize=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True, amsgrad=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True, amsgrad=True),
    "AdamW tensor rate": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    "Adagrad start": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
    "Adagrad fused": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1, fused=True),
    "RMSprop centered": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Rprop foreach": lambda p: torch.optim.Rprop(p, lr=0.01, foreach=True),
    "SAM": lambda p: SAM(p, lr=0.01),
}


def timms():
    """One of each class of timm's own that needs no GPU, no second derivatives and no compiler; and its Lookahead."""
    infos = [timm.optim.get_optimizer_info(name) for name in timm.optim.list_optimizers()]
    own = {info.opt_class: info.name for info in reversed(infos) if "timm" in getattr(info.opt_class, "__module__", "")}
    names = sorted(set(own.values()) - {"adahessian", "kron"})
    return {
        f"timm {n}": lambda p, n=n: timm.optim.create_optimizer_v2(p, opt=n, lr=0.01)
        for n in [*names, "lookahead_sgd", "lookahead_adam"]
    }


OPTIMIZERS = {**torchs(), **VARIANTS, **timms()}


def network(name):
    torch.manual_seed(0)
    if name == "Muon":  # torch's takes matrices only
        return nn.Sequential(nn.Flatten(), nn.Linear(50, 12, bias=False), nn.Tanh(), nn.Linear(12, 3, bias=False))
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(54, 3))


def train(name, algorithm, after_step=lambda sparsifier, optimizer, gradients: None, n_steps=10):
    """A plain training loop, with a closure as Lightning has it; returns the Sparsifier and its update steps."""
    model = network(name)
    parameters = select_parameters(model)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    sparsifier = Sparsifier(parameters, algorithm, seed=3)
    updates = []
    for step in range(n_steps):
        x = torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(step))

        def closure(x=x):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), (x.mean((1, 2, 3)) > 0).long())
            loss.backward()
            sparsifier.before_step(optimizer)
            return loss

        optimizer.step(closure)
        gradients = {key: p.grad if p.grad is None else p.grad.clone() for key, p in parameters.items()}
        sparsifier.after_step(optimizer)
        if sparsifier.last_update is not None and sparsifier.last_update.step == step:
            updates.append(step)
        after_step(sparsifier, optimizer, gradients)
    return sparsifier, updates


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_leaks_and_updates_come_on_time(name, algorithm):
    densities = set()

    def check(sparsifier, *_):
        densities.add(sum(sparsifier.n_active.values()))
        for key, parameter in sparsifier.parameters.items():
            assert not parameter.detach()[~sparsifier.masks[key]].any(), f"{key} leaks"
            assert parameter.isfinite().all()

    sparsifier, updates = train(name, ALGORITHMS[algorithm], check)
    assert updates == ([] if algorithm == "static" else [0, 3, 6, 9])
    assert (sparsifier.step, len(densities)) == (10, 1)


# What a connection cannot start anew alone, because the optimizer treats the first step of the training by itself.
SHARED = {
    "MADGRAD": {"s", "grad_sum_sq"},  # weighted by the step count
    "LaProp": {"exp_avg"},  # of steps that are corrected for the bias of the first ones
    "Adan": {"exp_avg_diff", "exp_avg_sq"},  # the difference from a gradient before the first, which counts as zero
}


def elementwise():
    """Optimizers whose state is each connection's own: their fresh copy on the grown connections is a witness."""
    mixing = ("adafactor", "lamb", "lar", "novograd", "muon", "mars", "adopt")  # norms, rows, a first step for all
    return [name for name in OPTIMIZERS if not any(word in name.lower() for word in mixing) and name != "SAM"]


@pytest.mark.parametrize("name", elementwise())
def test_the_state_of_a_grown_connection_becomes_that_of_a_fresh_one(name):
    """Step an optimizer that knows only the grown connections by their first gradient; its state must be equal."""
    before, grown, compared = {}, {}, set()

    def compare(sparsifier, optimizer, gradients):
        for key, parameter in sparsifier.parameters.items():
            where = grown.pop(key, None)
            if where is not None and where.any():
                fresh = nn.Parameter(torch.zeros(int(where.sum()), 1))
                fresh.grad = gradients[key][where][:, None]
                other = OPTIMIZERS[name]([fresh])
                other.step()
                compared.update(same_state(optimizer, parameter, where, other, fresh))
            if sparsifier.last_update.step == sparsifier.step - 1:
                grown[key] = sparsifier.masks[key] & ~before[key] if key in before else None
            before[key] = sparsifier.masks[key].clone()

    train(name, ALGORITHMS["set"], compare)
    assert compared or name == "SGD"


def test_wrappers_that_know_each_other_are_found_once():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, base):
            super().__init__(base.param_groups, {})
            self.base, base.owner = base, self

    inner = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    outer = Wrapper(inner)
    assert with_wrapped(outer) == [outer, inner]
    assert with_wrapped(inner) == [inner, outer]


def same_state(optimizer, parameter, where, other, fresh):
    pairs = zip(with_wrapped(optimizer), with_wrapped(other), strict=True)
    for single, witness in pairs:
        kinds = {kind.__name__ for kind in type(single).__mro__}
        skipped = set().union(*(SHARED[kind] for kind in kinds & SHARED.keys()))
        for key, value in witness.state.get(fresh, {}).items():
            if torch.is_tensor(value) and value.shape == fresh.shape and key not in skipped:
                ours = single.state[parameter][key][where][:, None]
                torch.testing.assert_close(ours, value, msg=lambda text, key=key: f"{key}: {text}")
                yield key
