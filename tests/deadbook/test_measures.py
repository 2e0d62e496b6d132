"""Numbers read off tables: closed forms, and random draws."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pandas as pd
import pytest
import torch

from deadbook.analysis import measures
from deadbook.figures import style
from deadunits import pruning
from toys import FakeRun


def test_chance_of_two_empty_units():
    # two units of two weights: both empty only if none is left
    assert measures.chance_of_two_empty(2, 2, 0) == 1
    assert measures.chance_of_two_empty(2, 2, 1) == 0
    # three units of one weight, one left of three: the two others are empty
    assert measures.chance_of_two_empty(3, 1, 1) == pytest.approx(1)
    assert measures.chance_of_two_empty(3, 1, 2) == pytest.approx(0)
    # the thesis's conv1 at 90%: at least two of eight filters, against draws
    assert measures.chance_of_two_empty(64, 100, 0) == 1  # the terms of the sum are large and cancel out
    chance, rng = measures.chance_of_two_empty(8, 25, 20), np.random.default_rng(0)
    units = rng.permuted(np.tile(np.arange(200) // 25, (20_000, 1)), axis=1)[:, :20]
    present = (units[:, :, None] == np.arange(8)).any(1).sum(1)
    assert chance == pytest.approx((present <= 6).mean(), abs=0.006)
    assert round(chance, 2) == 0.06  # as the criterion of C2.11 says


def test_crowding_of_weights_in_one_unit_and_in_all():
    rows = pd.DataFrame({"weight": range(8), "units": 4, "seed": 0, "step": 1})
    together = rows.assign(loss_change=[0, 1, 9, 9, 9, 9, 9, 9])
    spread = rows.assign(loss_change=[0, 9, 1, 9, 9, 9, 9, 9])
    by_chance = 4 * (1 - comb(6, 2) / comb(8, 2))
    assert measures.crowding(together, 0.25) == (1.0, pytest.approx(by_chance))
    assert measures.crowding(spread, 0.25) == (2.0, pytest.approx(by_chance))


def test_ratios_of_signals():
    on = {"activation": "relu", "seed": 0, "step": 50, "layer": "conv1", "weight": range(4)}
    signals = pd.DataFrame(
        on | {name: [1.0, 3.0, 4.0, 4.0] for name in ("gradient", "by_image", "output", "input")}
    )
    scores = pd.DataFrame(on | {"loss_change": [-1.0, -1.0, 0.0, 1.0]})
    assert measures.signal_ratios(signals, scores).loc["relu", 0].tolist() == [0.5] * 4


def test_ratios_of_signals_where_no_weight_has_a_negative_score():
    on = {"activation": "relu", "seed": 0, "step": 50, "layer": "conv1", "weight": range(2)}
    signals = pd.DataFrame(on | dict.fromkeys(("gradient", "by_image", "output", "input"), 1.0))
    scores = pd.DataFrame(on | {"loss_change": [0.0, 1.0]})
    assert measures.ratios_by_step(signals, scores).isna().all(axis=None)


def test_rank_correlations_and_the_thesis_taylor_2():
    scores = pd.DataFrame(
        {"loss_change": [1.0, 2.0, 9.0], "taylor1": [1.0, 2.0, 3.0], "hessian": [0.0, -2.0, -4.0]}
    )
    found = measures.rank_correlations(scores, ("taylor1", "taylor2", "hessian"))
    assert found == {"taylor1": 1.0, "taylor2": pytest.approx(-1.0), "hessian": pytest.approx(-1.0)}


def slow_ranks(values: list[float]) -> list[float]:
    """Of equal values each has the mean of the places that they take."""
    return [sum(a < b for a in values) + (sum(a == b for a in values) + 1) / 2 for b in values]


def slow_pearson(x: list[float], y: list[float]) -> float:
    x, y = ([a - sum(one) / len(one) for a in one] for one in (x, y))
    return (
        sum(a * b for a, b in zip(x, y, strict=True)) / (sum(a * a for a in x) * sum(b * b for b in y)) ** 0.5
    )


def scored_units(ties: bool) -> pd.DataFrame:
    """Units of two layers, scored in three steps of four runs; in no order."""
    rng, rows = np.random.default_rng(0), []
    for seed, activation, layer, step in itertools.product(
        (0, 1), ("relu", "tanh"), ("conv1", "fc1"), (50, 100, 900)
    ):
        size = 8 if layer == "conv1" else 13
        where = {"seed": seed, "activation": activation, "layer": layer, "step": step, "unit": range(size)}
        exact = rng.normal(size=size)
        scores = {
            "mrp": exact,
            "mrs": exact**3 + 0.3 * rng.normal(size=size),
            "norm_l1": rng.normal(size=size),
        }
        rows.append(pd.DataFrame(where | scores | {"mean": 0.0}))
    frame = pd.concat(rows, ignore_index=True).sample(frac=1, random_state=1)
    if ties:
        frame[["mrp", "mrs", "norm_l1"]] = frame[["mrp", "mrs", "norm_l1"]].round()
    return frame


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_of_units_against_slow_ones(ties):
    scores = scored_units(ties)
    found = measures.unit_correlations(scores, ("mrs", "norm_l1"))
    by = ["seed", "activation", "layer", "step"]
    assert found.index.names == by
    assert len(found) == 2 * 2 * 2 * 3
    for where, row in found.iterrows():
        here = scores[(scores[by] == list(where)).all(axis=1)]
        exact = slow_ranks(here["mrp"].tolist())
        for scorer in ("mrs", "norm_l1"):
            assert row[scorer] == pytest.approx(slow_pearson(slow_ranks(here[scorer].tolist()), exact))


def test_units_that_are_all_alike_have_no_correlation():
    alike = scored_units(False).assign(norm_l1=1.0)
    found = measures.unit_correlations(alike, ("mrs", "norm_l1"))
    assert found["norm_l1"].isna().all()
    assert found["mrs"].notna().all()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.99, 1.0])
def test_the_same_choice_is_what_pruning_gives_up(ties, fraction):
    """As `pruning.unit_masks` chooses; of equal scores the first unit goes."""
    every = scored_units(ties)
    answers = []
    for _, scores in every.groupby(["seed", "activation", "layer"]):
        found = measures.same_choice(scores, ("mrp", "mrs"), fraction)
        assert found.index.tolist() == [50, 100, 900]
        for step, same in found.items():
            here = scores[scores["step"] == step].sort_values("unit")
            gone = [
                {
                    u
                    for u in here["unit"]
                    if not pruning.lowest(torch.tensor(here[name].to_numpy()), fraction)[u]
                }
                for name in ("mrp", "mrs")
            ]
            assert len(gone[0]) == int(fraction * len(here))
            assert same == (gone[0] == gone[1])
            answers.append(bool(same))
    assert set(answers) == ({True} if fraction in (0.0, 1.0) else {True, False})


def test_one_of_four_scores_that_differs_is_no_same_choice():
    scores = pd.DataFrame({"step": 1, "unit": range(4)})
    scores = scores.assign(**dict.fromkeys("abc", scores["unit"]))
    scores["d"] = [1.0, 3.0, 2.0, 4.0]
    assert measures.same_choice(scores, "abc", 0.5).all()
    assert not measures.same_choice(scores, "abcd", 0.5).any()
    assert measures.same_choice(scores, "abcd", 0.75).all()  # as a set: the order within it is free


def test_correlations_of_what_survives_against_slow_ones():
    """Filters of two units and units of a linear layer of two filters go; weights may have either sign."""
    rng = np.random.default_rng(0)
    shapes = {"conv1": (4, 1, 3, 3), "conv2": (5, 4, 3, 3), "fc1": (6, 20, 1, 1)}
    gone = {"conv1": {1, 3}, "conv2": {0}, "fc1": {5}}
    inputs = {"conv1": set(), "conv2": {1, 3}, "fc1": {0, 1, 2, 3}}  # a channel of conv2 is four of fc1
    tables = {True: [], False: []}
    kept = {layer: ([], []) for layer in shapes}
    for layer, shape in shapes.items():
        places = itertools.product(*map(range, shape))
        for weight, (unit, channel, *_) in enumerate(places):
            left = unit not in gone[layer] and channel not in inputs[layer]
            own, other = rng.normal(size=2)
            other += 2 * own
            tables[True].append({"layer": layer, "weight": weight, "value": own if left else 0.0})
            tables[False].append({"layer": layer, "weight": weight, "value": other if left else 99 * other})
            if left:
                kept[layer][0].append(abs(own))
                kept[layer][1].append(abs(other))
    weights = pd.DataFrame(
        [
            {"layer": layer} | dict(zip(("units", "channels", "height", "width"), shape, strict=True))
            for layer, shape in shapes.items()
        ]
    )
    pruned, twin = (
        FakeRun({"weights": weights, "values": pd.DataFrame(tables[one]).sample(frac=1, random_state=0)})
        for one in (True, False)
    )
    found = measures.surviving_correlations(pruned, twin)
    assert list(found) == list(shapes)
    for layer, (own, other) in kept.items():
        assert found[layer] == pytest.approx(slow_pearson(own, other))


@pytest.mark.parametrize("left", [0, 1])
def test_a_single_weight_that_survives_has_no_correlation(left):
    dense = np.arange(1.0, 21.0).reshape(5, 1, 2, 2)
    pruned = filters(dense * (dense > 20 - left), "layer")
    assert np.isnan(measures.surviving_correlations(pruned, filters(dense, ""))["conv1"])


def filters(values: np.ndarray, by: str) -> FakeRun:
    shape = dict(zip(("units", "channels", "height", "width"), values.shape, strict=True))
    tables = {
        "weights": pd.DataFrame([{"layer": "conv1"} | shape]),
        "values": pd.DataFrame({"layer": "conv1", "weight": range(values.size), "value": values.ravel()})[
            ::-1
        ],
    }
    return FakeRun(tables, by=by)


def test_weights_left_after_pruning():
    dense = np.arange(1.0, 21.0).reshape(5, 1, 2, 2)
    pruned = dense * (dense > 8) * (dense != 20)
    run, twin = filters(pruned, "layer"), filters(dense, "")
    assert (measures.weights(run, "conv1") == pruned).all()
    row = measures.layers_after([run], [twin], ["conv1"]).iloc[0]
    assert row["weights left"] == 11 / 20
    assert row["units without weights"] == 2
    assert row["twin's largest tenth kept"] == 0.5  # of 19 and 20


def test_pictures_lay_out_units_in_columns_and_channels_in_rows():
    values = np.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)  # units, channels, height, width
    picture = style.mosaic(values)
    assert picture.shape == (3 * 3 - 1, 2 * 3 - 1)
    assert (picture[:2, 3:] == values[1, 0]).all()
    assert (picture[6:, :2] == values[0, 2]).all()
    assert np.isnan(picture[2]).all()
    assert np.isnan(picture[:, 2]).all()
    matrix = np.ones((4, 7, 1, 1))
    assert style.mosaic(matrix).shape == (4, 7)
