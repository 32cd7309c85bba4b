"""Which image files a folder in ImageNet's layout has, and what is wrong with it if it is not whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
ROOT_FLAG = "Set `root` of the data module"
PREPARE = (
    "To prepare ImageNet, put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into "
    "{root}, remove unfinished folders train and val, and Run: "
    "python -c \"from torchvision.datasets import ImageNet; [ImageNet('{root}', s) for s in ('train', 'val')]\""
)


@dataclass(frozen=True)
class ImageFiles:
    """The files of one split.

    Attributes:
        classes: Names of the class folders, sorted; a label is a position here.
        paths: Paths of the images, by class and then by name.
        labels: Label of each image.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]


def read_image_folder(
    root: str | Path, num_classes: int | None = None, num_images: Mapping[str, int] | None = None
) -> dict[str, ImageFiles]:
    """The splits ``train`` and ``val`` of a folder ``<root>/<split>/<class>/<image>``.

    Args:
        root: Folder that holds ``train`` and ``val``.
        num_classes: Classes that there have to be; None for any number.
        num_images: Images that a split has to have, by its name; splits that are not named may have any number.

    Raises:
        FileNotFoundError: If the folder or a split is missing.
        ValueError: If a split is not unpacked, has empty classes, or is not what was expected.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"Image folder {root} not found. {ROOT_FLAG}. {PREPARE.format(root=root)}")
    splits = {split: _read_split(Path(root), split) for split in ("train", "val")}
    _check_classes(root, splits, num_classes)
    for split, expected in (num_images or {}).items():
        got = len(splits[split].paths)
        if got != expected:
            raise ValueError(
                f"Expected {expected} images in {Path(root) / split}, got {got}: it was not unpacked whole. "
                f"{ROOT_FLAG}, or `{split}_images` of the data module to None for another data set. "
                f"{PREPARE.format(root=root)}"
            )
    return splits


def _read_split(root: Path, split: str) -> ImageFiles:
    folder = root / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Expected folders train and val in {root}, found no {split}. {ROOT_FLAG} to the folder that holds both. "
            f"{PREPARE.format(root=root)}"
        )
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    classes = [entry.name for entry in inside if entry.is_dir() and not entry.name.startswith(".")]
    _check_unpacked(root, split, classes, [entry.name for entry in inside if entry.is_file()])
    files = {name: _images_in(folder / name) for name in classes}
    empty = [name for name, images in files.items() if not images]
    if empty:
        raise ValueError(
            f"Expected images in every class of {folder}, but {_some(empty)} have none ({len(empty)} of {len(classes)} "
            f"classes): it was not unpacked whole. {ROOT_FLAG} to a whole copy. {PREPARE.format(root=root)}"
        )
    return ImageFiles(
        tuple(classes),
        tuple(os.path.join(folder, name, image) for name in classes for image in files[name]),
        tuple(label for label, name in enumerate(classes) for _ in files[name]),
    )


def _check_unpacked(root: Path, split: str, classes: Sequence[str], files: Sequence[str]) -> None:
    archives = [name for name in files if Path(name).suffix in (".tar", ".gz", ".tgz", ".zip")]
    if archives:
        raise ValueError(
            f"Expected class folders only in {root / split}, got {len(archives)} archives ({_some(archives)}) that are "
            f"still to be unpacked. Run: cd {root / split} && for f in *.tar; do mkdir -p ${{f%.tar}} && tar xf $f -C "
            "${f%.tar} && rm $f; done"
        )
    if not classes:
        loose = sum(Path(name).suffix.lower() in SUFFIXES for name in files)
        raise ValueError(
            f"Expected a folder for each class in {root / split}, got {loose} images without any. {ROOT_FLAG} to a "
            f"folder with sorted images. {PREPARE.format(root=root)}"
        )


def _check_classes(root: str | Path, splits: Mapping[str, ImageFiles], num_classes: int | None) -> None:
    train, val = splits["train"].classes, splits["val"].classes
    if train != val:
        only = {"train": sorted(set(train) - set(val)), "val": sorted(set(val) - set(train))}
        told = "; ".join(f"{_some(names)} only in {split}" for split, names in only.items() if names)
        raise ValueError(
            f"Expected the same classes in train and val of {root}, got {len(train)} and {len(val)}: {told}. "
            f"{ROOT_FLAG} to a whole copy. {PREPARE.format(root=root)}"
        )
    if num_classes is not None and len(train) != num_classes:
        raise ValueError(
            f"Expected {num_classes} classes in {root}, got {len(train)}. {ROOT_FLAG} to a whole copy, or "
            "`num_classes` of the data module, and the model's. " + PREPARE.format(root=root)
        )


def _images_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if os.path.splitext(e.name)[1].lower() in SUFFIXES and e.name[0] != ".")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
