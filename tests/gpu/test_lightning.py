"""Training in Lightning on a GPU: every algorithm, precisions, overflows, compiled networks, NCCL, resuming."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.precision import MixedPrecision

from rigl_lightning import SNFS, GraSP, RigL, SparseTrainingCallback
from rigl_lightning.data import InMemoryDataModule, TensorBatches
from rigl_lightning.models import WideResNet
from rigl_lightning.modules import ImageClassifier
from rigl_lightning.sparsity.files.masks import unpack_masks
from tests.helpers.small_runs import ALGORITHMS, QUIET, SCHEDULE, Watch, fit
from tests.trainer.test_precision import Overflows

pytestmark = pytest.mark.gpu
UPDATES = [0, 3, 6, 9]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm(name, accelerator):
    model, sparse, _ = fit(ALGORITHMS[name], accelerator=accelerator, devices=1)
    on_cpu = fit(ALGORITHMS[name])[1]
    assert sparse.sparsifier.step == on_cpu.sparsifier.step == 18
    assert sparse.sparsifier.total_density() == on_cpu.sparsifier.total_density()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true", "16-true", "64-true"])
def test_precisions_keep_the_masks(precision, cuda):
    _, _, watch = fit(RigL(0.7, schedule=SCHEDULE), accelerator="gpu", devices=1, precision=precision)
    assert set(watch.densities) == {44 / 144}
    assert watch.updates == UPDATES


def half(device):
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    return {"plugins": [MixedPrecision("16-mixed", device.type, scaler)], "devices": 1}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", ["rigl", "set", "snfs", "dnw", "top_kast", "deep_r", "dsr"])
def test_an_overflow_postpones_the_update(name, fused, device, accelerator):
    model = Overflows(lr=0.1, momentum=0.9, fused=fused)
    model, sparse, watch = fit(ALGORITHMS[name], model, accelerator=accelerator, **half(device))
    assert sparse.sparsifier.step == 18 - 3
    assert name not in ("rigl", "set", "snfs", "dsr") or watch.updates == UPDATES
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(average.isfinite().all() for average in sparse.sparsifier.gradients.averages.values())


def test_an_overflow_postpones_grasp(device, accelerator):
    model = Overflows(lr=0.1, momentum=0.9, fused=False)
    _, sparse, watch = fit(GraSP(0.7), model, accelerator=accelerator, **half(device))
    assert watch.updates == [0]
    assert watch.densities[:2] == [1.0, 44 / 144]


class SmallImages(InMemoryDataModule):
    def __init__(self, batch_size=8):
        super().__init__(batch_size, seed=1)

    def read_splits(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(64, 3, 16, 16, generator=generator)
        self.train_set = self.val_set = self.test_set = TensorBatches(images, torch.arange(64) % 10)


def classifier(channels_last=False):
    torch.manual_seed(0)
    return ImageClassifier(WideResNet(10, 1), 10, (3, 16, 16), learning_rate=0.02, channels_last=channels_last)


def fit_images(module, tmp_path=None, precision="32-true", ckpt_path=None, **settings):
    sparse = SparseTrainingCallback(RigL(0.8, schedule=SCHEDULE), seed=5)
    callbacks = [sparse, watch := Watch(sparse)]
    if tmp_path is not None:
        callbacks.append(ModelCheckpoint(tmp_path, save_last=True))
    settings = {**QUIET, "max_epochs": 3, "enable_checkpointing": tmp_path is not None, **settings}
    trainer = pl.Trainer(callbacks=callbacks, precision=precision, devices=1, **settings)
    trainer.fit(module, SmallImages(), ckpt_path=ckpt_path)
    return trainer, sparse, watch


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels last"])
def test_an_image_classifier(channels_last, precision, accelerator):
    if accelerator == "cpu" and precision == "16-mixed":
        pytest.skip("no half precision of this kind on the CPU")
    module = classifier(channels_last)
    _, sparse, watch = fit_images(module, precision=precision, accelerator=accelerator)
    assert watch.updates == UPDATES
    weight = next(p for p in sparse.sparsifier.parameters.values() if p.ndim == 4 and p.shape[2] == 3)
    mask = next(m for n, m in sparse.sparsifier.masks.items() if sparse.sparsifier.parameters[n] is weight)
    assert mask.stride() == weight.stride()
    assert len(set(watch.densities)) == 1


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_network(mode, cuda):
    torch._dynamo.reset()
    module = classifier()
    module.model = torch.compile(module.model, mode=mode)
    _, sparse, watch = fit_images(module, accelerator="gpu", limit_val_batches=0)
    assert watch.updates == UPDATES
    assert len(set(watch.densities)) == 1


class Backend(pl.Callback):
    name = None

    def on_train_start(self, trainer, pl_module):
        self.name = torch.distributed.get_backend()


def test_nccl_with_one_process(cuda):
    backend = Backend()
    _, sparse, watch = fit(
        RigL(0.7, schedule=SCHEDULE), accelerator="gpu", devices=1, strategy="ddp", callbacks=[backend]
    )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    assert backend.name == "nccl"
    assert watch.updates == UPDATES
    assert set(watch.densities) == {44 / 144}


def test_grasp_and_snfs_with_nccl(cuda):
    for algorithm in (GraSP(0.7), SNFS(0.7, schedule=SCHEDULE)):
        _, sparse, _ = fit(algorithm, accelerator="gpu", devices=1, strategy="ddp")
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        assert sparse.sparsifier.n_active


@pytest.mark.parametrize("there_and_back", [False, True], ids=["to the CPU", "from the CPU"])
def test_resuming_on_the_other_device(there_and_back, accelerator, tmp_path):
    places = ("cpu", accelerator) if there_and_back else (accelerator, "cpu")
    first, before, _ = fit_images(classifier(), tmp_path, accelerator=places[0], max_epochs=1)
    file = tmp_path / "last.ckpt"
    saved = unpack_masks(torch.load(file, weights_only=True)["callbacks"]["SparseTrainingCallback"]["masks"])
    assert all(torch.equal(mask.cpu(), saved[name]) for name, mask in before.sparsifier.masks.items())
    seen = {}

    class Look(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.update({n: m.cpu().clone() for n, m in trainer.callbacks[0].sparsifier.masks.items()})

    sparse = SparseTrainingCallback(RigL(0.8, schedule=SCHEDULE), seed=5)
    trainer = pl.Trainer(
        callbacks=[sparse, Watch(sparse), Look()],
        devices=1,
        max_epochs=3,
        enable_checkpointing=False,
        **{**QUIET, "accelerator": places[1]},
    )
    trainer.fit(classifier(), SmallImages(), ckpt_path=file)
    assert all(torch.equal(mask, saved[name]) for name, mask in seen.items())
    assert sparse.sparsifier.step == 24


def test_resuming_on_the_same_gpu_is_exact(cuda, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def train(**settings):
        torch.use_deterministic_algorithms(True)
        try:
            return fit(RigL(0.7, schedule=SCHEDULE), accelerator="gpu", devices=1, **settings)
        finally:
            torch.use_deterministic_algorithms(False)

    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    whole, whole_sparse, _ = train(max_epochs=3)
    train(max_epochs=2, callbacks=[checkpoint], enable_checkpointing=True)
    rest, rest_sparse, _ = train(max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert whole_sparse.sparsifier.checksums() == rest_sparse.sparsifier.checksums()
    for one, other in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(one, other)


def test_two_trainings_alike_on_the_gpu(cuda):
    runs = [fit(RigL(0.7, schedule=SCHEDULE), accelerator="gpu", devices=1)[1] for _ in range(2)]
    assert runs[0].sparsifier.checksums() == runs[1].sparsifier.checksums()


def test_data_lie_on_the_gpu(cuda):
    data = SmallImages()
    trainer = pl.Trainer(
        accelerator="gpu", devices=1, max_steps=2, **{k: v for k, v in QUIET.items() if k != "accelerator"}
    )
    trainer.fit(classifier(), data)
    assert data.train_set.inputs.device.type == "cuda"
