"""GRU and LSTM for inference that hold values and indices: any number of layers, both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rigl_lightning.base.errors import SettingError
from rigl_lightning.export.layers import CompactLayer, input_tier
from rigl_lightning.export.sparse_weight import SparseWeight
from rigl_lightning.kernels.inference.operators import recurrent_op
from rigl_lightning.kernels.tiers import recorded


class CompactRecurrent(CompactLayer):
    """`torch.nn.GRU` or `torch.nn.LSTM`, called and answering as these.

    A packed sequence, and whatever else the kernels do not support, is computed by torch with dense weights.

    Args:
        rnn: The dense layers.
        masks: Active connections of its weights by their names in ``rnn``; those that are not exactly zero where a
            name is missing.
    """

    def __init__(self, rnn: nn.GRU | nn.LSTM, masks: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.mode, self.input_size, self.hidden_size = rnn.mode, rnn.input_size, rnn.hidden_size
        self.num_layers, self.batch_first, self.bidirectional = rnn.num_layers, rnn.batch_first, rnn.bidirectional
        self.suffixes = [
            f"_l{layer}{direction}"
            for layer in range(rnn.num_layers)
            for direction in (("", "_reverse") if rnn.bidirectional else ("",))
        ]
        self.directions = nn.ModuleDict(
            {suffix: _Direction(rnn, suffix, {} if masks is None else masks) for suffix in self.suffixes}
        )
        self.eval()

    def forward(self, x: Any, hx: Any = None) -> Any:
        """As torch's: the outputs, and the last hidden state (GRU) or the last hidden and cell states (LSTM)."""
        if isinstance(x, PackedSequence) or x.ndim not in (2, 3) or self._tier(x) != "fast" or not x.numel():
            return self._dense(x, hx)
        if x.ndim == 2:
            states = None if hx is None else [state[:, None] for state in self._list(hx)]
            out, last = self._run(x[:, None], states)
            return out[:, 0], self._answer([state[:, 0] for state in last])
        out, last = self._run(x.transpose(0, 1) if self.batch_first else x, None if hx is None else self._list(hx))
        return out.transpose(0, 1) if self.batch_first else out, self._answer(last)

    def flatten_parameters(self) -> None:
        """As torch's; there is nothing to do."""

    def _run(self, x: Tensor, states: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Sequence (time, batch, features), states (layers times directions, batch, units)."""
        shape = (len(self.suffixes), x.shape[1], self.hidden_size)
        if x.shape[2] != self.input_size:
            raise SettingError(f"Expected {self.input_size} input features, got {tuple(x.shape)}.")
        if states is None:
            states = [x.new_zeros(shape) for _ in range(1 if self.mode == "GRU" else 2)]
        if any(state.shape != shape for state in states):
            raise SettingError(f"Expected states {shape}, got {[tuple(state.shape) for state in states]}.")
        last: list[list[Tensor]] = []
        count = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            outs = []
            for i, suffix in enumerate(self.suffixes[count * layer : count * (layer + 1)]):
                direction = self.directions[suffix]
                begin = [state[count * layer + i].contiguous() for state in states]
                out, *end = direction(x if i == 0 else x.flip(0), begin)
                outs.append(out if i == 0 else out.flip(0))
                last.append(end)
            x = outs[0] if count == 1 else torch.cat(outs, dim=2)
        return x, [torch.stack(ends) for ends in zip(*last, strict=True)]

    def _tier(self, x: Tensor) -> str:
        directions: list[Any] = list(self.directions.values())
        return input_tier(x, *(t for d in directions for t in (d.ih.values, d.hh.values, d.bias_ih, d.bias_hh)))

    def _list(self, hx: Any) -> list[Tensor]:
        return [hx] if self.mode == "GRU" else list(hx)

    def _answer(self, states: list[Tensor]) -> Any:
        return states[0] if self.mode == "GRU" else tuple(states)

    def _dense(self, x: Any, hx: Any) -> Any:
        kind = nn.GRU if self.mode == "GRU" else nn.LSTM
        first: Any = self.directions[self.suffixes[0]]
        layers = kind(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            first.bias_ih is not None,
            self.batch_first,
            bidirectional=self.bidirectional,
            device="meta",
        )
        return torch.func.functional_call(layers.eval(), self.named_weights(), (x, hx))

    def named_weights(self) -> dict[str, Tensor]:
        """Dense weights and biases by their names in torch's layers."""
        directions: list[Any] = [self.directions[suffix] for suffix in self.suffixes]
        return {name: tensor for direction in directions for name, tensor in direction.named().items()}


class _Direction(nn.Module):
    """One direction of one layer."""

    bias_ih: Tensor | None
    bias_hh: Tensor | None
    inputs_bias: Tensor | None
    hidden_bias: Tensor | None
    by_unit: Tensor
    ih: SparseWeight
    hh: SparseWeight
    units: int

    def __init__(self, rnn: nn.RNNBase, suffix: str, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.suffix, self.units, self.is_lstm = suffix, rnn.hidden_size, rnn.mode == "LSTM"
        for name in ("ih", "hh"):
            full = f"weight_{name}{suffix}"
            setattr(self, name, SparseWeight(getattr(rnn, full), masks.get(full)))
            bias = getattr(rnn, f"bias_{name}{suffix}").detach().clone() if rnn.bias else None
            self.register_buffer(f"bias_{name}", bias)
        self._derive(self, None)
        self.register_load_state_dict_post_hook(self._derive)

    def named(self) -> dict[str, Tensor]:
        """Dense weights and biases by their names in torch's layer."""
        tensors = {f"weight_{name}{self.suffix}": getattr(self, name).dense() for name in ("ih", "hh")}
        if self.bias_ih is not None and self.bias_hh is not None:
            tensors |= {f"bias_ih{self.suffix}": self.bias_ih, f"bias_hh{self.suffix}": self.bias_hh}
        return tensors

    def forward(self, x: Tensor, states: list[Tensor]) -> list[Tensor]:
        """Outputs and last states of a sequence (time, batch, features)."""
        inputs, hidden = [self.ih.values, self.ih.columns, self.by_unit], self._hidden()
        states = [state.to(x.dtype) for state in states]
        if recorded():
            op = recurrent_op
            return list(op(x, states, inputs, hidden, self.inputs_bias, self.hidden_bias))
        from rigl_lightning.kernels.inference.recurrent import recurrent

        return recurrent(x, states, tuple(inputs), tuple(hidden), self.inputs_bias, self.hidden_bias)  # type: ignore[arg-type]

    def _hidden(self) -> list[Tensor]:
        return [self.hh.values, self.hh.columns, self.hh.row_starts]

    @staticmethod
    def _derive(module: nn.Module, _: Any) -> None:
        """What the kernel reads: rows of one unit, one for each gate, side by side; biases in the same order."""
        assert isinstance(module, _Direction)
        units, parts = module.units, module.ih.parts
        by_unit = parts.view(parts.shape[0], -1, units).transpose(1, 2).reshape(parts.shape)
        together = hidden = None
        if module.bias_ih is not None and module.bias_hh is not None:
            together = module.bias_ih + module.bias_hh
            if not module.is_lstm:  # the recurrent share of n is multiplied by r before the sum
                together[2 * units :] = module.bias_ih[2 * units :]
                hidden = module.bias_hh[2 * units :].clone()
            together = together.view(-1, units).t().reshape(-1)
        module.register_buffer("by_unit", by_unit, persistent=False)
        module.register_buffer("inputs_bias", together, persistent=False)
        module.register_buffer("hidden_bias", hidden, persistent=False)
