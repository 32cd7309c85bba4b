"""Selection: positions of the largest scores, exact and always alike, in a few passes over the data.

Equal scores are decided by position: the lower index wins. Nothing else decides, so that the choice is the same on
every device, thread count and process. Positions are int64 indices of the flattened tensor, ascending.

On the CPU numpy's vectorised quickselect is an order of magnitude faster than any torch operator, if it is spared what
it does badly: long arrays of which a small part is wanted, and many equal values. Hence a bound estimated from a sample
leaves only a few candidates to rank. That is a shortcut, not an approximation: where the sample misleads, all are
ranked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rigl_lightning.base.errors import SettingError
from rigl_lightning.kernels.positions import positions

_SAMPLED_FROM = 1 << 15  # below this length sampling costs more than it saves
_STRIDE = 64
_PERMUTED_UP_TO = 1 << 27
"""Connections up to which all are shuffled; more would take minutes."""


def random_positions(numel: int, n_active: int, generator: torch.Generator) -> Tensor:
    """Random positions: int64, ascending. Beyond 2**27 connections in memory that goes with the active ones.

    >>> random_positions(10, 3, torch.Generator().manual_seed(0)).numel()
    3
    """
    if numel <= _PERMUTED_UP_TO or n_active > numel // 2:
        # Half the bytes of int64, and the same permutation.
        dtype = torch.int32 if numel < 1 << 31 else torch.int64
        return torch.randperm(numel, generator=generator, dtype=dtype)[:n_active].long().sort().values
    drawn = np.empty(0, dtype=np.int64)
    while drawn.size < n_active:
        more = n_active - drawn.size + n_active // 64 + 64
        drawn = np.concatenate([drawn, torch.randint(numel, (more,), generator=generator).numpy()])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]  # the first of equal ones stays
    return torch.from_numpy(np.sort(drawn[:n_active]))


def largest(score: Tensor, count: int, candidates: Tensor | None = None) -> Tensor:
    """Positions of the ``count`` largest scores among the candidates.

    Args:
        score: Any shape, no NaN at the candidates. Infinite scores are allowed.
        count: In [0, number of candidates].
        candidates: Boolean, of the score's shape; None for all.

    Returns:
        int64, shape (count,), ascending, on the score's device.

    Raises:
        ValueError: If a candidate's score is NaN.

    >>> largest(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 3)
    tensor([1, 2, 3])
    """
    score = score.detach().reshape(-1)
    candidates = None if candidates is None else candidates.reshape(-1)
    _refuse_nan(score, candidates)
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=score.device)
    if score.device.type != "cpu":
        return _largest_on_device(score, count, candidates)
    return torch.from_numpy(_largest(_for_numpy(score), count, None if candidates is None else candidates.numpy()))


def smallest(score: Tensor, count: int, candidates: Tensor) -> Tensor:
    """Positions of the ``count`` smallest scores among the candidates; the higher index loses a tie.

    What `largest` would keep of the candidates and what this takes are all of them. Arguments as there.

    >>> smallest(torch.tensor([1.0, 1.0, 0.0, 9.0]), 1, torch.tensor([True, True, False, True]))
    tensor([1])
    """
    score, candidates = score.detach().reshape(-1), candidates.reshape(-1)
    if score.device.type == "cpu":
        where = positions(candidates).numpy()
        values = _for_numpy(score).take(where)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise SettingError("Expected scores without NaN.")
        return torch.from_numpy(where[_n_smallest(values, count)])
    at = positions(candidates)
    kept = torch.zeros(at.numel(), dtype=torch.bool, device=at.device)
    kept[largest(score[at], at.numel() - count)] = True
    return at[~kept]


def largest_per_row(score: Tensor, counts: Tensor, candidates: Tensor) -> Tensor:
    """Mask of the largest scores among the candidates of each row.

    Args:
        score: Shape (rows, columns), no NaN at the candidates. Infinite scores are allowed.
        counts: int64, shape (rows,): how many of a row, in [0, number of its candidates].
        candidates: Boolean, of the score's shape.

    Returns:
        Boolean, of the score's shape, on its device.

    Raises:
        ValueError: If a candidate's score is NaN.

    >>> score = torch.tensor([[1.0, 3.0, 3.0], [5.0, 0.0, 2.0]])
    >>> largest_per_row(score, torch.tensor([1, 2]), torch.tensor([[True] * 3, [False, True, True]])).int().tolist()
    [[0, 1, 0], [0, 1, 1]]
    """
    _refuse_nan(score, candidates)
    chosen = torch.zeros_like(candidates)
    rows = positions(counts > 0)
    candidates, counts = candidates[rows], counts[rows]
    values = _comparable(score.detach()[rows]).masked_fill_(~candidates, -torch.inf)
    threshold = _sorted_rows(values).gather(1, values.shape[1] - counts[:, None])
    reached = (values >= threshold) & candidates
    surplus = reached.sum(1) - counts
    if bool(surplus.any()):  # scores equal to the threshold: the last of them lose
        tied = positions(surplus > 0)
        equal = (values[tied] == threshold[tied]) & candidates[tied]
        last = equal.flip(1).cumsum(1).flip(1) <= surplus[tied, None]
        reached[tied] &= ~(equal & last)
    chosen[rows] = reached
    return chosen


def below_infinity(score: Tensor) -> Tensor:
    """A copy in floating point, whose infinite scores are finite: infinity is left for what is to win in any case.

    >>> below_infinity(torch.tensor([1, 2])), below_infinity(torch.tensor([torch.inf])).isfinite()
    (tensor([1., 2.], dtype=torch.float64), tensor([True]))
    """
    score = score if score.is_floating_point() else score.double()
    return score.clamp(max=torch.finfo(score.dtype).max)


def _comparable(score: Tensor) -> Tensor:
    if not score.is_floating_point():
        return score.double()
    return score.float() if score.dtype in (torch.float16, torch.bfloat16) else score


def _sorted_rows(values: Tensor) -> Tensor:
    # numpy sorts values without their positions, which is several times faster.
    return torch.from_numpy(np.sort(values.numpy(), axis=1)) if values.device.type == "cpu" else values.sort(1).values


def _largest(score: Any, count: int, candidates: Any | None) -> Any:
    if count * 4 <= score.size and score.size >= _SAMPLED_FROM:
        bound = _sampled_bound(score, count, candidates)
        if bound is not None:
            above = _above(score, bound, count, candidates)
            if above is not None:
                return above
    if candidates is None:
        return _n_largest(score, count)
    where = _positions(candidates)
    return where[_n_largest(score.take(where), count)]


def _sampled_bound(score: Any, count: int, candidates: Any | None) -> Any | None:
    """A score that somewhat more than ``count`` candidates very probably reach, or None."""
    sample = score[::_STRIDE]
    if candidates is not None:
        sample = sample[candidates[::_STRIDE]]
    expected = count / _STRIDE
    rank = int(expected + 4 * expected**0.5) + 4  # four standard errors on the safe side
    return None if rank >= sample.size else np.partition(sample, sample.size - rank)[sample.size - rank]


def _above(score: Any, bound: Any, count: int, candidates: Any | None) -> Any | None:
    """The ``count`` largest, if that many reach the bound."""
    reached = score >= bound
    if candidates is not None:
        reached &= candidates
    n_reached = np.count_nonzero(reached)
    if n_reached < count:
        return None
    if n_reached > 2 * count:  # many scores equal the bound: they need no ranking if they decide nothing
        exceeding = np.flatnonzero(reached & (score > bound))
        if exceeding.size <= count:
            equal = np.flatnonzero(reached & (score == bound))[: count - exceeding.size]
            return np.sort(np.concatenate([exceeding, equal]))
    where = _positions(reached, int(n_reached))
    return where[_n_largest(score.take(where), count)]


def _positions(flags: Any, count: int | None = None) -> Any:
    return positions(torch.from_numpy(flags), count).numpy()


def _n_largest(values: Any, count: int) -> Any:
    """Positions of the ``count`` largest of a numpy array, by one quickselect; the first of equals."""
    position = values.size - count
    threshold = np.partition(values, position)[position]
    chosen = values >= threshold
    surplus = np.count_nonzero(chosen) - count
    if surplus:
        chosen[np.flatnonzero(values == threshold)[-surplus:]] = False
    return np.flatnonzero(chosen)


def _n_smallest(values: Any, count: int) -> Any:
    """Positions of the ``count`` smallest, the last of equals: what `_n_largest` leaves over."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    threshold = np.partition(values, count - 1)[count - 1]
    chosen = values <= threshold
    surplus = np.count_nonzero(chosen) - count
    if surplus:
        chosen[np.flatnonzero(values == threshold)[:surplus]] = False
    return np.flatnonzero(chosen)


def _for_numpy(score: Tensor) -> Any:
    # Half precision is exact in single precision, which numpy knows (bfloat16) or is fast at (float16).
    return (score.float() if score.dtype in (torch.float16, torch.bfloat16) else score).numpy()


def _largest_on_device(score: Tensor, count: int, candidates: Tensor | None) -> Tensor:
    values = score if candidates is None else score[candidates]
    threshold = torch.topk(values, count, sorted=False).values.min()
    chosen = score >= threshold if candidates is None else (score >= threshold) & candidates
    surplus = int(torch.count_nonzero(chosen)) - count
    if surplus:
        equal = score == threshold if candidates is None else (score == threshold) & candidates
        chosen[equal.nonzero().view(-1)[-surplus:]] = False
    return chosen.nonzero().view(-1)


def _refuse_nan(score: Tensor, candidates: Tensor | None) -> None:
    # A sum is the fastest reading of all values, and NaN if any is (or if infinities cancel).
    if not score.is_floating_point() or not bool(score.sum().isnan()):
        return
    nan = score.isnan() if candidates is None else score.isnan() & candidates
    if bool(nan.any()):
        raise SettingError("Expected scores without NaN.")
