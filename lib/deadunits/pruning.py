"""Removing weights: which ones a score gives up, and the network without them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor, nn


def count(fraction: float, n: int) -> int:
    """floor(f n), with f read as the decimal that it is written as: 0.29 of 100 are 29, not 28.

    Raises:
        ValueError: a fraction outside 0 to 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction is between 0 and 1, got {fraction}")
    return math.floor(Fraction(str(float(fraction))) * n)


def lowest(scores: Tensor, fraction: float) -> Tensor:
    """Mask that gives up the floor(f n) lowest scores: True keeps, as in `torch.nn.utils.prune`.

    Of equal scores the one that comes first is given up first. Any shape; the mask has the same.
    """
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().argsort(stable=True)[: count(fraction, scores.numel())]] = False
    return mask.view(scores.shape)


@contextmanager
@torch.no_grad()
def pruned(net: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The network without the weights whose mask is False; as it was, bit for bit, when the block ends."""
    parameters = dict(net.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in masks}
    try:
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0)
        yield net
    finally:
        for name, values in kept.items():
            parameters[name].copy_(values)
