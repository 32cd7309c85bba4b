"""One step: where the callback acts in it, and what then holds."""

import copy
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from rigl_lightning import SET, GraSP, RigL, SparseTrainingCallback, Sparsifier, Static, select_parameters
from rigl_lightning.sparsity.schedules import constant
from tests.helpers.small_runs import ALGORITHMS, QUIET, SCHEDULE, SmallData, SmallModel, fit, plain_loader

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 1e-2}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_leaks_outside_the_masks_and_the_density_is_exact(name, optimizer):
    kind, settings = OPTIMIZERS[optimizer]
    _, sparse, watch = fit(ALGORITHMS[name], SmallModel(kind, **settings))
    assert sparse.sparsifier.step == 18
    # 144 · 0.7 = 100.8 zeros, rounded down, leave 44; dense first layer: 16 · 6, and 14 of the other 48
    expected = {"dense": 144, "rigl_uniform": 96 + 14, "sr_ste": 96 + 15}.get(name, 44)
    final = 96 + 14 if name == "pruning" else expected
    assert sum(sparse.sparsifier.n_active.values()) == pytest.approx(final, abs=1)
    constant = watch.densities[1:] if name.startswith("snip") else watch.densities
    if name == "annealed":  # from all to 44 in the first half of 18 steps, one by one
        assert [round(144 * density) for density in constant] == pytest.approx(
            [144 - 100.8 * min(step / 9, 1) for step in range(18)], abs=1
        )
    elif name == "acdc":  # phases of one step, the last of them from step 15 on
        assert {round(144 * density) for density in constant} == {144, 44}
        assert constant[-2:] == [44 / 144] * 2
    elif name not in ("pruning", "one_shot"):
        assert len(set(constant)) == 1
    assert watch.updates == {
        "dense": [],
        "static": [],
        "snip": [0],
        "snip_global": [0],
        "pruning": [2, 5, 8, 11, 12],
        "one_shot": [8],
        "grasp": [0],
        "deep_r": list(range(18)),
        "dnw": list(range(18)),
        "sr_ste": list(range(18)),
        "annealed": list(range(18)),
        "acdc": [*range(2, 14), 15],
    }.get(name, [0, 3, 6, 9])


def test_accumulation_counts_optimizer_steps_and_the_last_partial_window():
    _, sparse, watch = fit(RigL(0.7, schedule=SCHEDULE), accumulate_grad_batches=4, max_epochs=5)
    assert sparse.sparsifier.step == 10  # windows of 4 and 2 in each of 5 epochs
    assert watch.updates == [0, 3, 6, 9]


class _Norms(pl.Callback):
    """Global gradient norm after clipping, and that of the parts inside and outside the masks."""

    def __init__(self):
        self.clipped = []
        self.outside = 0.0

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        sparse = trainer.callbacks[0].sparsifier
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if not grads:
            return
        self.clipped.append(float(torch.cat([g.flatten() for g in grads]).norm()))
        for name, p in sparse.parameters.items():
            self.outside = max(self.outside, float(p.grad[~sparse.masks[name]].abs().max()))


def test_clipping_sees_the_gradient_of_active_connections_only():
    norms = _Norms()
    fit(Static(0.7), SmallModel(lr=0.0), callbacks=[norms], gradient_clip_val=0.05)
    assert norms.outside == 0.0
    # Were the dense gradient clipped and masked afterwards, the norm would be smaller.
    assert max(norms.clipped) == pytest.approx(0.05, rel=1e-3)


def test_growth_follows_the_gradient_over_all_accumulated_batches():
    model = SmallModel(lr=0.0, dropout=0.0)
    sparse = SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE, drop_fraction=1.0), seed=5)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = pl.Trainer(callbacks=sparse, max_steps=1, accumulate_grad_batches=3, enable_checkpointing=False, **QUIET)
    trainer.fit(model, plain_loader())

    # The same masked weights, and the gradient of the mean loss over the three batches of the window.
    reference = SmallModel(dropout=0.0)
    first = SparseTrainingCallback(Static(0.7), seed=5)
    pl.Trainer(callbacks=first, max_steps=0, enable_checkpointing=False, **QUIET).fit(reference, plain_loader())
    for name, p in reference.named_parameters():
        mask = first.sparsifier.masks.get(name, torch.ones_like(p))
        p.data.copy_(start[name] * mask)
    batches = list(plain_loader())[:3]
    loss = sum(F.cross_entropy(reference(x), y) for x, y in batches) / 3
    loss.backward()
    # With a drop fraction of 1 the new mask is the top of the gradient, and nothing else.
    for name, mask in sparse.sparsifier.masks.items():
        gradient = dict(reference.named_parameters())[name].grad.abs()
        lowest_active, highest_inactive = gradient[mask].min(), gradient[~mask].max()
        assert lowest_active >= highest_inactive * (1 - 1e-5), name


def test_an_update_of_rigl_takes_the_place_of_a_gradient_step():
    class Biases(pl.Callback):
        def __init__(self):
            self.values = []

        def on_train_batch_end(self, trainer, pl_module, *_):
            self.values.append(pl_module.net[0].bias.detach().clone())

    biases = Biases()
    fit(RigL(0.7, schedule=SCHEDULE), callbacks=[biases])
    unchanged = [step for step in range(1, 18) if torch.equal(biases.values[step], biases.values[step - 1])]
    assert unchanged == [3, 6, 9]  # and step 0, before which there is nothing to compare with


def test_a_batch_without_a_loss_postpones_the_update():
    class Skips(SmallModel):
        def training_step(self, batch, batch_idx):
            if self.trainer.fit_loop.total_batch_idx in (3, 4):
                return None
            return super().training_step(batch, batch_idx)

    _, sparse, watch = fit(RigL(0.7, schedule=SCHEDULE), Skips())
    assert sparse.sparsifier.step == 16
    assert watch.updates == [0, 3, 6, 9]


def test_manual_optimization_clips_the_sparse_gradient_and_updates_on_time():
    class Manual(SmallModel):
        def __init__(self):
            super().__init__(dropout=0.0)
            self.automatic_optimization = False
            self.leaks = []

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            sparsifier = self.trainer.callbacks[0].sparsifier
            if not sparsifier.algorithm.is_update(sparsifier.step):
                for name, p in sparsifier.parameters.items():
                    self.leaks.append(float(p.grad[~sparsifier.masks[name]].abs().max()))
            self.clip_gradients(optimizer, gradient_clip_val=0.05, gradient_clip_algorithm="norm")
            optimizer.step()

    model, sparse, watch = fit(RigL(0.7, schedule=SCHEDULE), Manual())
    assert model.leaks
    assert max(model.leaks) == 0.0
    assert watch.updates == [0, 3, 6, 9]
    assert sparse.sparsifier.step == 18


def test_a_second_fit_goes_on_with_the_same_network_and_a_new_network_starts_anew():
    sparse = SparseTrainingCallback(RigL(0.7, schedule=SCHEDULE), seed=5)
    trainer = pl.Trainer(callbacks=sparse, max_epochs=1, enable_checkpointing=False, **QUIET)
    model = SmallModel()
    trainer.fit(model, SmallData())
    first = sparse.sparsifier
    assert first.step == 6
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, SmallData())
    assert sparse.sparsifier is first
    assert first.step == 12  # one hook an optimizer, so no step counts twice
    pl.Trainer(callbacks=sparse, max_epochs=1, enable_checkpointing=False, **QUIET).fit(SmallModel(), SmallData())
    assert sparse.sparsifier is not first
    assert sparse.sparsifier.step == 6


def test_a_second_fit_on_weights_that_were_loaded_in_between_is_a_warning():
    sparse = SparseTrainingCallback(SET(0.7, schedule=SCHEDULE, drop_fraction=0.9, decay=constant))
    trainer = pl.Trainer(callbacks=sparse, max_epochs=1, enable_checkpointing=False, **QUIET)
    model = SmallModel()
    trainer.fit(model, SmallData())
    early = copy.deepcopy(model.state_dict())
    trainer.fit_loop.max_epochs = 2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The network was sparse before")
        trainer.fit(model, SmallData())
    model.load_state_dict(early)  # as `test(ckpt_path="best")` does
    trainer.fit_loop.max_epochs = 3
    with pytest.warns(UserWarning, match="The network was sparse before it got its masks"):
        trainer.fit(model, SmallData())


def test_hooks_are_gone_after_fit_and_after_an_exception():
    class Fails(SmallModel):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("boom")
            return super().training_step(batch, batch_idx)

    _, sparse, _ = fit(Static(0.7))
    assert sparse.optimizer is None
    sparse = SparseTrainingCallback(Static(0.7))
    trainer = pl.Trainer(callbacks=sparse, max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(RuntimeError, match="boom"):
        trainer.fit(Fails(), SmallData())
    assert sparse.optimizer is None
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


def test_grasp_adds_up_the_products_of_accumulated_batches():
    """Two batches a step, one step: the masks of a plain loop that calls `before_backward` for both halves."""
    _, sparse, _ = fit(
        GraSP(0.7), SmallModel(dropout=0.0), plain_loader(), max_epochs=1, max_steps=1, accumulate_grad_batches=2
    )
    model = SmallModel(dropout=0.0)
    by_hand = Sparsifier(select_parameters(model), GraSP(0.7), total_steps=1, seed=5)
    for batch, _ in zip(plain_loader(), range(2), strict=False):
        loss = F.cross_entropy(model(batch[0]), batch[1]) / 2
        by_hand.before_backward(loss)
        loss.backward()
    by_hand.before_step(model.configure_optimizers())
    assert by_hand.checksums() == sparse.sparsifier.checksums()
