"""Numbers read off tables: closed forms, and random draws."""

from __future__ import annotations

from math import comb

import numpy as np
import pandas as pd
import pytest
from deadunits import measures
from deadunits.figures import style
from test_claims import FakeRun


def test_chance_of_two_empty_units():
    # two units of two weights: both empty only if none is left
    assert measures.chance_of_two_empty(2, 2, 0) == 1
    assert measures.chance_of_two_empty(2, 2, 1) == 0
    # three units of one weight, one left of three: the two others are empty
    assert measures.chance_of_two_empty(3, 1, 1) == pytest.approx(1)
    assert measures.chance_of_two_empty(3, 1, 2) == pytest.approx(0)
    # the thesis's conv1 at 90%: at least two of eight filters, against draws
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
    assert measures.signal_ratios(signals, scores).loc["relu"].tolist() == [0.5] * 4


def test_rank_correlations_and_the_thesis_taylor_2():
    scores = pd.DataFrame(
        {"loss_change": [1.0, 2.0, 9.0], "taylor1": [1.0, 2.0, 3.0], "hessian": [0.0, -2.0, -4.0]}
    )
    found = measures.rank_correlations(scores, ("taylor1", "taylor2", "hessian"))
    assert found == {"taylor1": 1.0, "taylor2": pytest.approx(-1.0), "hessian": pytest.approx(-1.0)}


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
