"""The Sparsifier follows the recorded runs of the authors' code, mask for mask."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning.sparsity.algorithms import SET, SNFS, RigL, describe
from rigl_lightning.sparsity.files.masks import pack_masks
from rigl_lightning.sparsity.schedules import InversePower, cosine
from rigl_lightning.sparsity.sparsifier import Sparsifier

TRACES = sorted(Path(__file__).parent.glob("*.npz"))


class ReferenceSchedule:
    """When the reference updates: at every `freq` counted steps of an inclusive window, at the first one at once."""

    def __init__(self, trace):
        self.freq, self.begin, self.end = (int(trace[key]) for key in ("freq", "begin", "end"))
        self.last_update = -self.freq

    def resolve(self, total_steps):
        return self

    def is_update(self, step):
        return self.begin <= step <= self.end and self.last_update + self.freq <= step

    def progress(self, step):
        return min(step / (self.end - self.begin), 1.0)


def recorded_scores(trace):
    """Grow scores of SET as recorded; the layer is known by its shape."""
    batch = {"now": 0}

    def score(c):
        layer = {(20, 30): 0, (30, 25): 1, (25, 10): 2}[tuple(c.weight.shape)]
        return torch.from_numpy(trace["G"][batch["now"], layer][: c.weight.numel()]).view(c.weight.shape)

    return score, batch


def initial_state(trace, algorithm):
    masks = {str(i): torch.from_numpy(trace[f"M0_{i}"] > 0) for i in range(3)}
    start = {
        "grad_averages": {},
        "memory": {},
        "hidden": None,
        "step": 0,
        "total_steps": None,
        "seed": 0,
        "algorithm": describe(algorithm),
    }
    return {**dict.fromkeys(("masks", "explored", "first_masks"), pack_masks(masks)), **start}


def build(trace):
    schedule = ReferenceSchedule(trace)
    decay = cosine if str(trace["anneal"]) == "cosine" else InversePower(3)
    settings = {"schedule": schedule, "drop_fraction": float(trace["frac"]), "decay": decay}
    batch = {}
    method = str(trace["method"])
    if method == "rigl":
        return RigL(**settings), schedule, batch
    if method == "snfs":
        return SNFS(grad_average_decay=float(trace["snfs_momentum"]), **settings), schedule, batch
    score, batch = recorded_scores(trace)
    return SET(grow_score=score, **settings), schedule, batch


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_follows_the_authors_code_mask_for_mask(path):
    trace = np.load(path)
    weights = [nn.Parameter(torch.from_numpy(trace[f"W0_{i}"]).clone()) for i in range(3)]
    algorithm, schedule, batch = build(trace)
    optimizer = torch.optim.SGD(weights, lr=float(trace["lr"]), momentum=float(trace["momentum"]))
    sparsifier = Sparsifier(
        {str(i): w for i, w in enumerate(weights)}, algorithm, state=initial_state(trace, algorithm)
    )

    counted, worst, moved = 0, 0.0, 0
    for now, (x, y) in enumerate(zip(trace["X"], trace["Y"], strict=True)):
        batch["now"] = now
        hidden = torch.from_numpy(x)
        for weight in weights[:-1]:
            hidden = F.relu(hidden @ weight)
        loss = F.cross_entropy(hidden @ weights[-1], torch.from_numpy(y).long())
        assert loss.item() == pytest.approx(float(trace["loss"][now]), rel=1e-4), now
        optimizer.zero_grad()
        loss.backward()

        before = sparsifier.last_update
        if not algorithm.replaces_step:
            counted += 1  # the reference counts the gradient step before it asks whether to update
        sparsifier.step = counted
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        if sparsifier.last_update is not before:
            schedule.last_update = counted
            moved += 1
        elif algorithm.replaces_step:
            counted += 1

        for i in range(3):
            expected = np.unpackbits(trace[f"M_{i}"][now], count=weights[i].numel()).astype(bool)
            assert np.array_equal(sparsifier.masks[str(i)].numpy().ravel(), expected), (now, i)
            if now in trace["Wsteps"]:
                difference = np.abs(weights[i].detach().numpy() - trace[f"W_{i}"][list(trace["Wsteps"]).index(now)])
                worst = max(worst, float(difference.max()))
    assert moved > 10
    assert worst < 2e-6
