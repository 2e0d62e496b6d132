"""Networks for tests: one of two layers, a slow one, and one that fails with some seeds."""

from __future__ import annotations

import math
import time

import torch
from torch import nn


class Slow(nn.Flatten):
    """Takes a tenth of a second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Called by PyTorch."""
        time.sleep(0.1)
        return super().forward(x)


def quick(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def slow(shape, classes):
    return nn.Sequential(Slow(), nn.Linear(math.prod(shape), classes))


def failing(shape, classes):
    if torch.initial_seed() == 1:
        raise ValueError("seed 1 is unlucky")
    return quick(shape, classes)


def two_layers(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 4), nn.LeakyReLU(), nn.Linear(4, classes))
