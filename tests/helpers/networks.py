"""Small trained-looking networks: exact zeros, batch norms with statistics of their own."""

import torch
from torch import nn

from rigl_lightning.models import CharGRU, LeNet300100, WideResNet, mobilenet_v1, resnet50


@torch.no_grad()
def sparsify(model, sparsity=0.9, seed=0):
    """Random masks on all matrices but the first and depthwise ones; returns the masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, weight in list(model.named_parameters())[1:]:
        if weight.ndim >= 2 and weight.shape[1] > 1 and "embedding" not in name:
            masks[name] = torch.rand(weight.shape, generator=generator) >= sparsity
            weight.mul_(masks[name])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return masks


def timm_model(name, **settings):
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=5, **settings)


class Shared(nn.Module):
    """One convolution called twice, an addition of a map to itself, tied linear layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.conv(x) + self.conv(x))
        return self.b(self.a(x.mean((2, 3))))


IMAGES = {
    "lenet": (lambda: LeNet300100(64), (1, 8, 8)),
    "wrn": (lambda: WideResNet(10, 1), (3, 16, 16)),
    "resnet50": (lambda: resnet50(0.25, 5), (3, 33, 33)),
    "mobilenet_v1": (lambda: mobilenet_v1(0.25, 5), (3, 32, 32)),
    "resnet10": (lambda: timm_model("resnet10t"), (3, 32, 32)),
    "mobilenetv3": (lambda: timm_model("mobilenetv3_small_050"), (3, 32, 32)),
    "convnext": (lambda: timm_model("convnext_atto"), (3, 32, 32)),
    "vit": (lambda: timm_model("vit_tiny_patch16_224", img_size=32, depth=2), (3, 32, 32)),
    "shared": (Shared, (4, 9, 7)),
}


def network(name, sparsity=0.9):
    torch.manual_seed(0)
    build, shape = IMAGES[name]
    model = build().eval()
    sparsify(model, sparsity)
    return model, shape


def char_gru():
    torch.manual_seed(0)
    model = CharGRU(width=0.25).eval()
    sparsify(model)
    return model
