"""Networks for tests: one of two layers, a slow one, and one that fails with some seeds."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

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


def dying(shape, classes):
    """Kills its process as often as a file says."""
    file = Path(os.environ["SWEEP_NETS_DEATHS"])
    left = int(file.read_text())
    file.write_text(str(left - 1))
    if left > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return quick(shape, classes)


def two_layers(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 4), nn.LeakyReLU(), nn.Linear(4, classes))
