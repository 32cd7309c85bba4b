"""Text that a character-level language model writes: one token after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sample_tokens(
    model: nn.Module, prompt: Tensor, length: int, temperature: float, generator: torch.Generator
) -> Tensor:
    """Go on from the prompts.

    Args:
        model: From tokens (B, T) and a state, None at first, to logits (B, T, vocabulary) and the next state.
        prompt: int64 (B, T), T at least 1.
        length: Tokens to add.
        temperature: Divides the logits: below 1 likelier tokens become likelier still. 0 takes the likeliest.
        generator: On the CPU, so that all devices write the same.

    Returns:
        The added tokens, int64 (B, length).
    """
    logits, state = model(prompt, None)
    tokens = []
    for _ in range(length):
        token = _draw(logits[:, -1].float().cpu(), temperature, generator).to(prompt.device)
        tokens.append(token)
        logits, state = model(token, state)
    return torch.cat(tokens, dim=1)


def as_text(tokens: Tensor) -> str:
    """Bytes as text; what is no UTF-8 is shown as a replacement character.

    >>> as_text(torch.tensor([82, 105, 103, 76]))
    'RigL'
    """
    return bytes(tokens.tolist()).decode("utf-8", errors="replace")


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=1, keepdim=True)
    return torch.multinomial(torch.softmax(logits / temperature, dim=1), 1, generator=generator)
