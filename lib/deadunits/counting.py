"""Counting: how many of n a fraction is, and how many values lie in which bin.

torch is imported inside, so that a page can show what was counted without it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

#: Edges of the bins of `histogram` (161,), denser around 0: sinh of -8 to 8, so that ±1490 fits in.
EDGES = np.sinh(np.linspace(-8, 8, 161))
#: The same for values from -1 to 1, as tanh gives them: 0.05 wide.
BOUNDED = np.linspace(-1, 1, 41)


def count(fraction: float, n: int) -> int:
    """floor(f n), with f read as the decimal that it is written as: 0.29 of 100 are 29, not 28.

    Raises:
        ValueError: a fraction outside 0 to 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction is between 0 and 1, got {fraction}")
    return math.floor(Fraction(str(float(fraction))) * n)


def histogram(values: Tensor, edges: np.ndarray) -> Tensor:
    """How many values lie in each bin, (bins + 1 edges,) -> (bins,); what lies outside is in the outermost.

    What is not a number is counted nowhere.
    """
    import torch

    inner = torch.from_numpy(edges[1:-1]).to(values)
    kept = values[~values.isnan()]
    return torch.bincount(torch.bucketize(kept.contiguous(), inner, right=True), minlength=len(edges) - 1)
