"""Text comes as windows of bytes; split names are understood, and what is missing is said."""

from itertools import pairwise

import pytest
import torch

from rigl_lightning.data import TextBytesDataModule
from rigl_lightning.data.text_files import read_splits


def _write(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def _ready(root, **settings):
    data = TextBytesDataModule(root, **settings)
    data.prepare_data()
    data.setup("fit")
    return data


def _text(splits):
    return {split: part.tobytes().decode() for split, part in splits.items()}


@pytest.mark.parametrize(
    "names",
    [
        ("wiki_train_raw", "wiki_valid_raw", "wiki_test_raw"),
        ("wiki_train_tokens", "wiki_valid_tokens", "wiki_test_tokens"),
        ("ptb_train_txt", "ptb_valid_txt", "ptb_test_txt"),
        ("a__train", "b__val", "c__test"),
    ],
)
def test_names_decide_the_splits(tmp_path, names):
    _write(tmp_path, **dict(zip(names, ("abc", "de", "f"), strict=True)), README_txt="not used")
    assert _text(read_splits(tmp_path)) == {"train": "abc", "valid": "de", "test": "f"}


def test_unnamed_files_are_joined_in_order_and_cut_90_5_5(tmp_path):
    _write(tmp_path, b_txt="b" * 50, a__latest_txt="a" * 50)
    assert _text(read_splits(tmp_path)) == {
        "train": "a" * 50 + "b" * 40,
        "valid": "b" * 5,
        "test": "b" * 5,
    }


def test_hidden_binary_and_other_files_are_not_text(tmp_path):
    _write(tmp_path, text_txt="x" * 20, table_csv="no", hidden="no")
    (tmp_path / "hidden").rename(tmp_path / ".hidden")
    (tmp_path / "binary").write_bytes(b"a\0b")
    assert sum(len(part) for part in read_splits(tmp_path).values()) == 20


def test_a_target_is_the_byte_after_its_token_and_windows_do_not_overlap(tmp_path):
    text = "".join(chr(97 + i % 26) for i in range(53))
    data = _ready(_write(tmp_path, train_txt=text, valid_txt=text, test_txt=text), sequence_length=9, batch_size=2)
    batches = list(data.val_dataloader())
    tokens = torch.cat([tokens for tokens, _ in batches])
    targets = torch.cat([targets for _, targets in batches])
    assert tokens.dtype == targets.dtype == torch.int64
    assert tokens.shape == targets.shape == (5, 9)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    windows = torch.cat([tokens, targets[:, -1:]], dim=1)
    assert bytes(windows.flatten().tolist()).decode() == text[:50]
    shuffled = torch.cat([tokens for tokens, _ in data.train_dataloader()])
    assert len(shuffled) == 4


def test_bytes_beyond_ascii_stay_bytes(tmp_path):
    data = _ready(_write(tmp_path, text_txt="é" * 200), sequence_length=4, batch_size=2)
    tokens, _ = next(iter(data.train_dataloader()))
    assert set(tokens.unique().tolist()) == {0xC3, 0xA9}


def test_the_built_in_text_is_english_and_needs_no_folder():
    data = _ready(None)
    text = bytes(data.train_set.inputs.flatten().tolist()).decode(errors="ignore")
    assert text.count(" the ") > 1000
    assert len(data.train_set) > 500
    assert len(data.val_set) > 20


def test_a_missing_folder_is_reported_with_the_setting(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere not found.*`root` of the data module"):
        _ready(tmp_path / "nowhere")


def test_a_folder_without_text_is_reported_with_the_setting(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No text file.*`root` of the data module"):
        _ready(tmp_path)


def test_a_missing_split_is_reported_with_the_setting(tmp_path):
    with pytest.raises(ValueError, match=r"none for test.*`root` of the data module"):
        _ready(_write(tmp_path, train_txt="a", valid_txt="b"))


def test_a_split_shorter_than_a_window_is_reported_with_the_setting(tmp_path):
    with pytest.raises(ValueError, match=r"at least 9 bytes in the valid split, got 5.*`root` of the data module"):
        _ready(_write(tmp_path, text_txt="a" * 100), sequence_length=8)


def test_consecutive_batches_go_on_with_the_text_and_resume(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(1, 201)))
    settings = {"sequence_length": 4, "batch_size": 3, "consecutive": True}
    data = TextBytesDataModule(tmp_path, **settings)
    data.setup("fit")
    batches = [tokens for tokens, _ in data.train_dataloader()]
    assert len(batches) == (180 - 1) // 4 // 3
    for before, after in pairwise(batches):
        assert torch.equal(after[:, 0], before[:, -1] + 1)
    sampler = data.train_sampler(data.train_set, 0, 1, lambda: (4, 6))
    assert list(sampler) == list(data.train_dataloader().sampler)[6:]
    shares = [set(data.train_sampler(data.train_set, rank, 2, None)) for rank in range(2)]
    assert not shares[0] & shares[1]
