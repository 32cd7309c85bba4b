"""An image folder is read, augmented and resumed as promised; one that is not whole is refused with the remedy."""

from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint

from rigl_lightning.data import ImageFolderDataModule
from rigl_lightning.data.image_files import read_image_folder
from rigl_lightning.data.image_folder import normalised

pytestmark = pytest.mark.filterwarnings("ignore:.*heckpoint directory", "ignore:The dirpath has changed")
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
CLASSES = ("cat", "dog", "fox")


@pytest.fixture
def root(tmp_path):
    """Three classes of four training and two validation images of 12 x 10 random pixels, in three formats."""
    random = np.random.default_rng(0)
    for split, n in (("train", 4), ("val", 2)):
        for name in CLASSES:
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.{('png', 'JPEG', 'webp')[i % 3]}")
    return tmp_path / "images"


def _data(root, **settings):
    return ImageFolderDataModule(root, **{"batch_size": 5, "resolution": 8, "num_workers": 0, "seed": 3, **settings})


class TestFiles:
    def test_labels_are_positions_among_the_sorted_classes(self, root):
        splits = read_image_folder(root, num_classes=3, num_images={"train": 12, "val": 6})
        train = splits["train"]
        assert train.classes == CLASSES
        assert train.labels == (0,) * 4 + (1,) * 4 + (2,) * 4
        assert train.paths[5].endswith("train/dog/1.JPEG")
        assert len(splits["val"].paths) == 6

    def test_other_files_and_hidden_ones_are_no_images(self, root):
        for name in (".0.png", "notes.txt"):
            (root / "train" / "cat" / name).write_bytes(b"")
        (root / "train" / ".cache").mkdir()
        assert len(read_image_folder(root)["train"].paths) == 12

    @pytest.mark.parametrize(
        ("damage", "error", "expected"),
        [
            ("shutil.rmtree(root)", FileNotFoundError, "Image folder .* not found. Set `root` of the data module"),
            ("shutil.rmtree(root / 'val')", FileNotFoundError, "folders train and val in .*, found no val. Set"),
            ("(root / 'train/cow.tar').touch()", ValueError, r"1 archives \(cow.tar\) .* Run: cd .* tar xf"),
            ("flatten(root / 'val')", ValueError, "a folder for each class in .*val, got 6 images without any"),
            (
                "(root / 'val/fox').rename(root / 'val/wolf')",
                ValueError,
                "same classes .* fox only in train; wolf",
            ),
            ("empty(root / 'train/dog')", ValueError, r"but dog have none \(1 of 3 classes\)"),
        ],
    )
    def test_what_is_not_whole_is_refused_with_the_remedy(self, root, damage, error, expected):
        import shutil

        def empty(folder):
            shutil.rmtree(folder)
            folder.mkdir()

        def flatten(folder):
            for path in list(folder.rglob("*.*")):
                path.rename(folder / f"{path.parent.name}{path.name}")
            for name in CLASSES:
                (folder / name).rmdir()

        exec(damage, {"shutil": shutil, "root": root, "empty": empty, "flatten": flatten})
        with pytest.raises(error, match=expected) as caught:
            read_image_folder(root)
        assert "archives" in expected or "from torchvision.datasets import ImageNet" in str(caught.value)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"num_classes": 4}, "Expected 4 classes .* got 3. Set"),
            ({"train_images": 13}, "Expected 13 images .* got 12: it was not unpacked whole"),
            ({"val_images": 5}, "Expected 5 images .* got 6"),
        ],
    )
    def test_another_number_of_classes_or_images_is_refused_before_training(self, root, settings, expected):
        with pytest.raises(ValueError, match=expected):
            _data(root, **settings).prepare_data()

    def test_a_damaged_image_is_named(self, root):
        (root / "val" / "cat" / "0.png").write_bytes(b"no image")
        data = _data(root)
        data.setup("test")
        with pytest.raises(ValueError, match=r"cat/0.png .* unpack it again"):
            next(iter(data.test_dataloader()))


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"resolution": 0}, "`resolution` of at least 1, got 0. Set"),
            ({"crop_fraction": 1.5}, r"`crop_fraction` in \(0, 1\], got 1.5"),
            ({"augmentation": {"colour": 1}}, "create_transform, got .*colour.* Set `augmentation` of the data module"),
        ],
    )
    def test_a_wrong_setting_is_refused(self, root, settings, expected):
        with pytest.raises(ValueError, match=expected):
            _data(root, **settings)

    def test_the_images_of_a_step_have_to_be_as_many_as_the_paper_s(self, root):
        data = _data(root, total_batch_size=20)
        data.trainer = SimpleNamespace(world_size=2, global_rank=0, accumulate_grad_batches=1)
        with pytest.raises(ValueError, match=r"got 5 x 2 x 1 = 10. Set `accumulate_grad_batches` of the Trainer to 2,"):
            data.setup("fit")
        data.trainer.accumulate_grad_batches = 2
        data.setup("fit")

    def test_more_augmentation_is_timms(self, root):
        names = {
            type(t).__name__ for t in _data(root, augmentation={"auto_augment": "rand-m9"}).train_transform.transforms
        }
        assert "RandAugment" in names
        assert not {"ColorJitter", "RandAugment"} & {type(t).__name__ for t in _data(root).train_transform.transforms}


def test_validation_images_are_central_crops_in_order_and_normalised(root):
    data = _data(root, resolution=10, crop_fraction=1.0)
    data.setup("validate")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    pixels = np.asarray(Image.open(root / "val" / "cat" / "0.png"))[:, 1:11]
    expected = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    torch.testing.assert_close(images[0].permute(1, 2, 0).double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_normalising_gives_each_channel_mean_0_and_deviation_1_of_imagenet():
    black = normalised(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(black, torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))


class Recorder(pl.LightningModule):
    """Remembers what it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def training_step(self, batch, batch_idx):
        noise = torch.rand(1)  # dropout and the like
        self.seen[self.global_step] = (batch[0].sum().item(), batch[1].tolist(), noise.item())
        return self.weight * batch[0].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(folder, root, ckpt_path=None, **settings):
    every_step = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(max_epochs=3, callbacks=[every_step], limit_val_batches=0, **QUIET)
    model = Recorder()
    torch.seed()  # nothing may depend on the state of the generators before
    np.random.seed()
    trainer.fit(model, _data(root, **settings), ckpt_path=ckpt_path)
    return model.seen


def test_batches_depend_neither_on_workers_nor_on_where_a_run_is_resumed(root, tmp_path):
    whole = _fit(tmp_path, root)
    assert len(whole) == 6  # two batches of five of twelve images in each of three epochs
    assert len({total for total, _, _ in whole.values()}) == 6
    with_workers = _fit(tmp_path / "workers", root, num_workers=2)
    assert with_workers == whole
    for step, workers in ((1, 2), (2, 2), (3, 0), (5, 2)):
        resumed = _fit(tmp_path / "resumed", root, tmp_path / f"step={step}.ckpt", num_workers=workers)
        assert resumed == {s: seen for s, seen in whole.items() if s >= step}, step


def test_an_image_looks_different_in_every_epoch(root):
    data = _data(root, batch_size=12)
    data.setup("fit")
    sampler = data.train_dataloader().sampler
    seeds = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        seeds.append(dict(sampler))
    assert seeds[0].keys() == seeds[1].keys()
    assert not set(seeds[0].values()) & set(seeds[1].values())


def test_two_processes_share_the_images_of_an_epoch(root):
    seen = []
    for rank in range(2):
        data = _data(root, batch_size=3)
        data.trainer = None
        data.setup("fit")
        sampler = data.train_sampler(data.train_set, rank, 2, None)
        seen.append([index for index, _ in sampler])
    assert sorted(seen[0] + seen[1]) == list(range(12))
