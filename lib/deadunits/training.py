"""Stochastic gradient descent as a generator of steps: what happens in between is the caller's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadunits.data import Batch


@dataclass(frozen=True)
class Step:
    """A step that has just been taken."""

    number: int  #: updates made so far, from 1
    epoch: float  #: passes over the images made so far
    loss: float  #: mean loss of the minibatch before the update


def sgd(
    net: nn.Module,
    images: Batch,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: torch.optim.Optimizer | None = None,
) -> Iterator[Step]:
    """Train `net` in place by w ← w - lr ∇L(w), and yield after each update.

    The order of the images comes from `seed` alone, and every step sets training mode and computes its
    own gradients. So the caller may measure whatever it likes between two steps (switch to `eval`, run
    backward passes, draw random numbers): the weights of the training stay the same bit for bit.

    Args:
        images: all training images, (N, ...), and labels, (N,). The last minibatch of an epoch may be
            smaller.
        optimizer: one of the caller's own over the parameters of `net`, in place of plain SGD; it has its
            own learning rate, and `lr` is not used.
    """
    x, y = images
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    order = torch.Generator().manual_seed(seed)
    optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=lr)
    number = 0
    for epoch in range(epochs):
        seen = 0
        for chosen in torch.randperm(len(y), generator=order).split(batch_size):
            net.train()
            optimizer.zero_grad()
            with torch.enable_grad():
                value = loss(net(x[chosen]), y[chosen])
                value.backward()
            optimizer.step()
            number, seen = number + 1, seen + len(chosen)
            yield Step(number, epoch + seen / len(y), value.item())
