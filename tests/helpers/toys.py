"""Small networks and batches in float64, whose slow answers are quick; runs of made-up tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import nn

from deadbook.analysis import measures
from deadbook.claims import CLAIMS
from deadbook.claims.evidence import Evidence
from deadunits import models
from deadunits.data import Batch


@dataclass(eq=False)
class FakeRun:
    tables: dict[str, pd.DataFrame]
    info: dict[str, Any] = field(default_factory=dict)
    by: str = ""

    def table(self, name: str) -> pd.DataFrame:
        return self.tables[name]

    def has(self, name: str) -> bool:
        return name in self.tables


def decide(claim_id: str, case: Sequence[FakeRun], on: str) -> Evidence | None:
    """What the criterion of a claim finds, with the thresholds of `claims.yaml`; nothing is cached."""
    for function in measures.CACHED:
        function.cache_clear()
    return CLAIMS[claim_id].evidence(case, on)


def outcome(evidence: Evidence) -> tuple[bool, bool]:
    return evidence.holds, evidence.direction_holds


BOTH, DIRECTION, NEITHER = (True, True), (False, True), (False, False)  # outcomes of a criterion


def make_batch(n: int, shape: tuple[int, ...], classes: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return Batch(x, torch.randint(0, classes, (n,), generator=generator))


def make_net(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    """A chain named 0, 1, ...; in eval mode, batch norm with statistics that are not the default."""
    net = nn.Sequential(*layers).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.2, 1.0, generator=generator)
        for parameter in net.parameters():
            parameter.sub_(0.6)
    return net


def small(activation: str = "relu", batch_norm: bool = False, n: int = 7) -> tuple[nn.Sequential, Batch]:
    """The thesis's network with few units, in eval mode, and images for it."""
    net = models.small_cnn((1, 16, 16), 3, (2, 3, 4), activation, batch_norm).double()
    return net.eval(), make_batch(n, (1, 16, 16), 3)


def linear(*sizes: int, **more: bool) -> nn.Linear:
    """Not initialised: the global random state is left alone, and `make_net` sets the weights."""
    return nn.utils.skip_init(nn.Linear, *sizes, **more)


def two_layers(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """A network of a reader's own: `toys:two_layers`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 6), nn.ReLU(), nn.Linear(6, classes))


class Residual(nn.Module):
    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, channels, 3, padding=1), nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((x + self.conv(x)).mean((2, 3)))


def residual(shape: tuple[int, ...], classes: int) -> nn.Module:
    """No chain: `toys:residual`."""
    return Residual(shape[0], classes)
