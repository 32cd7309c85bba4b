"""Adam's warm start of grown connections: moments are corrected by each connection's own age, not the optimizer's.

Adam divides its moments by ``1 - beta^t`` because they start at zero. A grown connection's moments start at zero, too,
but t is the optimizer's: late in training nothing is corrected, and the connection's first step is
``(1 - beta1) / sqrt(1 - beta2)``, 3.2 with the usual betas, times the learning rate (named as a cause of loss spikes in
arXiv 2606.00888). The reference leaves it so, and so does this package unless it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rigl_lightning.base.errors import SettingError
from rigl_lightning.sparsity.algorithms import SparseAlgorithm
from rigl_lightning.sparsity.optimizer_state import group_of
from rigl_lightning.sparsity.settings import check_same_value, plain

_NEGLIGIBLE = 0.02
"""beta2 to the age at which a connection counts as grown up: its step is then within one percent."""


class AdamWarmUp:
    """Takes the steps of young connections again, with their own ages in the place of Adam's step count.

    Args:
        parameters: Sparse weights by name.
        algorithm: What grows connections.
        n_steps: The step of a connection of age k is multiplied by ``min(1, k / n_steps)``; 0 for no such ramp, None to
            leave all steps as they are.

    Attributes:
        young: For each layer the positions of young connections in row-major order, int64, and Adam's step count when
            each was grown, float32.

    Raises:
        ValueError: If the number is none of steps, or the algorithm hides inactive weights, whose moments are theirs.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], algorithm: SparseAlgorithm, n_steps: int | None) -> None:
        n_steps = plain(n_steps)
        if n_steps is not None and (isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 0):
            raise SettingError(
                f"Expected `adam_warm_up` to be a number of steps, 0 or more, got {n_steps!r}. "
                "Set `adam_warm_up` of SparseTrainingCallback or Sparsifier."
            )
        if n_steps is not None and algorithm.hides_inactive_weights:
            raise SettingError(
                f"Expected an algorithm that starts connections anew for adam_warm_up, got {type(algorithm).__name__}: "
                "its inactive weights keep their moments. Leave out `adam_warm_up` of SparseTrainingCallback or "
                "Sparsifier."
            )
        self._parameters = parameters
        self.n_steps = n_steps
        self.young: dict[str, tuple[Tensor, Tensor]] = {}
        self._before: dict[str, Tensor] = {}

    @property
    def is_on(self) -> bool:
        """Whether any step is taken again."""
        return self.n_steps is not None

    def follow(self, optimizer: Optimizer, before: Optimizer | None) -> None:
        """Go over to an optimizer; if there was another before, its own count is the age of all moments from now on.

        Raises:
            ValueError: Unless it is Adam or AdamW of torch, whose formula this is.
        """
        if self.is_on and not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
            raise SettingError(
                f"Expected Adam or AdamW of torch.optim for adam_warm_up, got {type(optimizer).__name__}. Leave out "
                "`adam_warm_up` of SparseTrainingCallback or Sparsifier, or set another optimizer."
            )
        if before not in (None, optimizer):
            self.young = {}

    def note_growth(self, grown: Mapping[str, Tensor], masks: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        """After a mask update.

        Args:
            grown: Positions of the new connections by layer.
            masks: The new masks: what is no longer active is forgotten.
            optimizer: As it is now.
        """
        for name, at in grown.items() if self.is_on else ():
            count = optimizer.state.get(self._parameters[name], {}).get("step", 0)
            ages = torch.full((at.numel(),), float(count), device=at.device)
            if name in self.young:
                earlier, born = self.young[name]
                stays = masks[name].reshape(-1)[earlier]
                at, ages = torch.cat([earlier[stays], at]), torch.cat([born[stays], ages])
            self.young[name] = at, ages

    def before_step(self) -> None:
        """Remember the weights of young connections."""
        self._before = {
            name: self._parameters[name].detach()[self._index(name)]
            for name, (at, _) in self.young.items()
            if at.numel() and self._parameters[name].grad is not None
        }

    def after_step(self, optimizer: Optimizer) -> None:
        """Take their step again."""
        for name, weight in self._before.items():
            parameter, index = self._parameters[name], self._index(name)
            at, born = self.young[name]
            state, group = optimizer.state[parameter], group_of(optimizer, parameter) or {}
            age = torch.as_tensor(state["step"]).to(born) - born
            second = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
            decayed = weight * (1 - group["lr"] * _decoupled_decay(optimizer, group))
            step = self._step(state["exp_avg"][index], second[index], age, group)
            corrected = (decayed - group["lr"] * step).to(weight.dtype)
            # A count below theirs is that of an optimizer whose state was not resumed with the masks.
            parameter[index] = torch.where(age > 0, corrected, parameter[index])
            is_young = (age >= 0) & (group["betas"][1] ** age > _NEGLIGIBLE)
            self.young[name] = at[is_young], born[is_young]
        self._before = {}

    def _step(self, first: Tensor, second: Tensor, age: Tensor, group: Mapping[str, Any]) -> Tensor:
        """Adam's step at a learning rate of 1 of connections of different ages.

        Kingma & Ba 2015, arXiv 1412.6980, algorithm 1.
        """
        beta1, beta2 = group["betas"]
        mean, square = first / (1 - beta1**age), second / (1 - beta2**age)
        ramp = (age / self.n_steps).clamp(max=1) if self.n_steps else 1.0
        return ramp * mean / (square.sqrt() + group["eps"])

    def _index(self, name: str) -> tuple[Tensor, ...]:
        # Weights may be in another order in memory (channels last).
        return torch.unravel_index(self.young[name][0], self._parameters[name].shape)

    def state_dict(self) -> dict[str, Any]:
        """Plain CPU tensors."""
        if not self.is_on:
            return {}
        young = {name: {"at": at.cpu(), "born": born.cpu()} for name, (at, born) in self.young.items()}
        return {"adam_warm_up": young, "adam_warm_up_steps": self.n_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What an earlier `state_dict` returned, which may have been made without a warm-up.

        Raises:
            ValueError: If that run's warm-up was another one; older checkpoints do not say.
        """
        check_same_value("adam_warm_up", self.n_steps, state.get("adam_warm_up_steps", self.n_steps))
        saved = state.get("adam_warm_up", {}) if self.is_on else {}
        devices = {name: parameter.device for name, parameter in self._parameters.items()}
        self.young = {n: (s["at"].to(devices[n]), s["born"].to(devices[n])) for n, s in saved.items()}


def _decoupled_decay(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    """The weight decay of AdamW, which is no part of the gradient; 0 for Adam's own, which is.

    Up to torch 2.6 AdamW is a class of its own; later it is Adam with a setting.
    """
    is_decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
    return float(group["weight_decay"]) if is_decoupled else 0.0
