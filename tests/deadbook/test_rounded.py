"""Numbers of large tables are rounded before they are stored."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deadbook.experiments.common import rounded


@given(st.floats(1e-12, 1e12), st.sampled_from([-1, 1]))
def test_rounded_values_are_near_and_end_in_zeros(value, sign):
    near = rounded(torch.tensor([sign * value], dtype=torch.float64), 10)
    assert near.item() == pytest.approx(sign * value, rel=2**-11 * 1.001)
    assert near.view(torch.int32).item() % 2**13 == 0
    assert torch.equal(rounded(near, 10), near)


def test_zeros_and_what_is_no_number_stay():
    kept = rounded(torch.tensor([0.0, math.inf, math.nan]))
    assert kept[0] == 0
    assert kept[1].isinf()
    assert kept[2].isnan()
