"""Optimizers in a Trainer: wrappers, closures evaluated twice, several at once, averages; and those refused."""

import pytest
import pytorch_lightning as pl
import timm.optim
import torch
from torch import nn
from torch.optim import Optimizer

from rigl_lightning import SET, RigL, SparseTrainingCallback, Sparsifier, Static
from tests.helpers.any_model import N_STEPS, SCHEDULE, Task, batches, check, trainer
from tests.helpers.small_runs import PLAIN_SWA_STATE, QUIET, SmallData, SmallModel, Watch, fit
from tests.helpers.small_runs import SCHEDULE as SMALL_SCHEDULE

DATA = batches((4, 8))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 3))


class SAM(Optimizer):
    """As it is usually written (Foret et al. 2021): two evaluations, and a norm over all gradients there are."""

    def __init__(self, params, lr, norm_of_none=0.0):
        super().__init__(params, {"lr": lr})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=lr, momentum=0.9)
        self.norm_of_none = norm_of_none

    @torch.no_grad()
    def step(self, closure):
        loss = closure()
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = [p.grad.norm() for p in moved]
        if self.norm_of_none is not None:
            norms.append(torch.tensor(self.norm_of_none))
        scale = 0.05 / (torch.stack(norms).norm() + 1e-12)
        for p in moved:
            self.state[p]["old_p"] = p.clone()
            p.add_(p.grad * scale)
        closure()
        for p in moved:
            p.copy_(self.state[p]["old_p"])
        self.base_optimizer.step()
        return loss


def train(make_optimizer, algorithm=None, task_class=Task, **settings):
    sparse = SparseTrainingCallback(algorithm or RigL(0.8, schedule=SCHEDULE, drop_fraction=0.5), seed=5)
    watch, task = Watch(sparse), task_class(network(), make_optimizer)
    trainer(sparse, watch, **settings).fit(task, DATA)
    return sparse, watch


@pytest.mark.parametrize("algorithm", [RigL, SET])
def test_a_closure_evaluated_twice_is_one_step(algorithm):
    sparse, watch = train(lambda p: SAM(p, lr=0.05), algorithm(0.8, schedule=SCHEDULE, drop_fraction=0.5))
    check(sparse, watch)


def test_an_optimizer_that_needs_gradients_is_told_of_updates_without_any():
    with (
        pytest.warns(
            UserWarning,
            match="in the step of a mask update.*SAM has to.*`replaces_step = False`",
        ),
        pytest.raises(RuntimeError, match="non-empty"),
    ):
        train(lambda p: SAM(p, lr=0.05, norm_of_none=None))

    class AfterTheStep(RigL):
        replaces_step = False

    sparse, watch = train(
        lambda p: SAM(p, lr=0.05, norm_of_none=None), AfterTheStep(0.8, schedule=SCHEDULE, drop_fraction=0.5)
    )
    check(sparse, watch)


@pytest.mark.parametrize("base", ["sgd", "adam"])
def test_the_first_step_of_a_wrapper_is_not_missed(base):
    class New(timm.optim.Lookahead):  # a class that no earlier test has completed
        step = timm.optim.Lookahead.__dict__["step"]
        step = getattr(step, "__wrapped__", step)

    def make(parameters):
        wrapped = timm.optim.create_optimizer_v2([*parameters], opt=base, lr=0.05)
        return New(wrapped, k=2)

    check(*train(make))


def test_parameter_groups_keep_their_settings():
    def groups(parameters):
        matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]
        return torch.optim.AdamW(
            [
                {"params": matrices[:1], "lr": 0.1, "weight_decay": 0.5},
                {"params": matrices[1:], "lr": 0.01, "weight_decay": 0.0},
                {"params": vectors, "lr": 0.05, "weight_decay": 0.0},
            ]
        )

    check(*train(groups))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.LBFGS(p), "first-order optimizer, got LBFGS"),
        (lambda p: timm.optim.Lookahead(torch.optim.LBFGS(p)), "first-order optimizer, got LBFGS"),
        (lambda p: torch.optim.SparseAdam(p), "dense gradients, got SparseAdam"),
        (lambda p: type("AdamW8bit", (torch.optim.AdamW,), {})(p), "floating-point state, got AdamW8bit"),
    ],
    ids=["LBFGS", "wrapped LBFGS", "SparseAdam", "8 bits"],
)
def test_refused_before_the_first_batch(make, message):
    class Untrained(Task):
        def training_step(self, batch, batch_idx):
            raise AssertionError("a batch was trained before the refusal")

    with pytest.raises(ValueError, match=message):
        train(make, task_class=Untrained)
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=message):
        Sparsifier.attach(layer, make(layer.parameters()), RigL(0.5), total_steps=9)
    assert layer.weight.all()


class Gan(pl.LightningModule):
    """Two networks, two optimizers, one step of each in every batch."""

    def __init__(self, toggle):
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.toggle = toggle
        self.generator = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 8))
        self.critic = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 1))

    def training_step(self, batch, batch_idx):
        real = batch[0]
        losses = [
            lambda: nn.functional.softplus(-self.critic(self.generator(real[:, :4]))).mean(),
            lambda: (self.critic(self.generator(real[:, :4]).detach()) - self.critic(real)).mean(),
        ]
        for optimizer, loss in zip(self.optimizers(), losses, strict=True):
            if self.toggle:
                self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()
            if self.toggle:
                self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), lr=0.01) for net in (self.generator, self.critic)]


@pytest.mark.parametrize("toggle", [False, True])
def test_a_gan_with_two_optimizers_and_two_callbacks(toggle, tmp_path):
    callbacks = [
        SparseTrainingCallback(algorithm(0.8, schedule=SCHEDULE, drop_fraction=0.5), include=[f"{net}.*"], name=net)
        for net, algorithm in (("generator", RigL), ("critic", SET))
    ]
    run = trainer(*callbacks)
    task = Gan(toggle)
    run.fit(task, DATA)
    for sparse in callbacks:
        sparsifier = sparse.sparsifier
        assert (sparsifier.step, sparsifier.last_update.step) == (N_STEPS, 6)
        assert sum(sparsifier.n_active.values()) == sum(int(m.sum()) for m in sparsifier.masks.values())
        for name, parameter in sparsifier.parameters.items():
            assert name.startswith(sparse.settings.name)
            assert not parameter.detach()[~sparsifier.masks[name]].any()
    run.save_checkpoint(tmp_path / "gan.ckpt")
    saved = torch.load(tmp_path / "gan.ckpt", weights_only=True)
    assert {"SparseTrainingCallback[generator]", "SparseTrainingCallback[critic]"} <= saved["callbacks"].keys()
    Gan(toggle).load_state_dict(saved["state_dict"], strict=True)


def test_one_callback_for_one_of_two_optimizers():
    sparse = SparseTrainingCallback(RigL(0.8, schedule=SCHEDULE), include=["critic.*"])
    trainer(sparse).fit(Gan(False), DATA)
    assert (sparse.sparsifier.step, list(sparse.sparsifier.masks)) == (N_STEPS, ["critic.0.weight", "critic.2.weight"])


class Normed(SmallModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        self.seen = []


def averages():
    found = {"SWA": lambda: pl.callbacks.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)}
    if hasattr(pl.callbacks, "WeightAveraging"):
        found["every step"] = lambda: pl.callbacks.EMAWeightAveraging(decay=0.9)
        found["every third step"] = lambda: pl.callbacks.EMAWeightAveraging(decay=0.9, update_every_n_steps=3)
        found["from a step on"] = lambda: pl.callbacks.EMAWeightAveraging(decay=0.9, update_starting_at_step=7)
    return found


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
@pytest.mark.parametrize("name", averages())
def test_averages_of_a_network_with_batch_norm_obey_the_masks_of_the_moment(name, first, tmp_path):
    sparse = SparseTrainingCallback(RigL(0.7, schedule=SMALL_SCHEDULE), seed=5)

    class Saves(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")
            masks = {name: mask.clone() for name, mask in sparse.sparsifier.masks.items()}
            torch.save(masks, tmp_path / f"{trainer.current_epoch}.masks")

    average = averages()[name]()
    order = [average, sparse] if first else [sparse, average]
    model = Normed()
    model.on_validation_start = lambda: model.seen.append(obeys(model.state_dict(), sparse.sparsifier.masks))
    settings = {"max_epochs": 4, "enable_checkpointing": False, **QUIET}
    pl.Trainer(callbacks=[*order, Saves()], **settings).fit(model, SmallData())
    assert sparse.sparsifier.step == 24  # the pass of SWA over the data for batch norm is no step
    assert len(model.seen) >= 4
    assert all(model.seen)
    assert obeys(model.state_dict(), sparse.sparsifier.masks)
    for epoch in range(4):
        saved = torch.load(tmp_path / f"{epoch}.ckpt", weights_only=PLAIN_SWA_STATE)["state_dict"]
        assert obeys(saved, torch.load(tmp_path / f"{epoch}.masks"))


def obeys(state, masks):
    return all(not state[name][~mask].any() for name, mask in masks.items())


def test_freezing_and_unfreezing_during_training_keeps_the_masks():
    class Unfreezes(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            pl_module.net[0].requires_grad_(batch_idx < 2 or batch_idx > 3)

    _, sparse, watch = fit(RigL(0.7, schedule=SMALL_SCHEDULE), callbacks=[Unfreezes()])
    assert sparse.sparsifier.step == 18
    assert watch.updates == [0, 3, 6, 9]
    assert len(set(watch.densities)) == 1


def test_static_masks_hold_while_the_scheduler_steps_every_batch():
    class Scheduled(SmallModel):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=30)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    _, sparse, _ = fit(Static(0.7), Scheduled())
    assert sparse.sparsifier.step == 18
