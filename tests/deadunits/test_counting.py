from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadunits.counting import count


@given(st.integers(0, 100), st.integers(0, 5000))
def test_count_is_the_exact_floor(percent, n):
    assert count(percent / 100, n) == percent * n // 100


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fractions_out_of_range(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        count(fraction, 10)
