import pytest
import torch

from rigl_lightning.sparsity.files.masks import pack_masks, read_masks, unpack_masks
from tests.helpers.small_training import flags, through_disk

MASKS = {"a.weight": flags("1..1 .1").view(2, 3), "b.weight": flags("1.1. .... .1").view(5, 1, 2)}


def test_masks_come_back_from_disk_as_they_were():
    back = unpack_masks(through_disk(pack_masks(MASKS)))
    assert list(back) == list(MASKS)
    assert all(torch.equal(back[name], mask) for name, mask in MASKS.items())


def test_a_connection_takes_a_bit():
    packed = pack_masks({"a": torch.ones(1000, 8, dtype=torch.bool)})
    assert packed["a"]["bits"].numel() == 1000
    assert packed["a"]["shape"] == [1000, 8]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {
            "state_dict": {},
            "callbacks": {"SparseTrainingCallback": state, "ModelCheckpoint": {"best": 1}},
        },
    ],
    ids=["state of a Sparsifier", "Lightning checkpoint"],
)
def test_masks_are_found_in_what_training_leaves(tmp_path, wrap):
    torch.save(wrap({"masks": pack_masks(MASKS), "step": 3}), tmp_path / "file.ckpt")
    read = read_masks(tmp_path / "file.ckpt")
    assert all(torch.equal(read[name], mask) for name, mask in MASKS.items())
    assert read_masks(str(tmp_path / "file.ckpt")).keys() == MASKS.keys()


@pytest.mark.parametrize(
    ("callbacks", "found"), [({}, 0), ({"ModelCheckpoint": {}}, 0), ({"one": {"masks": {}}, "two": {"masks": {}}}, 2)]
)
def test_a_checkpoint_without_the_masks_of_one_run_is_refused(tmp_path, callbacks, found):
    torch.save({"state_dict": {}, "callbacks": callbacks}, tmp_path / "file.ckpt")
    with pytest.raises(ValueError, match=f"masks of one .*file.ckpt, found {found}"):
        read_masks(tmp_path / "file.ckpt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.ckpt"):
        read_masks(tmp_path / "missing.ckpt")
