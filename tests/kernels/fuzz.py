"""Random cases of the sparse layers against torch's dense ones, on guarded memory.

    python -m tests.kernels.fuzz [--first 0] [--cases 3000]

A case is drawn from its number: layer, shapes, density, tier, views and layouts of every operand, threads before and
between the passes, wanted gradients, autocast, inference before. A case that kills its process or differs is printed
with its number, and runs alone with ``--first NUMBER --cases 1``.
"""

import argparse
import random
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning.export import compact
from rigl_lightning.kernels import (
    Patterns,
    SparsePattern,
    Stored,
    Weights,
    available,
    batch_norm,
    batch_norm2d,
    positions,
    sparse_conv2d,
    sparse_gru,
    sparse_linear,
    sparse_lstm,
    stored_conv2d,
    stored_linear,
    stored_recurrent,
    use_tier,
)
from rigl_lightning.kernels.conv_geometry import Window
from tests.helpers.guarded_memory import guard_workspace, guarded, guarded_pattern
from tests.helpers.masked_layers import close as equal

ROOT = Path(__file__).parents[2]
AT_ONCE = 200
"""Cases of one process."""


def close(found, expected):
    """Equal to the rounding of sums in float32, and of results in bfloat16."""
    if found.dtype == torch.bfloat16:
        scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
        torch.testing.assert_close(found.double(), expected.double(), rtol=2**-8, atol=2e-5 * scale)
    else:
        equal(found, expected)


class Case:
    """One random case; ``settings`` says what was drawn."""

    def __init__(self, number):
        torch.manual_seed(number)
        self.random = random.Random(number)
        self.at_end = self.random.random() < 0.8
        self.kind = self.random.choice(["linear", "conv", "conv", "gru", "lstm"])
        self.tier = self.random.choice(["fast", "fast", "fast", *available()])
        self.threads = self.random.choice([(1, 1), (1, 1), (1, 2), (2, 1), (1, 3), (3, 2)])
        self.form = self.random.choice(["sparse", "sparse", "stored", "compact"])
        self.dense_grad = self.form == "sparse" and self.random.random() < 0.2
        apart = random.Random(-1 - number).random()  # the other cases of a number stay what they were
        if apart < 0.15:
            self.kind = "batch_norm" if apart < 0.12 else "positions"
        self.is_low = self.form != "compact" and random.Random(-number).random() < 0.25
        self.settings = {k: v for k, v in vars(self).items() if k != "random"}
        getattr(self, f"draw_{self.kind if self.kind != 'lstm' else 'gru'}")()

    def size(self, most):
        return self.random.choice([1, 2, self.random.randint(1, most), self.random.randint(1, max(2, most // 4))])

    def weight(self, *shape):
        density = self.random.choice([0.0, 0.02, 0.1, 0.3, 0.6, 1.0])
        mask = torch.rand(shape) < density
        return torch.randn(shape) * mask, guarded_pattern(SparsePattern.from_mask(mask), self.at_end)

    def draw_linear(self):
        batch = (self.size(300),) if self.random.random() < 0.7 else (self.size(9), self.size(9))
        inputs, outputs = self.size(2100 if self.random.random() < 0.1 else 120), self.size(120)
        weight, self.pattern = self.weight(outputs, inputs)
        bias = torch.randn(outputs) if self.random.random() < 0.7 else None
        self.tensors, self.first_weight = [torch.randn(*batch, inputs), weight, bias], 1

    def draw_conv(self):
        kernel = (1, 1) if self.random.random() < 0.3 else (self.random.randint(1, 4), self.random.randint(1, 4))
        pairs = [
            (self.random.randint(low, high), self.random.randint(low, high)) for low, high in ((1, 3), (0, 3), (1, 3))
        ]
        self.window = Window(
            *(self.random.choice([pair, plain]) for pair, plain in zip(pairs, [(1, 1), (0, 0), (1, 1)], strict=True))
        )
        large = self.random.random() < 0.02
        batch = self.random.choice([1, 2, 17]) if large else self.size(40)
        channels, outputs = (self.size(3), self.size(3)) if large else (self.size(24), self.size(24))
        smallest = [
            max(1, d * (k - 1) + 1 - 2 * p)
            for k, p, d in zip(kernel, self.window.padding, self.window.dilation, strict=True)
        ]
        size = [low + (self.random.randint(100, 400) if large else self.size(30) - 1) for low in smallest]
        weight, self.pattern = self.weight(outputs, channels, *kernel)
        bias = torch.randn(outputs) if self.random.random() < 0.7 else None
        self.tensors, self.first_weight = [torch.randn(batch, channels, *size), weight, bias], 1

    def draw_gru(self):
        gates = 3 if self.kind == "gru" else 4
        times, batch, features, units = self.size(9), self.size(150), self.size(30), self.size(30)
        (ih, p), (hh, q) = self.weight(gates * units, features), self.weight(gates * units, units)
        self.patterns = Patterns(p, q)
        biases = list(torch.randn(2, gates * units)) if self.random.random() < 0.7 else [None, None]
        states = [torch.randn(batch, units) for _ in range(gates - 2)]
        self.tensors, self.first_weight = [torch.randn(times, batch, features), *states, ih, hh, *biases], gates - 1

    def draw_batch_norm(self):
        shape = [self.size(40), self.size(24), self.size(80), self.random.randint(2, 80)]
        parameters = torch.randn(2, shape[1]) if self.random.random() < 0.7 else [None, None]
        self.tensors = [torch.randn(shape) + self.random.choice([0, 3]), *parameters]
        self.is_rectified = self.random.random() < 0.6

    def draw_positions(self):
        self.mask = torch.rand(self.size(9), self.size(9000)) < self.random.choice([0.0, 0.02, 0.1, 0.6, 1.0])

    def view(self, tensor):
        """The same values in another form."""
        tensor = tensor.detach()
        which = self.random.randrange(9)
        if which == 0 and tensor.ndim:
            wide = torch.full((*tensor.shape, 2), torch.nan, dtype=tensor.dtype)
            wide[..., 0] = tensor
            return guarded(wide, self.at_end)[..., 0]
        if which == 1:
            return torch._neg_view(guarded(-tensor, self.at_end))
        if which == 2 and tensor.ndim > 1:
            return guarded(tensor.transpose(0, 1).contiguous(), self.at_end).transpose(0, 1)
        if which == 3 and tensor.ndim == 4:
            return guarded(tensor.contiguous(memory_format=torch.channels_last), self.at_end)
        if which == 4:
            gap = torch.full((3,), torch.nan, dtype=tensor.dtype)
            return guarded(torch.cat([gap, tensor.reshape(-1)]), self.at_end)[3:].view(tensor.shape)
        return guarded(tensor, self.at_end)

    def patterns_by_place(self):
        if self.kind in ("gru", "lstm"):
            return {self.first_weight: self.patterns.ih, self.first_weight + 1: self.patterns.hh}
        return {1: self.pattern}

    def sparse(self, *tensors):
        if self.form == "stored":
            tensors = list(tensors)
            for i in self.patterns_by_place():
                tensors[i] = Stored(tensors[i], self.tensors[i].shape)
        if self.kind == "linear":
            return (stored_linear if self.form == "stored" else sparse_linear)(*tensors, self.pattern, *self.extra())
        if self.kind == "conv":
            if self.form == "stored":
                return stored_conv2d(*tensors, self.window, self.pattern)
            return sparse_conv2d(*tensors, *self.window, self.pattern, *self.extra())
        x, *states, ih, hh, b_ih, b_hh = tensors
        weights = Weights(ih, hh, b_ih, b_hh)
        if self.form == "stored":
            return stored_recurrent(x, states, weights, self.patterns, [None, None])[0]
        if self.kind == "gru":
            return sparse_gru(x, *states, weights, self.patterns, *self.extra())[0]
        return sparse_lstm(x, tuple(states), weights, self.patterns, *self.extra())[0]

    def extra(self):
        return [] if self.form == "stored" else [self.dense_grad]

    def dense(self, *tensors):
        if self.kind == "linear":
            return F.linear(*tensors)
        if self.kind == "conv":
            return F.conv2d(*tensors, *self.window)
        x, *states, ih, hh, b_ih, b_hh = tensors
        flat = [ih, hh] if b_ih is None else [ih, hh, b_ih, b_hh]
        options = (b_ih is not None, 1, 0.0, False, False, False)
        if self.kind == "gru":
            return torch._VF.gru(x, states[0][None], flat, *options)[0]
        return torch._VF.lstm(x, [s[None] for s in states], flat, *options)[0]

    def run(self):
        with use_tier(self.tier):
            if self.kind in ("batch_norm", "positions"):
                getattr(self, f"run_{self.kind}")()
            elif self.form == "compact":
                self.run_compact()
            else:
                self.run_training()

    def run_training(self):
        torch.set_num_threads(self.threads[0])
        if self.random.random() < 0.1:
            with torch.inference_mode():
                self.sparse(*self.given())  # whose memory the next calls use
        if self.is_low:
            self.tensors[0] = self.tensors[0].bfloat16()
        exact = [None if t is None else t.double().requires_grad_() for t in self.tensors]
        given = [t if t is None else t.requires_grad_(self.random.random() < 0.8) for t in self.given()]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_low):
            out = self.sparse(*given)
        expected = self.dense(*exact)
        close(out, expected)
        torch.set_num_threads(self.threads[1])
        wanted = [i for i, t in enumerate(given) if t is not None and t.requires_grad]
        if not wanted:
            return
        grad = torch.randn(out.shape).to(out.dtype)
        found = torch.autograd.grad(out, [given[i] for i in wanted], self.view(grad))
        references = torch.autograd.grad(expected, [exact[i] for i in wanted], grad.double())
        for i, one, other in zip(wanted, found, references, strict=True):
            pattern = self.patterns_by_place().get(i)
            if pattern is not None and self.form == "stored":
                other = other.reshape(-1)[pattern.positions]
            elif pattern is not None and not self.dense_grad:
                mask = torch.zeros(other.numel(), dtype=torch.bool)
                mask[pattern.positions] = True
                other = other * mask.view(other.shape)
            close(one, other)

    def run_batch_norm(self):
        def normalise(x, weight, bias):
            out = batch_norm2d(x, None, None, weight, bias, 0.1, 1e-5)
            return batch_norm.rectified(out, inplace=False) if self.is_rectified else out

        def expected(x, weight, bias):
            out = F.batch_norm(x, None, None, weight, bias, training=True)
            return F.relu(out) if self.is_rectified else out

        torch.set_num_threads(self.threads[0])
        exact = [None if t is None else t.double().requires_grad_() for t in self.tensors]
        # torch's own, where it takes part, reads the memory between the elements of a strided weight.
        forms = [self.view(self.tensors[0]), *(None if t is None else guarded(t) for t in self.tensors[1:])]
        given = [None if t is None else t.requires_grad_() for t in forms]
        results = normalise(*given), expected(*exact)
        close(*results)
        torch.set_num_threads(self.threads[1])
        grad = torch.randn(results[0].shape)
        if self.is_rectified:  # whether a number this near to zero is above it is a matter of rounding
            grad[results[1].detach().abs() < 1e-5] = 0
        found, references = (
            torch.autograd.grad(out, [t for t in inputs if t is not None], g)
            for out, inputs, g in ((results[0], given, self.view(grad)), (results[1], exact, grad.double()))
        )
        for one, other in zip(found, references, strict=True):
            close(one, other)

    def run_positions(self):
        torch.set_num_threads(self.threads[0])
        found = positions.positions(guarded(self.mask, self.at_end))
        assert found.tolist() == [i for i, flag in enumerate(self.mask.reshape(-1).tolist()) if flag]

    def given(self):
        tensors = list(self.tensors)
        if self.form == "stored":
            for i, pattern in self.patterns_by_place().items():
                tensors[i] = tensors[i].reshape(-1)[pattern.positions]
        return [None if t is None else self.view(t) for t in tensors]

    def run_compact(self):
        x, *_ = self.tensors
        layer = self.module()
        torch.set_num_threads(self.threads[0])
        small = compact(layer.eval(), x, compute="sparse")
        small.load_state_dict(
            {k: self.view(t) if t.is_floating_point() else t for k, t in small.state_dict().items()}, assign=True
        )
        with torch.no_grad():
            exact = layer.double()(x.double())
            for _ in range(2):  # the second time by the plan of the first
                out = small(self.view(x))
                close(first(out), first(exact))
                torch.set_num_threads(self.threads[1])

    def module(self):
        tensors = self.tensors
        if self.kind == "linear":
            layer = nn.Linear(tensors[1].shape[1], tensors[1].shape[0], tensors[2] is not None)
        elif self.kind == "conv":
            outputs, channels, *kernel = tensors[1].shape
            layer = nn.Conv2d(channels, outputs, kernel, *self.window[:2], self.window[2], bias=tensors[2] is not None)
        else:
            units = tensors[self.first_weight + 1].shape[1]
            layer = (nn.GRU if self.kind == "gru" else nn.LSTM)(
                tensors[0].shape[2], units, bias=tensors[-1] is not None
            )
        with torch.no_grad():
            for parameter, tensor in zip(layer.parameters(), tensors[self.first_weight :], strict=False):
                parameter.copy_(tensor)
        return layer


def first(out):
    return out if isinstance(out, torch.Tensor) else out[0]


def run_cases(numbers):
    """Run cases in this process; the numbers of those that differ."""
    guard_workspace()
    batch_norm._LEAST = positions._LEAST = 1
    failed = []
    for number in numbers:
        print(number, flush=True)
        case = Case(number)
        try:
            case.run()
        except Exception as error:
            failed.append(number)
            print(f"FAILED {number} {case.settings}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return failed


def run_in_processes(first, cases):
    """Run cases, `AT_ONCE` in a process of their own; a line for each that failed or was killed."""
    failures, number = [], first
    while number < first + cases:
        count = min(AT_ONCE, first + cases - number)
        command = [sys.executable, "-m", "tests.kernels.fuzz", "--first", str(number), "--cases", str(count), "--here"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        failures += [line for line in done.stderr.splitlines() if line.startswith("FAILED")]
        last = int(done.stdout.splitlines()[-1]) if done.stdout.strip() else number
        if done.returncode not in (0, 1):
            failures.append(f"FAILED {last}: killed ({done.returncode}) {done.stderr[-300:]}")
        number = last + 1
        print(f"{number - first} cases, {len(failures)} failures", flush=True)
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.here:
        return 1 if run_cases(range(options.first, options.first + options.cases)) else 0
    failures = run_in_processes(options.first, options.cases)
    print("\n".join(failures) or "all equal")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
