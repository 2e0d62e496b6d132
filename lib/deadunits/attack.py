"""The learning-rate attack: some units take larger steps than the rest of the network (thesis: 3.3).

Beside any `torch.optim.Optimizer`: what the optimizer would add to the incoming weights of a unit is
multiplied by a factor, now and then. Biases, other units and the optimizer's own state are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deadunits import graph


@dataclass(frozen=True)
class Schedule:
    """When an attack takes place: `repeats` (N) times, every `interval` (I) steps from step `start` (S).

    Raises:
        ValueError: a start or an interval below 1, or a negative number of repeats.
    """

    start: int
    interval: int = 10
    repeats: int = 10

    def __post_init__(self) -> None:
        for name, low in {"start": 1, "interval": 1, "repeats": 0}.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name} must be an integer from {low}, got {value!r}")

    def __contains__(self, step: int) -> bool:
        beyond = step - self.start
        return 0 <= beyond < self.interval * self.repeats and beyond % self.interval == 0

    @property
    def last(self) -> int:
        """Step of the last attack; `start` - 1 if there is none."""
        return self.start + (self.repeats - 1) * self.interval if self.repeats else self.start - 1


class Attack:
    """Multiplies the update of units' incoming weights while the block lasts (thesis: 3.3).

    ```python
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with Attack(net, optimizer, "conv1", [0], Schedule(start=50, interval=10, repeats=10), multiplier=100):
        for step in training.sgd(net, images, optimizer=optimizer, ...):
            ...
    ```

    An optimizer that would take w to w + u takes the unit's weights w_i to w_i + m u_i, in the steps of the
    schedule. u is all that the optimizer does, weight decay and momentum included; its state is what it would
    be without an attack in that step. Plain SGD is given m times the unit's gradient instead, which is the
    same and bit for bit what the thesis does; the gradients are as before afterwards. (If `step` is called
    with a closure, that computes the gradient itself, and the update is multiplied.)

    Args:
        net: the network.
        optimizer: that trains it.
        layer: name of a linear or convolutional layer.
        units: indices of its units.
        schedule: steps are those of the optimizer, the first one within the block is step 1.
        multiplier: m; 1 changes nothing.

    Raises:
        ValueError: no such layer or unit, weights that the optimizer does not train, a multiplier that is not
            finite. All before any training.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        layer: str,
        units: Sequence[int],
        schedule: Schedule,
        multiplier: float,
    ):
        self.weight = graph.linear_layer(net, layer).weight
        count = len(self.weight)
        for unit in units:
            if type(unit) is not int or not 0 <= unit < count:
                raise ValueError(f"{layer} has units 0 to {count - 1}, got {unit!r}")
        if not any(self.weight is one for group in optimizer.param_groups for one in group["params"]):
            raise ValueError(f"the optimizer does not train {layer}.weight")
        if not math.isfinite(multiplier):
            raise ValueError(f"multiplier must be a finite number, got {multiplier!r}")
        self.optimizer, self.schedule, self.multiplier = optimizer, schedule, multiplier
        self.units = torch.tensor(list(units), dtype=torch.long, device=self.weight.device)
        self.step = 0
        self._kept: Tensor | None = None  # (units attacked, ...): weights, or gradients, before this step
        self._linear = False  # whether this step's attack is on the gradient
        self._hooks = ExitStack()

    def __enter__(self) -> Attack:
        self._hooks.callback(self.optimizer.register_step_pre_hook(self._before).remove)
        self._hooks.callback(self.optimizer.register_step_post_hook(self._after).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        self.step += 1
        self._kept = None
        if self.step not in self.schedule:
            return
        closure = any(one is not None for one in (*args[1:], *kwargs.values()))  # it makes a new gradient
        self._linear = not closure and self.weight.grad is not None and self._plain()
        self._kept = (self.weight.grad if self._linear else self.weight)[self.units]
        if self._linear:
            self.weight.grad[self.units] = self._kept * self.multiplier

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if self._kept is None:
            return
        if self._linear:
            self.weight.grad[self.units] = self._kept
        else:
            self.weight[self.units] = self._kept + self.multiplier * (self.weight[self.units] - self._kept)

    def _plain(self) -> bool:
        """Whether the update is the gradient times a number, so that the gradient may be multiplied."""
        of = next(g for g in self.optimizer.param_groups if any(self.weight is one for one in g["params"]))
        plain = type(self.optimizer) is torch.optim.SGD
        return plain and of["momentum"] == 0 and of["weight_decay"] == 0
