from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from deadbook.histograms import BOUNDED, EDGES, histogram


@given(st.lists(st.floats(width=32), max_size=30))
def test_a_histogram_counts_every_number_once(numbers):
    values = torch.tensor(numbers, dtype=torch.float32)
    for edges in (EDGES, BOUNDED):
        counts = histogram(values, edges)
        assert len(counts) == len(edges) - 1
        assert counts.sum() == sum(not math.isnan(one) for one in numbers)


def test_a_histogram_by_hand():
    edges = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    counts = histogram(torch.tensor([-9.0, -1.0, -0.5, 0.0, 0.2, 1.0, 9.0]), edges)
    assert counts.tolist() == [2, 1, 2, 2]


def test_zero_is_an_edge():  # outputs of a dead unit are exactly 0: one bin, and not the one below
    for edges in (EDGES, BOUNDED):
        middle = len(edges) // 2
        assert edges[middle] == 0
        assert histogram(torch.zeros(3), edges)[middle] == 3
        assert histogram(-torch.full((3,), 1e-3), edges)[middle - 1] == 3
