from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from deadunits import pruning
from hypothesis import given
from hypothesis import strategies as st
from torch import nn


@given(st.integers(0, 100), st.integers(0, 5000))
def test_count_is_the_exact_floor(percent, n):
    assert pruning.count(percent / 100, n) == percent * n // 100


def test_count_where_floats_slip():
    assert int(100 * 0.29) == 28
    assert pruning.count(0.29, 100) == 29


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fractions_out_of_range(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        pruning.count(fraction, 10)


@given(
    st.lists(st.floats(-2, 2, width=32), max_size=30),
    st.fractions(0, 1, max_denominator=20).map(lambda f: round(float(f), 4)),
)
def test_lowest_gives_up_exactly_so_many_and_none_that_is_higher(scores, fraction):
    scores = torch.tensor(scores)
    mask = pruning.lowest(scores, fraction)
    assert int((~mask).sum()) == Fraction(str(fraction)) * len(scores) // 1
    if 0 < mask.sum() < len(scores):
        assert scores[~mask].max() <= scores[mask].min()


def test_ties_go_in_order():
    assert pruning.lowest(torch.zeros(2, 3), 0.5).tolist() == [[False] * 3, [True] * 3]


def test_pruned_is_undone_bit_for_bit_also_after_an_error():
    with torch.random.fork_rng():
        net = nn.Linear(3, 2)
    before = net.weight.detach().clone()
    mask = torch.tensor([[True, False, True], [False, True, True]])

    def fail_inside():
        with pruning.pruned(net, {"weight": mask}):
            assert torch.equal(net.weight, before * mask)
            assert torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(net.weight, before)
