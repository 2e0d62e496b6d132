from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deadunits import pruning, scorers
from deadunits.batches import sample_losses
from deadunits.counting import count
from toys import make_batch, make_net


@given(
    st.lists(st.floats(-2, 2, width=32), max_size=30),
    st.fractions(0, 1, max_denominator=20).map(lambda f: round(float(f), 4)),
)
def test_lowest_gives_up_exactly_so_many_and_none_that_is_higher(scores, fraction):
    scores = torch.tensor(scores)
    mask = pruning.lowest(scores, fraction)
    assert pruning.lowest(torch.zeros(2, 3), 0.5).tolist() == [[False] * 3, [True] * 3]  # ties go in order
    assert int((~mask).sum()) == Fraction(str(fraction)) * len(scores) // 1
    if 0 < mask.sum() < len(scores):
        assert scores[~mask].max() <= scores[mask].min()


def test_pruned_is_undone_bit_for_bit_also_after_an_error():
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


def dict_of(*shapes, seed=0, levels=5):
    """Scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{i}.weight": torch.randint(0, levels, shape, generator=generator).double()
        for i, shape in enumerate(shapes)
    }


SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=4)
PERCENT = st.integers(0, 100)


@given(SHAPES, PERCENT, PERCENT, st.integers(0, 99), st.sampled_from(["layer", "network"]))
def test_a_schedule_is_exact_and_goes_on_from_its_masks(shapes, first, second, seed, by):
    first, second = sorted((first, second))
    scores, later = dict_of(*shapes, seed=seed), dict_of(*shapes, seed=seed + 1)
    n = [score.numel() for score in scores.values()]
    masks = pruning.masks(scores, first / 100, by=by, whole_layers=True)
    more = pruning.masks(later, second / 100, by=by, existing=masks, whole_layers=True)
    for made, percent, by_score in ((masks, first, scores), (more, second, later)):
        gone = [int((~mask).sum()) for mask in made.values()]
        if by == "layer":
            assert gone == [percent * one // 100 for one in n]
        else:
            assert sum(gone) == percent * sum(n) // 100
        groups = [[name] for name in made] if by == "layer" else [list(made)]
        for group in groups:  # nothing that goes now scores higher than what stays
            new = [by_score[name][~made[name] & (masks[name] | (made is masks))] for name in group]
            kept = [by_score[name][made[name]] for name in group]
            if torch.cat(new).numel() and torch.cat(kept).numel():
                assert torch.cat(new).max() <= torch.cat(kept).min()
    for name, mask in masks.items():
        assert not (more[name] & ~mask).any()
        assert mask.shape == scores[name].shape
        assert mask.dtype == torch.bool


@given(SHAPES, PERCENT, st.integers(0, 99))
def test_no_layer_vanishes_unless_asked(shapes, percent, seed):
    scores = dict_of(*shapes, seed=seed)
    n = sum(score.numel() for score in scores.values())
    if percent * n // 100 > n - len(scores):
        with pytest.raises(ValueError, match="allow whole_layers"):
            pruning.masks(scores, percent / 100, by="network")
        return
    masks = pruning.masks(scores, percent / 100, by="network")
    assert sum(int((~mask).sum()) for mask in masks.values()) == percent * n // 100
    for name, mask in masks.items():  # its best weight is among those kept
        assert scores[name][mask].max() == scores[name].max()


def test_masks_say_what_is_wrong():
    scores = dict_of((2, 5))
    with pytest.raises(ValueError, match="'layer' or 'network', got 'unit'"):
        pruning.masks(scores, 0.5, by="unit")
    masks = pruning.masks(scores, 0.5)
    with pytest.raises(ValueError, match="prunes 4 of 10 weights, 5 are already"):
        pruning.masks(scores, 0.4, existing=masks)
    with pytest.raises(ValueError, match=r"none of shape \(2, 5\) for '0.weight'"):
        pruning.masks(scores, 0.5, existing={"0.weight": torch.ones(5, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"for '0.weight'"):
        pruning.masks(scores, 0.5, existing={})
    assert pruning.masks({}, 0.5) == {}
    assert not pruning.masks(scores, 1.0)["0.weight"].any()  # by layer, all of it was asked for


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masked_weights_stay_at_zero_under_any_optimizer(optimizer):
    net = make_net(*(nn.utils.skip_init(nn.Linear, 4, 4) for _ in range(2)))
    names, batch = ["0.weight", "1.weight"], make_batch(8, (4,), 4)
    opt = OPTIMIZERS[optimizer](net.parameters())

    def train(steps):
        for _ in range(steps):
            opt.zero_grad()
            sample_losses(net(batch.x), batch.y).mean().backward()
            opt.step()

    train(3)  # so that moments are there before the masks are
    masks = pruning.masks(scorers.magnitude(net, (), names), 0.5)
    handle = pruning.hold(net, masks, opt)
    before = {name: net.get_parameter(name).detach().clone() for name in names}
    train(5)
    for name, mask in masks.items():
        values = net.get_parameter(name).detach()
        assert values[~mask].count_nonzero() == 0
        assert (values[mask] != before[name][mask]).all()
    handle.remove()
    train(1)
    assert net[0].weight[~masks["0.weight"]].count_nonzero() > 0


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), min_size=1),
    PERCENT,
    PERCENT,
    st.integers(0, 99),
    st.sampled_from(["layer", "network"]),
)
def test_units_are_counted_exactly_and_one_of_a_layer_stays(sizes, first, second, seed, by):
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.randint(0, 4, (n,), generator=generator).float() for name, n in sizes.items()}
    low, high = sorted((first / 100, second / 100))
    total = sum(sizes.values())
    if by == "network" and count(high, total) > total - len(sizes):
        with pytest.raises(ValueError, match="leaves a layer without"):
            pruning.unit_masks(scores, high, by=by)
        return
    before = pruning.unit_masks(scores, low, by=by)
    after = pruning.unit_masks(scores, high, by=by, existing=before)
    assert all(mask.any() for mask in after.values())
    assert all((~before[name] <= ~after[name]).all() for name in scores)
    gone = {name: int((~mask).sum()) for name, mask in after.items()}
    if by == "layer":
        assert gone == {name: min(count(high, n), n - 1) for name, n in sizes.items()}
    else:
        assert sum(gone.values()) == count(high, total)
    for name, mask in after.items():
        fresh = before[name] & ~mask  # given up now: none of them better than one that stays
        if fresh.any():
            assert scores[name][fresh].max() <= scores[name][mask].max()


def test_a_whole_layer_goes_if_asked_and_scores_of_weights_are_refused():
    scores = {"a": torch.tensor([2.0, 1.0, 2.0])}
    assert pruning.unit_masks(scores, 1)["a"].tolist() == [False, False, True]
    assert pruning.unit_masks(scores, 1, whole_layers=True)["a"].tolist() == [False] * 3
    with pytest.raises(ValueError, match="a score for each unit"):
        pruning.unit_masks({"a": torch.ones(2, 3)}, 0.5)


def test_schedules_end_at_the_fraction():
    assert pruning.schedule("one-shot", 0.9, 10) == {1: 0.9}
    assert pruning.schedule("thesis", 0.9, 5) == pytest.approx({2: 0.2, 3: 0.5, 4: 0.8, 5: 0.9})
    assert list(pruning.schedule("thesis", 0.9, 8)) == [4, 5, 7, 8]
    assert pruning.schedule("thesis", 0.5, 1) == {1: 0.5}
    cubic = pruning.schedule("cubic", 0.9, 4)
    assert cubic == pytest.approx({1: 0.9 * 37 / 64, 2: 0.9 * 7 / 8, 3: 0.9 * 63 / 64, 4: 0.9})
    assert cubic[4] == 0.9  # exactly
    for options, message in (
        (("linear", 0.5, 3), "'one-shot', 'thesis' or 'cubic', got 'linear'"),
        (("cubic", 1.5, 3), "between 0 and 1"),
        (("cubic", 0.5, 0), "at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            pruning.schedule(*options)
