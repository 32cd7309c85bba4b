"""The study of Adam's warm-up: its table by hand, and a training of a few steps."""

import pandas as pd
import pytest
import torch

from paper.studies import adam_warm_up as study
from paper.tables import adam_warm_up as table


def results(*rows):
    columns = ["task", "adam_warm_up", "seed", *table.MEASURED, "steps"]
    return pd.DataFrame(
        [[task, warm_up, seed, 1.0, 2.0, 0.0, 0.1, loss, 9] for task, warm_up, seed, loss in rows], columns=columns
    )


def test_differences_are_paired_and_a_seed_without_all_settings_does_not_count():
    found = table.rows(
        results(("a", None, 1, 2.0), ("a", 0, 1, 2.5), ("a", None, 2, 3.0), ("a", 0, 2, 3.1), ("a", None, 3, 9.0))
    )
    assert found["adam_warm_up"].tolist() == ["none", "0"]
    assert found["n"].tolist() == [2, 2]
    assert found["val_loss"].tolist() == pytest.approx([2.5, 2.8])
    assert found["paired"].tolist() == pytest.approx([0.0, 0.3])


@pytest.mark.parametrize("task", study.TASKS)
def test_a_first_step_is_noted_for_every_grown_connection(task, monkeypatch):
    monkeypatch.setattr(study, "STEPS", 12)
    monkeypatch.setattr(study, "SCHEDULE", study.UpdateSchedule(interval=4, end=10))
    data = torch.randint(256, (4000,), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = study.TASKS[task].network()
    course = study.train(model, study.TASKS[task], 0, 0, data)
    first = torch.cat(course.first_steps)
    assert len(course.losses) == 12
    assert first.numel() > 1000
    assert first.max() < 1.001  # a learning rate, by its own age; less where Adam's epsilon is seen
    assert (first > 0.99).float().mean() > 0.97
