"""Any model, unchanged: what torch, timm and others build trains sparse, or is refused before the first batch."""

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.utils import parametrizations

from rigl_lightning import RigL, SparseTrainingCallback, Static
from tests.helpers.any_model import Task, batches, train, trainer


class Sequences(nn.Module):
    """An encoder-decoder on two sequences."""

    def __init__(self):
        super().__init__()
        self.body = nn.Transformer(16, 2, 1, 1, dim_feedforward=24, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, source, target):
        return self.head(self.body(source, target))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 10, num_layers=2, bidirectional=True, proj_size=5, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class TiedLanguageModel(nn.Module):
    """As in Hugging Face: the output layer is the embedding, tied after both are made."""

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(11, 12)
        self.block = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True)
        self.lm_head = nn.Linear(12, 11, bias=False)
        self.tie_weights()

    def tie_weights(self):
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        return self.lm_head(self.block(self.wte(tokens)))


class Convolutions(nn.Module):
    """Plain, grouped, depthwise, pointwise and transposed ones."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, groups=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 12, 1),
            nn.ConvTranspose2d(12, 6, 2, groups=2),
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Shared(nn.Module):
    """One layer used twice, at two places of the module."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.again = nn.Sequential(self.first, nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.again(self.first(x)))


class PartlyUnused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.head = nn.Linear(8, 20), nn.Linear(8, 20), nn.Linear(20, 3)

    def forward(self, x):
        return self.head(self.used(x).relu())


class Finetuned(PartlyUnused):
    """A frozen backbone under a trained head; one frozen weight is of integers, as quantised ones are."""

    def __init__(self):
        super().__init__()
        self.used.requires_grad_(False)
        self.unused.weight = nn.Parameter(torch.ones(20, 8, dtype=torch.int8), requires_grad=False)


class Complex(nn.Module):
    """Half of it computes in complex numbers."""

    def __init__(self):
        super().__init__()
        self.spectral, self.head = nn.Linear(8, 20, dtype=torch.complex64), nn.Linear(20, 3)

    def forward(self, x):
        return self.head(self.spectral(x.to(torch.complex64)).abs())


VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (4, 6, 8, 12), "num_classes": 3}

# Network, data, number of sparse tensors.
MODELS = {
    "timm ViT": (lambda: VisionTransformer(**VIT), batches((4, 3, 8, 8)), 10),
    "timm ConvNeXt": (lambda: ConvNeXt(**CONVNEXT), batches((4, 3, 32, 32)), 13),
    "Transformer": (Sequences, batches((4, 5, 16), (4, 6, 16), labels=(4, 6)), 11),
    "LSTM": (Recurrent, batches((4, 5, 6)), 13),
    "tied embedding": (TiedLanguageModel, batches((4, 6), classes=11, labels=(4, 6), vocabulary=11), 4),
    "convolutions": (Convolutions, batches((4, 3, 8, 8)), 5),
    "shared": (Shared, batches((4, 8)), 2),
    "unused": (PartlyUnused, batches((4, 8)), 3),
    "frozen": (Finetuned, batches((4, 8)), 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_trains_unchanged(name, tmp_path):
    make_network, data, n_tensors = MODELS[name]
    _, sparse = train(make_network, data, tmp_path / "end.ckpt")
    assert len(sparse.sparsifier.masks) == n_tensors


def test_a_tied_embedding_and_a_depthwise_convolution_may_be_named(tmp_path):
    make_network, data, _ = MODELS["tied embedding"]
    task, sparse = train(make_network, data, tmp_path / "end.ckpt", include=["network.wte", "network.block.*"])
    assert task.network.lm_head.weight is task.network.wte.weight
    assert "network.wte.weight" in sparse.sparsifier.masks
    make_network, data, _ = MODELS["convolutions"]
    _, sparse = train(make_network, data, tmp_path / "end.ckpt", depthwise=True)
    assert "network.body.4.weight" in sparse.sparsifier.masks


def test_an_unused_layer_keeps_its_mask_and_frozen_weights_keep_their_values(tmp_path):
    _, sparse = train(PartlyUnused, MODELS["unused"][1], tmp_path / "end.ckpt")
    explored = {name: int(mask.sum()) for name, mask in sparse.sparsifier.explored.items()}
    assert explored["network.unused.weight"] == sparse.sparsifier.n_active["network.unused.weight"]
    assert explored["network.used.weight"] > sparse.sparsifier.n_active["network.used.weight"]
    torch.manual_seed(0)
    start = Finetuned().used.weight.detach()
    task, _ = train(Finetuned, MODELS["frozen"][1], tmp_path / "end.ckpt")
    assert torch.equal(task.network.used.weight, start)


def test_a_complex_layer_trains_if_it_is_left_dense(tmp_path):
    _, sparse = train(Complex, MODELS["unused"][1], tmp_path / "end.ckpt", exclude=["*spectral"])
    assert list(sparse.sparsifier.masks) == ["network.head.weight"]


REFUSED = {
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(8, 3)), "plain weights.*weight norm.*`exclude`"),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(8, 3)), "plain weights.*spectral norm"),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(8, 8)), "plain weights"),
    "standardised": (lambda: timm.layers.StdConv2d(3, 3, 3), "plain weights.*weight standardisation"),
    "scaled standardised": (lambda: timm.layers.ScaledStdConv2dSame(3, 3, 3), "plain weights"),
    "lazy": (lambda: nn.LazyLinear(3), "materialised weights.*Run one forward pass"),
    "complex": (Complex, r"real numbers, got torch.complex64 in \['network.spectral.weight'\].*`exclude`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_before_the_first_batch(name):
    make_network, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        trainer(SparseTrainingCallback(Static(0.5))).fit(Task(make_network()), MODELS["unused"][1])


def test_an_embedding_with_sparse_gradients_is_refused_if_it_is_named():
    network = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"dense gradients.*\['network.0.weight'\].*sparse=False"):
        trainer(SparseTrainingCallback(Static(0.5), include=["*"])).fit(Task(network), MODELS["unused"][1])


def test_a_lazy_model_trains_after_one_forward_pass():
    network = nn.Sequential(nn.LazyLinear(20), nn.ReLU(), nn.LazyLinear(3))
    network(torch.zeros(1, 8))
    sparse = SparseTrainingCallback(RigL(0.8))
    trainer(sparse).fit(Task(network), MODELS["unused"][1])
    assert len(sparse.sparsifier.masks) == 2
