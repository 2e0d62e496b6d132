"""The criteria of chapter 4's first list on made-up tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cases import LEVELS, Cases, of, run
from deadbook import claims
from deadbook.claims import CLAIMS
from deadbook.claims.units import SCORERS
from toys import BOTH, DIRECTION, NEITHER, FakeRun, decide, outcome

CASES = Cases()
case = CASES.add
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
    *frames: pd.DataFrame,
    activation: str = "relu",
    where: tuple[str, float] = ("train_probe", 0.0),
    **tables: Any,
) -> FakeRun:
    """A run judged on a set; with noise, also rows that no criterion reads: other sets, constants, ..."""
    on, noise = where
    rows = pd.concat(frames).assign(set=on, constant="mean of h")
    if noise:
        constants = [rows.assign(constant=it) for it in ("mean of a", "median of h", "zero")]
        unread = [*constants, rows.assign(layer="conv2"), rows.assign(fraction=0.3)]
        unread += [rows.assign(set=next(it for it in SETS if it != on))]
        unread += [rows[rows["scorer"] == "mrs"].assign(scorer="taylor")]
        rows = pd.concat([rows, *(it.assign(penalty=noise) for it in unread)])
    return run("units", {"penalties": rows.sample(frac=1, random_state=0)} | tables, activation=activation)


def everywhere() -> Iterator[tuple[str, float]]:
    """On both sets, whatever stands in the rows that do not count."""
    yield from (("train_probe", -1e6), ("other", 1e6))


def both(relu: Sequence[pd.DataFrame], tanh: Sequence[pd.DataFrame], **how: Any) -> list[FakeRun]:
    return [units_run(*tanh, activation="tanh", **how), units_run(*relu, **how)]


def ranked_units(layer: str, orders: Sequence[dict[str, Sequence[float]]], first: int = 100) -> pd.DataFrame:
    """Scores of units: for each measurement those that are given; by default the number of the unit."""
    parts = []
    for i, order in enumerate(orders):
        size = len(next(iter(order.values()), range(8)))
        scores = {name: [float(unit) for unit in range(size)] for name in SCORERS} | order
        parts.append(pd.DataFrame({"step": first + 100 * i, "layer": layer, "unit": range(size)} | scores))
    return pd.concat(parts).assign(seed=0, activation="relu")


LAST_TWO = [0.0, 1.0, 2.0, 3.0, 5.0, 4.0, 7.0, 6.0]  # another order, the same lower half
ACROSS = [0.0, 1.0, 2.0, 4.0, 3.0, 5.0, 6.0, 7.0]  # unit 4 goes instead of unit 3


def conv1(agreeing: int, worst: float, random: float, **levels: float) -> tuple[list, pd.DataFrame]:
    """Four measurements; a median penalty of 1 by MRP; random draws whose mean has that median."""
    levels = {"mrp": 1.0, "mrs": 1.5, "norm_l1": 2.0, "norm_l2": 1.8} | levels
    frames = [costs([level] * 3 + [50 * level], name, layer="conv1") for name, level in levels.items()]
    draws = drawn(random, 4, "conv1")
    draws[8].loc[2, "penalty"] = worst
    orders = [{"norm_l2": LAST_TWO}] * agreeing + [{"norm_l2": ACROSS}] * (4 - agreeing)
    return frames + draws, pd.concat(
        [ranked_units("conv1", orders), ranked_units("fc1", [{"mrs": ACROSS}] * 4)]
    )


@pytest.mark.parametrize(
    ("agreeing", "worst", "random", "levels", "expected"),
    [
        (3, 33.1, 6.0, {}, BOTH),
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
    frames, scores = conv1(agreeing, worst, random, **levels)
    for where in everywhere():
        assert outcome(decide("C4.1", [units_run(*frames, where=where, scores=scores)], where[0])) == expected


def test_c41_is_not_testable_without_the_scorers_or_the_layer():
    frames, scores = conv1(4, 40.0, 6.0)
    assert decide("C4.1", [units_run(*frames, scores=scores)], "other") is None
    for lacking in ("mrp", "random"):
        less = [frame for frame in frames if frame["scorer"].iloc[0] != lacking]
        assert decide("C4.1", [units_run(*less, scores=scores)], "train_probe") is None
    elsewhere = units_run(*frames, scores=scores.query("layer == 'fc1'"))
    assert decide("C4.1", [elsewhere], "train_probe") is None


def test_c41_where_nothing_is_lost_by_mrp():
    frames, scores = conv1(4, 40.0, 6.0, mrp=0.0)
    evidence = decide("C4.1", [units_run(*frames, scores=scores)], "train_probe")
    assert outcome(evidence) == BOTH
    assert evidence.values["worst random draw over the median penalty by MRP"] == math.inf


UP, MIDDLE, DOWN = [1.0, 4.0, 9.0], [1.0, 9.0, 4.0], [9.0, 4.0, 1.0]  # Spearman 1, 0.5, -1 with MRP


@case("C4.2")
def norms(level: str) -> list[FakeRun]:
    """A mean of 0.5, of less, of 0; before step 500 the other way round."""
    late = of(level, [DOWN] + 3 * [UP], [DOWN] + 3 * [UP] + [[4.0, 9.0, 1.0]], [MIDDLE] * 2 + [DOWN])
    orders = [DOWN if level != "neither" else UP] * 5 + (late if level != "lacking" else [])
    scores = ranked_units("conv1", [{"norm_l1": norm, "mrp": [-1.0, 0.0, 50.0]} for norm in orders])
    elsewhere = ranked_units("fc1", [{"norm_l1": orders[0], "mrp": [1.0, 2.0, 3.0]}] * 10)
    return [run("units", {"scores": pd.concat([scores, elsewhere]).sample(frac=1, random_state=0)})]


def test_c42_is_not_testable_where_all_units_are_alike():
    scores = ranked_units("conv1", [{"mrp": [1.0] * 3, "norm_l1": UP}] * 9)
    assert decide("C4.2", [run("units", {"scores": scores})], "train_probe") is None


SWAPPED, MRS_FIRST, NORM_FIRST = {"mrs": 3.5}, {"mrs": 0.9}, {"norm_l2": 0.9}  # MRS 2, norms 3 and 4


@pytest.mark.parametrize(
    ("of_each", "expected"),
    [
        ([{}] * 4 + [MRS_FIRST, NORM_FIRST], BOTH),
        ([{"norm_l1": 4.0, "norm_l2": 3.0}] * 6, BOTH),  # the norms in any order
        ([{"mrs": 1.0001}] * 3 + [{"mrs": 2.9999}] * 3, BOTH),
        ([{}] * 3 + [SWAPPED] * 3, DIRECTION),
        ([{"norm_l1": 2.0}] * 6, DIRECTION),  # as much as MRS
        ([{}] * 3 + [MRS_FIRST] * 2 + [NORM_FIRST], NEITHER),
        ([{}] * 5, None),  # a fraction is missing
    ],
)
def test_c43(of_each, expected):
    """At each fraction mean penalties after step 5,000; up to it the other way round, and more so."""
    frames = []
    for fraction, levels in zip(FRACTIONS, of_each, strict=False):
        for name, level in ({"mrp": 1.0, "mrs": 2.0, "norm_l1": 3.0, "norm_l2": 4.0} | levels).items():
            values = [-100.0 * level] * 2 + [0.0, 2 * level]  # at 4,900, 5,000, 5,100 and 5,200
            frames.append(costs(values, name, fraction, first=4900))
            frames.append(costs([-9.0 * level] * 4, name, fraction, layer="conv1", first=4900))
    for where in everywhere():
        evidence = decide("C4.3", [units_run(*frames, where=where)], where[0])
        assert (evidence and outcome(evidence)) == expected
    early = units_run(*(frame[frame["step"] <= 5000] for frame in frames))
    assert decide("C4.3", [early], "train_probe") is None


@case("C4.4")
def now_and_then(level: str) -> list[FakeRun]:
    below, number = of(level, 7, 6, 0), 140
    chosen = costs([-1e-6] * below + [0.0] + [1.0] * (number - below - 1), "mrs", 0.1)
    unread = [costs([-9.0] * number, "mrp", 0.1), costs([-9.0] * number, "mrs", 0.1, layer="conv1")]
    return [units_run(*unread if level == "lacking" else (chosen, *unread))]


def by_mrs(levels: Sequence[float]) -> list[pd.DataFrame]:
    """Mean penalties at the six fractions; the median is another."""
    frames = [costs([0.0, 0.0, 3 * level], "mrs", f) for f, level in zip(FRACTIONS, levels, strict=False)]
    return frames + [frame.assign(scorer="mrp", penalty=-5.0) for frame in frames]


@pytest.mark.parametrize(
    ("relu", "tanh", "expected"),
    [
        ([1.0] * 6, [0.1] * 5 + [3.0], BOTH),
        ([1.0] * 6, [3.1] + [0.1] * 5, BOTH),
        ([1.0] * 6, [0.1] * 5 + [2.99], DIRECTION),
        ([2.0] * 6, [2.98] * 6, NEITHER),
        ([2.0] * 6, [-1.0] * 6, NEITHER),
        ([-1.0, 0.0] + [1.0] * 4, [9.0, 9.0] + [2.0] * 4, DIRECTION),  # no ratio to a penalty that is none
        ([-1.0] * 6, [1.0] * 6, None),
        ([1.0] * 6, [1.0] * 5, None),
    ],
)
def test_c45(relu, tanh, expected):
    for where in everywhere():
        cases = both(by_mrs(relu), by_mrs(tanh), where=where)
        evidence = decide("C4.5", cases, where[0])
        assert (evidence and outcome(evidence)) == expected
        assert decide("C4.5", cases[:1], where[0]) is None


def half(random: float, chosen: float) -> list[pd.DataFrame]:
    """Mean penalties of half of fc1, at random and by MRS; the medians over the steps are others."""
    frames = [frame.assign(penalty=frame["penalty"] * [0.5, 1.5]) for frame in drawn(random)]
    return [*frames, costs([0.0, 0.0, 3 * chosen], "mrs"), costs([99.0], "mrp"), *drawn(-77.0, layer="conv1")]


@pytest.mark.parametrize(
    ("claim_id", "tanh", "relu", "expected"),
    [
        ("C4.6", (1.99, 1.0), (3.0, 1.0), BOTH),
        ("C4.6", (2.0, 1.0), (3.0, 1.0), DIRECTION),
        ("C4.6", (1.99, 1.0), (1.98, 1.0), HOLDS_ALONE),
        ("C4.6", (3.0, 1.0), (6.0, 2.0), NEITHER),
        ("C4.6", (1.0, 0.0), (3.0, 1.0), NEITHER),  # choosing costs nothing: better than random by far
        ("C4.6", (-1.0, -0.1), (3.0, 1.0), HOLDS_ALONE),  # cheaper than by MRS, but there is no ratio
        ("C4.6", (3.0, 1.0), (1.0, -0.1), DIRECTION),
        ("C4.11", (1.0, 9.0), (2.0, 9.0), BOTH),
        ("C4.11", (1.0, 9.0), (1.99, 9.0), DIRECTION),
        ("C4.11", (1.0, 9.0), (1.0, 9.0), NEITHER),
        ("C4.11", (0.0, 9.0), (1.0, 9.0), BOTH),
        ("C4.11", (-2.0, 9.0), (-1.0, 9.0), NEITHER),  # neither costs anything
    ],
)
def test_c46_and_c411(claim_id, tanh, relu, expected):
    for where in everywhere():
        cases = both(half(*relu), half(*tanh), where=where)
        assert outcome(decide(claim_id, cases, where[0])) == expected
        assert decide(claim_id, cases[1:], where[0]) is None


LAYERS = ("conv1", "conv2", "fc1", "fc2")


def twin_of(accuracy: float, **tables: pd.DataFrame) -> FakeRun:
    final = pd.DataFrame({"test_accuracy": [accuracy], "train_loss": 0.1})
    return run("weight_pruning", {"final": final} | tables)


def without_units(
    accuracy: float, parameters: int = 4019, by: str = "layer", **tables: pd.DataFrame
) -> FakeRun:
    """The masked network is another, so that it shows if it is read in place of the compacted one."""
    networks = {"network": ["masked", "compacted"]}
    final = pd.DataFrame(networks | {"accuracy": [0.3, accuracy], "train_loss": 0.1, "test_loss": 0.1})
    sizes = pd.DataFrame(networks | {"parameters": [20522, parameters], "bytes": [9, 9]})
    return run("unit_pruning", {"final": final, "sizes": sizes} | tables, by)


@case("C4.7")
def as_accurate(level: str) -> list[FakeRun]:
    pruned = without_units(round(0.9842 - of(level, 0.005, 0.015, 0.0151), 4))
    unread = [without_units(0.5, by="network"), without_units(0.5, by=""), by_weights(9)]
    return [*unread, twin_of(0.9842), *([] if level == "lacking" else [pruned])]


def correlated(**wanted: float) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Tables of a pruned run and its twin: a unit of four gone, sizes of the rest alike to such a degree."""
    rng = np.random.default_rng(0)
    shapes, ours, others = [], [], []
    for layer in LAYERS:
        r = wanted.get(layer, 0.99)
        x, z = np.linalg.qr(np.c_[np.ones(24), rng.normal(size=(24, 2))])[0].T[1:]  # mean 0, orthogonal
        pruned, dense = 1 + x, 1 + 0.9 * (r * x + (1 - r**2) ** 0.5 * z)
        signs = rng.choice([-1, 1], size=(2, 24))  # sizes are compared
        gone, wild = np.zeros(8), np.array([50.0, 0.0] * 4)
        shapes.append({"layer": layer, "units": 4, "channels": 2, "height": 2, "width": 2})
        weight = {"layer": layer, "weight": range(32)}
        ours.append(pd.DataFrame(weight | {"value": np.r_[gone, signs[0] * pruned]}))
        others.append(pd.DataFrame(weight | {"value": np.r_[wild, signs[1] * dense]}))
    tables = {"weights": pd.DataFrame(shapes)}
    return tables | {"values": pd.concat(ours)}, tables | {"values": pd.concat(others)}


@case("C4.8")
def untouched(level: str) -> list[FakeRun]:
    """The lowest of four correlations decides, of the last layer too."""
    ours, others = correlated(conv1=0.9, fc2=of(level, 0.801, 0.799, 0.499))
    return [without_units(0.9, **ours), *([] if level == "lacking" else [twin_of(0.9, **others)])]


@pytest.mark.parametrize("layer", LAYERS)
def test_c48_with_a_single_weight_left_does_not_hold(layer):
    ours, others = correlated()
    ours["values"].loc[(ours["values"]["layer"] == layer) & (ours["values"]["weight"] > 8), "value"] = 0.0
    cases = [without_units(0.9, **ours), twin_of(0.9, **others)]
    assert outcome(decide("C4.8", cases, "train_probe")) == NEITHER


def test_c48_is_not_testable_with_a_twin_of_other_layers():
    ours, others = correlated()
    shapes = others["weights"]
    for other in (shapes.assign(units=5), shapes[:3], shapes.assign(layer=["a", "b", "c", "d"])):
        cases = [without_units(0.9, **ours), twin_of(0.9, **(others | {"weights": other}))]
        assert decide("C4.8", cases, "train_probe") is None


@pytest.mark.parametrize(
    ("claim_id", "thesis"), [("C4.9", (0.046, 0.039, 0.988)), ("C4.10", (0.053, 0.056, 0.9831))]
)
@pytest.mark.parametrize(
    ("off", "expected"),
    [
        ((0.02, -0.02, 0.005), BOTH),
        ((-0.02, 0.02, -0.005), BOTH),
        ((0.0201, 0.0, 0.0), DIRECTION),
        ((0.0, -0.0201, 0.0), DIRECTION),  # within is no at most
        ((0.0, 0.0, 0.0051), DIRECTION),
        ((0.05, 0.05, -0.015), DIRECTION),
        ((0.0501, 0.0, 0.0), NEITHER),
        ((0.0, 0.0, -0.0151), NEITHER),
    ],
)
def test_c49_and_c410(claim_id, thesis, off, expected):
    values = [[number + more] for number, more in zip(thesis, off, strict=True)]
    final = pd.DataFrame(dict(zip(("train_loss", "test_loss", "accuracy"), values, strict=True)))
    assert outcome(decide(claim_id, [run("units", {"final": final})], "train_probe")) == expected


def by_weights(parameters: int, by: str = "layer", elsewhere: int = 20000) -> FakeRun:
    """Chapter 2's way: so many parameters left where `probe` loses 0.3 points."""
    columns = ["fnz", "parameters", "probe_accuracy", "other_accuracy"]
    rows = [
        (0.0, 20000, 0.9, 0.9),
        (0.1, parameters, 0.897, 0.5),
        (0.2, elsewhere, 0.8969, 0.9),
        (0.3, 10, 0.5, 0.5),
    ]
    removal = pd.DataFrame(rows, columns=columns).assign(carried=True, test_accuracy=0.9)
    bare = removal.assign(carried=False, parameters=1, probe_accuracy=1.0, other_accuracy=1.0)
    final = pd.DataFrame({"probe_accuracy": [0.9], "other_accuracy": 0.9, "test_accuracy": 0.9})
    tables = {"removal": pd.concat([removal, bare]), "final": final}
    tables |= {"values": pd.DataFrame({"value": range(20432)}), "weights": pd.DataFrame({"units": [90]})}
    return run("weight_pruning", tables, by)


@case("C4.12")
def units_beat(level: str) -> list[FakeRun]:
    unread = [without_units(0.9, 1, by="network"), by_weights(9, by="network"), twin_of(0.9)]
    weights = by_weights(of(level, 6000, 4001, 4000))
    if level == "lacking":  # a network whose units cannot be removed
        del weights.tables["removal"]
    return [*unread, without_units(0.9, 4000), weights]


def test_c412_on_other_images():
    cases = [without_units(0.9, 4000), by_weights(9, elsewhere=5999)]
    assert outcome(decide("C4.12", cases, "other")) == DIRECTION


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("claim_id", CASES)
def test_four_outcomes(claim_id, level):
    CASES.check(claim_id, level, CLAIMS[claim_id].scored_on)


@pytest.mark.parametrize("claim_id", ["C4.2", "C4.7", "C4.8"])
def test_what_does_not_depend_on_the_images_is_judged_once(claim_id):
    assert decide(claim_id, CASES[claim_id]("holds"), "other") is None


def in_the_claims_setting(made: FakeRun, claim_id: str, **settings: Any) -> FakeRun:
    experiment = made.info["experiment"]
    fixed = {name: values[0] for name, values in CLAIMS[claim_id].setting[experiment].items()}
    if experiment == "weight_pruning" and made.by == "":
        fixed["schedule"] = []
    return FakeRun(
        made.tables, {"experiment": experiment, "settings": fixed | {"seed": 0} | settings}, made.by
    )


def test_c47_is_judged_by_runs_of_two_experiments():
    runs = []
    for seed, lost in enumerate((0.0, 0.004, 0.0, 0.0, 0.01)):
        runs.append(in_the_claims_setting(without_units(0.98 - lost), "C4.7", seed=seed))
        runs.append(in_the_claims_setting(twin_of(0.98), "C4.7", seed=seed))
    unasked = run("units", {})
    assert str(claims.verdict("C4.7", [*runs, unasked])) == "reproduced (5 seeds)"
    assert str(claims.verdict("C4.7", runs[::-1])) == "reproduced (5 seeds)"
    assert str(claims.verdict("C4.7", runs[2:])) == "partly (provisional, 4 seeds)"  # 3 of 4 are not enough
    assert claims.verdict("C4.7", [runs[0], runs[3]]).outcome == "not testable"  # a twin of another seed


UNITS_OF_ALL, WEIGHTS_OF_THREE = {"layers": list(LAYERS)}, {"layers": list(LAYERS[:3])}


@pytest.mark.parametrize(
    ("units", "weights", "differs"),
    [
        ({}, {}, []),
        ({"scorer": "norm_l1"}, {}, ["unit_pruning: scorer"]),
        (
            {"schedule": [[2, 0.2], [3, 0.5], [4, 0.8], [5, 0.9]]},
            {},
            ["unit_pruning: schedule"],
        ),  # the other's
        (UNITS_OF_ALL, {}, ["unit_pruning: layers"]),
        ({}, WEIGHTS_OF_THREE, ["weight_pruning: layers"]),
        ({"epochs": 5}, {"epochs": 5}, ["epochs"]),
        ({}, {"lr": 0.1}, ["lr"]),
    ],
)
def test_what_differs_from_the_claims_own_setting_is_named_with_its_experiment(units, weights, differs):
    ours, others = correlated()
    runs = [
        in_the_claims_setting(without_units(0.9, **ours), "C4.8", **units),
        in_the_claims_setting(twin_of(0.9, **others), "C4.8", **weights),
    ]
    verdict = claims.verdict("C4.8", runs)
    assert list(verdict.differs) == differs
    assert verdict.outcome == ("not judged" if differs else "reproduced")
    if differs:
        assert f"the criterion speaks of {differs[0].replace('_', ' ')} " in verdict._repr_html_()


def test_the_draws_are_a_part_of_the_setting_of_4_1():
    runs = []
    for activation, factor in (("relu", 3.0), ("tanh", 1.0)):
        tables = [units_run(*half(factor * 3.0, 1.0), where=(on, 0.0)).tables["penalties"] for on in SETS]
        made = run("units", {"penalties": pd.concat(tables)})
        runs.append(in_the_claims_setting(made, "C4.11", activation=activation))
    verdict = claims.verdict("C4.11", runs)
    assert str(verdict) == "reproduced (provisional, 1 seed)"
    assert verdict.other.outcome == "reproduced"
    runs[0].info["settings"]["draws"] = 1
    assert claims.verdict("C4.11", runs).outcome == "not judged"


@pytest.mark.parametrize("claim_id", [f"C4.{i}" for i in range(1, 13)])
def test_no_runs_of_ones_own_activation_leave_nothing_to_judge(claim_id):
    """A reader's network that takes no activation: told, not judged, and no error."""
    made = run(next(iter(CLAIMS[claim_id].runs)), {})
    verdict = claims.verdict(claim_id, [in_the_claims_setting(made, claim_id, activation="own")])
    assert verdict.outcome == "not judged"
