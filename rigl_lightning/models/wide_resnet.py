"""Wide residual network for small images: WRN-22-2 of the paper's CIFAR-10 experiments."""

from __future__ import annotations

from torch import Tensor, nn

from rigl_lightning.models.initialisation import glorot_uniform_

STEM_CHANNELS = 16


class WideResNet(nn.Module):
    """Pre-activation wide residual network (section 4.3 of the RigL paper, arXiv 1911.11134).

    A 3x3 stem without batch norm, three stages of ``(depth - 4) / 6`` blocks with ``16 w``, ``32 w`` and
    ``64 w`` channels, the last two halving the resolution, then BN-ReLU, global average pooling and a
    linear layer. WRN-22-2 has 23 weight layers (three 1x1 skips included) and 1,076,912 weights.

    Args:
        depth: Layers on the longest path, ``6 n + 4`` with n at least 1.
        width: Multiplier w of the channels; a fraction gives the small dense baselines.
        num_classes: Number of logits.
        dropout: Probability of zeroing an activation between the two convolutions of a block.

    Raises:
        ValueError: If ``depth`` is not of the form ``6 n + 4``, or ``width`` leaves a stage no channel.

    >>> import torch
    >>> WideResNet(depth=10, width=1)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, depth: int = 22, width: float = 2, num_classes: int = 10, dropout: float = 0.3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f"Expected `depth` of the form 6n + 4 (10, 16, 22, ...), got {depth}. Set `depth` of WideResNet."
            )
        n_blocks = (depth - 4) // 6
        channels = [round(STEM_CHANNELS * width * factor) for factor in (1, 2, 4)]
        if channels[0] < 1:
            raise ValueError(f"Expected `width` above 1/32, got {width}. Set `width` of WideResNet.")
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 3, padding=1, bias=False)
        self.stages = nn.Sequential(
            _stage(n_blocks, STEM_CHANNELS, channels[0], 1, dropout),
            _stage(n_blocks, channels[0], channels[1], 2, dropout),
            _stage(n_blocks, channels[1], channels[2], 2, dropout),
        )
        self.norm = nn.BatchNorm2d(channels[2])
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(channels[2], num_classes)
        glorot_uniform_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) of any resolution to logits (N, num_classes)."""
        features = self.relu(self.norm(self.stages(self.stem(images))))
        return self.classifier(features.mean(dim=(2, 3)))


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-dropout-conv plus a skip.

    Where the channels change, the skip is a 1x1 convolution of the *activated* input; elsewhere it is the
    input itself, from before the batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.skip: nn.Conv2d | None = None
        if in_channels != out_channels or stride != 1:
            self.skip = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        activated = self.relu(self.norm1(features))
        skip = features if self.skip is None else self.skip(activated)
        hidden = self.relu(self.norm2(self.conv1(activated)))
        return skip + self.conv2(self.dropout(hidden))


def _stage(n_blocks: int, in_channels: int, out_channels: int, stride: int, dropout: float) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride, dropout)
    rest = [PreActivationBlock(out_channels, out_channels, 1, dropout) for _ in range(n_blocks - 1)]
    return nn.Sequential(first, *rest)
