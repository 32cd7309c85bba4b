"""Predictions are joined to those of all samples where they can be, and written as what they are."""

import pytest
import pytorch_lightning as pl
import torch

from rigl_lightning.cli.app import Trainer
from rigl_lightning.cli.predictions import save_predictions

CASES = {
    "tensors": ([torch.ones(2, 3), torch.zeros(1, 3)], torch.tensor([[1.0] * 3, [1.0] * 3, [0.0] * 3])),
    "tuples": ([(torch.ones(2), torch.zeros(2, 1))], (torch.ones(2), torch.zeros(2, 1))),
    "dicts": ([{"a": torch.ones(1)}, {"a": torch.zeros(2)}], {"a": torch.tensor([1.0, 0.0, 0.0])}),
    "texts": ([["one", "two"], ["three"]], [["one", "two"], ["three"]]),
    "of two widths": ([torch.ones(2, 3), torch.ones(2, 4)], [torch.ones(2, 3), torch.ones(2, 4)]),
    "numbers": ([torch.tensor(1.0), torch.tensor(2.0)], [torch.tensor(1.0), torch.tensor(2.0)]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_again(case, tmp_path):
    batches, expected = CASES[case]
    save_predictions(batches, str(tmp_path / "out.pt"))
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(got, expected) if case != "texts" else None
    assert type(got) is type(expected)


def test_a_table_has_a_row_a_sample(tmp_path):
    save_predictions([torch.tensor([[1.5, 2.0]]), torch.tensor([[3.0, 4.0]])], str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_bytes() == b"1.5,2.0\r\n3.0,4.0\r\n"


@pytest.mark.parametrize("batches", [[torch.ones(1, 2, 3)], [{"a": torch.ones(1)}]])
def test_what_is_no_table_is_refused_as_one(batches, tmp_path):
    (tmp_path / "out.csv").write_bytes(b"before")
    with pytest.raises(ValueError, match="Set --output to a .pt file"):
        save_predictions(batches, str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_bytes() == b"before"
    torch.testing.assert_close(torch.load(tmp_path / "out.csv.pt", weights_only=True), batches[0])


class Same(pl.LightningModule):
    """Predicts what it is given."""

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return batch


def test_each_of_several_loaders_has_its_own_predictions(tmp_path):
    loaders = [torch.utils.data.DataLoader(torch.arange(4.0) + first, batch_size=2) for first in (0, 10)]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.predict(Same(), loaders, output=str(tmp_path / "out.pt"))
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    assert [own.tolist() for own in got] == [[0, 1, 2, 3], [10, 11, 12, 13]]
    trainer.predict(Same(), loaders[:1], output=str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_bytes() == b"0.0\r\n1.0\r\n2.0\r\n3.0\r\n"
