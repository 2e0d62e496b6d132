"""Counting: how many of n a fraction is, without torch."""

from __future__ import annotations

import math
from fractions import Fraction


def count(fraction: float, n: int) -> int:
    """floor(f n), with f read as the decimal that it is written as: 0.29 of 100 are 29, not 28.

    Raises:
        ValueError: a fraction outside 0 to 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction is between 0 and 1, got {fraction}")
    return math.floor(Fraction(str(float(fraction))) * n)
