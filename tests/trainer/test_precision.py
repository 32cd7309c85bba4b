"""Mixed precision: gradients are unscaled before they are scored, and an overflow moves an update, not a mask."""

import warnings

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.nn import functional as F

from rigl_lightning import SET, SNFS, GraSP, RigL
from tests.helpers.small_runs import SCHEDULE, SmallModel, fit


class Overflows(SmallModel):
    """The loss of some batches is too large for half precision."""

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        return loss * (float("inf") if self.trainer.fit_loop.total_batch_idx in (0, 3, 4) else 1.0)


def half(scaler_settings=None):
    scaler = torch.amp.GradScaler("cpu", **(scaler_settings or {"init_scale": 1024.0}))
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("algorithm", [RigL(0.7, schedule=SCHEDULE), SET(0.7, schedule=SCHEDULE)], ids=["rigl", "set"])
def test_an_overflow_postpones_the_update_to_the_next_step(algorithm, fused):
    model = Overflows(lr=0.1, momentum=0.9, fused=fused)
    model, sparse, watch = fit(algorithm, model, **half())
    assert watch.updates == [0, 3, 6, 9]
    assert sparse.sparsifier.step == 18 - 3  # steps that were skipped do not count
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_an_overflow_of_a_dense_parameter_postpones_it_too(fused):
    """A GradScaler skips the step for it, too."""

    class OverflowsInBias(SmallModel):
        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self(batch[0]), batch[1])
            return loss + self.net[0].bias.sum() * (float("inf") if batch_idx == 3 else 0.0)

    for n_batches, updates in ((4, [0]), (5, [0, 3])):
        model = OverflowsInBias(lr=0.1, fused=fused)
        settings = {"max_epochs": 1, "limit_train_batches": n_batches, **half()}
        _, sparse, watch = fit(RigL(0.7, schedule=SCHEDULE), model, **settings)
        assert watch.updates == updates
        assert sparse.sparsifier.step == n_batches - 1


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_an_overflow_postpones_grasp_and_starts_its_product_anew(fused):
    _, sparse, watch = fit(GraSP(0.7), Overflows(lr=0.1, momentum=0.9, fused=fused), **half())
    assert watch.updates == [0]
    assert watch.densities[:2] == [1.0, 44 / 144]
    assert not sparse.sparsifier.gradients.hessian


def test_an_overflow_does_not_enter_the_gradient_average():
    _, sparse, _ = fit(SNFS(0.7, schedule=SCHEDULE), Overflows(lr=0.1), **half())
    assert all(average.isfinite().all() for average in sparse.sparsifier.gradients.averages.values())


@pytest.mark.parametrize(("bad", "told"), [(torch.inf, []), (torch.nan, [3])], ids=["inf", "nan"])
def test_what_the_factor_of_a_scaler_makes_infinite_is_not_told_and_nan_is(bad, told):
    class Bad(SmallModel):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (bad if batch_idx == 3 else 1.0)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(RigL(0.7, schedule=SCHEDULE), Bad(lr=0.1), max_epochs=1, **half())
    steps = [int(str(w.message).split(" at step ")[1].split()[0]) for w in caught if "The loss is" in str(w.message)]
    assert steps == told


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true", "64-true"])
def test_other_precisions_keep_the_masks(precision):
    _, _, watch = fit(RigL(0.7, schedule=SCHEDULE), precision=precision)
    assert set(watch.densities) == {44 / 144}
    assert watch.updates == [0, 3, 6, 9]


def test_grasp_in_bfloat16_ranks_nearly_as_in_single_precision():
    masks = [fit(GraSP(0.7), SmallModel(dropout=0.0), precision=p)[1].sparsifier.masks for p in ("32", "bf16-mixed")]
    assert sum(int(mask.sum()) for mask in masks[1].values()) == 44
    assert sum(int((one & other).sum()) for one, other in zip(masks[0].values(), masks[1].values(), strict=True)) > 35
