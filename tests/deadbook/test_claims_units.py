"""The criteria of chapter 4 on made-up tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deadbook import claims
from deadbook.claims import CLAIMS
from toys import BOTH, DIRECTION, NEITHER, FakeRun, decide, outcome

THESIS = ("mrp", "mrs", "norm_l1", "norm_l2")
SETS = ("train_probe", "other")
FRACTIONS = (0.1, 0.2, 0.4, 0.5, 0.6, 0.8)
HOLDS_ALONE = (True, False)


def costs(
    values: Sequence[float],
    scorer: str = "mrs",
    fraction: float = 0.5,
    layer: str = "fc1",
    draw: int = 0,
    first: int = 100,
) -> pd.DataFrame:
    """Penalties by one scorer, every 100 steps."""
    frame = pd.DataFrame({"penalty": values, "step": range(first, first + 100 * len(values), 100)})
    return frame.assign(scorer=scorer, fraction=fraction, layer=layer, draw=draw)


def drawn(mean: float, measurements: int = 2, layer: str = "fc1") -> list[pd.DataFrame]:
    """Ten random draws of such a mean, of which nine cost half of it."""
    levels = [0.5 * mean] * 9 + [5.5 * mean]
    return [costs([level] * measurements, "random", layer=layer, draw=i) for i, level in enumerate(levels)]


def units_run(
    on: str, *frames: pd.DataFrame, activation: str = "relu", noise: float = 0.0, **tables: pd.DataFrame
) -> FakeRun:
    """A run judged on a set; with noise, also rows that no criterion reads: other sets, constants, ..."""
    rows = pd.concat(frames).assign(set=on, constant="mean of h")
    unread = [
        rows.assign(set=next(one for one in SETS if one != on)),
        *(rows.assign(constant=constant) for constant in ("mean of a", "median of h", "zero")),
        rows.assign(layer="conv2"),
        rows.assign(fraction=0.3),
        rows[rows["scorer"] == "mrs"].assign(scorer="taylor"),
    ]
    if noise:
        rows = pd.concat([rows, *(one.assign(penalty=noise) for one in unread)])
    info = {"experiment": "units", "settings": {"activation": activation}}
    return FakeRun({"penalties": rows.sample(frac=1, random_state=0)} | tables, info)


def everywhere() -> Iterator[dict[str, Any]]:
    """On both sets, whatever stands in the rows that do not count."""
    for on, noise in (("train_probe", -1e6), ("train_probe", 1e6), ("other", 1e6)):
        yield {"on": on, "noise": noise}


def ranked_units(layer: str, orders: Sequence[dict[str, Sequence[float]]], first: int = 100) -> pd.DataFrame:
    """Scores of units: for each measurement those that are given; by default the number of the unit."""
    rows = []
    for i, own in enumerate(orders):
        size = len(next(iter(own.values()))) if own else 8
        scores = {name: [float(unit) for unit in range(size)] for name in THESIS} | own
        rows.append(pd.DataFrame({"step": first + 100 * i, "layer": layer, "unit": range(size)} | scores))
    return pd.concat(rows).assign(seed=0, activation="relu")


LAST_TWO = [0.0, 1.0, 2.0, 3.0, 5.0, 4.0, 7.0, 6.0]  # another order, the same lower half
ACROSS = [0.0, 1.0, 2.0, 4.0, 3.0, 5.0, 6.0, 7.0]  # unit 4 goes instead of unit 3


def conv1(where: dict[str, Any], agreeing: int, worst: float, random: float, **levels: float) -> FakeRun:
    """Four measurements; a median penalty of 1 by MRP; random draws whose mean has that median."""
    frames = []
    for name, level in ({"mrp": 1.0, "mrs": 1.5, "norm_l1": 2.0, "norm_l2": 1.8} | levels).items():
        frames.append(costs([level, level, level, 50 * level], name, layer="conv1"))
    for frame in drawn(random, 4, "conv1"):
        if frame["draw"].iloc[0] == 8:
            frame.loc[2, "penalty"] = worst
        frames.append(frame)
    orders = [{"norm_l2": LAST_TWO}] * agreeing + [{"norm_l2": ACROSS}] * (4 - agreeing)
    disagree = ranked_units("fc1", [{"mrs": ACROSS}] * 4)
    scores = pd.concat([ranked_units("conv1", orders), disagree])
    return units_run(where["on"], *frames, noise=where["noise"], scores=scores)


@pytest.mark.parametrize(
    ("agreeing", "worst", "random", "levels", "expected"),
    [
        (3, 33.1, 6.0, {}, BOTH),
        (4, 33.1, 6.0, {}, BOTH),
        (2, 33.1, 6.0, {}, DIRECTION),
        (3, 33.1, 5.99, {}, HOLDS_ALONE),
        (3, 33.1, 6.0, {"norm_l2": 2.01}, HOLDS_ALONE),  # at least 3 times each of the four
        (3, 33.1, 6.0, {"mrp": 2.01}, NEITHER),
        (3, 30.0, 5.4, {}, HOLDS_ALONE),
        (3, 29.9, 5.41, {"norm_l1": 1.8}, DIRECTION),
        (2, 29.9, 5.4, {}, NEITHER),
    ],
)
def test_c41(agreeing, worst, random, levels, expected):
    """The draws cost 0.5 and 5.5 times their mean, so their median is no stand-in for the mean of ten."""
    for where in everywhere():
        case = [conv1(where, agreeing, worst, random, **levels)]
        assert outcome(decide("C4.1", case, where["on"])) == expected


def test_c41_is_not_testable_without_the_scorers_or_the_layer():
    run = conv1({"on": "other", "noise": 0.0}, 4, 40.0, 6.0)
    assert decide("C4.1", [run], "train_probe") is None
    for lacking in ("mrp", "random"):
        rows = run.table("penalties")
        less = FakeRun(run.tables | {"penalties": rows[rows["scorer"] != lacking]}, run.info)
        assert decide("C4.1", [less], "other") is None
    scores = run.table("scores").query("layer == 'fc1'")
    assert decide("C4.1", [FakeRun(run.tables | {"scores": scores}, run.info)], "other") is None


def test_c41_where_nothing_is_lost_by_mrp():
    run = conv1({"on": "other", "noise": 0.0}, 4, 40.0, 6.0, mrp=0.0)
    evidence = decide("C4.1", [run], "other")
    assert outcome(evidence) == BOTH
    assert evidence.values["worst random draw over the median penalty by MRP"] == math.inf


UP, MIDDLE, DOWN = [1.0, 4.0, 9.0], [1.0, 9.0, 4.0], [9.0, 4.0, 1.0]  # Spearman 1, 0.5, -1 with MRP


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([UP] + 19 * [MIDDLE], BOTH),
        ([DOWN] + 3 * [UP], BOTH),  # the mean is 0.5
        ([DOWN] + 3 * [UP] + [[4.0, 9.0, 1.0]], DIRECTION),  # one of -0.5 more
        ([MIDDLE] * 3 + [DOWN], DIRECTION),
        ([MIDDLE] * 2 + [DOWN], NEITHER),  # 0
        ([DOWN], NEITHER),
    ],
)
def test_c42(norms, expected):
    early = DOWN if expected[1] else UP
    own = ranked_units("conv1", [{"norm_l1": one, "mrp": [-1.0, 0.0, 50.0]} for one in [early] * 5 + norms])
    elsewhere = ranked_units("fc1", [{"norm_l1": early, "mrp": [1.0, 2.0, 3.0]}] * 10)
    run = FakeRun({"scores": pd.concat([own, elsewhere]).sample(frac=1, random_state=0)})
    evidence = decide("C4.2", [run], "train_probe")
    assert outcome(evidence) == expected
    assert decide("C4.2", [run], "other") is None  # there is one set to score on


def test_c42_is_not_testable_early_or_where_all_units_are_alike():
    for orders in ([{}] * 5, [{"mrp": [1.0] * 3, "norm_l1": UP}] * 9):
        run = FakeRun({"scores": ranked_units("conv1", orders)})
        assert decide("C4.2", [run], "train_probe") is None


RISING = {"mrp": 1.0, "mrs": 2.0, "norm_l1": 3.0, "norm_l2": 4.0}


def late(where: dict[str, Any], of_each: Sequence[dict[str, float]], drop: float | None = None) -> FakeRun:
    """At each fraction mean penalties after step 5,000; up to it the other way round, and more so."""
    frames = []
    for fraction, levels in zip(FRACTIONS, of_each, strict=True):
        for name, level in (RISING | levels).items():
            values = [-100.0 * level] * 2 + [0.0, 2 * level]  # at 4,900, 5,000, 5,100 and 5,200
            frames.append(costs(values, name, fraction, first=4900))
            frames.append(costs([-9.0 * level] * 4, name, fraction, layer="conv1", first=4900))
    frames = [frame for frame in frames if frame["fraction"].iloc[0] != drop]
    return units_run(where["on"], *frames, noise=where["noise"])


SWAPPED = {"mrs": 3.5}  # behind one of the norms, before the other
MRS_FIRST = {"mrs": 0.9}
NORM_FIRST = {"norm_l2": 0.9}


@pytest.mark.parametrize(
    ("of_each", "expected"),
    [
        ([{}] * 6, BOTH),
        ([{}] * 4 + [MRS_FIRST, NORM_FIRST], BOTH),
        ([{"norm_l1": 4.0, "norm_l2": 3.0}] * 6, BOTH),  # the norms in any order
        ([{"mrs": 1.0001}] * 6, BOTH),
        ([{"mrs": 2.9999}] * 6, BOTH),
        ([{}] * 3 + [SWAPPED] * 3, DIRECTION),
        ([{"norm_l1": 2.0}] * 6, DIRECTION),  # as much as MRS
        ([SWAPPED] * 4 + [NORM_FIRST] * 2, DIRECTION),
        ([{}] * 3 + [MRS_FIRST] * 2 + [NORM_FIRST], NEITHER),
        ([NORM_FIRST] * 6, NEITHER),
    ],
)
def test_c43(of_each, expected):
    for where in everywhere():
        assert outcome(decide("C4.3", [late(where, of_each)], where["on"])) == expected


def test_c43_is_not_testable_without_a_fraction_or_late_steps():
    where = {"on": "other", "noise": 0.0}
    run = late(where, [{}] * 6)
    assert decide("C4.3", [run], "train_probe") is None
    assert decide("C4.3", [late(where, [{}] * 6, drop=0.6)], "other") is None
    early = run.table("penalties").query("step <= 5000")
    assert decide("C4.3", [FakeRun({"penalties": early}, run.info)], "other") is None


@pytest.mark.parametrize(
    ("below", "of", "expected"),
    [(1, 20, BOTH), (7, 140, BOTH), (1, 21, DIRECTION), (6, 140, DIRECTION), (0, 20, NEITHER)],
)
def test_c44(below, of, expected):
    for where in everywhere():
        own = costs([-1e-6] * below + [0.0] + [1.0] * (of - below - 1), "mrs", 0.1)
        unread = [
            costs([where["noise"]] * of, "mrs", 0.2),
            costs([where["noise"]] * of, "mrp", 0.1),
            costs([where["noise"]] * of, "mrs", 0.1, layer="conv1"),
        ]
        run = units_run(where["on"], own, *unread, noise=where["noise"])
        assert outcome(decide("C4.4", [run], where["on"])) == expected
    assert decide("C4.4", [units_run("other", own)], "train_probe") is None


def both(
    where: dict[str, Any], relu: Sequence[pd.DataFrame], tanh: Sequence[pd.DataFrame]
) -> tuple[FakeRun, FakeRun]:
    noisy = {"noise": where["noise"]}
    return (
        units_run(where["on"], *tanh, activation="tanh", **noisy),
        units_run(where["on"], *relu, activation="relu", **noisy),
    )


def by_mrs(levels: Sequence[float]) -> list[pd.DataFrame]:
    """Mean penalties at the six fractions; the median is another."""
    frames = [costs([0.0, 0.0, 3 * level], "mrs", f) for f, level in zip(FRACTIONS, levels, strict=True)]
    return frames + [frame.assign(scorer="mrp", penalty=-5.0) for frame in frames]


@pytest.mark.parametrize(
    ("relu", "tanh", "expected"),
    [
        ([1.0] * 6, [0.1] * 5 + [3.0], BOTH),
        ([1.0] * 6, [3.1] + [0.1] * 5, BOTH),
        ([1.0] * 6, [0.1] * 5 + [2.99], DIRECTION),
        ([2.0] * 6, [0.1, 3.0, 0.1, 0.1, 0.1, 0.1], DIRECTION),
        ([2.0] * 6, [2.98] * 6, NEITHER),
        ([2.0] * 6, [-1.0] * 6, NEITHER),
        # there is no ratio to a penalty that is none
        ([-1.0, 0.0] + [1.0] * 4, [9.0, 9.0] + [2.0] * 4, DIRECTION),
        ([-1.0] + [1.0] * 5, [-9.0] + [1.0] * 5, NEITHER),
    ],
)
def test_c45(relu, tanh, expected):
    for where in everywhere():
        case = both(where, by_mrs(relu), by_mrs(tanh))
        assert outcome(decide("C4.5", case, where["on"])) == expected
        for one in case:
            assert decide("C4.5", [one], where["on"]) is None


def test_c45_is_not_testable_without_a_fraction_or_any_penalty():
    where, ones = {"on": "other", "noise": 0.0}, [1.0] * 6
    assert decide("C4.5", both(where, by_mrs(ones), by_mrs(ones)[:5]), "other") is None
    assert decide("C4.5", both(where, by_mrs([-1.0] * 6), by_mrs(ones)), "other") is None


def half(random: float, chosen: float) -> list[pd.DataFrame]:
    """Mean penalties of half of fc1, at random and by MRS; the medians over the steps are others."""
    frames = [frame.assign(penalty=frame["penalty"] * [0.5, 1.5]) for frame in drawn(random)]
    return [*frames, costs([0.0, 0.0, 3 * chosen], "mrs"), costs([99.0], "mrp"), *drawn(-77.0, layer="conv1")]


@pytest.mark.parametrize(
    ("tanh", "relu", "expected"),
    [
        ((1.99, 1.0), (3.0, 1.0), BOTH),
        ((2.0, 1.0), (3.0, 1.0), DIRECTION),
        ((2.99, 1.0), (6.0, 2.0), DIRECTION),
        ((1.99, 1.0), (1.98, 1.0), HOLDS_ALONE),
        ((3.0, 1.0), (6.0, 2.0), NEITHER),
        ((3.01, 1.0), (6.0, 2.0), NEITHER),
        # where choosing by MRS costs nothing, it is better than random by far
        ((1.0, -0.1), (3.0, 1.0), NEITHER),
        ((1.0, 0.0), (3.0, 1.0), NEITHER),
        ((-1.0, -0.1), (3.0, 1.0), HOLDS_ALONE),  # cheaper than by MRS, but there is no ratio
        ((3.0, 1.0), (1.0, -0.1), DIRECTION),
        ((3.0, 1.0), (1.0, 0.0), DIRECTION),
    ],
)
def test_c46(tanh, relu, expected):
    for where in everywhere():
        case = both(where, half(*relu), half(*tanh))
        assert outcome(decide("C4.6", case, where["on"])) == expected
        for one in case:
            assert decide("C4.6", [one], where["on"]) is None


@pytest.mark.parametrize(
    ("relu", "tanh", "expected"),
    [
        (2.01, 1.0, BOTH),
        (2.0, 1.0, BOTH),
        (1.99, 1.0, DIRECTION),
        (1.01, 1.0, DIRECTION),
        (1.0, 1.0, NEITHER),
        (1.0, 3.0, NEITHER),
        (1.0, 0.0, BOTH),
        (-1.0, -2.0, NEITHER),  # neither costs anything
    ],
)
def test_c411(relu, tanh, expected):
    for where in everywhere():
        alike = [frame.assign(penalty=[0.5 * tanh, 1.5 * tanh]) for frame in drawn(1.0)]  # and not ReLU's
        case = both(where, half(relu, 9.0), [*alike, costs([1.0], "mrs")])
        assert outcome(decide("C4.11", case, where["on"])) == expected
        for one in case:
            assert decide("C4.11", [one], where["on"]) is None


ELSEWHERE = {"experiment": "weight_pruning", "settings": {"activation": "relu"}}
OWN = {"experiment": "unit_pruning", "settings": {"activation": "relu"}}


def twin_of(accuracy: float, **tables: pd.DataFrame) -> FakeRun:
    return FakeRun(
        {"final": pd.DataFrame({"test_accuracy": [accuracy], "train_loss": 0.1})} | tables, ELSEWHERE
    )


def without_units(
    accuracy: float, parameters: int = 4019, by: str = "layer", **tables: pd.DataFrame
) -> FakeRun:
    """The masked network is another, so that it shows if it is read in place of the compacted one."""
    networks = {"network": ["masked", "compacted"]}
    final = pd.DataFrame(networks | {"accuracy": [0.3, accuracy], "train_loss": 0.1, "test_loss": 0.1})
    sizes = pd.DataFrame(networks | {"parameters": [20522, parameters], "bytes": [9, 9]})
    return FakeRun({"final": final, "sizes": sizes} | tables, OWN, by=by)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (-0.02, BOTH),  # no worse is what is claimed
        (0.0, BOTH),
        (0.005, BOTH),
        (0.0051, DIRECTION),
        (0.015, DIRECTION),
        (0.0151, NEITHER),
    ],
)
@pytest.mark.parametrize("dense", [0.9842, 0.9871])
def test_c47(lost, expected, dense):
    pruned, twin = without_units(round(dense - lost, 4)), twin_of(dense)
    by_weights = FakeRun({"final": pd.DataFrame({"test_accuracy": [0.1]})}, ELSEWHERE, by="layer")
    unread = [without_units(0.5, by="network"), without_units(0.5, by=""), by_weights]
    for case in ([twin, pruned], [*unread, pruned, twin]):
        evidence = decide("C4.7", case, "train_probe")
        assert outcome(evidence) == expected
        assert evidence.values["parameters"] == 4019
        assert decide("C4.7", case, "other") is None  # accuracy is judged on the test images only
    for lacking in ([pruned, by_weights], [twin, by_weights], [twin, *unread]):
        assert decide("C4.7", lacking, "train_probe") is None


LAYERS = ("conv1", "conv2", "fc1", "fc2")


def correlated(**wanted: float) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Tables of a pruned run and its twin: a unit of four gone, sizes of the rest alike to such a degree."""
    rng = np.random.default_rng(0)
    shapes, own, other = [], [], []
    for layer in LAYERS:
        r = wanted.get(layer, 0.99)
        x, z = np.linalg.qr(np.c_[np.ones(24), rng.normal(size=(24, 2))])[0].T[1:]  # mean 0, orthogonal
        pruned, dense = 1 + x, 1 + 0.9 * (r * x + (1 - r**2) ** 0.5 * z)
        signs = rng.choice([-1, 1], size=(2, 24))  # sizes are compared
        gone, wild = np.zeros(8), np.array([50.0, 0.0] * 4)
        shapes.append({"layer": layer, "units": 4, "channels": 2, "height": 2, "width": 2})
        weight = {"layer": layer, "weight": range(32)}
        own.append(pd.DataFrame(weight | {"value": np.r_[gone, signs[0] * pruned]}))
        other.append(pd.DataFrame(weight | {"value": np.r_[wild, signs[1] * dense]}))
    tables = {"weights": pd.DataFrame(shapes)}
    return tables | {"values": pd.concat(own)}, tables | {"values": pd.concat(other)}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, BOTH),
        ({"conv1": 0.801, "fc2": 0.801}, BOTH),
        ({"conv1": 0.799}, DIRECTION),
        ({"fc2": 0.799}, DIRECTION),  # the last layer too
        ({"fc1": 0.501}, DIRECTION),
        ({"conv2": 0.499}, NEITHER),
        ({"fc1": -0.9}, NEITHER),
    ],
)
def test_c48(wanted, expected):
    own, other = correlated(**wanted)
    pruned, twin = without_units(0.9, **own), twin_of(0.9, **other)
    evidence = decide("C4.8", [twin, pruned], "train_probe")
    assert outcome(evidence) == expected
    assert list(evidence.values.values()) == pytest.approx([wanted.get(layer, 0.99) for layer in LAYERS])
    assert decide("C4.8", [twin, pruned], "other") is None
    assert decide("C4.8", [pruned], "train_probe") is None
    assert decide("C4.8", [twin], "train_probe") is None


@pytest.mark.parametrize("layer", LAYERS)
def test_c48_with_a_single_weight_left_does_not_hold(layer):
    own, other = correlated()
    own["values"].loc[(own["values"]["layer"] == layer) & (own["values"]["weight"] > 8), "value"] = 0.0
    case = [without_units(0.9, **own), twin_of(0.9, **other)]
    assert outcome(decide("C4.8", case, "train_probe")) == NEITHER


def test_c48_is_not_testable_with_a_twin_of_other_layers():
    own, other = correlated()
    wider = other["weights"].assign(units=5)
    for shapes in (wider, other["weights"][:3], other["weights"].assign(layer=["a", "b", "c", "d"])):
        case = [without_units(0.9, **own), twin_of(0.9, **(other | {"weights": shapes}))]
        assert decide("C4.8", case, "train_probe") is None


@pytest.mark.parametrize(
    ("claim_id", "train", "test", "accuracy"),
    [
        ("C4.9", 0.046, 0.039, 0.988),
        ("C4.10", 0.053, 0.056, 0.9831),
    ],
)
@pytest.mark.parametrize(
    ("off", "expected"),
    [
        ((0.0, 0.0, 0.0), BOTH),
        ((0.02, -0.02, 0.005), BOTH),
        ((-0.02, 0.02, -0.005), BOTH),
        ((0.0201, 0.0, 0.0), DIRECTION),
        ((0.0, 0.0201, 0.0), DIRECTION),
        ((0.0, -0.0201, 0.0), DIRECTION),  # within is no at most
        ((0.0, 0.0, 0.0051), DIRECTION),
        ((0.0, 0.0, -0.0051), DIRECTION),
        ((0.05, 0.05, -0.015), DIRECTION),
        ((0.0501, 0.0, 0.0), NEITHER),
        ((0.0, 0.0501, 0.0), NEITHER),
        ((0.0, 0.0, -0.0151), NEITHER),
    ],
)
def test_c49_and_c410(claim_id, train, test, accuracy, off, expected):
    reached = {"train_loss": [train + off[0]], "test_loss": [test + off[1]], "accuracy": [accuracy + off[2]]}
    run = FakeRun({"final": pd.DataFrame(reached)})
    assert outcome(decide(claim_id, [run], "train_probe")) == expected
    assert decide(claim_id, [run], "other") is None  # no measurement on that set


def by_weights(parameters: int, by: str = "layer", elsewhere: int = 20000) -> FakeRun:
    """Chapter 2's way: so many parameters left where `probe` loses 0.3 points."""
    rows = [
        {"fnz": 0.0, "parameters": 20000, "probe_accuracy": 0.9, "other_accuracy": 0.9},
        {"fnz": 0.1, "parameters": parameters, "probe_accuracy": 0.897, "other_accuracy": 0.5},
        {"fnz": 0.2, "parameters": elsewhere, "probe_accuracy": 0.8969, "other_accuracy": 0.9},
        {"fnz": 0.3, "parameters": 10, "probe_accuracy": 0.5, "other_accuracy": 0.5},
    ]
    removal = pd.DataFrame(rows).assign(carried=True, test_accuracy=0.9)
    bare = removal.assign(carried=False, parameters=1, probe_accuracy=1.0, other_accuracy=1.0)
    tables = {
        "removal": pd.concat([removal, bare]),
        "final": pd.DataFrame({"probe_accuracy": [0.9], "other_accuracy": 0.9, "test_accuracy": 0.9}),
        "values": pd.DataFrame({"value": range(20432)}),
        "weights": pd.DataFrame({"units": [90]}),
    }
    return FakeRun(tables, ELSEWHERE, by=by)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [(6000, BOTH), (5999, DIRECTION), (4001, DIRECTION), (4000, NEITHER), (3000, NEITHER)],
)
def test_c412(parameters, expected):
    pruned, weights = without_units(0.9, 4000), by_weights(parameters)
    unread = [without_units(0.9, 1, by="network"), by_weights(9, by="network"), twin_of(0.9)]
    for case in ([weights, pruned], [*unread, pruned, weights]):
        assert outcome(decide("C4.12", case, "probe")) == expected
    elsewhere = [pruned, by_weights(9, elsewhere=parameters)]
    assert outcome(decide("C4.12", elsewhere, "other")) == expected
    for lacking in ([pruned], [weights], [pruned, twin_of(0.9)], [*unread, weights]):
        assert decide("C4.12", lacking, "probe") is None


def test_c412_is_not_testable_for_a_network_whose_units_cannot_be_removed():
    weights = by_weights(6000)
    del weights.tables["removal"]
    assert decide("C4.12", [without_units(0.9), weights], "probe") is None


def in_the_claims_setting(run: FakeRun, claim_id: str, **settings: Any) -> FakeRun:
    experiment = run.info["experiment"]
    own = {name: values[0] for name, values in CLAIMS[claim_id].setting[experiment].items()}
    if experiment == "weight_pruning":
        own |= {"schedule": [] if run.by == "" else own["schedule"]}
    info = {"experiment": experiment, "settings": own | {"seed": 0} | settings}
    return FakeRun(run.tables, info, run.by)


SCHEDULES = {
    "units": [[2, 0.1], [3, 0.2], [4, 0.4], [5, 0.6]],
    "weights": [[2, 0.2], [3, 0.5], [4, 0.8], [5, 0.9]],
}
FOUR, THREE = list(LAYERS), list(LAYERS[:3])


def test_c47_is_judged_by_runs_of_two_experiments():
    runs = []
    for seed, lost in enumerate((0.0, 0.004, 0.0, 0.0, 0.01)):
        runs.append(in_the_claims_setting(without_units(0.98 - lost), "C4.7", seed=seed))
        runs.append(in_the_claims_setting(twin_of(0.98), "C4.7", seed=seed))
    unasked = FakeRun({}, {"experiment": "units", "settings": {"activation": "relu"}})
    assert str(claims.verdict("C4.7", [*runs, unasked])) == "reproduced (5 seeds)"
    assert str(claims.verdict("C4.7", runs[::-1])) == "reproduced (5 seeds)"
    assert str(claims.verdict("C4.7", runs[2:])) == "partly (provisional, 4 seeds)"  # 3 of 4 are not enough


@pytest.mark.parametrize(
    ("units", "weights", "differs"),
    [
        ({}, {}, []),
        ({"scorer": "norm_l1"}, {}, ["unit_pruning: scorer"]),
        ({"schedule": SCHEDULES["weights"]}, {}, ["unit_pruning: schedule"]),  # the other experiment's
        ({"schedule": []}, {}, ["unit_pruning: schedule"]),
        ({}, {"schedule": SCHEDULES["units"]}, ["weight_pruning: schedule"]),
        ({"layers": FOUR}, {}, ["unit_pruning: layers"]),
        ({}, {"layers": THREE}, ["weight_pruning: layers"]),
        ({"epochs": 5}, {"epochs": 5}, ["epochs"]),
        ({"lr": 0.1}, {}, ["lr"]),
        ({}, {"lr": 0.1}, ["lr"]),
        ({"dataset": "digits"}, {"dataset": "digits"}, ["dataset"]),
    ],
)
@pytest.mark.parametrize("claim_id", ["C4.7", "C4.8", "C4.12"])
def test_chapter_4_is_judged_in_the_claims_own_setting_only(claim_id, units, weights, differs):
    own, other = correlated()
    runs = [
        in_the_claims_setting(without_units(0.9, **own), claim_id, **units),
        in_the_claims_setting(twin_of(0.9, **other), claim_id, **weights),
        in_the_claims_setting(by_weights(9000), claim_id),
    ]
    verdict = claims.verdict(claim_id, runs)
    assert list(verdict.differs) == differs
    assert verdict.outcome == ("not judged" if differs else "reproduced")
    if differs:
        assert f"the criterion speaks of {differs[0].replace('_', ' ')} " in verdict._repr_html_()


def test_the_twin_of_another_seed_is_none():
    runs = [
        in_the_claims_setting(without_units(0.98), "C4.7", seed=0),
        in_the_claims_setting(twin_of(0.98), "C4.7", seed=1),
    ]
    assert claims.verdict("C4.7", runs).outcome == "not testable"
    both_of_one = in_the_claims_setting(without_units(0.98), "C4.7", seed=1)
    assert str(claims.verdict("C4.7", [*runs, both_of_one])) == "reproduced (provisional, 1 seed)"


def test_c48_of_another_network_is_told_without_its_twin():
    own, other = correlated()
    wider = other | {"weights": other["weights"].assign(units=8)}
    runs = [
        in_the_claims_setting(without_units(0.9, **own), "C4.8", network="mine:net"),
        in_the_claims_setting(twin_of(0.9, **wider), "C4.8"),
    ]
    assert claims.verdict("C4.8", runs).outcome == "not judged"


def test_the_draws_are_a_part_of_the_setting_of_4_1():
    on_both = [units_run(on, *half(3.0, 1.0)) for on in SETS]
    rows = pd.concat([run.tables["penalties"] for run in on_both])
    runs = []
    for activation, factor in (("relu", 3.0), ("tanh", 1.0)):
        table = rows.assign(penalty=factor * rows["penalty"])
        run = FakeRun({"penalties": table}, {"experiment": "units"})
        runs.append(in_the_claims_setting(run, "C4.11", activation=activation))
    verdict = claims.verdict("C4.11", runs)
    assert str(verdict) == "reproduced (provisional, 1 seed)"
    assert verdict.other.outcome == "reproduced"
    runs[0].info["settings"]["draws"] = 1
    assert claims.verdict("C4.11", runs).outcome == "not judged"


@pytest.mark.parametrize("claim_id", [f"C4.{i}" for i in range(1, 13)])
def test_no_runs_of_ones_own_activation_leave_nothing_to_judge(claim_id):
    """A reader's network that takes no activation: told, not judged, and no error."""
    run = FakeRun({}, {"experiment": next(iter(CLAIMS[claim_id].runs))})
    verdict = claims.verdict(claim_id, [in_the_claims_setting(run, claim_id, activation="own")])
    assert verdict.outcome == "not judged"
