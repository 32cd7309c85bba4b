"""The character-level language model of the paper: a GRU whose embedding also makes the logits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from rigl_lightning.models.channels import scaled_channels


class CharGRU(nn.Module):
    """Embedding, one GRU layer, linear readouts, and logits by the transposed embedding.

    Section 4.2 and appendix I of the RigL paper (arXiv 1911.11134): bytes as vocabulary, a shared embedding
    of width 128, a GRU state of 512, readouts of 256 and 128. The matrices hold 1,179,648 weights, the
    embedding counted once (1,146,880 without it).

    The paper is silent, and this is our reading, on: ReLU after every readout but the last (two linear
    layers in a row would be one), no bias on the logits, torch's GRU and torch's default initialisation.

    Args:
        vocabulary: Number of tokens; 256 for bytes.
        embedding: Width of the shared embedding.
        hidden: Width of the GRU state.
        readouts: Widths of the linear layers after the GRU. The last must equal ``embedding``, since the
            same matrix turns it into logits.
        width: Factor on all these widths but the vocabulary; a fraction gives the small dense baselines.

    Raises:
        ValueError: If the last readout is not as wide as the embedding, or ``width`` leaves a layer no unit.

    >>> import torch
    >>> logits, state = CharGRU()(torch.zeros(2, 5, dtype=torch.int64))
    >>> logits.shape, state.shape
    (torch.Size([2, 5, 256]), torch.Size([1, 2, 512]))
    """

    def __init__(
        self,
        vocabulary: int = 256,
        embedding: int = 128,
        hidden: int = 512,
        readouts: Sequence[int] = (256, 128),
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if not readouts or readouts[-1] != embedding:
            raise ValueError(
                f"Expected the last of `readouts` to equal `embedding` ({embedding}), got {tuple(readouts)}. "
                "Set `readouts` of CharGRU."
            )
        embedding, hidden, *readouts = (scaled_channels(units, width) for units in (embedding, hidden, *readouts))
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)
        widths = [hidden, *readouts]
        self.readouts = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the next token at every position.

        Args:
            tokens: (B, T) int64 in [0, vocabulary).
            state: (1, B, hidden) from an earlier call, to go on reading; None starts at zero.

        Returns:
            The logits (B, T, vocabulary) and the state after the last token (1, B, hidden).
        """
        features, state = self.gru(self.embedding(tokens), state)
        for readout in self.readouts[:-1]:
            features = F.relu(readout(features))
        features = self.readouts[-1](features)
        return F.linear(features, self.embedding.weight), state
